"""One mounted volume: what FUSE, the commands and the tests call. Wires tree, reader and writer together.

Nothing here knows FUSE. Errors are those of `p2pfs.errors`. Every call either ends by itself or raises within the
deadlines of the stores and the namespace; cancelling one leaves unsaved bytes where they are.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

import trio

from p2pfs.chunks.protocol import ChunkStore
from p2pfs.errors import Invalid, IsDirectory, PoolError
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.protocol import Namespace
from p2pfs.types import MIB, Buffer, DentryId, InodeId, Kind, VolumeId
from p2pfs.vfs.committer import Committer
from p2pfs.vfs.content import Sealer
from p2pfs.vfs.inodes import Inode, InodeTable, Stat
from p2pfs.vfs.patience import OPEN_S, STAT_S, until_available
from p2pfs.vfs.places import Places
from p2pfs.vfs.reader import ReadAhead, Reader
from p2pfs.vfs.space import Space
from p2pfs.vfs.tree import Listed, Owner, Tree
from p2pfs.vfs.unsaved import Unsaved
from p2pfs.vfs.uploads import LateCopies, Uploader
from p2pfs.vfs.writer import WriteLimits, Writer
from p2pfs.wire import namespace as wire

log = logging.getLogger(__name__)

T = TypeVar("T")

AGEING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one mount."""

    write: WriteLimits = field(default_factory=WriteLimits)
    memory_cache: int = 128 * MIB
    close_waits: bool = True  # durability=close


