"""What happened at two mounts of one volume, and whether promise P9 allows it.

`Names` keeps every state the names of a volume were in, as the volume itself went through them: a call is right if its
answer fits one of the states between its begin and its end. `Cells` keeps what was written to fixed pieces of files and
says which values a byte may have. Ticks order events; they are no times.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from p2pfs.types import CHUNK_BYTES, InodeId

State = dict[tuple[InodeId, bytes], InodeId]
NEVER: Final = math.inf

CELLS: Final = (
    (0, 100), (100, 4000), (4100, 12284), (16384, 1), (16385, 65536), (90_000, 200_000), (300_000, 700_000),
    (CHUNK_BYTES - 7, 7), (CHUNK_BYTES, 10), (CHUNK_BYTES + 10, 300_000), (2 * CHUNK_BYTES - 100, 100),
    (2 * CHUNK_BYTES, 4096),
)  # fmt: skip
"""Pieces of a file, (offset, length), around every border the formats have."""
END: Final = 2 * CHUNK_BYTES + 4096


@dataclass(eq=False)
class Write:
    """A value given to a cell; 0 is what truncation leaves."""

    value: int
    mount: int
    start: float
    returned: float = NEVER
    committed: float = NEVER

    def is_before(self, other: "Write") -> bool:
        """Whether the other one surely lies above it."""
        return self.committed < other.start or (self.mount == other.mount and self.returned < other.start)


@dataclass
class Cells:
    """One file."""

    name: str
    writes: dict[int, list[Write]] = field(default_factory=lambda: {cell: [] for cell in range(len(CELLS))})

    def begin(self, cell: int, mount: int, tick: float) -> Write:
        """A write of a value this cell never had."""
        value = sum(1 for write in self.writes[cell] if write.value) % 255 + 1
        self.writes[cell].append(Write(value, mount, tick))
        return self.writes[cell][-1]

    def cut(self, first: int, mount: int, tick: float) -> list[Write]:
        """A truncation to the start of a cell begins."""
        cuts = [Write(0, mount, tick) for _ in range(first, len(CELLS))]
        for cell, cut in enumerate(cuts, first):
            self.writes[cell].append(cut)
        return cuts

    @staticmethod
    def was_cut(cuts: list[Write], tick: float) -> None:
        for cut in cuts:
            cut.returned = cut.committed = tick

    def commit(self, mount: int, before: float, tick: float) -> None:
        """What a mount had written before is committed now."""
        for writes in self.writes.values():
            for write in writes:
                if write.mount == mount and write.returned < before and write.committed == NEVER:
                    write.committed = tick

    def allowed(self, cell: int, mount: int, opened: float, start: float, end: float) -> set[int]:
        """What a read may find that was begun and ended then, through a handle opened then."""
        known = [write for write in self.writes[cell] if write.start < end]
        sure = [w for w in known if w.committed < opened or (w.mount == mount and w.returned < start)]
        values = {write.value for write in known if not any(write.is_before(above) for above in sure)}
        return values if sure else values | {0}


@dataclass
class Names:
    """The states of a volume's names, in order."""

    states: list[State] = field(default_factory=lambda: [{}])

    def now(self) -> int:
        return len(self.states) - 1

    def took(self, state: State) -> None:
        if state != self.states[-1]:
            self.states.append(state)

    def since(self, first: int) -> list[State]:
        return self.states[first:]

    def steps(self, first: int) -> Iterator[tuple[State, State]]:
        return itertools.pairwise(self.states[first:])


@dataclass
class Records:
    """One file that both mounts append records to: each begins with its number and length, and ends with them."""

    begun: set[int] = field(default_factory=set)

    @staticmethod
    def record(number: int, length: int) -> bytes:
        head = number.to_bytes(4, "big") + length.to_bytes(4, "big")
        return head + bytes((number + at) & 0xFF for at in range(min(length, 256))) * (length // 256 + 1) + head

    @classmethod
    def parsed(cls, content: bytes) -> list[int]:
        """The numbers in order. Raises AssertionError where a record is not whole."""
        found, at = [], 0
        while at < len(content):
            number = int.from_bytes(content[at : at + 4], "big")
            length = int.from_bytes(content[at + 4 : at + 8], "big")
            whole = cls.record(number, length)
            assert content[at : at + len(whole)] == whole, f"at {at} of {len(content)}: record {number} is not whole"
            found.append(number)
            at += len(whole)
        return found
