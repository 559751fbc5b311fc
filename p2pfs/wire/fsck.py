"""What `p2pfs fsck` asks of a volume's tables beyond what mounts ask, and the operations that mend them.

The coordinator answers from its own rows and believes nothing that it is told: a mend has it count again, or gives a
name to what has none. Of a volume's rows only these are seen that no mount ever sees. An earlier coordinator knows none
of this and refuses it (`Misuse`).
"""

from typing import Final

import msgspec

TRASHED: Final = 1
OPEN: Final = 2
"""Bits of `InodeFacts.kept`."""


class ReadInodes(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """→ InodePage of the inodes numbered above `after`, whatever keeps them, at most `limit`."""

    after: int
    limit: int


class ReadDangling(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """→ DanglingPage: dentries whose inode or directory is not there, behind `after` (parent, dentry)."""

    after: tuple[int, int]


class InodeFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An inode's row beside what it should agree with, from one state."""

    inode: int
    kind: int
    links: int
    size: int
    parent: int  # of a directory, as its row says
    names: int  # dentries that lead to it, in directories that are there; counted up to MOST_NAMES
    named_in: int  # the first of these directories; 0: there is none
    kept: int  # by what beside names: TRASHED, OPEN
    lacks_data: bool  # it should have inline data, or a target, and has none
    head: bytes


MOST_NAMES: Final = 100_000
"""More than an inode can have."""


class InodePage(msgspec.Struct, frozen=True, array_like=True):
    """Inodes by number; `complete` when none follow."""

    rows: list[InodeFacts]
    complete: bool


class Dangling(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A name that leads nowhere, or is nowhere."""

    parent: int
    dentry: int
    inode: int
    name: bytes  # sealed
    leads: bool  # to an inode that is there; the directory is not


class DanglingPage(msgspec.Struct, frozen=True, array_like=True):
    """`after` is where to go on, (0, 0) at the end; a page may have no rows and not be the last."""

    rows: list[Dangling]
    after: tuple[int, int]


# ---- operations, each in a batch of its own --------------------------------------------------------------------------


class Recount(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """Count the names of an inode again, and where a directory is; with inode 0 the inodes and bytes of the volume.
    What has a name is taken out of the trash. What is right stays as it is. Raises NotFound."""

    inode: int


class Adopt(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """A name for an inode that nothing keeps: no name, no trash, no session. Raises NotFound, Exists, and Conflict if
    something does keep it, Loop if it is a directory and `parent` is below it."""

    inode: int
    parent: int
    name: bytes
    dentry: int
    dentry_tag: bytes
    time_ns: int


class Reseal(msgspec.Struct, frozen=True, array_like=True, tag=43):
    """Another head for what has no content of its own: a directory, a symbolic link, a device. Raises NotFound, Invalid
    (a file), TooLarge."""

    inode: int
    head: bytes


class DropDangling(msgspec.Struct, frozen=True, array_like=True, tag=42):
    """Remove a dentry whose inode is not there, or whose directory is not while the inode has another name. One that is
    gone is passed over; Conflict otherwise."""

    parent: int
    dentry: int
