"""A pass-through over a directory of a local file system: what FUSE and pyfuse3 themselves can do, and no more.

`run.py` repeats here what failed on a p2pfs mount: what fails here too is no fault of p2pfs. It is not a file system
for people: it is slow, one call waits for another, and it must be run by root.

    python passthrough.py DIRECTORY MOUNT-POINT
"""

import ctypes
import errno
import functools
import os
import resource
import stat
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, InodeT, ModeT, RequestContext

KERNEL_CACHE_S: Final = 1.0
"""As long as a p2pfs mount lets the kernel remember names and attributes."""
OURS: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_DIRECT
"""Flags of open(2) that the kernel has done itself by the time it asks (or does with every write, as O_APPEND)."""
UTIME_OMIT: Final = (1 << 30) - 2
AT_FDCWD: Final = -100
DOTS: Final = (b".", b"..")

P = ParamSpec("P")
R = TypeVar("R")

libc = ctypes.CDLL(None, use_errno=True)


class Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def checked(result: int) -> None:
    """Raises OSError as the call of libc failed."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def set_times(path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
    """utimensat(2); a time that is None stays."""
    times = (Timespec * 2)(
        *(Timespec(0, UTIME_OMIT) if ns is None else Timespec(*divmod(ns, 10**9)) for ns in (atime_ns, mtime_ns))
    )
    checked(libc.utimensat(AT_FDCWD, path.encode(), times, 0))


def passing_on(handler: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Any:  # noqa: ANN401
    """An OSError of the file system below is the errno of the call."""

    @functools.wraps(handler)
    async def handle(self: "PassThrough", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None

    return handle


@dataclass(slots=True)
class Node:
    """An inode the kernel knows, held by a descriptor that outlives its names."""

    fd: int
    lookups: int = 0


@dataclass(slots=True)
class Directory:
    """An open directory and its entries as they were when reading began."""

    fd: int
    node: int
    names: list[bytes] = field(default_factory=list)


class PassThrough(pyfuse3.Operations):
    """Numbers of inodes are those below, except the root's; no number is used again while its node is held."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._nodes = {pyfuse3.ROOT_INODE: Node(os.open(directory, os.O_PATH), 1)}
        self._directories: dict[int, Directory] = {}

    # ---- inodes

    def _fd(self, number: int) -> int:
        return self._nodes[InodeT(number)].fd

    def _path(self, number: int) -> str:
        """A path that leads to the inode itself, also to a symbolic link or to one without a name."""
        return f"/proc/self/fd/{self._fd(number)}"

    def _entry(self, fd: int) -> EntryAttributes:
        row = os.fstat(fd)
        entry = EntryAttributes()
        root = os.fstat(self._fd(pyfuse3.ROOT_INODE))
        entry.st_ino = pyfuse3.ROOT_INODE if row.st_ino == root.st_ino else InodeT(row.st_ino)
        entry.generation = 0
        entry.entry_timeout = entry.attr_timeout = KERNEL_CACHE_S
        for name in ("mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"):
            setattr(entry, f"st_{name}", getattr(row, f"st_{name}"))
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = row.st_atime_ns, row.st_mtime_ns, row.st_ctime_ns
        return entry

    def _found(self, parent: int, name: bytes) -> EntryAttributes:
        """Attributes of a name, which count as one more reference of the kernel's."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._fd(parent))
        try:
            entry = self._entry(fd)
            node = self._nodes.get(entry.st_ino)
            if node is None:
                node = self._nodes[entry.st_ino] = Node(fd)
                fd = -1
            node.lookups += 1
            return entry
        finally:
            if fd >= 0:
                os.close(fd)

    @passing_on
    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._found(parent, name)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, count in inode_list:
            node = self._nodes[number]
            node.lookups -= count
            if node.lookups == 0 and number != pyfuse3.ROOT_INODE:
                os.close(self._nodes.pop(number).fd)

    @passing_on
    async def getattr(self, number: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._fd(number))

    @passing_on
    async def setattr(
        self,
        number: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        path = self._path(number)
        if fields.update_size:
            os.truncate(path if fh is None else fh, attr.st_size)
        if fields.update_uid or fields.update_gid:
            os.chown(path, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1)
        if fields.update_mode:
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_atime or fields.update_mtime:
            set_times(
                path,
                attr.st_atime_ns if fields.update_atime else None,
                attr.st_mtime_ns if fields.update_mtime else None,
            )
        return self._entry(self._fd(number))

    @passing_on
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        row = os.fstatvfs(self._fd(pyfuse3.ROOT_INODE))
        data = pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(data, f"f_{name}", getattr(row, f"f_{name}"))
        return data

    @passing_on
    async def setxattr(self, number: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        os.setxattr(self._path(number), name, value)

    @passing_on
    async def getxattr(self, number: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        return os.getxattr(self._path(number), name)

    @passing_on
    async def listxattr(self, number: InodeT, ctx: RequestContext) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self._path(number))]

    @passing_on
    async def removexattr(self, number: InodeT, name: bytes, ctx: RequestContext) -> None:
        os.removexattr(self._path(number), name)

    # ---- names

    @contextmanager
    def _made(self, parent: int, name: bytes, ctx: RequestContext) -> Iterator[None]:
        """What the block makes belongs to the caller, with the group and bits that the directory gives it."""
        yield
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._fd(parent))
        try:
            path, made = f"/proc/self/fd/{fd}", os.fstat(fd)
            has_groups = os.fstat(self._fd(parent)).st_mode & stat.S_ISGID
            os.chown(path, ctx.uid, -1 if has_groups else ctx.gid)
            if made.st_mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(made.st_mode):
                os.chmod(path, stat.S_IMODE(made.st_mode))  # chown(2) took them
        finally:
            os.close(fd)

    @passing_on
    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        with self._made(parent, name, ctx):
            os.mknod(name, mode & ~ctx.umask, rdev, dir_fd=self._fd(parent))
        return self._found(parent, name)

    @passing_on
    async def mkdir(self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        with self._made(parent, name, ctx):
            os.mkdir(name, stat.S_IMODE(mode) & ~ctx.umask, dir_fd=self._fd(parent))
        return self._found(parent, name)

    @passing_on
    async def symlink(self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        with self._made(parent, name, ctx):
            os.symlink(target, name, dir_fd=self._fd(parent))
        return self._found(parent, name)

    @passing_on
    async def readlink(self, number: InodeT, ctx: RequestContext) -> bytes:
        return os.readlink(b"", dir_fd=self._fd(number))

    @passing_on
    async def link(self, number: InodeT, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        os.link(self._path(number), name, dst_dir_fd=self._fd(parent), follow_symlinks=True)
        return self._found(parent, name)

    @passing_on
    async def unlink(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        os.unlink(name, dir_fd=self._fd(parent))

    @passing_on
    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        os.rmdir(name, dir_fd=self._fd(parent))

    @passing_on
    async def rename(
        self, old: InodeT, name: FileNameT, new: InodeT, new_name: FileNameT, flags: FlagT, ctx: RequestContext
    ) -> None:
        checked(libc.renameat2(self._fd(old), name, self._fd(new), new_name, flags))

    # ---- directories

    @passing_on
    async def opendir(self, number: InodeT, ctx: RequestContext) -> FileHandleT:
        fd = os.open(self._path(number), os.O_RDONLY | os.O_DIRECTORY)
        self._directories[fd] = Directory(fd, number)
        return FileHandleT(fd)

    @passing_on
    async def readdir(self, fh: FileHandleT, start: int, token: pyfuse3.ReaddirToken) -> None:
        directory = self._directories[fh]
        if start == 0:
            directory.names = [*DOTS, *(os.fsencode(name) for name in os.listdir(directory.fd))]
        for number, name in enumerate(directory.names[start:], start + 1):
            try:
                entry = self._dot(directory, name) if name in DOTS else self._found(directory.node, name)
            except FileNotFoundError:  # removed since reading began
                continue
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, number):
                if name not in DOTS:
                    await self.forget([(entry.st_ino, 1)])
                return

    def _dot(self, directory: Directory, name: bytes) -> EntryAttributes:
        """The kernel does not count these as references."""
        fd = os.open(name, os.O_PATH, dir_fd=directory.fd)
        try:
            return self._entry(fd)
        finally:
            os.close(fd)

    async def releasedir(self, fh: FileHandleT) -> None:
        del self._directories[fh]
        os.close(fh)

    @passing_on
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        os.fsync(fh)

    # ---- files

    @passing_on
    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        with self._made(parent, name, ctx):
            flags = FlagT(flags & ~OURS | os.O_CREAT | os.O_EXCL)
            fd = os.open(name, flags, stat.S_IMODE(mode) & ~ctx.umask, dir_fd=self._fd(parent))
        return FileInfo(fh=FileHandleT(fd)), self._found(parent, name)

    @passing_on
    async def open(self, number: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=FileHandleT(os.open(self._path(number), flags & ~OURS)))

    @passing_on
    async def read(self, fh: FileHandleT, offset: int, length: int) -> bytes:
        return os.pread(fh, length, offset)

    @passing_on
    async def write(self, fh: FileHandleT, offset: int, data: bytes) -> int:
        return os.pwrite(fh, data, offset)

    @passing_on
    async def flush(self, fh: FileHandleT) -> None:
        os.close(os.dup(fh))

    @passing_on
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        os.fdatasync(fh) if datasync else os.fsync(fh)

    @passing_on
    async def release(self, fh: FileHandleT) -> None:
        os.close(fh)

    def stacktrace(self) -> None:
        """pyfuse3 asks for this when the attribute fuse_stacktrace is set: not offered."""


def main(directory: str, mount_point: str) -> None:
    os.umask(0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one for each inode the kernel remembers
    options = {"default_permissions", "allow_other", "fsname=passthrough", "subtype=passthrough"}
    pyfuse3.init(PassThrough(directory), mount_point, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
