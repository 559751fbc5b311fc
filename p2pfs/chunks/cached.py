"""A disk cache of ciphertext in front of another store: cold reads once, warm ones without the network.

It holds nothing that a peer could not also see, so it needs no keys; authenticity is the caller's `check`, and a cached
copy that fails it is dropped and fetched again. Who has none gets whole chunks by their hash, and parts past the cache:
what nobody checks is neither kept nor believed. PUTs pass by: what was just written is still in memory. Fills happen in
the background and are skipped rather than queued when the disk cannot keep up. A part of a chunk is kept when it is
fetched for the second time: most random reads come once, and a new file costs more than the fetch.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.cachefiles import CacheFiles, Run
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.protocol import Blocks, Check, ChunkStore, Released
from p2pfs.errors import Corrupt, Unavailable
from p2pfs.format.chunk import verify
from p2pfs.types import MIB, Buffer, ChunkId, VolumeId
from p2pfs.wire.chunks import Receipt

_FILLS: Final = 8
"""Runs being written at once, at most a chunk each."""
_SEEN_ONCE: Final = 1 << 15
"""Parts of chunks remembered as fetched once: 2 GiB of blocks, in 3 MiB of memory."""
_DISK_TIMEOUT_S: Final = 1.0
"""A cache slower than this is worse than the network."""


class CachedStore:
    """Made by `open`. `hits`, `misses` and `bytes_fetched` count since then."""

    def __init__(self, inner: ChunkStore, files: CacheFiles, nursery: trio.Nursery) -> None:
        self._inner = inner
        self._files = files
        self._nursery = nursery
        self._threads = trio.CapacityLimiter(8)
        self._filling: set[Run] = set()
        self._seen_once: dict[int, None] = {}  # hashes of runs, oldest first
        self.hits = self.misses = self.bytes_fetched = 0

    @classmethod
    async def open(
        cls,
        inner: ChunkStore,
        root: Path,
        *,
        budget: int,
        nursery: trio.Nursery,
        keep_free: int = 256 * MIB,
        disk: Disk | None = None,
    ) -> "CachedStore":
        """Read the index of what is in `root` (made if absent). Fills run in `nursery`.

        Raises:
            NoSpace, Unavailable: The disk does not let us.
        """
        files = CacheFiles(root, budget, keep_free, disk or Disk())
        await trio.to_thread.run_sync(files.scan)
        return cls(inner, files, nursery)

    @property
    def used(self) -> int:
        """Bytes of all cached files."""
        return self._files.used

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        return await self._inner.put(volume, chunk, parts, released=released)

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        runs.span(size, blocks)
        if check is None:
            if blocks != runs.whole(size):
                return await self._inner.get(volume, chunk, size, blocks)
            check = partial(verify, chunk)
        run = self._files.find(volume, chunk, blocks)
        if run is not None:
            view = await self._cached(run, size, blocks, check)
            if view is not None:
                self.hits += 1
                return view
        self.misses += 1
        view = await self._inner.get(volume, chunk, size, blocks, check=check)
        self.bytes_fetched += len(view)
        fill = Run(volume, chunk, blocks.first, blocks.count)
        if len(self._filling) < _FILLS and fill not in self._filling and self._admits(fill, size):
            self._filling.add(fill)
            self._nursery.start_soon(self._fill, fill, view)
        return view

    def _admits(self, run: Run, size: int) -> bool:
        """Whether a run is likely enough to be wanted again."""
        if run.count == runs.block_count(size) or hash(run) in self._seen_once:
            return True
        self._seen_once[hash(run)] = None
        if len(self._seen_once) > _SEEN_ONCE:
            del self._seen_once[next(iter(self._seen_once))]
        return False

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        return await self._inner.has(volume, chunk)

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        await self._inner.delete(volume, chunk, put_seq)
        await self.drop(volume, chunk)

    # ---- filled and emptied on somebody's word

    @property
    def budget(self) -> int:
        """Bytes that may be cached."""
        return self._files.budget

    def holds(self, volume: VolumeId, chunk: ChunkId, size: int) -> bool:
        """Whether a whole chunk of `size` is cached. Raises Misuse: no chunk has that size."""
        return self._files.find(volume, chunk, runs.whole(size)) is not None

    async def warm(self, volume: VolumeId, chunk: ChunkId, size: int) -> bool:
        """Have a whole chunk in the cache, whatever else it is filled with; whether it is. Raises as `get`."""
        if self.holds(volume, chunk, size):
            return True
        blocks = runs.whole(size)
        view = await self._inner.get(volume, chunk, size, blocks, check=partial(verify, chunk))
        self.bytes_fetched += len(view)
        run = Run(volume, chunk, blocks.first, blocks.count)
        self._filling.add(run)
        await self._fill(run, view)
        return self.holds(volume, chunk, size)

    async def drop(self, volume: VolumeId, chunk: ChunkId) -> int:
        """Have nothing of a chunk in the cache; how many bytes that were."""
        before = self._files.used_by(volume, chunk)
        self._filling = {run for run in self._filling if (run.volume, run.chunk) != (volume, chunk)}
        await self._drop(volume, chunk)
        return before

    async def _drop(self, volume: VolumeId, chunk: ChunkId) -> None:
        await trio.to_thread.run_sync(self._files.drop, volume, chunk, abandon_on_cancel=True, limiter=self._threads)

    async def _cached(self, run: Run, size: int, blocks: Blocks, check: Check) -> memoryview | None:
        """The blocks out of the cache; None if they are not there after all, or not right."""
        with trio.move_on_after(_DISK_TIMEOUT_S):
            try:
                view = await trio.to_thread.run_sync(
                    self._files.read, run, size, blocks, abandon_on_cancel=True, limiter=self._threads
                )
                check(view)
            except (Corrupt, Unavailable):  # the network has it too, and a file that cannot be read is no use
                await self._drop(run.volume, run.chunk)
            else:
                return view
        return None

    async def _fill(self, run: Run, view: memoryview) -> None:
        try:
            await trio.to_thread.run_sync(self._files.write, run, view, abandon_on_cancel=True, limiter=self._threads)
            if run not in self._filling:  # deleted meanwhile
                await self._drop(run.volume, run.chunk)
        finally:
            self._filling.discard(run)
