"""One mounted volume: what FUSE, the commands and the tests call. Wires tree, reader and writer together.

Nothing here knows FUSE. Errors are those of `p2pfs.errors`. Every call either ends by itself or raises within the
deadlines of the stores and the namespace; cancelling one leaves unsaved bytes where they are.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Final, Self

import trio

from p2pfs.chunks.protocol import ChunkStore
from p2pfs.errors import Invalid, IsDirectory, Semantic
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.protocol import Namespace
from p2pfs.types import Buffer, DentryId, InodeId, Kind, VolumeId
from p2pfs.vfs import appending
from p2pfs.vfs.access_times import AccessTimes
from p2pfs.vfs.attribute_changes import AttributeChanges
from p2pfs.vfs.blocks import BlockCache
from p2pfs.vfs.committer import Committer
from p2pfs.vfs.content import Sealer
from p2pfs.vfs.digests import digest
from p2pfs.vfs.glimpses import Glimpse
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.inode_table import InodeTable
from p2pfs.vfs.inodes import Inode, Stat
from p2pfs.vfs.journal.journal import NoJournal
from p2pfs.vfs.keeping import Keeper
from p2pfs.vfs.labels import Labels
from p2pfs.vfs.leases import Leases
from p2pfs.vfs.limits import Limits
from p2pfs.vfs.listing_ahead import ListingAhead
from p2pfs.vfs.listings import Listed
from p2pfs.vfs.news import KernelCache, News, NoKernelCache
from p2pfs.vfs.page_times import PageTimes
from p2pfs.vfs.patience import OPEN_S, STAT_S
from p2pfs.vfs.places import Places
from p2pfs.vfs.promises import Promises
from p2pfs.vfs.quota import VolumeQuota
from p2pfs.vfs.reader import Reader
from p2pfs.vfs.refused import given_up
from p2pfs.vfs.search import Search
from p2pfs.vfs.settling import Settler
from p2pfs.vfs.space import Space
from p2pfs.vfs.storing import Storer
from p2pfs.vfs.surroundings import ALONE, Surroundings
from p2pfs.vfs.trash import Trash
from p2pfs.vfs.tree import Owner, Tree
from p2pfs.vfs.unsaved import Unsaved
from p2pfs.vfs.uploads import LateCopies, Uploader
from p2pfs.vfs.warming import Warming
from p2pfs.vfs.writer import Writer
from p2pfs.vfs.xattrs import Xattrs
from p2pfs.wire import namespace as wire

AGEING_S: Final = 1.0
LEAVING_S: Final = 3.0
"""For what is told at the end although nothing depends on it."""


class Filesystem:
    """POSIX-like operations on one volume. Use `Filesystem.serve` to get one with its background tasks."""

    def __init__(
        self,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        store: ChunkStore,
        places: Places,
        space: Space,
        nursery: trio.Nursery,
        *,
        limits: Limits,
        now_ns: Callable[[], int],
        around: Surroundings,
    ) -> None:
        self.trust = around.trust
        """See `Surroundings`."""
        self._namespace, self._limits = namespace, limits
        self._kernel: KernelCache = NoKernelCache()
        self._access_times = AccessTimes(namespace, now_ns=now_ns, enabled=limits.access_times)
        sealer = Sealer(keys, volume)
        self._table = InodeTable(keys, volume)
        self._keeper = Keeper(namespace, self._table)
        names, prefixes = around.index
        self.labels = Labels(keys, volume, namespace, digest=self._digest, names=names, prefixes=prefixes)
        self.search = Search(keys, volume, namespace, is_unsaved=self._is_unsaved, prefixes=prefixes)
        self.tree = Tree(
            keys, volume, namespace, self._table, self._keeper,
            now_ns=now_ns, deleted=self._discard, holds=around.holds, indexed=self.labels.name_operations,
        )  # fmt: skip
        self.listing_ahead = ListingAhead(self.tree, around.known_page, nursery)
        self._page_times = PageTimes(namespace, self.tree)
        self.xattrs = Xattrs(keys, volume, namespace, self._table, self.tree, now_ns=now_ns)
        self.trash = Trash(
            keys, volume, namespace, self.tree,
            now_ns=now_ns, told=self._reappeared, indexed=self.labels.name_operations,
        )  # fmt: skip
        self.leases = Leases(keys, volume, namespace, self.tree)
        self._reader = Reader(
            sealer, namespace, store, places, nursery,
            memory_bytes=limits.memory_cache, refresh=self._table.take,
        )  # fmt: skip
        self.warming = Warming(keys, volume, namespace, store, self._reader, inode=self.inode)
        copies = around.copies or LateCopies(namespace, nursery)
        uploader = Uploader(
            sealer, store, places, space, copies,
            dedup=limits.write.dedup, seal_in_thread=limits.write.seal_in_thread,
        )  # fmt: skip
        self.journal = around.journal or NoJournal()
        unsaved = Unsaved(space, copies, limits.write.dirty_bytes, self.journal)
        committer = Committer(
            sealer, namespace, self._reader, uploader, copies, unsaved,
            small_file=limits.write.small_file, now_ns=now_ns, took=self.tree.took,
            moved=self._moved, apply_now=around.apply_now,
        )  # fmt: skip
        self.storer = Storer(uploader, committer, unsaved, limits=limits.write, done=self._table.drop_unused)
        self.writer = Writer(
            self.storer, committer, unsaved, nursery,
            limits=limits.write, now_ns=now_ns, inodes=self._table.all, done=self._table.drop_unused,
            moved_s=around.moved_s,
        )  # fmt: skip
        self.settler = Settler(
            self.writer, self.storer, committer, unsaved,
            limits=limits.write, inodes=self._table.all, hurry=around.hurry,
        )  # fmt: skip
        self.quota = VolumeQuota(namespace, self._unsaved_growth, around.hurry)
        self.promises = Promises(
            namespace,
            writer=self.writer, storer=self.storer, settler=self.settler,
            durability=limits.durability, journal=self.journal,
            hard=limits.write.hard, has_trash=limits.has_trash,
        )  # fmt: skip
        self.attributes = AttributeChanges(
            namespace, self._table, self.tree,
            settler=self.settler, promises=self.promises, quota=self.quota,
            access_times=self._access_times, page_times=self._page_times,
            limits=limits.write, now_ns=now_ns, trust=around.trust,
        )  # fmt: skip

    @classmethod
    @asynccontextmanager
    async def serve(
        cls,
        keys: VolumeKeys,
        volume: VolumeId,
        namespace: Namespace,
        store: ChunkStore,
        places: Places,
        space: Space,
        *,
        limits: Limits,
        now_ns: Callable[[], int],
        around: Surroundings = ALONE,
    ) -> AsyncIterator[Self]:
        """A file system whose background tasks live as long as the block.

        Leaving the block drops what is not stored: `await filesystem.settle_all()` first.
        """
        async with trio.open_nursery() as nursery:
            filesystem = cls(
                keys, volume, namespace, store, places, space, nursery,
                limits=limits, now_ns=now_ns, around=around,
            )  # fmt: skip
            nursery.start_soon(filesystem._age)
            nursery.start_soon(filesystem._tell)
            nursery.start_soon(filesystem._keeper.tell)
            nursery.start_soon(filesystem.quota.follow)
            yield filesystem
            nursery.cancel_scope.cancel()

    def _unsaved_growth(self) -> int:
        return sum(max(0, inode.size - inode.head.size) for inode in self._table.all() if inode.is_dirty)

    def _discard(self, inode: Inode) -> None:
        self.writer.discard(inode)
        self.xattrs.forget(inode.id)

    def _reappeared(self, parent: InodeId, name: bytes) -> None:
        """A name is there that the kernel may know to be free."""
        self._kernel.stale_name(parent, name)
        self._kernel.stale_inode(parent, content=False)

    def _moved(self, inode: Inode) -> None:
        inode.cached_change = -1
        self._kernel.stale_inode(inode.id, content=True)

    def may_drop_pages(self, number: InodeId) -> bool:
        """Whether the kernel can be told to drop the pages of a file without losing what a program writes to memory it
        shares; whoever opens it next then reads it anew."""
        known = self._table.get(number)
        if known is None:
            return True
        known.cached_change = -1
        return not known.handles and not known.is_dirty

    async def follow(self, kernel: KernelCache) -> None:
        """Take in what other mounts change, and have `kernel` forget it; until cancelled or the session is over."""
        self._kernel = kernel
        await News(self._namespace, self._table, self.tree, self._keeper, kernel).follow()

    async def _age(self) -> None:
        while True:
            await trio.sleep(AGEING_S)
            for inode in self.writer.freeze_aged():
                if inode.attributes.links:
                    await self.journal.keep(inode)

    async def _tell(self) -> None:
        while True:
            await trio.sleep(AGEING_S)
            await self._access_times.send_aged()

    async def settle_all(self, report: Callable[[int], None] = lambda _: None) -> None:
        """Store and commit everything (unmount) that is not lost; see `Settler.settle_all`."""
        patience_s = 2 * self._limits.write.io_timeout_s
        with trio.move_on_after(LEAVING_S):
            await self._access_times.send_all()
        try:
            await self.settler.settle_all(report)
        finally:
            try:
                await self._page_times.settle(self._table.all(), patience_s)
            finally:
                await self.promises.committed_at_last(patience_s)

    async def recalled(self) -> None:
        """Another mount is about to use the volume: what closed files have unsaved is stored (close-to-open). What
        cannot be stay dirty; cancelling leaves all as it is."""
        await self.settler.settle_closed()

    # ---- references

    def refer(self, inode: Inode | Glimpse) -> None:
        """The kernel was told of the inode once more."""
        self._keeper.refer(inode)

    def forget(self, number: InodeId, count: int) -> None:
        """The kernel gave `count` references back."""
        self._keeper.forget(number, count)

    @property
    def blocks(self) -> BlockCache:
        """Plain blocks kept in memory."""
        return self._reader.blocks

    def known(self) -> int:
        """How many inodes are in memory."""
        return len(self._table)

    # ---- inodes

    async def inode(self, number: InodeId) -> Inode:
        """The inode as the coordinator has it now (its unsaved writes included), or as it was known when the
        coordinator is away: reads go on without it. Raises NotFound."""
        known = self._table.get(number)
        if known is None:
            return await self.tree.inode(number)
        return await self.tree.patience.ask(lambda: self.tree.inode(number), OPEN_S) or known

    async def stat(self, number: InodeId) -> Stat:
        """Its attributes as they are now, or were known when the coordinator is away. Raises NotFound."""
        known = self._table.get(number)
        if known is None or not known.handles:
            return self._table.named_or_used(await self.inode(number)).stat()
        await self.tree.patience.ask(lambda: self.tree.inode(number), STAT_S)
        return known.stat()

    async def space(self) -> wire.Space:
        return await self._namespace.space()

    # ---- names

    async def lookup(self, parent: InodeId, name: bytes) -> Inode:
        inode = await self.tree.lookup(parent, name)
        inode.place = parent, name
        return inode

    def parent(self, number: InodeId) -> InodeId:
        """The directory that holds a directory, as far as this mount has seen; the directory itself if it has not, and
        for the root."""
        return self.tree.parent(number) or number

    async def directory(self, number: InodeId, after: DentryId, limit: int) -> tuple[list[Listed], bool]:
        known = self._table.get(number)
        if known is not None:
            self._access_times.note(known)
        return await self.tree.directory(number, after, limit)

    async def rename(self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes, flags: int) -> None:
        """rename(2). What was written to a moved file is stored first: after a crash its new name must not show a
        file without its data where there was one with."""
        # names are forgotten when news may have been missed, unsaved bytes are not
        moved = [self.tree.known(parent, name) or await self.tree.lookup(parent, name)]
        if flags & wire.RENAME_EXCHANGE:
            moved.append(self.tree.known(new_parent, new_name) or await self.tree.lookup(new_parent, new_name))
        for inode in moved:
            if inode.is_dirty:
                await self.settler.settle_for_others(inode)
        if not flags:  # with either of them nothing loses its name
            await self._unnamed(new_parent, new_name)
        await self.tree.rename(parent, name, new_parent, new_name, flags)
        moved[0].place = new_parent, new_name
        await self.promises.named()

    async def link(self, number: InodeId, parent: InodeId, name: bytes) -> Inode:
        """Another name for an inode. Raises Exists, NotFound, IsDirectory."""
        inode = await self.tree.link(number, parent, name)
        await self.promises.named()
        return inode

    async def remove(self, parent: InodeId, name: bytes, *, directory: bool) -> None:
        """unlink or rmdir."""
        if not directory:
            await self._unnamed(parent, name)
        await self.tree.remove(parent, name, directory=directory)
        await self.promises.named()

    async def _unnamed(self, parent: InodeId, name: bytes) -> None:
        """What has this name is about to lose it."""
        with suppress(Semantic):  # which who takes the name will meet again
            if self.promises.keeps_removed and self.writer.unsaved_bytes():
                known = self.tree.known(parent, name) if self.trust() > 0 else None  # else it may have other names
                await self.promises.unnamed(known or await self.tree.lookup(parent, name))

    async def target(self, number: InodeId) -> bytes:
        """Where a symbolic link points. Raises Invalid, NotFound, Corrupt."""
        inode = await self.inode(number)
        self._access_times.note(inode)
        return self.tree.target(inode)

    async def make(
        self,
        parent: InodeId,
        name: bytes,
        kind: Kind,
        mode: int,
        owner: Owner,
        *,
        rdev: int = 0,
        umask: int = 0,
        inherit: bool = False,
    ) -> Inode:
        """A new inode that is no symbolic link. With `inherit` the directory's default access list, if it has one,
        counts instead of the umask. Raises Exists, NotFound, NotDirectory, OverQuota."""
        inode = await self._make(parent, name, kind, mode, owner, rdev=rdev, umask=umask, inherit=inherit)
        await self.promises.changed(inode)
        return inode

    async def _make(
        self, parent: InodeId, name: bytes, kind: Kind, mode: int, owner: Owner, *, rdev: int, umask: int, inherit: bool
    ) -> Inode:
        await self.quota.add_file()
        if not inherit:
            return await self.tree.make(parent, name, kind, mode & ~umask, owner, rdev=rdev)
        mode, xattrs = await self.xattrs.inherited(parent, kind, mode, umask)
        inode = await self.tree.make(parent, name, kind, mode, owner, rdev=rdev, xattrs=xattrs)
        self.xattrs.remember(inode.id, xattrs)
        return inode

    async def make_link(self, parent: InodeId, name: bytes, target: bytes, owner: Owner) -> Inode:
        """A symbolic link. Raises Exists, NotFound, NotDirectory, NameTooLong (name or target), OverQuota."""
        await self.quota.add_file()
        inode = await self.tree.make(parent, name, Kind.SYMLINK, 0o777, owner, target=target)
        await self.promises.changed(inode)
        return inode

    async def create(
        self,
        parent: InodeId,
        name: bytes,
        mode: int,
        owner: Owner,
        *,
        umask: int = 0,
        inherit: bool = False,
        append: bool = False,
    ) -> Handle:
        """A new file, open; otherwise like `make`."""
        inode = await self._make(parent, name, Kind.FILE, mode, owner, rdev=0, umask=umask, inherit=inherit)
        self._keeper.opened(inode)  # no checkpoint since it was made: it must not look unused
        inode.place = parent, name
        try:
            await self.promises.changed(inode)
        except BaseException:
            self._keeper.closed(inode)
            raise
        return Handle(inode, append)

    # ---- files

    async def open(
        self,
        number: InodeId,
        *,
        truncate: bool = False,
        append: bool = False,
        writes: bool = True,
        keep_set_id: bool = True,
    ) -> Handle:
        """Open a file; content committed by other mounts before is what will be read (close-to-open). Truncating takes
        set-id bits unless `keep_set_id`: the kernel, which does so for every other change, leaves that one to us."""
        async with self._keeper.opening(number):
            inode = await self.inode(number)
            if inode.kind is Kind.DIRECTORY:
                raise IsDirectory("a directory cannot be opened as a file")
            self._keeper.check(inode)
            if appending.shifts(inode.appended, inode.head.size):  # unsaved bytes hide what another mount appended
                await self.settler.settle_for_others(inode)
            if truncate:
                await self.attributes.truncate(inode, 0)
                if not keep_set_id:
                    await self.attributes.clear_set_id(inode)
                await self.promises.changed(inode)
            self._keeper.opened(inode)
            return Handle(inode, append, writes)

    async def read(self, handle: Handle, offset: int, length: int) -> Buffer:
        self._access_times.note(handle.inode)
        return await self.promises.lasting(lambda: self._reader.read(handle.inode, offset, length, handle.ahead))

    def _is_unsaved(self, number: InodeId) -> bool:
        known = self._table.glimpse(number)
        return isinstance(known, Inode) and known.is_dirty

    async def _digest(self, number: InodeId, count: Callable[[int], Awaitable[None]]) -> tuple[bytes, int]:
        """As `digests.digest`, of a file that need not be open."""
        handle = await self.open(number, writes=False)
        try:
            return await digest(handle, self._reader, self.settler, count)
        finally:
            await self.release(handle)

    async def write(self, handle: Handle, offset: int, data: Buffer) -> int:
        """Returns how many bytes were taken: all. Raises OverQuota, NoSpace: none, and nothing is lost by that."""
        inode = handle.inode
        if inode.kind is not Kind.FILE:
            raise Invalid("only files are written")
        now, end = trio.current_time(), offset + len(data)
        appends = handle.append and not inode.kernel_size.is_page(offset, len(data), now)
        with given_up(inode) if self._limits.write.by_kernel else nullcontext():
            await self.quota.grow(len(data) if appends else end - inode.size)
            placed = await self.writer.write(inode, None if appends else offset, data)
        inode.kernel_size.wrote(end, now, is_end=appends)
        if placed != offset:  # the kernel keeps these bytes where it thought they go
            self._moved(inode)
        await self.promises.changed(inode)
        return len(data)

    async def flush(self, handle: Handle) -> None:
        """close(2) of one descriptor: see `Promises.closed`. One that only read neither waits for what others wrote nor
        takes their error."""
        if handle.writes:
            handle.raise_loss()
            await self._page_times.send(handle.inode)
            await self.promises.closed(handle.inode)
            handle.raise_loss()

    async def fsync(self, handle: Handle) -> None:
        """Everything written is on `min_replicas` peers and committed when this returns (P1), its name included. What
        was lost is told once."""
        try:
            handle.raise_loss()
            await self._page_times.send(handle.inode)
            await self.promises.synced(handle.inode)
            handle.raise_loss()
        finally:
            handle.told = handle.inode.losses

    async def release(self, handle: Handle) -> None:
        """The last descriptor of the handle is gone."""
        inode = handle.inode
        self._keeper.closed(inode)
        if inode.attributes.links:
            if not inode.handles:
                self.writer.freeze(inode)
        elif not self._table.is_in_use(inode.id):
            self.writer.discard(inode)
        self._table.drop_unused(inode)
