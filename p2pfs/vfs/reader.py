"""From a byte range to bytes: unsaved ones, the memory cache, then the chunk stores (design: journeys, read).

Every byte that leaves is either this mount's own unsaved write or was authenticated: the extents against the inode's
head, each block by its tag. Called by `vfs.filesystem` and, for what lies below a write, by the committer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.chunks.pages import LARGE_BYTES, room
from p2pfs.chunks.protocol import Blocks, ChunkStore
from p2pfs.errors import Corrupt, NotFound, PoolError, Unavailable
from p2pfs.format.chunk import open_blocks
from p2pfs.format.extents import Extent, Segment, resolve
from p2pfs.format.ranges import block_run, pieces, plain_size
from p2pfs.meta.protocol import Namespace
from p2pfs.types import BLOCK_BYTES, CHUNK_BYTES, INDICES_PER_RANGE, MIB, Buffer, ChunkId
from p2pfs.vfs.blocks import BlockCache, PlainRun
from p2pfs.vfs.content import Layer, Sealer
from p2pfs.vfs.inodes import Inode, Page, Signal
from p2pfs.vfs.places import Places
from p2pfs.wire.namespace import Attributes

MOST_AHEAD: Final = 8
"""MiB fetched ahead of a sequential reader at most, and no more than half of what the chunk it reads leaves of the
memory they are kept in: what has to go before it is read was fetched in vain."""
WHOLE_FROM_BLOCKS: Final = 4
"""A request for this many blocks fetches the whole chunk."""


@dataclass(slots=True)
class ReadAhead:
    """What one handle's reads look like: up to `window` MiB are fetched ahead, none while reads jump."""

    next_offset: int = 0
    window: int = 0
    near: int = 0  # reads in a row

    def note(self, offset: int, length: int) -> None:
        """Near the expected place is sequential: the kernel's own read-ahead comes slightly out of order. One small
        read may be there by chance, and would fetch two MiB for nothing."""
        if abs(offset - self.next_offset) <= MIB:
            self.near += 1
            if offset + length > self.next_offset:
                grown = (offset + length) // CHUNK_BYTES > self.next_offset // CHUNK_BYTES
                if self.window == 0:
                    self.window = int(self.near > 1 or length > BLOCK_BYTES)
                elif grown:
                    self.window = min(2 * self.window, MOST_AHEAD)
                self.next_offset = offset + length
        else:
            self.window = self.near = 0
            self.next_offset = offset + length


