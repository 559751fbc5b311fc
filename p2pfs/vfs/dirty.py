"""What was written and is not yet stored: pure bookkeeping of byte runs, and how they are packed into chunks.

Used by the writer (to collect and freeze) and the reader (to lay unsaved bytes over stored ones). No I/O, no awaits.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from p2pfs.format.ranges import pieces
from p2pfs.types import CHUNK_BYTES, KIB, Buffer

COALESCE_BYTES: Final = 16 * KIB
"""Appends smaller than this are copied together; larger ones are kept as they came, so big writes are never copied."""
OWN_CHUNK_BYTES: Final = 256 * KIB
"""A run at least this long gets a chunk of its own; shorter ones of one flush share chunks."""

RUN_COST: Final = 512
"""Bytes of memory a run takes beside its data, as the budget of unsaved bytes counts them."""
FREEZE_COST: Final = 8 * KIB
"""What it takes to have some of a file on their way: a task, an inode that must stay known. Measured: 6 to 9 KiB."""
MOST_RUNS: Final = 4096
"""Runs of one MiB beyond which it is sent on its way."""


class Run:
    """Contiguous dirty bytes of one MiB, from `start`, as the parts they arrived in."""

    __slots__ = ("length", "parts", "start")

    def __init__(self, start: int, data: Buffer) -> None:
        self.start = start
        self.parts: list[Buffer] = [data]
        self.length = len(data)

    @property
    def end(self) -> int:
        return self.start + self.length

    def append(self, data: Buffer) -> None:
        last = self.parts[-1]
        if len(data) >= COALESCE_BYTES:
            self.parts.append(data)
        elif isinstance(last, bytearray) and len(last) < 8 * COALESCE_BYTES:
            last += data
        else:
            self.parts.append(bytearray(data))
        self.length += len(data)

    def flat(self) -> bytearray:
        """The run as one mutable buffer (copied on the first overwrite only)."""
        if len(self.parts) != 1 or not isinstance(self.parts[0], bytearray):
            self.parts = [bytearray(b"".join(self.parts))]
        buffer = self.parts[0]
        assert isinstance(buffer, bytearray)
        return buffer

    def copy_into(self, off: int, into: memoryview) -> None:
        """Lay the bytes of this run over `into`, which shows the MiB from `off` on."""
        at = self.start
        stop = off + len(into)
        for part in self.parts:
            low, high = max(at, off), min(at + len(part), stop)
            if low < high:
                into[low - off : high - off] = memoryview(part)[low - at : high - at]
            at += len(part)


class DirtyMib:
    """Dirty runs of one MiB: sorted, disjoint, never touching."""

    __slots__ = ("bytes", "index", "runs", "since")

    def __init__(self, index: int, since: float) -> None:
        self.index = index
        self.since = since
        self.runs: list[Run] = []
        self.bytes = 0

    @property
    def cost(self) -> int:
        """What it takes of the budget: its bytes and a price for each run."""
        return self.bytes + RUN_COST * len(self.runs)

    @property
    def end(self) -> int:
        """File offset behind the last dirty byte."""
        return self.index * CHUNK_BYTES + (self.runs[-1].end if self.runs else 0)

    @property
    def is_full(self) -> bool:
        return len(self.runs) == 1 and self.runs[0].length == CHUNK_BYTES

    def write(self, off: int, data: Buffer) -> None:
        """Newest bytes win. `data` is kept, not copied, when it is large and touches nothing older."""
        stop = off + len(data)
        first = bisect_left(self.runs, off, key=lambda run: run.end)  # first run that ends at or after `off`
        last = first
        while last < len(self.runs) and self.runs[last].start <= stop:
            last += 1
        touched = self.runs[first:last]
        before = sum(run.length for run in touched)
        if not touched:
            self.runs.insert(first, Run(off, data))
        elif len(touched) == 1 and touched[0].end == off:
            touched[0].append(data)
        elif len(touched) == 1 and touched[0].start <= off and stop <= touched[0].end:
            touched[0].flat()[off - touched[0].start : stop - touched[0].start] = data
        else:
            touched = self.runs[first:last] = [_merged(touched, off, data)]
        self.bytes += (sum(run.length for run in touched) if touched else len(data)) - before

    def gaps(self, off: int, length: int) -> Iterator[tuple[int, int]]:
        """[start, stop) pieces of off…off+length that are not dirty."""
        at, stop = off, off + length
        for run in self.runs:
            if run.end <= at:
                continue
            if run.start >= stop:
                break
            if run.start > at:
                yield at, run.start
            at = run.end
        if at < stop:
            yield at, stop

    def covers(self, off: int, length: int) -> bool:
        return next(self.gaps(off, length), None) is None

    def copy_into(self, off: int, into: memoryview) -> None:
        for run in self.runs:
            if run.start < off + len(into) and run.end > off:
                run.copy_into(off, into)


def _merged(touched: list[Run], off: int, data: Buffer) -> Run:
    start = min(off, touched[0].start)
    stop = max(off + len(data), touched[-1].end)
    merged = bytearray(stop - start)
    view = memoryview(merged)
    for run in touched:
        run.copy_into(start, view)
    view[off - start : off - start + len(data)] = data
    return Run(start, merged)


def moved(mibs: Iterable[DirtyMib], start: int, stop: int, by: int) -> dict[int, DirtyMib]:
    """The same dirty bytes by index, those of start…stop of the file `by` bytes further (or nearer, if negative)."""
    result: dict[int, DirtyMib] = {}
    for mib in mibs:
        for run in mib.runs:
            first = mib.index * CHUNK_BYTES + run.start
            last = first + run.length
            content = memoryview(b"".join(run.parts))
            for low, high, shift in _parts(first, last, start, stop, by):
                _lay(result, low + shift, content[low - first : high - first], mib.since)
    return result


def _parts(first: int, last: int, start: int, stop: int, by: int) -> list[tuple[int, int, int]]:
    """(from, to, how far) of the bytes first…last of a file in which start…stop move; what moves comes last."""
    parts = [
        (first, min(last, start), 0),
        (max(first, stop), last, 0),
        (max(first, start), min(last, stop), by),
    ]
    return [part for part in parts if part[0] < part[1]]


def _lay(mibs: dict[int, DirtyMib], offset: int, data: memoryview, since: float) -> None:
    for piece in pieces(offset, len(data)):
        mib = mibs.get(piece.index)
        if mib is None:
            mib = mibs[piece.index] = DirtyMib(piece.index, since)
        mib.write(piece.off, data[piece.at : piece.at + piece.length])


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one run's bytes lie within its chunk."""

    index: int
    off: int
    length: int
    chunk_off: int