@dataclass(slots=True, eq=False)
class Handle:
    """An open file."""

    inode: Inode
    ahead: ReadAhead = field(default_factory=ReadAhead)


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
        copies: LateCopies | None = None,
    ) -> None:
        self._namespace, self._limits, self._now_ns = namespace, limits, now_ns
        sealer = Sealer(keys, volume)
        self._table = InodeTable(keys, volume)
        self.tree = Tree(keys, volume, namespace, self._table, now_ns=now_ns, deleted=self._discard)
        self._reader = Reader(
            sealer, namespace, store, places, nursery,
            memory_bytes=limits.memory_cache, refresh=self._table.take,
        )  # fmt: skip
        copies = copies or LateCopies(namespace, nursery)
        uploader = Uploader(sealer, store, places, space, copies, dedup=limits.write.dedup)
        unsaved = Unsaved(space, copies, limits.write.dirty_bytes)
        committer = Committer(
            sealer, namespace, self._reader, uploader, copies, unsaved,
            small_file=limits.write.small_file, now_ns=now_ns, took=self.tree.took,
        )  # fmt: skip
        self.writer = Writer(
            namespace, uploader, committer, unsaved, nursery,
            limits=limits.write, now_ns=now_ns, inodes=self._table.all, done=self._table.drop_unused,
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
        copies: LateCopies | None = None,
    ) -> AsyncIterator[Self]:
        """A file system whose background tasks live as long as the block. `copies` is told by the store of receipts
        that come late; without it no copy comes late.

        Leaving the block drops what is not stored: `await filesystem.writer.settle_all()` first.
        """
        async with trio.open_nursery() as nursery:
            filesystem = cls(
                keys, volume, namespace, store, places, space, nursery, limits=limits, now_ns=now_ns, copies=copies
            )
            nursery.start_soon(filesystem._age)
            yield filesystem
            nursery.cancel_scope.cancel()

    def _discard(self, inode: Inode) -> None:
        self.writer.discard(inode)

    async def _age(self) -> None:
        while True:
            await trio.sleep(AGEING_S)
            self.writer.freeze_aged()

    # ---- references

    def hold(self, inode: Inode) -> None:
        """The kernel was told of the inode once more."""
        inode.lookups += 1

    def forget(self, number: InodeId, count: int) -> None:
        """The kernel gave `count` references back."""
        inode = self._table.get(number)
        if inode is not None:
            inode.lookups -= count
            self._table.drop_unused(inode)

    def known(self) -> int:
        """How many inodes are in memory."""
        return len(self._table)

    # ---- inodes

    async def inode(self, number: InodeId) -> Inode:
        """The inode as the coordinator has it now (its unsaved writes included), or as it was known when the
        coordinator is away: reads go on without it. Raises NotFound."""
        known = self._table.get(number)
        if known is not None and known.unlinked:
            return known
        if known is None:
            return await self.tree.inode(number)
        return await self.tree.patience.ask(lambda: self.tree.inode(number), OPEN_S) or known

    async def stat(self, number: InodeId) -> Stat:
        known = self._table.get(number)
        if known is None or not known.handles:
            return (await self.inode(number)).stat()
        if not known.unlinked:
            await self.tree.patience.ask(lambda: self.tree.inode(number), STAT_S)
        return known.stat()

    async def set_attributes(
        self,
        number: InodeId,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> Stat:
        """Change what is given; times of a file with unsaved writes are set after those are stored, so that the
        writes do not move them again."""
        inode = self._table.get(number) or await self.tree.inode(number)
        if size is not None:
            if inode.kind is Kind.DIRECTORY:
                raise IsDirectory("a directory has no size to set")
            await self._lasting(lambda: self.writer.truncate(inode, size))
        if mtime_ns is not None and inode.is_dirty:
            await self.writer.settle(inode)
        if not all(value is None for value in (mode, uid, gid, atime_ns, mtime_ns)):
            operation = wire.SetAttributes(number, self._now_ns(), mode, uid, gid, atime_ns, mtime_ns)
            self.tree.took(await self._namespace.apply([operation]))
        return inode.stat()

    async def space(self) -> wire.Space:
        return await self._namespace.space()

    # ---- names

    async def lookup(self, parent: InodeId, name: bytes) -> Inode:
        return await self.tree.lookup(parent, name)

    def parent(self, number: InodeId) -> InodeId:
        """The directory that holds a directory, as far as this mount has seen; the directory itself if it has not, and
        for the root."""
        known = self._table.get(number)
        return number if known is None or known.parent is None else known.parent

    async def directory(self, number: InodeId, after: DentryId, limit: int) -> tuple[list[Listed], bool]:
        return await self.tree.directory(number, after, limit)

    async def rename(self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes, flags: int) -> None:
        """rename(2). What was written to the moved file is stored first: after a crash its new name must not show a
        file without its data where there was one with."""
        moved = self.tree.known(parent, name)
        if moved is not None and moved.is_dirty:
            await self.writer.settle(moved)
        await self.tree.rename(parent, name, new_parent, new_name, flags)

    async def create(self, parent: InodeId, name: bytes, mode: int, owner: Owner) -> Handle:
        """A new file, open. Raises Exists, NotFound, NotDirectory."""
        inode = await self.tree.make(parent, name, Kind.FILE, mode, owner)
        inode.handles += 1
        return Handle(inode)

    # ---- files

    async def open(self, number: InodeId, *, truncate: bool = False) -> Handle:
        """Open a file; content committed by other mounts before is what will be read (close-to-open)."""
        inode = await self.inode(number)
        if inode.kind is Kind.DIRECTORY:
            raise IsDirectory("a directory cannot be opened as a file")
        inode.handles += 1
        try:
            if truncate:
                await self._lasting(lambda: self.writer.truncate(inode, 0))
        except BaseException:
            inode.handles -= 1
            self._table.drop_unused(inode)
            raise
        return Handle(inode)

    async def read(self, handle: Handle, offset: int, length: int) -> Buffer:
        return await self._lasting(lambda: self._reader.read(handle.inode, offset, length, handle.ahead))

    async def _lasting(self, effort: Callable[[], Awaitable[T]]) -> T:
        """In a hard mount, until somebody can answer. Calls to the coordinator, and waiting for what is being stored,
        are endless there by themselves."""
        return await (until_available(effort) if self._limits.write.hard else effort())

    async def write(self, handle: Handle, offset: int, data: Buffer) -> int:
        if handle.inode.kind is not Kind.FILE:
            raise Invalid("only files are written")
        return await self.writer.write(handle.inode, offset, data)

    async def flush(self, handle: Handle) -> None:
        """close(2) of one descriptor: stores what was written under durability=close."""
        if self._limits.close_waits and not handle.inode.unlinked:
            await self.writer.settle(handle.inode)
        else:
            handle.inode.raise_error()

    async def fsync(self, handle: Handle) -> None:
        """Everything written is on `min_replicas` peers and committed when this returns (P1)."""
        await self.writer.settle(handle.inode)

    async def release(self, handle: Handle) -> None:
        """The last descriptor of the handle is gone."""
        inode = handle.inode
        inode.handles -= 1
        if inode.handles == 0 and inode.registered:
            self.writer.freeze(inode)
            try:
                await self.writer.forget_opened(inode)
            except PoolError as error:
                log.info("inode %d: the coordinator will notice at the session's end: %s", inode.id, error)
        elif inode.handles == 0:
            self.writer.freeze(inode)
        self._table.drop_unused(inode)
