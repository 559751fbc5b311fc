"""Chunks to whose copies something happened, on their way to `care`: a small inbox between those who notice and the one
who acts. In memory and bounded: what does not fit becomes "look at everything". Sync; `changed` is set by each entry.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Final

import trio

from p2pfs.runtime.clocks import Clock
from p2pfs.types import ChunkId, VolumeId

MOST: Final = 20_000
AT_ONCE: Final = 500
"""Taken at once: looking them up takes 3 ms."""
LATE_S: Final = 30.0
"""So long may the last copies of a commit be on their way before anybody looks after them."""


class Noticed:
    """Told by heartbeats, commits, audits and inventories; emptied by `care`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._chunks: dict[tuple[VolumeId, ChunkId], None] = {}
        self._late: dict[tuple[VolumeId, ChunkId], float] = {}  # when to look (monotonic), ascending
        self._is_everything = False
        self.changed = trio.Event()

    def tell(self, chunks: Iterable[tuple[int, bytes]]) -> None:
        """Copies of these (volume, id) came, went, or are in doubt."""
        for volume, chunk in chunks:
            if len(self._chunks) >= MOST:
                self._is_everything = True
                break
            self._chunks[VolumeId(volume), ChunkId(chunk)] = None
        if self._chunks:
            self.changed.set()

    def expect(self, chunks: Iterable[tuple[int, bytes]]) -> None:
        """These have fewer copies than wanted, or more; the others may still be on their way."""
        due_s = self._clock.monotonic() + LATE_S
        for volume, chunk in chunks:
            key = VolumeId(volume), ChunkId(chunk)
            self._late.pop(key, None)  # it goes to the end
            if len(self._late) >= MOST:
                self.everything()
                return
            self._late[key] = due_s

    def expects(self, volume: VolumeId, chunk: ChunkId) -> bool:
        """Whether copies of this chunk may still be on their way."""
        return (volume, chunk) in self._late

    def next_s(self) -> float:
        """When something expected is due (monotonic)."""
        return next(iter(self._late.values()), math.inf)

    def everything(self) -> None:
        """Nobody knows which chunks it concerns."""
        self._is_everything = True
        self.changed.set()

    def take(self) -> tuple[list[tuple[VolumeId, ChunkId]], bool]:
        """(some of what was told or is due, whether everything must be looked at). `changed` stays set while there is
        more."""
        now_s = self._clock.monotonic()
        while self._late and self.next_s() <= now_s:
            key = next(iter(self._late))
            del self._late[key]
            self._chunks[key] = None
        taken, is_everything = list(itertools.islice(self._chunks, AT_ONCE)), self._is_everything
        for key in taken:
            del self._chunks[key]
        self._is_everything = False
        if not self._chunks:
            self.changed = trio.Event()
        return taken, is_everything
