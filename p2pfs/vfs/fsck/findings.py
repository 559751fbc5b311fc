"""What a check can find and what would mend it. `docs/fsck.md` has the same table.

found ──mend done──▶ mended
  └──not asked for, refused, nothing to be done──▶ left
"""

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from p2pfs.types import ChunkId, InodeId, Kind, PeerNumber

MOST: Final = 10_000
"""Findings that are kept; others are only counted."""
MOST_PATHS: Final = 20
"""Of the files that a chunk is part of."""


class Code(enum.StrEnum):
    """What is wrong. Told to programs: never rename."""

    ROOT = "root"  # the volume's first directory is not there
    NAME = "name"  # a name, or what it leads to, is not what a member said
    HEAD = "head"  # an inode's sealed head does not authenticate, or contradicts its row
    SIZE = "size"  # the size that the coordinator counts with is another than the sealed one
    CONTENT = "content"  # extents or inline data are not those that the head vouches for
    TARGET = "target"
    XATTR = "xattr"
    LABEL = "label"
    LEASE = "lease"
    LINKS = "links"
    PLACE = "place"  # where a directory is, as its row says
    UNREACHABLE = "unreachable"  # a directory that no path from the root leads to
    ORPHAN = "orphan"  # an inode that nothing keeps
    DANGLING = "dangling"  # a name that leads to no inode
    COUNTERS = "counters"  # of the volume
    SHORT = "short"  # fewer copies than wanted, by the index
    LOST = "lost"  # no copy, by the index, or none that is whole
    COPY = "copy"  # one copy is damaged or missing
    BLOCK = "block"  # a whole chunk that does not open
    UNCHECKED = "unchecked"  # a peer that could not be asked


class Remedy(enum.Enum):
    """What would mend it."""

    NONE = enum.auto()
    RECOUNT = enum.auto()
    RESIZE = enum.auto()  # the same content once more, with the right size
    RESEAL = enum.auto()  # a new head for what has no content
    ADOPT = enum.auto()  # a name in lost+found
    DROP = enum.auto()  # the name goes
    MOVE = enum.auto()  # to lost+found, with a name that is vouched for
    SALVAGE = enum.auto()  # vouch for what is there of its content, and move it to lost+found
    COPY = enum.auto()  # store the copy again, from a whole one


ASKS: Final = frozenset({Remedy.DROP, Remedy.MOVE, Remedy.SALVAGE})
"""Only after somebody has said yes: a person has to know that these were vouched for by nobody until now."""


class State(enum.StrEnum):
    """What became of a finding."""

    FOUND = "found"
    MENDED = "mended"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Spot:
    """A dentry as the coordinator has it."""

    parent: InodeId
    dentry: int
    raw: bytes  # sealed name
    name: bytes  # opened; empty: it does not open


@dataclass(slots=True)
class Finding:
    """One thing that is wrong. `why` says why it was left."""

    code: Code
    path: bytes  # from the volume's root; empty: of the volume as a whole
    message: str
    remedy: Remedy = Remedy.NONE
    inode: InodeId | None = None
    kind: Kind | None = None
    spot: Spot | None = None
    chunk: ChunkId | None = None
    peer: PeerNumber | None = None
    paths: list[bytes] = field(default_factory=list)  # of all files that a chunk is part of
    state: State = State.FOUND
    why: str = ""

    @property
    def asks(self) -> bool:
        return self.remedy in ASKS

    def leave(self, why: str) -> None:
        self.state, self.why = State.LEFT, why


@dataclass(slots=True)
class Tally:
    """What was looked at."""

    inodes: int = 0
    directories: int = 0
    chunks: int = 0
    copies: int = 0
    bytes_read: int = 0


class Findings:
    """All of them, in the order in which they were found."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.dropped = Counter[Code]()
        """How many more there are of a kind than are kept."""
        self.tally = Tally()
        self.notes: list[str] = []
        """What was not looked at, for people."""

    def add(self, finding: Finding) -> None:
        if len(self.kept) < MOST:
            self.kept.append(finding)
        else:
            self.dropped[finding.code] += 1

    def __len__(self) -> int:
        return len(self.kept) + self.dropped.total()

    def mendable(self, *, asking: bool) -> Sequence[Finding]:
        """Those that can be mended, and need a yes for it or not."""
        return [one for one in self.kept if one.remedy is not Remedy.NONE and one.asks is asking]

    def count(self, state: State) -> int:
        return sum(one.state is state for one in self.kept)
