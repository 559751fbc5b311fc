"""From stored chunks to the inode's content: commits in order, compaction, truncation.

Everything here holds the inode's `content` lock. A commit is built on the content loaded for one `change`; other tasks
may take a newer state in at any await (`Inode.refresh`), so each build compares the change before and after and starts
again if it moved: otherwise another mount's commit would be hidden without a Conflict. Called by
`vfs.storing`, for what is committed where it is frozen by `vfs.writer`, and by `vfs.settling`.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from p2pfs.errors import Conflict, CoordinatorAway, Corrupt, Gone, Misuse, PoolError, Unavailable
from p2pfs.meta.protocol import InDoubt, Namespace
from p2pfs.types import CHUNK_BYTES, INDICES_PER_RANGE, MAX_LAYERS, Buffer, ChunkId
from p2pfs.vfs import appending
from p2pfs.vfs.content import Change, Layer, Layers, Sealer, inline_change, truncate_change, write_change
from p2pfs.vfs.dirty import ChunkPlan, Run
from p2pfs.vfs.inodes import Doubt, Freeze, Inode, Upload
from p2pfs.vfs.reader import Reader
from p2pfs.vfs.unsaved import Unsaved
from p2pfs.vfs.uploads import LateCopies, Uploader
from p2pfs.wire.namespace import Applied, Operation

log = logging.getLogger(__name__)

ApplyNow = Callable[[Sequence[Operation]], Applied | None]
"""As `Namespace.apply`, where that needs no waiting; else None. See `vfs.delegation`."""

MOST_CONFLICTS: Final = 20
MOST_ROWS: Final = 20_000
"""Extents in one commit at most, well below what a batch may weigh."""


class Committer:
    """Changes the content of one mount's inodes at the coordinator."""

    def __init__(
        self,
        sealer: Sealer,
        namespace: Namespace,
        reader: Reader,
        uploader: Uploader,
        copies: LateCopies,
        unsaved: Unsaved,
        *,
        small_file: int,
        now_ns: Callable[[], int],
        took: Callable[[Applied], None],
        moved: Callable[[Inode], None],
        apply_now: ApplyNow,
    ) -> None:
        """`took` takes in what a batch tells of other inodes; `moved` hears of files whose unsaved bytes are elsewhere
        now than the kernel thinks."""
        self._apply_now = apply_now
        self._sealer, self._namespace = sealer, namespace
        self._reader, self._uploader = reader, uploader
        self._copies, self._unsaved = copies, unsaved
        self._small_file, self._now_ns, self._took, self._moved = small_file, now_ns, took, moved

    # ---- commits

    def commit_now(self, inode: Inode, freeze: Freeze) -> bool:
        """Commit the inode's only freeze, if it fits the metadata and nobody has to be asked or waited for; else False,
        and nothing was done. What such a commit would be refused with is for `commit_stored` to meet. No checkpoint."""
        if inode.content.locked() or inode.doubt is not None or inode.frozen != [freeze]:
            return False
        if not (freeze.inline and inode.inline_is_known and self.may_be_inline(inode, freeze)):
            return False
        if appending.shifts(inode.appended, inode.head.size):
            return False
        try:
            change = inline_change(self._sealer, inode, [freeze])
            self._unsaved.journal.committing(inode, change.commit.head, freeze.number)
            applied = self._apply_now([change.commit])
        except PoolError:
            return False
        if applied is None:
            return False
        self._committed(inode, change, [freeze], [], applied)
        return True

    def may_be_inline(self, inode: Inode, freeze: Freeze) -> bool:
        """Whether file and freeze fit the metadata; decided anew before each try, since other mounts write too."""
        return (
            max(inode.head.size, freeze.end) <= self._small_file
            and (inode.is_inline or not inode.head.digests)
            and all(earlier.inline for earlier in inode.frozen[: inode.frozen.index(freeze)])
        )

    async def commit_stored(self, inode: Inode) -> None:
        """Commit the stored freezes at the front, in order, as many as fit one commit.

        Raises:
            PoolError: What the coordinator refused the commit with; the freezes stay.
            Gone, Misuse: So too, and what was stored of them has to be stored again.
        """
        async with inode.content:
            try:
                await self.resolve(inode)
                if ready := _ready(inode):
                    committed_size = inode.head.size
                    await self._commit(inode, ready)
                    for index in _layered(ready, committed_size):
                        await self._compact(inode, index)
            except (Gone, Misuse):
                self._forget_stored(inode)
                raise

    def _forget_stored(self, inode: Inode) -> None:
        """Receipts prove nothing (any more), and nobody says which: everything that has some is put again, also what
        waits for the commit in tasks of its own."""
        for freeze in inode.frozen:
            if freeze.is_stored:
                self._unsaved.forget_uploads(freeze)
        inode.progress.pulse()

    async def _commit(self, inode: Inode, ready: list[Freeze]) -> None:
        for _ in range(MOST_CONFLICTS):
            await self._reader.fetch_inline(inode)
            ready = [freeze for freeze in ready if freeze in inode.frozen]  # others were discarded with their inode
            if not ready:
                return
            if moves := appending.shifts(inode.appended, inode.head.size):
                self._unsaved.move_appended(inode, moves)
                self._moved(inode)
            if ready[0].inline and not all(self.may_be_inline(inode, freeze) for freeze in ready):
                # another mount let the file outgrow the metadata: these bytes must become chunks first
                for freeze in ready:
                    freeze.inline = False
                inode.progress.pulse()
                return
            if await self._try_commit(inode, ready):
                return
        raise Unavailable("another mount keeps changing the file")

    async def _try_commit(self, inode: Inode, ready: list[Freeze]) -> bool:
        """False when another mount was faster."""
        uploads: list[Upload] = []
        try:
            change = await self._change(inode, ready, uploads)
            if change is None:
                return False
            self._unsaved.journal.committing(inode, change.commit.head, ready[-1].number)
            try:
                applied = await self._namespace.apply([change.commit])
            except Conflict:
                await self._refresh(inode)
                return False
            except InDoubt as doubt:
                inode.doubt = Doubt(doubt, partial(self._committed, inode, change, ready, uploads))
                raise
            self._committed(inode, change, ready, uploads, applied)
            return True
        finally:
            frozen = {id(upload) for freeze in ready for upload in freeze.uploads}
            for upload in uploads:
                if id(upload) not in frozen:  # made for this attempt alone
                    self._copies.forget(upload)

    async def resolve(self, inode: Inode) -> None:
        """Ask whether the last commit was done if that is in doubt, so that nothing is done twice: appended bytes would
        find themselves at the end, and go behind. Called with `content` held. Raises CoordinatorAway, and then the
        doubt stays."""
        doubt = inode.doubt
        if doubt is None:
            return
        try:
            doubt.done(await doubt.commit.again())
            inode.doubt = None
        except CoordinatorAway:
            raise
        except Conflict:
            inode.doubt = None
            await self._refresh(inode)
        except PoolError:
            inode.doubt = None
            raise

    def _committed(
        self, inode: Inode, change: Change, freezes: list[Freeze], uploads: list[Upload], applied: Applied
    ) -> None:
        self._follow(inode, change, applied)
        self._copies.committed(uploads, change.commit.chunks)
        appending.committed(inode.appended, change.commit.size)
        for freeze in freezes:
            self._unsaved.drop(inode, freeze)
        inode.after_commit()

    async def _change(self, inode: Inode, ready: list[Freeze], uploads: list[Upload]) -> Change | None:
        """The commit for these freezes, or None if the content it was built on is no longer the inode's. `uploads`
        is filled with what it names."""
        if not inode.inline_is_known:  # the answer was overtaken, and what it had was let go again
            return None
        if ready[0].inline:
            return inline_change(self._sealer, inode, ready)
        built_on = inode.head.change
        uploads += await self._inline_as_chunk(inode, ready)
        uploads += [upload for freeze in ready for upload in freeze.uploads]
        layers = await self._layers(inode, {index for freeze in ready for index in freeze.mibs})
        if inode.head.change != built_on or not inode.inline_is_known:
            return None
        return write_change(
            self._sealer, inode, uploads, layers,
            end=max(freeze.end for freeze in ready), time_ns=max(freeze.mtime_ns for freeze in ready),
        )  # fmt: skip

    async def _inline_as_chunk(self, inode: Inode, ready: list[Freeze]) -> list[Upload]:
        """The inline data of a file that outgrows the metadata, stored as a chunk to lie under what is new."""
        sealed = inode.check_inline()
        content = self._sealer.open_inline(inode.id, sealed) if sealed is not None else b""
        if not content or any(0 in freeze.mibs and freeze.mibs[0].covers(0, len(content)) for freeze in ready):
            return []
        upload = _whole(0, content)
        await self._uploader.put(upload)
        return [upload]

    async def _layers(self, inode: Inode, indices: set[int]) -> Layers:
        loaded: dict[int, list[Layer]] = {}
        if not inode.has_inline:
            for index in sorted(indices):
                if index * CHUNK_BYTES < inode.head.size:
                    loaded[index] = await self._reader.rows(inode, index)
        return lambda index: loaded.get(index, [])

    def _follow(self, inode: Inode, change: Change, applied: Applied) -> None:
        """Take this mount's own commit in, keeping loaded pages."""
        if inode.head.change == change.commit.base_change:  # else the state after it was loaded meanwhile
            sizes = {ChunkId(new.chunk): new.size for new in change.commit.chunks}
            told = next((row for row in applied.attributes if row.inode == inode.id), None)
            if told is None:
                raise Corrupt(f"inode {inode.id}: the coordinator does not tell of what was just committed")
            inode.follow(change.added, change.dropped, sizes)
            inode.committed(told, change.head)
        self._took(applied)

    async def _apply_once(self, inode: Inode, change: Change) -> Applied:
        """For commits that may be done again: what comes of this one is not asked for. No freeze is committed by it."""
        included = inode.frozen[0].number - 1 if inode.frozen else inode.freezes
        self._unsaved.journal.committing(inode, change.commit.head, included)
        try:
            return await self._namespace.apply([change.commit])
        except InDoubt as doubt:
            doubt.give_up()
            raise

    async def _refresh(self, inode: Inode) -> None:
        attributes = await self._namespace.attributes(inode.id)
        if not inode.refresh(attributes):
            await trio.lowlevel.checkpoint()

    # ---- compaction

    async def _compact(self, inode: Inode, index: int) -> None:
        """Store a MiB of too many layers as one chunk. Best effort: what fails is tried after the next write there."""
        if inode.has_inline or index * CHUNK_BYTES >= inode.head.size:
            return
        upload: Upload | None = None
        try:
            if len(await self._reader.layers(inode, index)) < MAX_LAYERS:
                return
            built_on = inode.head.change
            start = index * CHUNK_BYTES
            length = min(CHUNK_BYTES, inode.head.size - start)
            upload = _whole(index, await self._reader.committed(inode, start, length))
            await self._uploader.put(upload)
            layers = await self._layers(inode, {index})
            if inode.head.change != built_on:
                return
            change = write_change(self._sealer, inode, [upload], layers, end=inode.head.size, time_ns=0)
            self._follow(inode, change, await self._apply_once(inode, change))
            self._copies.committed([upload], change.commit.chunks)
        except PoolError as error:
            log.info("inode %d: MiB %d is not compacted now: %s", inode.id, index, error)
        finally:
            if upload is not None:
                self._copies.forget(upload)

    # ---- truncation

    async def truncate(self, inode: Inode, size: int) -> bool:
        """Set the size of an inode whose earlier writes are committed; committed on return. False if it was the size.

        Raises:
            PoolError: What the commit raises; the size is then unchanged.
        """
        async with inode.content:
            for _ in range(MOST_CONFLICTS):
                await self._reader.fetch_inline(inode)
                if inode.head.size == size:
                    await self._refresh(inode)  # by what is known here; elsewhere it may have grown
                    if inode.head.size == size:
                        return False
                    continue
                change = await self._truncation(inode, size)
                if change is None:
                    continue
                try:
                    applied = await self._apply_once(inode, change)
                except Conflict:
                    await self._refresh(inode)
                    continue
                inode.pages.clear()
                self._follow(inode, change, applied)
                return True
        raise Unavailable("another mount keeps changing the file")

    async def _truncation(self, inode: Inode, size: int) -> Change | None:
        built_on = inode.head.change
        boundary = []
        layers: dict[int, list[Layer]] = {}
        if not inode.has_inline and size < inode.head.size:
            cut_index = math.ceil(size / CHUNK_BYTES)
            if cut_index:
                layers[cut_index - 1] = await self._reader.rows(inode, cut_index - 1)
            page = await self._reader.page(inode, cut_index // INDICES_PER_RANGE)
            boundary = [row for rows in page.rows.values() for row in rows]
        if inode.head.change != built_on or not inode.inline_is_known:
            return None
        return truncate_change(
            self._sealer, inode, size, boundary, lambda index: layers.get(index, []),
            self._now_ns(),
        )  # fmt: skip


def _ready(inode: Inode) -> list[Freeze]:
    """The stored freezes at the front that may go in one commit: all inline or all not, and not too many rows."""
    ready: list[Freeze] = []
    rows = 0
    for freeze in inode.frozen:
        rows += freeze.runs
        if not freeze.is_stored or (ready and (freeze.inline != ready[0].inline or rows > MOST_ROWS)):
            break
        ready.append(freeze)
    return ready


def _layered(freezes: list[Freeze], committed_size: int) -> list[int]:
    """The MiBs that may have too many layers once these are committed to a file of that size: not those behind its end
    that got few. To ask for their extents would cost a new file a round trip."""
    runs = Counter[int]()
    for freeze in freezes:
        runs.update({index: len(mib.runs) for index, mib in freeze.mibs.items()})
    return sorted(index for index in runs if index * CHUNK_BYTES < committed_size or runs[index] >= MAX_LAYERS)


def _whole(index: int, content: Buffer) -> Upload:
    plan = ChunkPlan()
    plan.add(index, Run(0, content))
    return Upload(plan)
