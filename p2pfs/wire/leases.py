"""Leases and trash on the wire: until when an inode is kept, and how what was removed comes back or goes for good.

The operations and questions here are among those of `wire.namespace`, which also has what the questions are answered
with.
"""

import enum

import msgspec


class Reason(enum.IntEnum):
    """Why something is in the trash. Persisted: never renumber."""

    REMOVED = 1
    REPLACED = 2  # another file was renamed over it
    EXPIRED = 3


class Restore(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Give an inode that is in the trash a name again, with all it had. The mount re-seals name and tag where the place
    is another; `dentry` is the number it had, or a granted one. A lease that is over begins anew and lasts as long as
    the trash keeps what has expired, at least a day. Raises NotFound (not in the trash, or no such parent),
    NotDirectory, Exists."""

    inode: int
    parent: int
    name: bytes
    dentry: int
    dentry_tag: bytes
    time_ns: int


class PurgeTrash(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Let an inode that is in the trash go now: what was sealed of it is destroyed. Raises NotFound."""

    inode: int


class SetLease(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Keep an inode until then. What is made in a directory later takes its lease. Raises NotFound."""

    inode: int
    expires_s: int  # UTC; 0: for ever


class ReadTrash(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """→ TrashPage of the inodes numbered above `after`; of a `parent`, or of all with 0."""

    after: int
    limit: int
    parent: int = 0


class ReadNames(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """→ list[Named]: the names of an inode behind `after`, by the number of their directory and their own, at most 100;
    of the root, and of what is in the trash, none. An earlier coordinator knows no `after`. Raises NotFound."""

    inode: int
    after: tuple[int, int] = (0, 0)  # (parent, dentry)


class ReadExpiring(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """→ ExpiringPage of inodes whose lease is over before `before_s`, by time and number, behind `after`."""

    before_s: int
    after: tuple[int, int]  # (expires_s, inode)
    limit: int
