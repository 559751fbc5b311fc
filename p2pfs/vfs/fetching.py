"""Fetching the chunks of many files into a mount's disk cache, several at once, for `Warming`.

What nobody gives is waited for by the store below, for `io_timeout` each. That must neither keep other chunks from
their turn nor add up without end, so a chunk goes

    begun ──SLOW_S──▶ slow: others have its turn ──▶ there | failed
      └──────────────────────▶ there | failed

and once VAIN_S were waited for chunks that did not come, nothing more is begun. Going through what is there already is
no waiting, however long it takes.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from p2pfs.chunks.cached import CachedStore
from p2pfs.errors import Fenced, NotFound, PoolError
from p2pfs.types import ChunkId, InodeId, VolumeId

AT_ONCE: Final = 8
"""Chunks fetched at the same time, behind everybody who reads."""
MOST_SLOW: Final = 32
"""That may be under way besides, once they are slow."""
SLOW_S: Final = 10.0
VAIN_S: Final = 120.0
"""In which nothing came, until a chunk or a file was given up."""


@dataclass(slots=True)
class Warmth:
    """How far it is. Bytes are sealed ones."""

    files: int = 0
    of_files: int = 0
    fetched_bytes: int = 0
    cached_bytes: int = 0  # were there already
    dropped_bytes: int = 0
    failed: int = 0  # chunks that nobody gave, or the disk did not take
    is_full: bool = False  # the cache holds no more
    lacking: int = 0  # files of which something failed
    gave_up: bool = False  # too long nothing came: what is left was not tried


Told = Callable[[Warmth], Awaitable[None]]
"""May be called again before it has returned."""
Chunks = Callable[[InodeId], AsyncGenerator[tuple[ChunkId, int]]]
"""The chunks of a file with their sizes. Raises PoolError: nobody says."""


class Fetching:
    """One round. `room` bounds what is fetched and what was there already together; `lacks` hears of each file of which
    something failed."""

    def __init__(
        self, cache: CachedStore, volume: VolumeId, room: int, told: Told, lacks: Callable[[InodeId], None]
    ) -> None:
        self._cache, self._volume, self._room, self._told, self._lacks = cache, volume, room, told, lacks
        self.warmth = Warmth()
        self._nursery: trio.Nursery
        self._error: Exception | None = None
        self._since: dict[ChunkId, float] = {}  # when those under way began
        self._wanting: dict[ChunkId, list[InodeId]] = {}  # the files that wait for them
        self._left: Counter[InodeId] = Counter()  # what each file waits for, its being gone through among it
        self._lacking: set[InodeId] = set()
        self._ended = trio.Event()
        self._heard_s = trio.current_time()  # when one last came, or was given up
        self._vain_s = 0.0

    async def run(self, files: Iterable[InodeId], chunks: Chunks) -> None:
        """Fetch what the files have. Raises Fenced, and what `told` does, by itself."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._guarded, partial(self._go_through, files, chunks))
        if self._error is not None:
            raise self._error

    async def _guarded(self, effort: Callable[[], Awaitable[None]]) -> None:
        try:
            await effort()
        except Exception as error:  # raised by `run`: a nursery would make a group of it
            self._error = self._error or error
            self._nursery.cancel_scope.cancel()

    async def _go_through(self, files: Iterable[InodeId], chunks: Chunks) -> None:
        for number in files:
            self._left[number] = 1
            asked_s = trio.current_time()
            try:
                async with aclosing(chunks(number)) as found:
                    async for chunk, size in found:
                        await self._begin(number, chunk, size)
                        if self.warmth.gave_up:
                            return  # with this file not done
                        asked_s = trio.current_time()
            except Fenced:  # nothing more comes
                raise
            except NotFound:
                pass  # it is gone by now
            except PoolError:
                self._lack(number)
                self._heard(asked_s, is_there=False)
            await self._done(number)
            if self.warmth.gave_up or self.warmth.is_full:
                break

    async def _begin(self, number: InodeId, chunk: ChunkId, size: int) -> None:
        warmth = self.warmth
        if chunk not in self._wanting:
            if self._cache.holds(self._volume, chunk, size):
                warmth.cached_bytes += size
                return
            if warmth.fetched_bytes + warmth.cached_bytes + size > self._room:
                warmth.is_full = True
                return
            await self._turn()
            if warmth.gave_up:
                return
            warmth.fetched_bytes += size  # before it is there: others count on the room that is left
            self._wanting[chunk], self._since[chunk] = [], trio.current_time()
            self._nursery.start_soon(self._guarded, partial(self._fetch, chunk, size))
        self._wanting[chunk].append(number)
        self._left[number] += 1

    async def _turn(self) -> None:
        """Wait until one more may begin, or none may any more."""
        while not self.warmth.gave_up:
            slow_from_s = [since + SLOW_S for since in self._since.values() if since + SLOW_S > trio.current_time()]
            has_room = len(self._since) < AT_ONCE + MOST_SLOW
            if has_room and len(slow_from_s) < AT_ONCE:
                return
            with trio.move_on_at(min(slow_from_s) if has_room else float("inf")):
                await self._ended.wait()

    async def _fetch(self, chunk: ChunkId, size: int) -> None:
        try:
            is_there = await self._cache.warm(self._volume, chunk, size)
        except Fenced:  # nothing more comes
            raise
        except PoolError:
            is_there = False
        began_s = self._since.pop(chunk)
        files = self._wanting.pop(chunk)
        if is_there:
            self.warmth.cached_bytes += size * (len(files) - 1)
        else:
            self.warmth.fetched_bytes -= size
            self.warmth.failed += 1
            for number in files:
                self._lack(number)
        self._heard(began_s, is_there=is_there)
        for number in files:
            await self._done(number)

    def _heard(self, began_s: float, *, is_there: bool) -> None:
        """Of what was waited for since `began_s`. Others were under way meanwhile: no second counts twice."""
        now_s = trio.current_time()
        if not is_there:
            self._vain_s += now_s - max(self._heard_s, began_s)
            self.warmth.gave_up = self._vain_s >= VAIN_S
        self._heard_s = now_s
        self._ended.set()
        self._ended = trio.Event()

    def _lack(self, number: InodeId) -> None:
        if number not in self._lacking:
            self._lacking.add(number)
            self.warmth.lacking += 1
            self._lacks(number)

    async def _done(self, number: InodeId) -> None:
        """With one thing that the file waited for."""
        self._left[number] -= 1
        if not self._left[number]:
            del self._left[number]
            self.warmth.files += 1
        await self._told(self.warmth)
