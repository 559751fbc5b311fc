"""From dirty bytes to committed extents: freeze, seal, put, commit (design: journeys, write).

Called by `vfs.filesystem`; runs uploads in the nursery it is given. Data goes before metadata; commits of one inode go
in the order its bytes were frozen. What could not be stored stays dirty and is tried again; its error is kept for the
program. docs/concurrency.md says which lock protects what.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.chunks.protocol import ChunkStore
from p2pfs.errors import Conflict, Fenced, Gone, Misuse, NotFound, PoolError, Unavailable
from p2pfs.format.chunk import SealedChunk, seal
from p2pfs.format.extents import Extent
from p2pfs.format.ranges import pieces
from p2pfs.meta.protocol import Namespace
from p2pfs.runtime.credits import ByteCredits
from p2pfs.types import CHUNK_BYTES, INDICES_PER_RANGE, MAX_LAYERS, MIB, Buffer, InodeId, Kind, PeerNumber
from p2pfs.vfs.content import Change, Sealer, check_size, inline_change, truncate_change, write_change
from p2pfs.vfs.dirty import ChunkPlan, DirtyMib, Run, pack
from p2pfs.vfs.inodes import Freeze, Inode, Upload
from p2pfs.vfs.places import Places
from p2pfs.vfs.reader import Reader
from p2pfs.vfs.space import Space
from p2pfs.wire.namespace import Applied, Released

log = logging.getLogger(__name__)

UPLOADS: Final = 8
"""Chunks on their way to peers at once."""
SEALERS: Final = 2
"""Threads that seal; sealing releases the interpreter, more than this only fights the event loop for it."""
MOST_CONFLICTS: Final = 20
SET_ID_BITS: Final = 0o6000


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """Budgets of the writer; all bytes and seconds."""

    dirty_bytes: int = 64 * MIB
    small_file: int = 16 * 1024
    dedup: bool = True
    age_s: float = 5.0
    io_timeout_s: float = 30.0


class Writer:
    """Collects, stores and commits what one mount writes.

    `_credits` bounds unsaved bytes in memory; an inode's `content` lock is held over each commit and truncation.
    """

    def __init__(
        self,
        sealer: Sealer,
        namespace: Namespace,
        store: ChunkStore,
        reader: Reader,
        places: Places,
        space: Space,
        nursery: trio.Nursery,
        *,
        limits: WriteLimits,
        now_ns: Callable[[], int],
        took: Callable[[Applied], None],
        inodes: Callable[[], list[Inode]],
        done: Callable[[Inode], None],
    ) -> None:
        self._sealer, self._namespace, self._store = sealer, namespace, store
        self._reader, self._places, self._space, self._nursery = reader, places, space, nursery
        self._limits, self._now_ns = limits, now_ns
        self._took, self._inodes, self._done = took, inodes, done
        self._credits = ByteCredits(limits.dirty_bytes)
        self._uploads = trio.CapacityLimiter(UPLOADS)
        self._sealers = trio.CapacityLimiter(SEALERS)

    # ---- collecting

    async def write(self, inode: Inode, offset: int, data: Buffer) -> int:
        """Take bytes in. Blocks while too much is unsaved.

        Raises:
            NoSpace: The pool cannot promise room for them.
            PoolError: An earlier write of this inode could not be stored (raised once).
        """
        inode.raise_error()
        check_size(offset + len(data))
        await self._space.promise(len(data))
        try:
            await self._take_credits(inode, len(data))
        except BaseException:
            self._space.settle(len(data))
            raise
        # no checkpoint until the bytes are counted in the inode: a reader must see all of them or none
        view = memoryview(data)
        now = trio.current_time()
        for piece in pieces(offset, len(data)):
            mib = inode.active.get(piece.index)
            if mib is None:
                mib = inode.active[piece.index] = DirtyMib(piece.index, now)
            whole = piece.at == 0 and piece.length == len(data)
            before = mib.bytes
            mib.write(piece.off, data if whole else view[piece.at : piece.at + piece.length])
            overwritten = piece.length - (mib.bytes - before)
            self._free(overwritten)
            if mib.is_full:
                self._freeze(inode, [piece.index])
        inode.size = max(inode.size, offset + len(data))
        inode.mtime_ns = self._now_ns()
        return len(data)

    async def _take_credits(self, inode: Inode, size: int) -> None:
        if self._credits.available < size + self._limits.dirty_bytes // 4:
            self._freeze_for_room()
        with trio.move_on_after(self._limits.io_timeout_s) as waiting:
            await self._credits.take(size)
        if waiting.cancelled_caught:
            inode.raise_error()
            raise Unavailable("earlier writes could not be stored in time")

    def _free(self, size: int) -> None:
        if size:
            self._credits.give(size)
            self._space.settle(size)

    def _freeze_for_room(self) -> None:
        """Under pressure everything unsaved goes on its way, or nobody would ever free a credit."""
        for inode in self._inodes():
            if inode.active:
                self.freeze(inode)

    def freeze_aged(self) -> None:
        """Send what has been dirty for longer than `age_s`."""
        limit = trio.current_time() - self._limits.age_s
        for inode in self._inodes():
            if any(mib.since < limit for mib in inode.active.values()):
                self.freeze(inode)

    # ---- freezing

    def freeze(self, inode: Inode) -> None:
        """Start storing everything dirty of an inode, without waiting."""
        if inode.active:
            self._freeze(inode, sorted(inode.active))

    def _freeze(self, inode: Inode, indices: list[int]) -> None:
        mibs = {index: inode.active.pop(index) for index in indices}
        inode.freezes += 1
        end = max(mib.end for mib in mibs.values())
        freeze = Freeze(
            number=inode.freezes,
            mibs=mibs,
            uploads=[],
            end=end,
            mtime_ns=inode.mtime_ns or self._now_ns(),
            bytes=sum(mib.bytes for mib in mibs.values()),
            inline=inode.size <= self._limits.small_file,
        )
        inode.frozen.append(freeze)
        self._nursery.start_soon(self._store_freeze, inode, freeze)

    async def _store_freeze(self, inode: Inode, freeze: Freeze) -> None:
        """Upload and commit until done; only a fenced session or a vanished inode gives bytes up."""
        pause = 0.5
        while freeze in inode.frozen:
            try:
                await self._upload(inode, freeze)
                await self._commit_stored(inode)
                if freeze in inode.frozen:
                    await inode.progress.wait()  # an earlier freeze is still on its way
                continue
            except (Fenced, NotFound) as error:
                self._abandon(inode, freeze, error)
                return
            except PoolError as error:
                log.info("inode %d: storing is delayed: %s", inode.id, error)
                if isinstance(error, Gone | Misuse):  # the receipts are void: put the chunks again
                    freeze.uploads.clear()
                inode.fail(error)
            with trio.move_on_after(pause):
                await inode.kick.wait()
            pause = min(2 * pause, 15.0)

    def _abandon(self, inode: Inode, freeze: Freeze, error: PoolError) -> None:
        if freeze not in inode.frozen:
            return  # discarded meanwhile
        log.info("inode %d: %d unsaved bytes are given up: %s", inode.id, freeze.bytes, error)
        self._drop(inode, freeze)
        inode.fail(error)
        self._done(inode)

    def _drop(self, inode: Inode, freeze: Freeze) -> None:
        if freeze in inode.frozen:
            inode.frozen.remove(freeze)
            self._free(freeze.bytes)

    def discard(self, inode: Inode) -> None:
        """The inode is no more: its unsaved bytes are nobody's."""
        for freeze in list(inode.frozen):
            self._drop(inode, freeze)
        for mib in inode.active.values():
            self._free(mib.bytes)
        inode.active.clear()
        inode.error = None
        inode.progress.pulse()
        inode.kick.pulse()
        self._done(inode)

    # ---- uploading

    async def _upload(self, inode: Inode, freeze: Freeze) -> None:
        freeze.inline = self._may_be_inline(inode, freeze)
        if freeze.inline:
            return
        if not freeze.uploads:
            freeze.uploads = [Upload(plan) for plan in pack(freeze.mibs.values())]
        errors: list[PoolError] = []

        async def put(upload: Upload) -> None:
            try:
                await self._put(upload)
            except PoolError as error:  # the others go on: what is stored need not be stored again
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for upload in freeze.uploads:
                if not upload.is_stored:
                    nursery.start_soon(put, upload)
        if errors:
            raise errors[0]

    def _may_be_inline(self, inode: Inode, freeze: Freeze) -> bool:
        """Whether file and freeze fit the metadata; decided anew before each try, since other mounts write too."""
        return (
            max(inode.head.size, freeze.end) <= self._limits.small_file
            and (inode.attributes.inline is not None or not inode.head.digests)
            and all(earlier.inline for earlier in inode.frozen[: inode.frozen.index(freeze)])
        )

    async def _put(self, upload: Upload) -> None:
        async with self._uploads:
            sealed: SealedChunk = await trio.to_thread.run_sync(
                lambda: seal(self._sealer.keys, upload.plan.parts, dedup=self._limits.dedup), limiter=self._sealers
            )
            await self._space.cover(sealed.size)
            receipts = await self._store.put(self._sealer.volume, sealed.id, [sealed.data])
            # no checkpoint until everything of the upload is set: `is_stored` is read by other tasks
            upload.chunk, upload.key, upload.size = sealed.id, sealed.key, sealed.size
            upload.receipts = receipts
            self._places.put(sealed.id, (PeerNumber(receipt.peer) for receipt in receipts))

    # ---- committing

    async def _commit_stored(self, inode: Inode) -> None:
        """Commit the stored freezes at the front, in order."""
        async with inode.content:
            while ready := _ready(inode):
                await self._commit(inode, ready)
                for index in sorted({index for freeze in ready for index in freeze.mibs}):
                    await self._compact(inode, index)

    async def _commit(self, inode: Inode, ready: list[Freeze]) -> None:
        for _ in range(MOST_CONFLICTS):
            if ready[0].inline and not all(self._may_be_inline(inode, freeze) for freeze in ready):
                # another mount let the file outgrow the metadata: these bytes must become chunks first
                for freeze in ready:
                    freeze.inline = False
                inode.progress.pulse()
                return
            change = await self._change(inode, ready)
            try:
                applied = await self._namespace.apply([change.commit])
            except Conflict:
                await self._refresh(inode)
                continue
            for freeze in ready:
                self._drop(inode, freeze)
            self._follow(inode, change, applied)
            self._after_commit(inode)
            return
        raise Unavailable("another mount keeps changing the file")

    async def _change(self, inode: Inode, ready: list[Freeze]) -> Change:
        mode = self._without_set_id(inode)
        if ready[0].inline:
            return inline_change(self._sealer, inode, ready, mode)
        uploads = [upload for freeze in ready for upload in freeze.uploads]
        base = await self._inline_as_chunk(inode, ready)
        layers = await self._layers(inode, {index for freeze in ready for index in freeze.mibs})
        return write_change(
            self._sealer, inode, [*base, *uploads], layers, mode=mode,
            end=max(freeze.end for freeze in ready), time_ns=max(freeze.mtime_ns for freeze in ready),
        )  # fmt: skip

    async def _inline_as_chunk(self, inode: Inode, ready: list[Freeze]) -> list[Upload]:
        """The inline data of a file that outgrows the metadata, stored as a chunk to lie under what is new."""
        sealed = inode.check_inline()
        content = self._sealer.open_inline(inode.id, sealed) if sealed is not None else b""
        if not content or any(0 in freeze.mibs and freeze.mibs[0].covers(0, len(content)) for freeze in ready):
            return []
        upload = _whole(0, content)
        await self._put(upload)
        return [upload]

    async def _compact(self, inode: Inode, index: int) -> None:
        """Store a MiB of too many layers as one chunk. Best effort: what fails is tried after the next write there."""
        if inode.attributes.inline is not None or index * CHUNK_BYTES >= inode.head.size:
            return
        try:
            if len(await self._reader.layers(inode, index)) < MAX_LAYERS:
                return
            start = index * CHUNK_BYTES
            length = min(CHUNK_BYTES, inode.head.size - start)
            upload = _whole(index, await self._reader.committed(inode, start, length))
            await self._put(upload)
            layers = await self._layers(inode, {index})
            change = write_change(self._sealer, inode, [upload], layers, mode=None, end=inode.head.size, time_ns=0)
            self._follow(inode, change, await self._namespace.apply([change.commit]))
        except PoolError as error:
            log.info("inode %d: MiB %d is not compacted now: %s", inode.id, index, error)

    def _follow(self, inode: Inode, change: Change, applied: Applied) -> None:
        """Take this mount's own commit in, keeping loaded pages."""
        follows = inode.head.change == change.commit.base_change
        for range_number, page in inode.pages.items() if follows else ():  # else they were loaded anew meanwhile
            added = [row for row in change.added if row.index // INDICES_PER_RANGE == range_number]
            dropped = {gone for gone in change.dropped if gone[0] // INDICES_PER_RANGE == range_number}
            if added or dropped:
                page.change(added, dropped)
            page.sizes.update({new.chunk: new.size for new in change.commit.chunks})  # type: ignore[misc]  # wire bytes are chunk ids
        if follows:
            inode.inline = None
            inode.committed(next(row for row in applied.attributes if row.inode == inode.id), change.head)
        self._took(applied)

    def _after_commit(self, inode: Inode) -> None:
        if not inode.is_dirty:
            inode.mtime_ns = 0
        inode.progress.pulse()
        self._done(inode)

    async def _refresh(self, inode: Inode) -> None:
        attributes = await self._namespace.attributes(inode.id)
        if not inode.refresh(attributes):
            await trio.lowlevel.checkpoint()

    async def _layers(self, inode: Inode, indices: set[int]) -> Callable[[int], list[Extent]]:
        loaded: dict[int, list[Extent]] = {}
        if inode.attributes.inline is None:
            for index in indices:
                if index * CHUNK_BYTES < inode.head.size:
                    loaded[index] = await self._reader.layers(inode, index)
        return lambda index: loaded.get(index, [])

    def _without_set_id(self, inode: Inode) -> int | None:
        """The mode without set-id bits when a write must clear them."""
        mode = inode.attributes.mode
        if inode.kind is not Kind.FILE or not mode & SET_ID_BITS:
            return None
        cleared = mode & ~0o4000
        return cleared & ~0o2000 if mode & 0o010 else cleared

    # ---- waiting

    async def settle(self, inode: Inode) -> None:
        """Wait until everything written so far is committed (fsync, close).

        Raises:
            PoolError: Some of it could not be stored; it stays dirty and is tried again. Raised once.
        """
        inode.raise_error()
        self.freeze(inode)
        inode.kick.pulse()
        last = inode.freezes
        while any(freeze.number <= last for freeze in inode.frozen):
            with trio.move_on_after(2 * self._limits.io_timeout_s) as waiting:
                await inode.progress.wait()
            inode.raise_error()
            if waiting.cancelled_caught:
                raise Unavailable("what was written could not be stored in time; it is kept and tried again")
        inode.raise_error()

    async def settle_all(self, report: Callable[[int], None] = lambda _: None) -> None:
        """Store everything (unmount); tells the unsaved bytes after each step. Raises the first error met."""
        for inode in self._inodes():
            if inode.is_dirty:
                report(self.unsaved_bytes())
                await self.settle(inode)
        report(self.unsaved_bytes())

    def unsaved_bytes(self) -> int:
        return self._credits.taken

    # ---- truncating

    async def truncate(self, inode: Inode, size: int) -> None:
        """Set the size, shrinking or growing with zeros; committed on return.

        Raises:
            PoolError: As `settle`, and whatever the commit raises; the size is then unchanged.
        """
        check_size(size)
        self._crop(inode, size)
        await self.settle(inode)
        async with inode.content:
            for _ in range(MOST_CONFLICTS):
                if inode.head.size == size:
                    inode.size = max(size, inode.size) if inode.is_dirty else size
                    return
                change = await self._truncation(inode, size)
                try:
                    applied = await self._namespace.apply([change.commit])
                except Conflict:
                    await self._refresh(inode)
                    continue
                inode.pages.clear()
                self._follow(inode, change, applied)
                return
        raise Unavailable("another mount keeps changing the file")

    def _crop(self, inode: Inode, size: int) -> None:
        """Unsaved bytes beyond the new end need not be stored."""
        for index, mib in list(inode.active.items()):
            before = mib.bytes
            mib.crop(max(0, size - index * CHUNK_BYTES))
            self._free(before - mib.bytes)
            if not mib.runs:
                del inode.active[index]
        inode.size = max([inode.head.size, *(freeze.end for freeze in inode.frozen),
                          *(mib.end for mib in inode.active.values())])  # fmt: skip

    async def _truncation(self, inode: Inode, size: int) -> Change:
        boundary = []
        layers: dict[int, list[Extent]] = {}
        if inode.attributes.inline is None and size < inode.head.size:
            cut_index = math.ceil(size / CHUNK_BYTES)
            if cut_index:
                layers[cut_index - 1] = await self._reader.layers(inode, cut_index - 1)
            page = await self._reader.page(inode, cut_index // INDICES_PER_RANGE)
            boundary = [row for rows in page.rows.values() for row in rows]
        return truncate_change(
            self._sealer, inode, size, boundary, lambda index: layers.get(index, []),
            self._now_ns(), self._without_set_id(inode),
        )  # fmt: skip

    async def forget_deleted(self, inode: Inode) -> None:
        """The last handle of a nameless inode is closed: drop its unsaved bytes and let the coordinator have it."""
        self.discard(inode)
        await self._namespace.apply([Released(InodeId(inode.id))])


def _ready(inode: Inode) -> list[Freeze]:
    """The stored freezes at the front that may go in one commit: all inline or all not."""
    ready: list[Freeze] = []
    for freeze in inode.frozen:
        if not freeze.is_stored or (ready and freeze.inline != ready[0].inline):
            break
        ready.append(freeze)
    return ready


def _whole(index: int, content: Buffer) -> Upload:
    plan = ChunkPlan()
    plan.add(index, Run(0, content))
    return Upload(plan)
