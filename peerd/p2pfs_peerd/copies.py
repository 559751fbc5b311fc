"""Copies this peer takes in because the elected one asks for them: what it would take, what waits, and the pulling.

Within its own limits, whoever asks: so many waiting, so many at once, the owner's `repair_rate`, and in one absence of
the coordinator no more bytes than a share of what was free when it began. A chunk is taken only from peers of the
signed list, and only if its bytes are those of its id; nothing is ever deleted for it. Called by `absence`.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.protocol import ChunkStore
from p2pfs.errors import Misuse, PoolError
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.fellows import MOST_COPIES, MOST_SOURCES, Copy, CopyRequest

log = logging.getLogger(__name__)

AT_ONCE: Final = 2
MOST_WAITING: Final = 256

Key = tuple[VolumeId, ChunkId]


class Copies:
    """Those of one absence. `limit_bytes` is what may be taken in."""

    def __init__(
        self,
        store: DirectoryStore,
        sources: Callable[[PeerNumber], ChunkStore | None],
        *,
        rate: RateLimit,
        limit_bytes: int,
    ) -> None:
        self._store = store
        self._sources = sources
        self._rate = rate
        self._limit_bytes = limit_bytes
        self._waiting: dict[Key, Copy] = {}  # in order of arrival; those under way, too
        self._begun: set[Key] = set()
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
            if len(self._waiting) >= MOST_WAITING or copy.size > self.room():
                return count
            self._waiting[key] = copy
            self._waiting_bytes += copy.size
            self._idle.unpark_all()
        return len(request.copies)

    async def run(self) -> None:
        """Pull what waits, a few at a time, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            key = next((key for key in self._waiting if key not in self._begun), None)
            if key is None:
                await self._idle.park()
                continue
            copy = self._waiting[key]
            self._begun.add(key)
            try:
                await self._rate.take(copy.size)
                await self._pull(key, copy.size, copy.sources)
                self.taken += 1
                self.taken_bytes += copy.size
            except PoolError as error:
                self.failed += 1
                log.info("cannot take the copy of chunk %s: %s", key[1].hex()[:16], error)
            finally:
                self._begun.discard(key)
                del self._waiting[key]
                self._waiting_bytes -= copy.size

    async def _pull(self, key: Key, size: int, sources: Sequence[int]) -> None:
        """From the first source that has it. Raises what the last one, or the own disk, said."""
        last: PoolError = Misuse("no source of it is on the list of members")
        for number in sources:
            source = self._sources(PeerNumber(number))
            if source is None:
                continue
            try:
                body = await source.get(*key, size, runs.whole(size))
                await self._store.put(*key, [body])  # Misuse unless they are its bytes
                return
            except PoolError as error:
                last = error
        raise last


def _check(copy: Copy) -> None:
    if len(copy.chunk) != 32 or not 0 <= copy.volume < 1 << 63 or len(copy.sources) > MOST_SOURCES:
        raise Misuse("a request names an impossible chunk")
    runs.expect_chunk(copy.size)
