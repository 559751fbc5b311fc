"""What others changed, on the wire: a mount asks, and the answer waits until there is something to tell.

A long poll: one request of a session is always at the coordinator. What an answer told is forgotten when the next
request acknowledges it, so a lost answer loses nothing. Structs are arrays: new fields go to the end, with a default.
"""

from typing import Annotated, Final

import msgspec

REMOVED: Final = -1
"""`change` and `attr_change` of an inode that is gone."""


_Number = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
"""Of an inode: a mount must not meet another one."""


class WaitEvents(msgspec.Struct, frozen=True, array_like=True):
    """`POST /sessions/{session}/events` → Events.

    `stream` and `after` are the `stream` and `last` of the answer before; both 0 ask for what happened since the
    session was opened.
    """

    stream: int
    after: int
    wait_s: float  # the coordinator answers no later, perhaps with nothing


class ChangedInode(msgspec.Struct, frozen=True, array_like=True):
    """Attributes or content of an inode are newer than these versions were; may be told late, so compare."""

    inode: _Number
    change: int
    attr_change: int


class ChangedName(msgspec.Struct, frozen=True, array_like=True):
    """A name that was added, removed, or leads elsewhere."""

    parent: _Number
    name: bytes  # sealed


class Events(msgspec.Struct, frozen=True, array_like=True):
    """What other sessions of the volume changed, oldest first.

    With `lost` it says nothing: something was missed, so nothing that was cached before this answer is to be trusted,
    and `GET /sessions/{session}/held` says what `held` would have.
    """

    stream: int  # another one than before: the coordinator knows nothing of what it told
    last: int  # the number of the newest event; the next request's `after`
    lost: bool = False
    inodes: list[ChangedInode] = []
    names: list[ChangedName] = []
    held: list[_Number] = []  # lost their last name: kept for this session for two lifetimes; see Opened, Released
    recall: int = 0  # the epoch of a delegation that the session is to return; said until it has