@dataclass(slots=True)
class ChunkPlan:
    """The plain bytes of one chunk to be, and which bytes of the file they are."""

    parts: list[Buffer] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    plain_bytes: int = 0

    def add(self, index: int, run: Run) -> None:
        self.placed.append(Placed(index, run.start, run.length, self.plain_bytes))
        self.parts.extend(run.parts)
        self.plain_bytes += run.length

    def move(self, start: int, stop: int, by: int) -> None:
        """The bytes start…stop of the file are `by` bytes further now; what is in the chunk stays as it is."""
        placed = []
        for old in self.placed:
            first = old.index * CHUNK_BYTES + old.off
            for low, high, shift in _parts(first, first + old.length, start, stop, by):
                for piece in pieces(low + shift, high - low):
                    chunk_off = old.chunk_off + low - first + piece.at
                    placed.append(Placed(piece.index, piece.off, piece.length, chunk_off))
        self.placed = placed


def pack(mibs: Iterable[DirtyMib]) -> list[ChunkPlan]:
    """Chunks for these runs: long runs alone, short ones together in file order."""
    plans: list[ChunkPlan] = []
    shared = ChunkPlan()
    for mib in mibs:
        for run in mib.runs:
            if run.length >= OWN_CHUNK_BYTES:
                alone = ChunkPlan()
                alone.add(mib.index, run)
                plans.append(alone)
                continue
            if shared.plain_bytes + run.length > CHUNK_BYTES:
                plans.append(shared)
                shared = ChunkPlan()
            shared.add(mib.index, run)
    if shared.placed:
        plans.append(shared)
    return plans
