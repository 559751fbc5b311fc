"""Setting attributes: chmod, chown, utimes and truncate. Extended ones are `vfs.xattrs`.

Called by `vfs.filesystem` and by whoever answers the kernel's SETATTR.
"""

import stat
from collections.abc import Callable
from contextlib import nullcontext

import trio

from p2pfs.errors import IsDirectory
from p2pfs.meta.protocol import Namespace
from p2pfs.types import InodeId, Kind
from p2pfs.vfs.access_times import AccessTimes
from p2pfs.vfs.inode_table import InodeTable
from p2pfs.vfs.inodes import Inode, Stat
from p2pfs.vfs.limits import WriteLimits
from p2pfs.vfs.page_times import PageTimes
from p2pfs.vfs.promises import Promises
from p2pfs.vfs.quota import VolumeQuota
from p2pfs.vfs.settling import Settler
from p2pfs.vfs.tree import Tree
from p2pfs.wire.namespace import SetAttributes


class AttributeChanges:
    """Sets what one mount's programs ask for, and keeps it in order with what they wrote."""

    def __init__(
        self,
        namespace: Namespace,
        table: InodeTable,
        tree: Tree,
        *,
        settler: Settler,
        promises: Promises,
        quota: VolumeQuota,
        access_times: AccessTimes,
        page_times: PageTimes,
        limits: WriteLimits,
        now_ns: Callable[[], int],
        trust: Callable[[], float],
    ) -> None:
        """`trust` as of `Surroundings`."""
        self._namespace, self._table, self._tree = namespace, table, tree
        self._settler, self._promises, self._quota = settler, promises, quota
        self._access_times, self._page_times = access_times, page_times
        self._limits, self._now_ns, self._trust = limits, now_ns, trust

    async def set(
        self,
        number: InodeId,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> Stat:
        """Change what is given; ctime is now by default. Before mtime is set, unsaved writes are stored, so that nobody
        takes what was there before for what the time belongs to; while nobody else can look, they only move the time no
        more. What a kernel writes that keeps pages does not move it."""
        inode = self._table.get(number) or await self._tree.inode(number)
        if size is not None:
            if inode.kind is Kind.DIRECTORY:
                raise IsDirectory("a directory has no size to set")
            await self.truncate(inode, size)
        sets_time_of_unsaved = mtime_ns is not None and inode.is_dirty and not self._limits.by_kernel
        if sets_time_of_unsaved and not self._trust():
            await self._settler.settle_for_others(inode)
        if atime_ns is not None:
            await self._access_times.forget(inode)
        if size is None or not all(value is None for value in (mode, uid, gid, atime_ns, mtime_ns)):
            # also when nothing is given: chown(-1, -1) moves ctime
            operation = SetAttributes(number, ctime_ns or self._now_ns(), mode, uid, gid, atime_ns, mtime_ns)
            async with self._settler.untimed(inode) if sets_time_of_unsaved else nullcontext():
                self._tree.took(await self._namespace.apply([operation]), inode)
        if mtime_ns is not None:
            inode.times_of_pages = None
        await self._promises.changed(inode)
        return self._table.named_or_used(inode).stat()

    async def set_times_of_pages(self, number: InodeId, mtime_ns: int, ctime_ns: int) -> Stat:
        """The times of what a kernel that keeps pages has sent: see `PageTimes.keep`."""
        inode = self._table.get(number) or await self._tree.inode(number)
        await self._page_times.keep(inode, mtime_ns, ctime_ns)
        return inode.stat()

    async def truncate(self, inode: Inode, size: int) -> None:
        """Set the size of a file; the caller tells `Promises.changed`. Times move also when the size is the same.
        Raises OverQuota when the file would be larger than it may."""
        await self._quota.grow(size - inode.size)
        is_new = await self._promises.lasting(lambda: self._settler.truncate(inode, size))
        inode.kernel_size.wrote(size, trio.current_time(), is_end=True)
        if not is_new:
            now = self._now_ns()
            self._tree.took(await self._namespace.apply([SetAttributes(inode.id, now, mtime_ns=now)]), inode)

    async def clear_set_id(self, inode: Inode) -> None:
        """chmod as a write by anybody but root does it: the group's bit goes where the group may execute."""
        mode = inode.attributes.mode & 0o7777
        cleared = mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))
        if cleared != mode:
            await self.set(inode.id, mode=cleared)