class Reader:
    """Reads one mount's files. One fetch per chunk run is in flight at a time; others wait for it."""

    def __init__(
        self,
        sealer: Sealer,
        namespace: Namespace,
        store: ChunkStore,
        places: Places,
        nursery: trio.Nursery,
        *,
        memory_bytes: int,
        refresh: Callable[[Attributes], object],
    ) -> None:
        self._sealer, self._namespace, self._store = sealer, namespace, store
        self._places, self._nursery, self._refresh = places, nursery, refresh
        self.blocks = BlockCache(memory_bytes)
        self._most_ahead = min(MOST_AHEAD, max(0, memory_bytes - LARGE_BYTES) // 2 // LARGE_BYTES)
        self._flights: dict[tuple[ChunkId, int], Signal] = {}

    # ---- extents

    async def page(self, inode: Inode, range_number: int) -> Page:
        """The verified extents of a 256 MiB range; none of a file that is inline when the answer comes.

        Raises:
            Corrupt: They are not what was written, even when asked for again.
        """
        for attempt in range(3):
            page = inode.pages.get(range_number)
            if page is not None:
                return page
            answer = await self._namespace.extents(inode.id, range_number)
            # no checkpoint until the page is kept: head and extents must be of one state
            if answer.attributes.inode != inode.id:
                raise Corrupt(f"inode {inode.id}: the coordinator serves another one in its place")
            if answer.attributes.change < inode.head.change:
                if attempt == 2:
                    raise Corrupt(f"inode {inode.id}: the coordinator serves an older state than it did before")
                continue  # overtaken by this mount's own commit
            self._refresh(answer.attributes)
            inode.refresh(answer.attributes)  # it may have left the table meanwhile
            if inode.has_inline:  # another mount made it small meanwhile; callers look at that again
                inode.check_inline()
                return Page([], {})
            self._places.remember(answer.places)
            return inode.take_page(answer, range_number)
        raise Unavailable(f"inode {inode.id}: its extents change faster than they can be read")

    async def layers(self, inode: Inode, index: int) -> list[Extent]:
        """The committed extents of one MiB, verified."""
        page = await self.page(inode, index // INDICES_PER_RANGE)
        return page.layers(self._sealer.keys, self._sealer.volume, inode.id, index)

    async def rows(self, inode: Inode, index: int) -> list[Layer]:
        """The committed extents of one MiB with their rows, verified."""
        page = await self.page(inode, index // INDICES_PER_RANGE)
        extents = page.layers(self._sealer.keys, self._sealer.volume, inode.id, index)
        return [Layer(extent, row) for extent, row in zip(extents, page.rows.get(index, ()), strict=True)]

    def drop(self, chunk: ChunkId) -> None:
        """Let go of the opened blocks of a chunk."""
        self.blocks.drop(chunk)

    async def fetch_inline(self, inode: Inode) -> None:
        """Ask for inline data that was not told, or let go to save memory."""
        if not inode.inline_is_known:
            row = await self._namespace.content(inode.id)
            self._refresh(row)
            if not inode.inline_is_known:  # it left the table meanwhile
                inode.refresh(row)

    # ---- reading

    async def read(self, inode: Inode, offset: int, length: int, ahead: ReadAhead | None = None) -> Buffer:
        """Bytes as a program sees them; short only at the end of the file.

        Raises:
            Corrupt, Unavailable: No authentic copy within the deadline.
        """
        length = max(0, min(length, inode.size - offset))
        if length == 0:
            return b""
        if ahead is not None:
            ahead.note(offset, length)
            self._start_ahead(inode, ahead)
        if inode.is_dirty:
            data: Buffer = await self._overlaid(inode, offset, length)
        else:
            data = await self.committed(inode, offset, length, whole=ahead is not None and ahead.window > 0)
        # the extents may have brought a newer, shorter state: what lies behind its end are no bytes of the file
        return data if offset + length <= inode.size else data[: max(0, inode.size - offset)]

    async def _overlaid(self, inode: Inode, offset: int, length: int) -> bytes:
        """Committed bytes with the unsaved ones laid over them, oldest first."""
        result = bytearray(length)
        view = memoryview(result)
        moves = inode.moves
        for piece in pieces(offset, length):
            covering = inode.active.get(piece.index)
            if covering is None or not covering.covers(piece.off, piece.length):
                start = piece.index * CHUNK_BYTES + piece.off
                # frozen bytes that get committed while this waits are in neither place for nobody: they are laid over
                # from the list as it was before
                unsaved = [freeze.mibs[piece.index] for freeze in inode.frozen if piece.index in freeze.mibs]
                if covering is not None:
                    unsaved.append(covering)  # it may be frozen and committed meanwhile
                if not any(mib.covers(piece.off, piece.length) for mib in unsaved):
                    stored = await self.committed(inode, start, min(piece.length, max(0, inode.head.size - start)))
                    if inode.moves != moves:  # `unsaved` lies where it was
                        return await self._overlaid(inode, offset, length)
                    view[piece.at : piece.at + len(stored)] = stored
                for mib in unsaved:
                    mib.copy_into(piece.off, view[piece.at : piece.at + piece.length])
                for freeze in inode.frozen:
                    if piece.index in freeze.mibs and freeze.mibs[piece.index] not in unsaved:
                        freeze.mibs[piece.index].copy_into(piece.off, view[piece.at : piece.at + piece.length])
            active = inode.active.get(piece.index)
            if active is not None:
                active.copy_into(piece.off, view[piece.at : piece.at + piece.length])
        return bytes(result)

    async def committed(self, inode: Inode, offset: int, length: int, *, whole: bool = False) -> Buffer:
        """Stored bytes only; zeros beyond what is stored. `whole` fetches whole chunks (sequential readers)."""
        if length <= 0:
            return b""
        await self.fetch_inline(inode)
        sealed = inode.check_inline()
        if sealed is not None:
            if inode.inline is None:
                inode.inline = self._sealer.open_inline(inode.id, sealed)
            data = inode.inline[offset : offset + length]
            return data + bytes(length - len(data))
        parts: list[Buffer] = []
        for piece in pieces(offset, length):
            layers = await self.layers(inode, piece.index)
            if inode.has_inline:  # since this began
                return await self.committed(inode, offset, length, whole=whole)
            sizes = inode.pages[piece.index // INDICES_PER_RANGE].sizes if layers else {}
            parts += [
                await self._segment(segment, sizes, whole) for segment in resolve(layers, piece.off, piece.length)
            ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _segment(self, segment: Segment, sizes: dict[ChunkId, int], whole: bool) -> Buffer:
        extent = segment.extent
        if extent is None or extent.chunk is None or extent.key is None:
            return bytes(segment.length)
        size = sizes.get(extent.chunk, 0)
        plain = plain_size(size)
        if segment.chunk_off + segment.length > plain:
            raise Corrupt("a chunk is shorter than its extent")
        found = self.blocks.get(extent.chunk, segment.chunk_off, segment.length)
        if found is not None:
            return found
        first, count = block_run(segment.chunk_off, segment.length)
        if whole or count >= WHOLE_FROM_BLOCKS:
            first, count = 0, -(-plain // BLOCK_BYTES)
        run = await self._fetch(extent, size, Blocks(first, count))
        data = run.slice(segment.chunk_off, segment.length)
        if data is None:
            raise Corrupt("a chunk is shorter than its extent")
        return data

    async def _fetch(self, extent: Extent, size: int, blocks: Blocks) -> PlainRun:
        """One flight per chunk and first block; those who come later wait for it and look again."""
        chunk, key = extent.chunk, extent.key
        assert chunk is not None
        assert key is not None
        flight_key = (chunk, blocks.first)
        while (flight := self._flights.get(flight_key)) is not None:
            await flight.wait()
            length = min(blocks.count * BLOCK_BYTES, plain_size(size) - blocks.first * BLOCK_BYTES)
            found = self.blocks.get(chunk, blocks.first * BLOCK_BYTES, length)
            if found is not None:
                return PlainRun(blocks.first * BLOCK_BYTES, found)
        landed = self._flights[flight_key] = Signal()
        try:
            run = await self._open(extent, size, blocks)
            self.blocks.put(chunk, run)
            return run
        finally:
            del self._flights[flight_key]
            landed.pulse()

    async def _open(self, extent: Extent, size: int, blocks: Blocks) -> PlainRun:
        chunk, key = extent.chunk, extent.key
        assert chunk is not None
        assert key is not None
        opened: memoryview | None = None

        def check(sealed: memoryview) -> None:
            nonlocal opened
            opened = open_blocks(key, sealed, first=blocks.first, size=size, into=room(len(sealed)))

        try:
            await self._store.get(self._sealer.volume, chunk, size, blocks, check=check)
        except NotFound as error:  # of a chunk; to callers it would mean that the file is gone
            raise Unavailable(f"no copy of a chunk is left: {error}") from error
        if opened is None:
            raise Corrupt("a store returned bytes without having them checked")
        return PlainRun(blocks.first * BLOCK_BYTES, opened)

    # ---- ahead

    def _start_ahead(self, inode: Inode, ahead: ReadAhead) -> None:
        if not ahead.window or not self._most_ahead or inode.attributes.inline is not None:
            return
        at = ahead.next_offset // CHUNK_BYTES
        for index in range(at, at + min(ahead.window, self._most_ahead) + 1):
            if index * CHUNK_BYTES >= inode.head.size:
                break
            page = inode.pages.get(index // INDICES_PER_RANGE)
            if page is None:
                break  # the read itself loads it; ahead of that nothing is known
            try:
                layers = page.layers(self._sealer.keys, self._sealer.volume, inode.id, index)
            except Corrupt:
                break  # who reads it is told; who reads what is before it is not
            for extent in layers:
                if extent.chunk is not None and (extent.chunk, 0) not in self._flights:
                    size = page.sizes.get(extent.chunk, 0)
                    if size and self.blocks.get(extent.chunk, extent.chunk_off, extent.length) is None:
                        self._nursery.start_soon(self._ahead_one, extent, size)

    async def _ahead_one(self, extent: Extent, size: int) -> None:
        """Fetch without being asked; who then asks meets the error itself."""
        if extent.chunk is None or (extent.chunk, 0) in self._flights:
            return
        try:
            await self._fetch(extent, size, Blocks(0, -(-plain_size(size) // BLOCK_BYTES)))
        except PoolError:
            return
