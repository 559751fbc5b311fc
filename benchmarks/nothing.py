#!/usr/bin/env python3
"""A pyfuse3 file system that does nothing: no network, no disk, no encryption; what FUSE and Python cost by themselves.

usage: nothing.py MOUNT-POINT      until unmounted; all is lost then

A tree in this process's memory. It keeps the bytes, because the workload compares what it reads with what it wrote; a
whole MiB is kept as the kernel gave it, without a copy. The kernel may keep everything it ever saw (names, attributes,
pages), which no file system with a second mount could allow: it is the ceiling, not a rival. Without xattrs, with the
read-ahead of a p2pfs mount and its way of reading requests. Only what the workload calls is there.
"""

import errno
import itertools
import os
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, InodeT, ModeT, RequestContext

from p2pfs_mount.fuse_loop import FuseLoop
from p2pfs_mount.life import raise_read_ahead

KERNEL_CACHE_S = 3600.0
MIB = 1 << 20


class Content:
    """The bytes of a file, by MiB. A piece that is missing or short ends in zeros."""

    __slots__ = ("pieces", "size")

    def __init__(self) -> None:
        self.size, self.pieces = 0, dict[int, bytes | bytearray]()

    def write(self, offset: int, data: bytes) -> None:
        self.size = max(self.size, offset + len(data))
        if len(data) == MIB and offset % MIB == 0:
            self.pieces[offset // MIB] = data
            return
        view = memoryview(data)
        while view:
            index, start = divmod(offset, MIB)
            part = view[: MIB - start]
            piece = self.pieces.get(index, b"")
            if isinstance(piece, bytes):
                piece = self.pieces[index] = bytearray(piece)
            if len(piece) < start:
                piece.extend(bytes(start - len(piece)))
            piece[start : start + len(part)] = part
            view, offset = view[len(part) :], offset + len(part)

    def read(self, offset: int, length: int) -> bytes | bytearray:
        end = min(offset + length, self.size)
        parts = list[bytes | bytearray]()
        while offset < end:
            index, start = divmod(offset, MIB)
            count = min(MIB - start, end - offset)
            part = self.pieces.get(index, b"")[start : start + count]
            parts.append(part if len(part) == count else part.ljust(count, b"\0"))
            offset += count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def truncate(self, size: int) -> None:
        for index in [index for index in self.pieces if index * MIB >= size]:
            del self.pieces[index]
        last, rest = divmod(size, MIB)
        if last in self.pieces:
            self.pieces[last] = self.pieces[last][:rest]
        self.size = size


@dataclass(slots=True, kw_only=True)
class Node:
    """A file or a directory."""

    number: InodeT
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    links: int = 1
    references: int = 0  # the kernel's
    content: Content = field(default_factory=Content)
    entries: dict[bytes, InodeT] = field(default_factory=dict)


class Nothing(pyfuse3.Operations):
    """File handles are inode numbers."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(pyfuse3.ROOT_INODE)
        self._nodes: dict[int, Node] = {}
        self._listed: dict[int, list[tuple[bytes, InodeT]]] = {}
        self._make(stat.S_IFDIR | 0o755, os.geteuid(), os.getegid())

    # ---- inodes

    def _make(self, mode: int, uid: int, gid: int) -> Node:
        now = time.time_ns()
        number = InodeT(next(self._numbers))
        made = Node(number=number, mode=mode, uid=uid, gid=gid, atime_ns=now, mtime_ns=now, ctime_ns=now)
        self._nodes[number] = made
        return made

    def _add(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> Node:
        directory = self._nodes[parent]
        if name in directory.entries:
            raise pyfuse3.FUSEError(errno.EEXIST)
        node = self._make(mode & ~ctx.umask, ctx.uid, ctx.gid)
        directory.entries[name] = node.number
        directory.mtime_ns = directory.ctime_ns = node.ctime_ns
        return node

    def _drop(self, node: Node) -> None:
        if not node.links and not node.references:
            del self._nodes[node.number]

    def _child(self, parent: int, name: bytes) -> Node:
        try:
            return self._nodes[self._nodes[parent].entries[name]]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    def _attributes(self, node: Node) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino, entry.generation = node.number, 0
        entry.entry_timeout = entry.attr_timeout = KERNEL_CACHE_S
        entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid = ModeT(node.mode), node.links, node.uid, node.gid
        entry.st_rdev, entry.st_blksize = 0, 4096
        entry.st_size = node.content.size
        entry.st_blocks = -(-entry.st_size // 512)
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = node.atime_ns, node.mtime_ns, node.ctime_ns
        return entry

    def _entry(self, node: Node) -> EntryAttributes:
        """Attributes given together with a name: one more reference of the kernel's."""
        node.references += 1
        return self._attributes(node)

    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._child(parent, name))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, count in inode_list:
            node = self._nodes[number]
            node.references -= count
            self._drop(node)

    async def getattr(self, number: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._nodes[number])

    async def setattr(
        self,
        number: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._nodes[number]
        if fields.update_size:
            node.content.truncate(attr.st_size)
        if fields.update_mode:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode)
        for name in ("uid", "gid", "atime", "mtime"):
            if getattr(fields, f"update_{name}"):
                own = name if name.endswith("id") else f"{name}_ns"
                setattr(node, own, getattr(attr, f"st_{own}"))
        node.ctime_ns = time.time_ns()
        return self._attributes(node)

    # ---- names

    async def mkdir(self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._add(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx))

    async def unlink(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._remove(parent, name)

    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if self._child(parent, name).entries:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        self._remove(parent, name)

    def _remove(self, parent: int, name: bytes) -> None:
        node = self._child(parent, name)
        del self._nodes[parent].entries[name]
        node.links -= 1
        self._drop(node)

    async def opendir(self, number: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(number)

    async def readdir(self, fh: FileHandleT, start: int, token: pyfuse3.ReaddirToken) -> None:
        if start == 0:
            self._listed[fh] = list(self._nodes[fh].entries.items())
        listed = self._listed[fh]
        for index in range(start, len(listed)):
            name, number = listed[index]
            node = self._nodes.get(number)
            if node is None:  # removed since reading began
                continue
            if not pyfuse3.readdir_reply(token, FileNameT(name), self._attributes(node), index + 1):
                return
            node.references += 1

    async def releasedir(self, fh: FileHandleT) -> None:
        self._listed.pop(fh, None)

    # ---- files

    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._add(parent, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        return self._opened(node.number), self._entry(node)

    async def open(self, number: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:
            self._nodes[number].content.truncate(0)
        return self._opened(number)

    def _opened(self, number: int) -> FileInfo:
        return FileInfo(fh=FileHandleT(number), keep_cache=True)

    async def read(self, fh: FileHandleT, offset: int, length: int) -> bytes:
        # pyfuse3 takes any contiguous buffer, whatever it declares
        return self._nodes[fh].content.read(offset, length)  # type: ignore[return-value]

    async def write(self, fh: FileHandleT, offset: int, data: bytes) -> int:
        node = self._nodes[fh]
        node.content.write(offset, data)
        node.mtime_ns = time.time_ns()
        return len(data)

    async def flush(self, fh: FileHandleT) -> None:
        return

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        return

    async def release(self, fh: FileHandleT) -> None:
        return

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        return

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = 1 << 24
        data.f_files = data.f_ffree = data.f_favail = 1 << 24
        data.f_namemax = 255
        return data

    def stacktrace(self) -> None:
        """pyfuse3 asks for this when the attribute fuse_stacktrace is set: not offered."""


async def serve(mount_point: Path, loop: FuseLoop) -> None:
    async with trio.open_nursery() as nursery:
        # Asks the mount itself, so it must run beside it.
        nursery.start_soon(trio.to_thread.run_sync, raise_read_ahead, mount_point)
        await loop.serve()


def main(mount_point: Path) -> None:
    loop = FuseLoop()
    options = {"default_permissions", "fsname=nothing", "subtype=nothing"}
    pyfuse3.init(loop.of(Nothing()), str(mount_point), options)
    try:
        trio.run(serve, mount_point, loop)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
