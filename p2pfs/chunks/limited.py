"""A bound on how much a store is asked at once: requests, and the bytes they hold.

Not a rate limit. A PUT counts until the inner store lets go of its parts, stragglers included, so that the memory
under way is bounded and not only what callers wait for.
"""

from collections.abc import Sequence

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.protocol import Blocks, Check, ChunkStore, Released
from p2pfs.runtime.credits import ByteCredits
from p2pfs.types import Buffer, ChunkId, VolumeId
from p2pfs.wire.chunks import Receipt


class _Turn:
    """One of so many at once, for the block. Takes a checkpoint only where it waits."""

    def __init__(self, most: int) -> None:
        self._free = trio.Semaphore(most)

    async def __aenter__(self) -> None:
        try:
            self._free.acquire_nowait()
        except trio.WouldBlock:
            await self._free.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._free.release()


class LimitedStore:
    """At most `requests` at once, holding at most `bytes_held` to be stored and as much to be read; who comes later
    waits in order. Two budgets, so that copies still under way to a slow peer do not hold up readers."""

    def __init__(self, inner: ChunkStore, *, requests: int, bytes_held: int) -> None:
        self._inner = inner
        self._turn = _Turn(requests)
        self._writing = ByteCredits(bytes_held)
        self._reading = ByteCredits(bytes_held)

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        size = runs.total_bytes(parts)
        passed_on = False

        def release() -> None:
            self._writing.give(size)
            if released is not None:
                released()

        try:
            async with self._turn:
                await self._writing.take(size)
                passed_on = True
                return await self._inner.put(volume, chunk, parts, released=release)
        finally:
            if not passed_on and released is not None:
                released()

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        start, stop = runs.span(size, blocks)
        async with self._turn:
            await self._reading.take(stop - start)
            try:
                return await self._inner.get(volume, chunk, size, blocks, check=check)
            finally:
                self._reading.give(stop - start)

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        async with self._turn:
            return await self._inner.has(volume, chunk)

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        async with self._turn:
            await self._inner.delete(volume, chunk, put_seq)
