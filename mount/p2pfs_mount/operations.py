"""The FUSE handlers: translate, call vfs, translate back. What may leave them, and when, is `guard`'s."""

import logging
import math
import os
import stat
from collections.abc import Sequence
from typing import Final

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from p2pfs.errors import NotFound
from p2pfs.types import DentryId, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.inodes import Inode, Stat
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Space
from p2pfs_mount.directories import DirectoryHandle
from p2pfs_mount.entries import DOTS, KINDS, Entries, dot, dots, nothing
from p2pfs_mount.guard import guarded, guarded_number, prompt_number
from p2pfs_mount.meter import Meter
from p2pfs_mount.owners import Owners
from p2pfs_mount.pending import Pending
from p2pfs_mount.trust import KERNEL_CACHE_S, KernelTrust

log = logging.getLogger(__name__)

PAGE_ENTRIES: Final = 1000


class Operations(pyfuse3.Operations):
    """pyfuse3's interface over one `Filesystem`. Files and directories share one counter of handle numbers."""

    supports_dot_lookup = False

    def __init__(
        self,
        filesystem: Filesystem,
        *,
        io_timeout_s: float,
        hard: bool = False,
        writeback_cache: bool = False,
        owners: Owners | None = None,
    ) -> None:
        """`owners` translates numbers of users and groups. With `writeback_cache` the kernel keeps written pages, and
        with them sizes and times of files, until it likes, and knows them better than we do: nobody else may have the
        volume mounted."""
        super().__init__()
        self.enable_writeback_cache = writeback_cache
        self._fs = filesystem
        self.trust = KernelTrust(filesystem.trust)
        # the layers below have deadlines by progress; this one only catches what they miss
        self.pending = Pending(math.inf if hard else 10 * io_timeout_s)
        self.unexpected = 0
        self.meter = Meter(self._inode_of)
        self._files: dict[int, Handle] = {}
        self._directories: dict[int, DirectoryHandle] = {}
        self.owners = owners or Owners()
        self._entries = Entries(self.owners)
        self._last_handle = 0

    @property
    def has_open_files(self) -> bool:
        """Whether a program has a file open or mapped, through any copy of the mount."""
        return bool(self._files)

    def _inode_of(self, fh: int) -> int | None:
        """What a handle is open on; None once it is closed."""
        handle, directory = self._files.get(fh), self._directories.get(fh)
        return handle.inode.id if handle is not None else directory.inode if directory is not None else None

    def _new_handle(self) -> FileHandleT:
        self._last_handle += 1
        return FileHandleT(self._last_handle)

    # ---- inodes

    @guarded
    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        try:
            inode = await self._fs.lookup(InodeId(parent), name)
        except NotFound:
            seconds = self.trust.name_s(parent, name)
            if seconds <= KERNEL_CACHE_S:
                raise
            return nothing(seconds)
        return self._reply(parent, name, inode)

    # what is given for long must reach the kernel before it is withdrawn: no checkpoint between these and the return

    def _reply(self, parent: int, name: bytes, inode: Inode) -> EntryAttributes:
        """What a name leads to; its delivery counts as one more kernel reference."""
        entry = self._named(parent, name, inode)
        self._fs.refer(inode)
        return entry

    def _named(self, parent: int, name: bytes, inode: Inode) -> EntryAttributes:
        entry = self._attributes(inode.stat())
        entry.entry_timeout = self.trust.name_s(parent, name)
        return entry

    def _attributes(self, row: Stat) -> EntryAttributes:
        entry = self._entries.make(row)
        entry.attr_timeout = self.trust.inode_s(row.inode)
        return entry

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, count in inode_list:
            try:
                self._fs.forget(InodeId(number), count)
                self._entries.drop(InodeId(number))
            except Exception:  # there is no answer that could say so, and the others still count
                self.unexpected += 1
                log.exception("forget failed unexpectedly")

    @guarded_number
    async def getattr(self, number: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(await self._fs.stat(InodeId(number)))

    @guarded_number
    async def setattr(
        self, number: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        if self.enable_writeback_cache and fh is not None and not fields.update_size:  # no program can set times so
            times = attr.st_mtime_ns, attr.st_ctime_ns
            return self._attributes(await self._fs.attributes.set_times_of_pages(InodeId(number), *times))
        changed = await self._fs.attributes.set(
            InodeId(number),
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=self.owners.users.given(attr.st_uid) if fields.update_uid else None,
            gid=self.owners.groups.given(attr.st_gid) if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,  # only the kernel that keeps pages tells it
        )
        return self._attributes(changed)

    @guarded
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return shown_space(await self._fs.space())

    # ---- names

    @guarded
    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        kind = KINDS.get(stat.S_IFMT(mode), Kind.FILE)
        inode = await self._fs.make(
            InodeId(parent), name, kind, stat.S_IMODE(mode), self._owner(ctx),
            rdev=rdev, umask=ctx.umask, inherit=self.enable_acl,
        )  # fmt: skip
        return self._reply(parent, name, inode)

    @guarded
    async def mkdir(self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        inode = await self._fs.make(
            InodeId(parent), name, Kind.DIRECTORY, stat.S_IMODE(mode), self._owner(ctx),
            umask=ctx.umask, inherit=self.enable_acl,
        )  # fmt: skip
        return self._reply(parent, name, inode)

    @guarded
    async def symlink(self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        inode = await self._fs.make_link(InodeId(parent), name, target, self._owner(ctx))
        return self._reply(parent, name, inode)

    @guarded_number
    async def readlink(self, number: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(await self._fs.target(InodeId(number)))

    @guarded_number
    async def link(self, number: InodeT, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._reply(parent, name, await self._fs.link(InodeId(number), InodeId(parent), name))

    @guarded
    async def unlink(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._fs.remove(InodeId(parent), name, directory=False)

    @guarded
    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._fs.remove(InodeId(parent), name, directory=True)

    @guarded
    async def rename(
        self,
        parent: InodeT,
        name: FileNameT,
        new_parent: InodeT,
        new_name: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        await self._fs.rename(InodeId(parent), name, InodeId(new_parent), new_name, flags)

    # ---- directories

    @prompt_number
    async def opendir(self, number: InodeT, ctx: RequestContext) -> FileHandleT:
        fh = self._new_handle()
        self._directories[fh] = DirectoryHandle(InodeId(number))
        return fh

    @prompt_number
    async def readdir(self, fh: FileHandleT, start: int, token: ReaddirToken) -> None:
        handle = self._directories[fh]
        rewound = start == 0
        for cookie, number in dots(handle.inode, self._fs.parent(handle.inode))[start:]:
            name = FileNameT(b"." * cookie)
            if not pyfuse3.readdir_reply(token, name, dot(number), cookie):  # counts as no reference
                return
            start = cookie
        # rewinddir, seekdir, or another reader of the same handle; or a slow one: others may have changed the rest
        if rewound or start != handle.next or (handle.has_rest() and handle.age_s() >= KERNEL_CACHE_S):
            handle.go_to(start)
        self._give(handle, token, is_new=False)
        if handle.next == start:
            await self._fetch(handle)
            self._give(handle, token, is_new=True)
        elif handle.listed and not handle.complete:  # who reads on will want what follows
            self._fs.listing_ahead.want(handle.inode, handle.listed[-1].cookie, PAGE_ENTRIES)

    async def _fetch(self, handle: DirectoryHandle) -> None:
        """Have entries to give, unless none are left."""
        while not handle.has_rest() and not handle.complete:
            with self.pending.one():
                handle.listed, handle.complete = await self._fs.directory(
                    handle.inode, _behind(handle.next), PAGE_ENTRIES
                )
            handle.at, handle.fetched_s = 0, trio.current_time()

    def _give(self, handle: DirectoryHandle, token: ReaddirToken, *, is_new: bool) -> None:
        """As many entries of what was fetched as the kernel takes; each counts as one more reference. What is not
        `is_new` may have been changed here since: the kernel is told what is there now, and from a name on that leads
        elsewhere by now nothing, it is to be fetched again."""
        seconds, note, entry_of, refer = self.trust.seconds(), self.trust.note, self._entries.of, self._fs.refer
        age_s, current = min(handle.age_s(), KERNEL_CACHE_S), self._fs.tree.current
        for at in range(handle.at, len(handle.listed)):
            listed = handle.listed[at]
            name, dentry, inode = listed
            if not is_new:
                known = current(handle.inode, listed)
                if known is None:
                    handle.go_to(handle.next)
                    return
                inode = known
            entry = entry_of(inode.stat())
            entry.entry_timeout = note((handle.inode, name), seconds) - age_s
            entry.attr_timeout = note(inode.id, seconds) - age_s
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, dentry + 1):
                return
            refer(inode)
            handle.at, handle.next = at + 1, dentry + 1

    @prompt_number
    async def releasedir(self, fh: FileHandleT) -> None:
        self._directories.pop(fh, None)

    @guarded_number
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fs.promises.committed()

    # ---- files

    @guarded
    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        handle = await self._fs.create(
            InodeId(parent), name, stat.S_IMODE(mode), self._owner(ctx),
            umask=ctx.umask, inherit=self.enable_acl, append=self._appends(flags),
        )  # fmt: skip
        return self._opened(handle), self._reply(parent, name, handle.inode)

    @guarded_number
    async def open(self, number: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        # the kernel leaves O_TRUNC to us (libfuse asks it to)
        truncate, append = bool(flags & os.O_TRUNC), self._appends(flags)
        writes, is_root = flags & os.O_ACCMODE != os.O_RDONLY, ctx.uid == 0
        opened = await self._fs.open(
            InodeId(number), truncate=truncate, append=append, writes=writes, keep_set_id=is_root
        )
        return self._opened(opened)

    def _appends(self, flags: int) -> bool:
        """Whether writes go behind the end wherever that is now; a kernel that keeps pages has found their place."""
        return bool(flags & os.O_APPEND) and not self.enable_writeback_cache

    def _opened(self, handle: Handle) -> FileInfo:
        """Kernel pages are kept only when they are of the change that is read now, or are what shall be written."""
        fh = self._new_handle()
        self._files[fh] = handle
        inode = handle.inode
        keep = self.enable_writeback_cache or inode.cached_change == inode.head.change
        inode.cached_change = inode.head.change
        return pyfuse3.FileInfo(fh=fh, keep_cache=keep)

    @guarded_number
    async def read(self, fh: FileHandleT, offset: int, length: int) -> bytes:
        # pyfuse3 takes any contiguous buffer, whatever it declares
        data = await self._fs.read(self._files[fh], offset, length)
        self.meter.read_bytes += len(data)
        return data  # type: ignore[return-value]

    @guarded_number
    async def write(self, fh: FileHandleT, offset: int, data: bytes) -> int:
        self.meter.written_bytes += len(data)
        return await self._fs.write(self._files[fh], offset, data)

    @guarded_number
    async def flush(self, fh: FileHandleT) -> None:
        await self._fs.flush(self._files[fh])

    @guarded_number
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._fs.fsync(self._files[fh])

    @guarded_number
    async def release(self, fh: FileHandleT) -> None:
        await self._fs.release(self._files.pop(fh))

    def _owner(self, ctx: RequestContext) -> Owner:
        """Who makes something, as the volume knows them. Raises Unmapped."""
        return Owner(self.owners.users.stored(ctx.uid), self.owners.groups.stored(ctx.gid))

    def stacktrace(self) -> None:
        """pyfuse3 asks for this when the attribute fuse_stacktrace is set: not offered."""


def shown_space(space: Space) -> StatvfsData:
    """What statvfs(2) tells. Of a volume with a quota: that is how large the file system is, and how much is left of
    it, unless the pool has less."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = 4096
    total, free = space.total, min(space.free + space.trash, space.total)  # what the trash would give back included
    available = space.free
    if space.quota_bytes:
        left = max(0, space.quota_bytes - space.used)
        total, free, available = space.quota_bytes, left, min(available, left)
    data.f_blocks, data.f_bfree, data.f_bavail = total // 4096, free // 4096, available // 4096
    left = max(0, space.quota_files - space.inodes) if space.quota_files else 1 << 31
    data.f_files, data.f_ffree, data.f_favail = space.inodes + left, left, left
    data.f_namemax = 255
    return data


def _behind(cookie: int) -> DentryId:
    """The dentry that a cookie stands behind; from the dots on, all are wanted: only then may a listing count as whole,
    and be known."""
    return DentryId(cookie - 1 if cookie > DOTS else 0)
