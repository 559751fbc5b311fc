"""What the frames of a journal say. Persisted: fields are only ever added, at the end and with a default."""

from collections.abc import Sequence
from typing import Final

import msgspec
from blake3 import blake3

from p2pfs.wire.namespace import Accessed, Opened, Operation, Released

HEAD_DIGEST_BYTES: Final = 16
_PASSING: Final = (Opened, Released, Accessed)


class State(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Where the names are. Operations acknowledged ahead of the coordinator are counted from 0, across sessions."""

    session: str = ""  # "": what earlier ones left is finished
    epoch: int = 0  # of the delegation under which operations are acknowledged
    seq: int = 0  # the highest batch number that may have been used in the session
    acked: int = 0
    done: int = 0  # all operations before this one are committed, or given up
    sent_seq: int = 0  # the batch of operations done…sent_upto, if that is more
    sent_upto: int = 0


class Queued(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Operations acknowledged, from that one on; only those that matter when the session is over."""

    position: int
    operations: list[Operation]


class Named(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A name that the inode had and what it looks like, for a file beside it should its bytes be in conflict."""

    inode: int
    parent: int
    name: bytes
    mode: int
    uid: int
    gid: int


class Kept(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A freeze: bytes of a file that are not committed yet. One of the same number that follows replaces it.

    `heads` are contents on which they may be laid: (digest of the sealed head, number of the last freeze in it). None:
    they can only be given back in a file of their own. Of runs that overlap the later one counts.
    """

    inode: int
    number: int  # rises from freeze to freeze, across files and mounts
    after: int  # the freeze of this inode before it that was not committed either, or 0
    heads: list[tuple[bytes, int]]
    mtime_ns: int  # 0: leave it
    runs: list[tuple[int, int]]  # (offset in the file, length)
    data: bytes  # of all runs
    named: Named | None = None


class Committing(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The inode is about to get this content, which holds all its freezes up to `included`."""

    inode: int
    head: bytes
    included: int


class Stored(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The freeze is committed or acknowledged as an operation, or nobody's any more."""

    number: int


class Untimed(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """A program set the time of the inode: freezes up to that one move it no more."""

    inode: int
    upto: int


Record = State | Queued | Kept | Committing | Stored | Untimed | Named


def head_digest(sealed: bytes) -> bytes:
    """What stands for a sealed head. Equal heads mean equal content: sealing is deterministic, and a head holds the
    digests of what the content consists of."""
    return blake3(sealed).digest(HEAD_DIGEST_BYTES)


def lasting(operations: Sequence[Operation]) -> list[Operation]:
    """Without those that are about what the session has open, or has read."""
    return [operation for operation in operations if not isinstance(operation, _PASSING)]
