"""Filling and emptying a mount's caches for the files below a directory, on somebody's word: `p2pfs warmup|evict`.

What is filled is the disk cache of ciphertext, checked by hash like all that comes from peers. What is emptied are the
disk cache and the opened blocks in memory, which hold nothing but what is stored; bytes not stored yet are in neither.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing, suppress
from typing import Final

import trio

from p2pfs.chunks.cached import CachedStore
from p2pfs.chunks.protocol import ChunkStore
from p2pfs.errors import NotFound, PoolError, TooLarge, Unsupported
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.protocol import Namespace
from p2pfs.types import DIGEST_RANGE_BYTES, ChunkId, InodeId, Kind, VolumeId
from p2pfs.vfs.below import pages_below
from p2pfs.vfs.fetching import Fetching, Told, Warmth
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.paths import Paths, names
from p2pfs.vfs.reader import Reader

PAGE: Final = 500
MOST_BELOW: Final = 1_000_000
"""Files and directories below one path, and files below all."""
AT_ONCE: Final = 8
"""Chunks of a file dropped at the same time."""


class Warming:
    """See the module. Made by `Filesystem`."""

    def __init__(
        self,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        store: ChunkStore,
        reader: Reader,
        *,
        inode: Callable[[InodeId], Awaitable[Inode]],
    ) -> None:
        self._keys = keys
        self._volume, self._namespace, self._reader, self._inode = volume, namespace, reader, inode
        self._cache = store if isinstance(store, CachedStore) else None

    async def warm(
        self,
        tops: Collection[InodeId],
        told: Told,
        *,
        most: int | None = None,
        lacks: Callable[[InodeId], None] = lambda _: None,
    ) -> Warmth:
        """Have everything below some inodes in the disk cache, `most` bytes of it at most, and never more than the
        cache holds. A chunk that cannot be had is counted and passed over; `lacks` hears of its file. When too long
        nothing came, the rest is not tried.

        Raises:
            Unsupported: This mount has no disk cache.
            NotFound, TooLarge: There is no such inode, or too much below one, or them all.
            Fenced: This mount's session is over.
        """
        cache = self._required()
        room = min(cache.budget, cache.budget if most is None else most)
        fetching = Fetching(cache, self._volume, room, told, lacks)
        files: dict[InodeId, None] = {}
        for top in tops:
            try:
                files |= dict.fromkeys(await self._below(top))
            except NotFound:
                if len(tops) == 1:
                    raise
                continue  # it was removed meanwhile: that concerns none of the others
            _require_few(len(files))
            fetching.warmth.of_files = len(files)
            await told(fetching.warmth)  # looking below many takes longer than who asked would bear silence
        await fetching.run(files, self._wanted)
        return fetching.warmth

    async def cool(self, top: InodeId, told: Told, forget: Callable[[InodeId], None]) -> Warmth:
        """Drop what the disk cache and memory have of everything below an inode. `forget` is called for each file, to
        have the kernel drop its pages."""
        warmth = Warmth()
        files = await self._below(top)
        warmth.of_files = len(files)
        for number in files:
            await self._each(number, lambda chunk, _size: self._drop(chunk, warmth))
            forget(number)
            warmth.files += 1
            await told(warmth)
        return warmth

    # ---- one chunk

    async def _drop(self, chunk: ChunkId, warmth: Warmth) -> None:
        self._reader.drop(chunk)
        if self._cache is not None:
            dropped = await self._cache.drop(self._volume, chunk)  # awaited first: others add up meanwhile
            warmth.dropped_bytes += dropped

    def _required(self) -> CachedStore:
        if self._cache is None:
            raise Unsupported("this mount has no disk cache (cache_size=0)")
        return self._cache

    # ---- what is below

    async def _each(self, number: InodeId, act: Callable[[ChunkId, int], Awaitable[None]]) -> None:
        """Every chunk of a file, some at a time. What is gone by now is passed over, and who reads it is told what
        does not authenticate. Raises PoolError: what `act` does, by itself."""
        slots = trio.Semaphore(AT_ONCE)
        refused: list[PoolError] = []

        async def one(chunk: ChunkId, size: int) -> None:
            try:
                await act(chunk, size)
            except PoolError as error:
                refused.append(error)
            finally:
                slots.release()

        async with aclosing(self._chunks(number)) as chunks, trio.open_nursery() as nursery:
            with suppress(PoolError):
                async for chunk, size in chunks:
                    await slots.acquire()
                    if refused:
                        break
                    nursery.start_soon(one, chunk, size)
        if refused:
            raise refused[0]

    async def _wanted(self, number: InodeId) -> AsyncGenerator[tuple[ChunkId, int]]:
        """As `_chunks`; a small file's content, which has none, is in memory then."""
        await self._reader.fetch_inline(await self._inode(number))
        async with aclosing(self._chunks(number)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _chunks(self, number: InodeId) -> AsyncGenerator[tuple[ChunkId, int]]:
        """Raises PoolError: nobody says which."""
        inode = await self._inode(number)
        for at in range(-(-inode.head.size // DIGEST_RANGE_BYTES)):
            if inode.is_inline:
                return
            page = await self._reader.page(inode, at)
            for chunk, size in list(page.sizes.items()):
                yield chunk, size

    async def path(self, number: InodeId) -> bytes | None:
        """Where a file is, from the volume's root; None: it has no name any more. Raises Corrupt, CoordinatorAway."""
        async with aclosing(names(self._namespace, number)) as found:
            async for named in found:
                paths = Paths(self._keys, self._volume, self._namespace)
                return await paths.of_entry(named.parent, named.entry)
        return None

    async def _below(self, top: InodeId) -> list[InodeId]:
        """The files below an inode, or that file itself."""
        inode = await self._inode(top)
        if inode.kind is Kind.FILE:
            return [top]
        if inode.kind is not Kind.DIRECTORY:
            return []
        files: dict[InodeId, None] = {}
        directories = 1
        async with aclosing(pages_below(self._namespace, top, limit=PAGE)) as pages:
            async for entries, _ in pages:
                for entry in entries:
                    if entry.attributes.kind == Kind.FILE:
                        files[InodeId(entry.attributes.inode)] = None
                    elif entry.attributes.kind == Kind.DIRECTORY:
                        directories += 1
                _require_few(len(files) + directories)
        return list(files)


def _require_few(count: int) -> None:
    if count > MOST_BELOW:
        raise TooLarge(f"more than {MOST_BELOW} files: take the directories in it one by one")
