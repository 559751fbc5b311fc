"""A chunk store in a directory of files: what a peer keeps other people's chunks in.

The asynchronous half: it lends buffers, hops to a thread once per chunk and bounds every wait. Where bytes lie and in
which order they become durable is chunks.files; how much there may be is chunks.ledger. One process a directory.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.buffers import BufferPool, ChunkBuffer
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.files import ChunkFiles, Select
from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.chunks.inventory import MOST_LISTED, Inventory, Listing
from p2pfs.chunks.ledger import Ledger, Usage
from p2pfs.chunks.protocol import Blocks, Check, Released
from p2pfs.chunks.receipts import Sign
from p2pfs.errors import Misuse, NotFound, Unavailable
from p2pfs.format.chunk import BlockHasher
from p2pfs.runtime.clocks import Clock, SystemClock
from p2pfs.runtime.looks import Looks
from p2pfs.runtime.threads import Threads
from p2pfs.types import BLOCKS_PER_CHUNK, Buffer, ChunkId, VolumeId
from p2pfs.wire.chunks import Receipt

TRASH_KEEP_S: Final = 7 * 86400.0
_REMOVED: Final = 256
"""Files of the trash removed in one hop."""
_TRIES: Final = 5
_LONGEST_REST_S: Final = 1.0
_HASH_STEP: Final = 256 * 1024
"""Bytes hashed between checkpoints: 0.1 ms."""

_SMALL: Final = 4
"""Blocks. Reading one through the page cache costs 0.04 ms of processor instead of 0.02, and 0.01 the next time."""

T = TypeVar("T")


class DirectoryStore:
    """Chunks on one disk. Made by `open`."""

    def __init__(self, files: ChunkFiles, *, sign: Sign, clock: Clock, disk_timeout_s: float, buffers: int) -> None:
        self._files = files
        self._sign = sign
        self._clock = clock
        self._disk_timeout_s = disk_timeout_s
        self._buffers = BufferPool(buffers)
        self._looks = Looks()  # in the page cache: one in vain costs as much as a thread's way to the loop and back
        # Reads and writes do not wait for each other's threads: a disk that stalls on fsync still serves its cache.
        self._writing = Threads(8)
        self._reading = Threads(8)
        self.inventory = Inventory(files, lambda work: self._hop(work, self._reading))

    @classmethod
    async def open(
        cls,
        root: Path,
        *,
        sign: Sign,
        capacity: int,
        reserve: int = 0,
        early_purge: float = 0.25,
        clock: Clock | None = None,
        disk: Disk | None = None,
        disk_timeout_s: float = 20.0,
        buffers: int = 16,
    ) -> "DirectoryStore":
        """Look through the directory (made if absent). How much it holds is what `keep_tally` saved in an earlier run,
        wrong by what changed since, until `recount` has come to its end; or counted now, a million chunks in half a
        minute.

        Raises:
            NoSpace, Unavailable: The disk does not let us.
        """
        clock = clock or SystemClock()
        files = ChunkFiles(root, Ledger(capacity, reserve, early_purge), clock.time, disk or Disk())
        await trio.to_thread.run_sync(files.scan)
        return cls(files, sign=sign, clock=clock, disk_timeout_s=disk_timeout_s, buffers=buffers)

    # ---- the protocol -----------------------------------------------------------------------------------------------

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        try:
            size = runs.total_bytes(parts)
            runs.expect_chunk(size)
            async with self.lend() as buffer:
                hasher = BlockHasher()
                at = 0
                for part in parts:
                    view = memoryview(part).cast("B")
                    for start in range(0, len(view), _HASH_STEP):
                        piece = view[start : start + _HASH_STEP]
                        buffer.body[at : at + len(piece)] = piece
                        hasher.update(piece)
                        at += len(piece)
                        await trio.lowlevel.checkpoint()
                return [await self.keep(volume, chunk, buffer, size, hasher)]
        finally:
            if released is not None:
                released()

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        runs.span(size, blocks)

        def select(stored: int) -> Blocks:
            runs.expect_size(stored, size)
            return blocks

        _, view = await self.read(volume, chunk, select, most=blocks.count)
        if check is not None:
            check(view)
        return view

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        return await self.size(volume, chunk) is not None

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        """As of the protocol. It waits for the disk without a limit: whoever is told that it failed may count on the
        copy again, and the thread would delete it later.

        Cancellation: the thread goes on.
        """
        await self._writing.run(lambda: self._files.trash(volume, chunk, put_seq))

    # ---- what the peer daemon needs beyond it -----------------------------------------------------------------------

    def lend(self) -> AbstractAsyncContextManager[ChunkBuffer]:
        """A buffer to receive a chunk in; waits while all are lent."""
        return self._buffers.lend()

    async def keep(
        self, volume: VolumeId, chunk: ChunkId, buffer: ChunkBuffer, size: int, hasher: BlockHasher
    ) -> Receipt:
        """Store the first `size` bytes of `buffer.body`, which went through `hasher`.

        Durability: on return the chunk is on stable storage.

        Raises:
            Misuse: They are not the bytes of `chunk`.
            NoSpace: No room.
            Unavailable: The disk fails or does not answer in time.
        """
        runs.expect_chunk(size)
        if hasher.id() != chunk:
            raise Misuse("these are not the bytes of this chunk")
        hashes = hasher.hashes()

        def store() -> int:
            try:
                return self._files.put(volume, chunk, buffer.whole, size, hashes)
            finally:
                buffer.forfeited = False

        buffer.forfeited = True  # until the thread is done with it, which may be after this task gave up waiting
        put_seq = await self._hop(store, self._writing)
        return self._sign(volume, chunk, size, put_seq)

    async def read(
        self, volume: VolumeId, chunk: ChunkId, select: Select, *, most: int = BLOCKS_PER_CHUNK
    ) -> tuple[int, memoryview]:
        """(sealed size, verified bytes of the run that `select` wants, given the size). `select` runs in a thread, and
        wants at most `most` blocks: few of them go through the page cache and come from there without a thread, many
        past it, where they cost a fifth."""
        is_small = most <= _SMALL
        if is_small and self._looks.is_due():
            found = self._files.read_cached(volume, chunk, select)
            self._looks.note(found=found is not None)
            if found is not None:
                return found
        return await self._hop(lambda: self._files.read(volume, chunk, select, keep=is_small), self._reading)

    async def size(self, volume: VolumeId, chunk: ChunkId) -> int | None:
        """Sealed size of a chunk that is here, without reading it."""
        return await self._hop(lambda: self._files.size(volume, chunk), self._reading)

    def usage(self) -> Usage:
        return self._files.ledger.usage(self._clock.time())

    def settled_seq(self) -> int:
        """Every PUT with a `put_seq` up to this one is in a `usage` asked for later."""
        return self._files.settled_seq()

    def limit(self, capacity: int) -> None:
        """The pool or the owner changed how much may be kept; what is there stays."""
        self._files.ledger.capacity = capacity

    def damaged(self) -> list[tuple[VolumeId, ChunkId]]:
        """Chunks quarantined and not yet acknowledged."""
        return self._files.quarantine.damaged()

    def acknowledge(self, reported: Sequence[tuple[VolumeId, ChunkId]]) -> None:
        """The coordinator knows of these."""
        self._files.quarantine.forget(reported)

    async def empty_trash(self, keep_s: float = TRASH_KEEP_S) -> int:
        """Remove what has been in the trash for longer than `keep_s` (0: everything); how many chunks.

        Raises:
            Unavailable: The disk fails or does not answer in time; what is left stays trash.
        """
        before_s = self._clock.time() - keep_s if keep_s > 0 else math.inf
        removed = 0
        while True:
            count = await self._hop(lambda: self._files.empty_trash(before_s, _REMOVED), self._writing)
            removed += count
            if count < _REMOVED:
                return removed

    async def recount(self) -> None:
        """Count what is there, a directory at a time and resting as long in between: what was believed at the start is
        right on return. A directory that is never quiet is left as it was.

        Raises:
            Unavailable: The disk fails or does not answer in time.
        """
        places = await self._hop(self._files.places, self._reading)
        for place in places:
            for _ in range(_TRIES):
                began_s = self._clock.monotonic()
                is_counted = await self._hop(partial(self._files.recount, place), self._reading)
                await trio.sleep(min(self._clock.monotonic() - began_s, _LONGEST_REST_S))
                if is_counted:
                    break

    async def keep_tally(self) -> None:
        """Save how much there is, for the next start. Raises NoSpace, Unavailable."""
        await self._hop(self._files.tally.save, self._writing)

    # ---- proofs -----------------------------------------------------------------------------------------------------

    async def verify(self, volume: VolumeId, chunk: ChunkId) -> int | None:
        """Read a whole chunk from the disk, past the caches, and compare it with its id.

        Returns:
            The bytes its file has; None if it is not here (any more).

        Raises:
            Corrupt: It is damaged, and now in quarantine and reported.
            Unavailable: The disk fails or does not answer in time.
        """

        def read() -> int:
            _, data = self._files.read_anew(volume, chunk, runs.whole)
            return HEADER_BYTES + len(data)

        try:
            return await self._hop(read, self._reading)
        except NotFound:
            return None

    async def audit(self, volume: VolumeId, chunk: ChunkId, block: int) -> tuple[list[bytes], bytes]:
        """(hashes of all blocks, the bytes of one), read from the disk: what format.chunk.check_audit believes.

        Raises:
            NotFound: No such chunk here.
            Misuse: It has no such block.
            Corrupt: It is damaged, and now in quarantine and reported.
            Unavailable: The disk fails or does not answer in time.
        """

        def read() -> tuple[list[bytes], bytes]:
            hashes, data = self._files.read_anew(volume, chunk, lambda _: Blocks(block, 1))
            return list(hashes), bytes(data)

        return await self._hop(read, self._reading)

    async def digests(self) -> list[bytes]:
        """See Inventory."""
        return await self.inventory.digests()

    async def listed(
        self, bucket: int, after: tuple[VolumeId, ChunkId] | None = None, limit: int = MOST_LISTED
    ) -> Listing:
        """See Inventory."""
        return await self.inventory.listed(bucket, after, limit)

    async def _hop(self, work: Callable[[], T], threads: Threads) -> T:
        """Run `work` in a thread, but wait for it no longer than a disk may take.

        Cancellation: the thread goes on.
        """
        with trio.move_on_after(self._disk_timeout_s):
            return await threads.run(work)
        raise Unavailable("the disk does not answer")
