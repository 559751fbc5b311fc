"""Plain blocks kept in memory: runs as they were fetched and opened, least recently used ones go first."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from p2pfs.types import BLOCK_BYTES, BLOCKS_PER_CHUNK, ChunkId

MOST_MEMORY: Final = 1.25
"""Bytes of memory for each that is kept: a part of what was lent for a whole chunk would keep all of that."""


@dataclass(frozen=True, slots=True)
class PlainRun:
    """Opened bytes of some blocks of a chunk: `data` begins at plain offset `start`."""

    start: int
    data: memoryview

    @property
    def memory(self) -> int:
        """Bytes of memory that it keeps, if it is all that lies in them."""
        return memoryview(self.data.obj).nbytes

    def slice(self, off: int, length: int) -> memoryview | None:
        """Plain bytes off…off+length of the chunk if all are here."""
        low = off - self.start
        if low < 0 or low + length > len(self.data):
            return None
        return self.data[low : low + length]

    def compact(self) -> "PlainRun":
        """The same bytes; in memory of their own, unless they fill nearly all of that they lie in."""
        if self.memory <= MOST_MEMORY * len(self.data):
            return self
        return PlainRun(self.start, memoryview(bytes(self.data)))


class BlockCache:
    """Runs by (chunk, first block), bounded in bytes of the memory they lie in.

    A run is found by any byte in it through `_first`, which maps each block of a chunk to its run's key.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._runs: OrderedDict[tuple[ChunkId, int], PlainRun] = OrderedDict()
        self._first: dict[tuple[ChunkId, int], int] = {}
        self.bytes = 0
        self.hits = self.misses = 0

    def get(self, chunk: ChunkId, off: int, length: int) -> memoryview | None:
        first = self._first.get((chunk, off // BLOCK_BYTES))
        if first is None:
            self.misses += 1
            return None
        self.hits += 1
        run = self._runs[chunk, first]
        self._runs.move_to_end((chunk, first))
        return run.slice(off, length)

    def put(self, chunk: ChunkId, run: PlainRun) -> None:
        first = run.start // BLOCK_BYTES
        blocks = range(first, (run.start + len(run.data) + BLOCK_BYTES - 1) // BLOCK_BYTES)
        for block in blocks:
            older = self._first.get((chunk, block))
            if older is not None:
                self._remove((chunk, older))
        kept = self._runs[chunk, first] = run.compact()
        for block in blocks:
            self._first[chunk, block] = first
        self.bytes += kept.memory
        while self.bytes > self._budget and len(self._runs) > 1:
            self._remove(next(iter(self._runs)))

    def drop(self, chunk: ChunkId) -> None:
        """Let go of all of a chunk."""
        for block in range(BLOCKS_PER_CHUNK):
            first = self._first.get((chunk, block))
            if first is not None:
                self._remove((chunk, first))

    def _remove(self, key: tuple[ChunkId, int]) -> None:
        run = self._runs.pop(key)
        chunk, first = key
        for block in range(first, (run.start + len(run.data) + BLOCK_BYTES - 1) // BLOCK_BYTES):
            self._first.pop((chunk, block), None)
        self.bytes -= run.memory
