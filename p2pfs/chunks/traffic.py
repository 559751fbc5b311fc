"""How much was read from or by whom, by day: what both ends of a read tell the coordinator (docs/usefulness.md).

A chunk counts once a day with the bytes of its first read: at a peer for each node that reads it, at a mount once,
whichever of its holders are asked later. Bounded: which chunks were seen is a
filter of fixed size, which now and then takes a new chunk for one it has seen and never the other way round, so that
nobody ever tells too much. Sync; made by the daemon of a peer (by reading node) and by a mount (by peer number).
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

from p2pfs.types import ChunkId, VolumeId

K = TypeVar("K", bound=Hashable)

DAY_S: Final = 86400
MOST_OTHERS: Final = 4096
"""Counted at once; further ones are not."""
MOST_TOLD: Final = 1000
"""Rows told at once."""
_BITS: Final = 23
_MASK: Final = (1 << _BITS) - 1


class Seen:
    """A Bloom filter of 1 MiB and two bits an item: of 100 000 items it has seen, it takes 1 in 2 000 others for one of
    them, of a million 1 in 20. The hash is Python's, which differs from process to process."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_BITS - 3))

    def add(self, item: Hashable) -> bool:
        """Whether it is new; from now on it is not."""
        mixed, is_new = hash(item), False
        for place in (mixed & _MASK, (mixed >> _BITS) & _MASK):
            byte, bit = place >> 3, 1 << (place & 7)
            if not self._bits[byte] & bit:
                self._bits[byte] |= bit
                is_new = True
        return is_new


class Traffic(Generic[K]):
    """Sums of today, and of yesterday until they were told."""

    def __init__(self, now_s: Callable[[], float], *, for_all: bool = False) -> None:
        """`for_all`: a chunk counts once for all others together, that is for the first."""
        self._for_all = for_all
        self._now_s = now_s
        self._day = 0
        self._seen = Seen()
        self._sums: dict[tuple[int, K], int] = {}
        self._untold: dict[tuple[int, K], None] = {}

    def count(self, other: K, volume: VolumeId, chunk: ChunkId, size: int) -> None:
        """So many bytes of a chunk went over."""
        day = int(self._now_s() // DAY_S)
        if day != self._day:
            self._turn(day)
        key = (day, other)
        if key not in self._sums and len(self._sums) >= MOST_OTHERS:
            return
        if self._seen.add((None if self._for_all else other, volume, chunk)):
            self._sums[key] = self._sums.get(key, 0) + size
            self._untold[key] = None

    def untold(self) -> list[tuple[int, K, int]]:
        """(day, other, bytes of that day so far) that changed since it was last told."""
        return [(*key, self._sums[key]) for key, _ in zip(self._untold, range(MOST_TOLD), strict=False)]

    def told(self, rows: Iterable[tuple[int, K, int]]) -> None:
        """The coordinator knows these."""
        for day, other, size in rows:
            if self._sums.get((day, other)) == size:
                self._untold.pop((day, other), None)

    def _turn(self, day: int) -> None:
        """A day has begun, or the clock was set: of what was before, only yesterday's that is untold is kept."""
        self._day, self._seen = day, Seen()
        self._untold = {key: None for key in self._untold if key[0] == day - 1}
        self._sums = {key: self._sums[key] for key in self._untold}
