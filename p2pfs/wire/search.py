"""Search on the wire: labels and tokens of inodes, and finding inodes by tokens.

Tokens and sealed labels are `format.search`'s; the coordinator compares tokens and knows nothing of words. The
operations and questions here are among those of `wire.namespace`.
"""

from typing import Final

import msgspec

TAG: Final = 0
NOTE: Final = 1
"""Where a token is from: a tag, a word of the note, else the number of the dentry whose name has it. The lower, the
more it says about a file."""
MOST_TOKENS: Final = 2048
"""Of one inode's tags, or note, or of one name."""
MOST_ASKED: Final = 16
"""Tokens of one question."""
MOST_COUNTED: Final = 10_000
"""Inodes that have a token are counted up to here: beyond, it is as common as can be."""
ROW_BYTES: Final = 256
"""So much of a sealed label counts as one row of a batch, as a token does."""
BATCH_ROWS: Final = 40_000
"""So many rows a mount gathers in one batch: fewer than the coordinator takes."""


class SetLabel(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Label an inode anew: what was said before and its tokens go. An empty `sealed` takes the label away.

    `revision` is the one it had, 0 if it never had a label: raises Conflict if it has another, which is one higher with
    every change, also when the label is taken away. Raises NotFound.
    """

    inode: int
    revision: int
    sealed: bytes
    tags: list[bytes] = []
    note: list[bytes] = []
    content: bytes = b""  # token of the whole content, or nothing
    change: int = 0  # of the inode when its content was that


class IndexName(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """The tokens of one name of an inode, in place of those that name had. They go with the name, and are kept in the
    trash. A name that is not there (any more) is passed over."""

    inode: int
    dentry: int
    tokens: list[bytes]


def rows(operation: object) -> int:
    """What an operation adds to the rows of its batch; 0 if it is not one of these."""
    match operation:
        case SetLabel():
            return len(operation.tags) + len(operation.note) + len(operation.sealed) // ROW_BYTES
        case IndexName():
            return len(operation.tokens)
        case _:
            return 0


class Find(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """→ Hits: inodes with a name that have all of these tokens, the rarest token's best first. Raises Misuse."""

    tokens: list[bytes]
    after: tuple[int, int, int]  # Hits.after, or zeros
    limit: int


class FindContent(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """→ list[int]: inodes with a name whose content had this token once, numbered above `after`; none: there are no
    more. The last may be one without a name, where many of those are."""

    token: bytes
    after: int
    limit: int


class ReadLabels(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """→ wire.found.LabelPage. At most 100. Raises Misuse."""

    inodes: list[int]


class Hit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An inode and where it has each of the tokens asked for, in their order: the best place."""

    inode: int
    places: list[int]


class Hits(msgspec.Struct, frozen=True, array_like=True):
    """A page; an inode may come several times. `counts`: how often there is each token, in the trash too, at most
    MOST_COUNTED. `complete` when none follow, else `after` continues."""

    hits: list[Hit]
    counts: list[int]
    after: tuple[int, int, int]
    complete: bool
