"""The system calls a directory of chunk files makes, one method each, so that tests can fail or stop at any of them.

No policy: it raises what the system raises; `mapped` turns that into this project's errors at the edge.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from p2pfs.errors import NoSpace, Unavailable
from p2pfs.types import Buffer

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# From <linux/fs.h>; 64 bit.
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_TOP_DIRECTORY: Final = 0x00020000
# From <linux/openat2.h>.
_HOW: Final = struct.Struct("QQQ")  # flags, mode, resolve
_RESOLVE_CACHED: Final = 0x20
_OPENAT2: Final = 437
_AT_FDCWD: Final = -100
# From <linux/magic.h>: ext2 to ext4, XFS, Btrfs.
_OPENED_IN_MEMORY: Final = frozenset({0xEF53, 0x58465342, 0x9123683E})
"""RESOLVE_CACHED bounds only the walk along the path. The file system's own `open` asks a program or a server on FUSE,
NFS and what is laid over them; these find all they need in the inode."""
_STATFS_BYTES: Final = 256  # 120 are used

_libc = ctypes.CDLL(None)
_libc.statfs.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_syscall = _libc.syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long)
_syscall.restype = ctypes.c_long


class Disk:
    """Blocking; runs in threads."""

    def create(self, path: Path, *, direct: bool = False) -> int:
        """A new file, open for writing; never an existing one. `direct`: past the page cache, whole pages only."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
        return os.open(path, flags, 0o600)

    def write(self, fd: int, data: Buffer) -> None:
        """All of `data`."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def sync(self, fd: int) -> None:
        """Content and size to stable storage."""
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)

    def remove_directory(self, path: Path) -> None:
        path.rmdir()

    def spread(self, directory: Path) -> None:
        """Directories made in `directory` from now on need not lie near it (`chattr +T`). ext4 looks for a free inode
        near the directory of a new file and passes over, one by one, all that were freed in the last minutes: 0.1 to
        0.5 ms a file where others have just deleted thousands. Where it means nothing it does nothing."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):
                (flags,) = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))
                if not flags & _TOP_DIRECTORY:
                    fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags | _TOP_DIRECTORY))
        finally:
            os.close(fd)

    def sync_directory(self, path: Path) -> None:
        """Make names created, renamed or removed in `path` durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def open(self, path: Path, *, direct: bool = False) -> int:
        """An existing file, for reading. `direct`: past the page cache, whole pages into aligned memory only."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_DIRECT if direct else 0))

    def open_cached(self, path: str) -> int | None:
        """As `open`, but only if the system knows the file without asking the disk; None if not, or if it cannot tell
        (Linux before 5.12), or if the file is another user's. Only where `opens_in_memory`."""
        # No time of access: setting it may wait for the file system's journal.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOATIME
        how = _HOW.pack(flags, 0, _RESOLVE_CACHED)
        fd = _syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), how, _HOW.size)
        return int(fd) if fd >= 0 else None

    def opens_in_memory(self, path: Path) -> bool:
        """Whether the file system of `path` is known to open a file that the system knows without asking anybody."""
        state = ctypes.create_string_buffer(_STATFS_BYTES)
        failed = _libc.statfs(os.fsencode(path), state)
        return not failed and struct.unpack_from("l", state)[0] in _OPENED_IN_MEMORY

    def read_cached(self, fd: int, view: memoryview, offset: int) -> int:
        """What the page cache has of the bytes from `offset` on, at most `view`; how many. The disk is not asked."""
        try:
            return os.preadv(fd, [view], offset, os.RWF_NOWAIT)
        except OSError:  # nothing, or it cannot tell
            return 0

    def read_into(self, fd: int, view: memoryview, offset: int, enough: int) -> int:
        """Bytes from `offset` on: `enough` of them, or what there is before the end of the file. How many."""
        count = 0
        while count < enough:
            got = os.preadv(fd, [view[count:]], offset + count)
            if not got:
                break
            count += got
        return count

    def forget(self, fd: int) -> None:
        """Drop what the page cache has of a file, so that the next read is of the disk."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def free(self, path: Path) -> int:
        """Bytes an ordinary user may still write on the disk of `path`."""
        state = os.statvfs(path)
        return state.f_bavail * state.f_frsize


def allows_direct(disk: Disk, directory: Path) -> bool:
    """Whether files in `directory` can be written past the page cache: not on every file system, nor on a full one."""
    path = directory / "direct.tmp"
    page = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
    try:
        disk.remove(path)
        fd = disk.create(path, direct=True)
        try:
            disk.write(fd, page)
        finally:
            disk.close(fd)
            disk.remove(path)
    except OSError:
        return False
    return True


def allows_cached(disk: Disk, directory: Path) -> bool:
    """Whether what is in the page cache of files in `directory` can be had for certain without waiting. Tried, as the
    system or its sandbox may refuse: each read would look in vain."""
    path, content = directory / "cached.tmp", os.urandom(mmap.PAGESIZE)
    found = memoryview(bytearray(len(content)))
    try:
        if not disk.opens_in_memory(directory):
            return False
        disk.remove(path)
        try:
            with _closing(disk, disk.create(path)) as fd:
                disk.write(fd, content)
            with _closing(disk, disk.open(path)) as fd:
                disk.read_into(fd, found, 0, len(found))
            found[:] = bytes(len(found))
            cached = disk.open_cached(str(path))
            if cached is None:
                return False
            with _closing(disk, cached) as fd:
                return disk.read_cached(fd, found, 0) == len(found) and found == content
        finally:
            disk.remove(path)
    except OSError:
        return False


@contextlib.contextmanager
def _closing(disk: Disk, fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        disk.close(fd)


@contextlib.contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Turn what the system raises into NoSpace or Unavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"the disk is full ({doing})") from error
        raise Unavailable(f"the disk fails ({doing}): {error.strerror or error}") from error
