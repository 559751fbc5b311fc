"""Copies this peer takes in because the elected one asks for them: what it would take, what waits, and the pulling.

Within its own limits, whoever asks: so many waiting, so many at once, the owner's `repair_rate`, and in one absence of
the coordinator no more bytes than a share of what was free when it began. A chunk is taken only from peers of the
signed list, and only if its bytes are those of its id; nothing is ever deleted for it. A source that lists what it does
not have, or hangs, costs the others little: the line is shared between sources, and one that fails again and again is
asked when there is nothing else to do. Not never: it may have the last copy of something. Called by `absence`.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.protocol import PeerStore
from p2pfs.errors import Misuse
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.fellows import MOST_COPIES, MOST_SOURCES, Copy, CopyRequest
from p2pfs_peerd.pulling import NotPulled, Puller

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
MOST_WAITING: Final = 256

Key = tuple[VolumeId, ChunkId]


@dataclass(slots=True)
class _Waiting:
    copy: Copy
    source: int  # the one that is asked first
    is_begun: bool = False


class Copies:
    """Those of one absence. `limit_bytes` is what may be taken in."""

    def __init__(
        self,
        store: DirectoryStore,
        sources: Callable[[PeerNumber], PeerStore | None],
        *,
        rate: RateLimit,
        limit_bytes: int,
    ) -> None:
        self._store = store
        self._puller = Puller(store, sources)
        self._rate = rate
        self._limit_bytes = limit_bytes
        self._waiting: dict[Key, _Waiting] = {}  # in order of arrival; those under way, too
        self._waiting_bytes = 0
        self._idle = trio.lowlevel.ParkingLot()
        self.taken = 0
        self.taken_bytes = 0
        self.failed = 0

    def room(self) -> int:
        """Bytes that would still be taken."""
        usage = self._store.usage()
        free = usage.capacity - usage.used - usage.trash
        return max(0, min(free, self._limit_bytes - self.taken_bytes) - self._waiting_bytes)

    async def ask(self, request: CopyRequest) -> int:
        """Put the first of them in line, as many as there is room for; how many those are, with what is here already.

        Raises:
            Misuse: They cannot be meant.
        """
        for copy in request.copies:
            _check(copy)
        if len(request.copies) > MOST_COPIES:
            raise Misuse(f"a request names at most {MOST_COPIES} copies")
        for count, copy in enumerate(request.copies):
            key = VolumeId(copy.volume), ChunkId(copy.chunk)
            if await self._store.has(*key) or key in self._waiting:
                continue
            source = next(iter(self._ranked(copy.sources)), 0)
            if not self._makes_way(copy.size, source):
                return count
            self._waiting[key] = _Waiting(copy, source)
            self._waiting_bytes += copy.size
            self._idle.unpark_all()
        return len(request.copies)

    def _ranked(self, sources: Sequence[int]) -> list[int]:
        """The quickest first, those that fail last."""
        return sorted(self._puller.quickest(sources), key=self._puller.is_failing)

    def _makes_way(self, size: int, source: int) -> bool:
        """Whether there is room for one more from this source, at the expense of those that have more in line."""
        if size > self.room() + self._waiting_bytes:
            return False
        line: dict[int, list[Key]] = {}
        for key, one in self._waiting.items():
            if not one.is_begun:
                line.setdefault(one.source, []).append(key)
        while len(self._waiting) >= MOST_WAITING or size > self.room():
            longest = max(line.values(), key=len, default=[])
            if len(longest) <= len(line.get(source, ())) + 1:
                return False
            self._forget(longest.pop())
        return True

    def _forget(self, key: Key) -> None:
        self._waiting_bytes -= self._waiting.pop(key).copy.size

    async def run(self) -> None:
        """Pull what waits, a few at a time, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            key = self._next()
            if key is None:
                await self._idle.park()
                continue
            waiting = self._waiting[key]
            waiting.is_begun = True
            copy = waiting.copy
            try:
                await self._rate.take(copy.size)
                await self._puller.pull(*key, copy.size, self._ranked(copy.sources))
                self.taken += 1
                self.taken_bytes += copy.size
            except NotPulled as error:
                self.failed += 1
                log.info("cannot take the copy of chunk %s: %s", key[1].hex()[:16], error)
            finally:
                self._forget(key)

    def _next(self) -> Key | None:
        """The first in line; before it those of a source of which less is under way, and of one that does not fail."""
        busy = Counter(one.source for one in self._waiting.values() if one.is_begun)
        line = (key for key, one in self._waiting.items() if not one.is_begun)

        def rank(key: Key) -> tuple[bool, int]:
            source = self._waiting[key].source
            return self._puller.is_failing(source), busy[source]

        return min(line, key=rank, default=None)


def _check(copy: Copy) -> None:
    if len(copy.chunk) != 32 or not 0 <= copy.volume < 1 << 63 or len(copy.sources) > MOST_SOURCES:
        raise Misuse("a request names an impossible chunk")
    runs.expect_chunk(copy.size)
