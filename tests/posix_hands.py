"""A program for tests: does one step of a file system's user in two directories and says what came of it in each.

    python posix_hands.py UID GID GROUPS BASE BASE

Reads one Python literal a line (see `posix_steps`) and answers each with a line: the outcomes in the first and in the
second directory. Started as root, it opens the bases and becomes the user before it does anything. Descriptors live in
numbered slots, so that a step can be left out and the rest still means something. `Hands` is the other end.
"""

import ast
import ctypes
import errno
import hashlib
import mmap
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

Outcome = Any
STEP_S: Final = 60.0
CLOCK_REALTIME_COARSE = 5  # of Linux; Python does not name it
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x1000
LIBC = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _call(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "")


def _times(*given: int | str) -> Any:  # noqa: ANN401 - a ctypes array
    special = {"now": (0, UTIME_NOW), "omit": (0, UTIME_OMIT)}
    pairs = [special[each] if isinstance(each, str) else divmod(each, 10**9) for each in given]
    return (_Timespec * 2)(*(_Timespec(*pair) for pair in pairs))


def pattern(seed: int, length: int) -> bytes:
    """Bytes that tell where in a write they were, and of which write they are."""
    unit = hashlib.sha256(b"%d" % seed).digest()[:31]
    return (unit * (length // 31 + 1))[:length]


def _short(data: bytes) -> object:
    return data if len(data) <= 40 else (len(data), hashlib.sha256(data).hexdigest()[:16])


def described(found: os.stat_result) -> tuple[object, ...]:
    """What POSIX says of an inode and is equal on every file system; times apart."""
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    mode = found.st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID:
        mode &= ~stat.S_ISGID  # means nothing any more; who takes it when differs
    return (stat.filemode(mode), oct(mode), found.st_uid, found.st_gid, found.st_nlink, size)


def _leave_to_root(uid: int, gid: int) -> None:
    """FUSE's kernel lets anybody "change" owner and group to what they are where a set-gid bit stands without the
    group's execute bit; on a local disk that would take the bit, which only the owner may."""
    if uid == gid == -1 and os.geteuid() != 0:
        raise OSError(errno.EMEDIUMTYPE, "")


class Side:
    """One of the two directories, with this user's descriptors in it."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._root = -1
        self.slots: dict[int, int] = {}

    def enter(self, name: str) -> None:
        """Leave everything and go on in another directory of the base."""
        for fd in self.slots.values():
            os.close(fd)
        self.slots.clear()
        if self._root >= 0:
            os.close(self._root)
        self._root = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._base)

    def do(self, verb: str, args: tuple[Any, ...]) -> Outcome:
        try:
            os.fchdir(self._root)
            return VERBS[verb](self, *args)
        except KeyError:
            return "no such descriptor"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))

    # ---- descriptors

    def open(self, slot: int, path: bytes, flags: int, mode: int, umask: int) -> Outcome:
        os.umask(umask)
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)  # a fifo must not keep us
        if slot in self.slots:
            os.close(self.slots.pop(slot))
        self.slots[slot] = fd
        return stat.S_IFMT(os.fstat(fd).st_mode)

    def close(self, slot: int) -> Outcome:
        os.close(self.slots.pop(slot))
        return None

    def dup(self, slot: int, new: int) -> Outcome:
        fd = os.dup(self.slots[slot])
        if new in self.slots:
            os.close(self.slots.pop(new))
        self.slots[new] = fd
        return None

    def _content(self, slot: int) -> int:
        """A descriptor to read or write. A fifo is not: the times of one in FUSE do not follow its use."""
        fd = self.slots[slot]
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EMEDIUMTYPE, "")
        return fd

    def read(self, slot: int, length: int) -> Outcome:
        return _short(os.read(self._content(slot), length))

    def write(self, slot: int, seed: int, length: int) -> Outcome:
        return os.write(self._content(slot), pattern(seed, length))

    def pread(self, slot: int, offset: int, length: int) -> Outcome:
        return _short(os.pread(self._content(slot), length, offset))

    def pwrite(self, slot: int, offset: int, seed: int, length: int) -> Outcome:
        return os.pwrite(self._content(slot), pattern(seed, length), offset)

    def lseek(self, slot: int, offset: int, whence: int) -> Outcome:
        fd = self._content(slot)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return None  # where a directory can be sought to is its file system's own affair
        return os.lseek(fd, offset, whence)

    def mmap(self, slot: int, offset: int, seed: int, length: int, flush: int) -> Outcome:
        fd = self._content(slot)
        size = os.fstat(fd).st_size
        if offset + length > size or not size or not stat.S_ISREG(os.fstat(fd).st_mode):
            return "not mapped"
        with mmap.mmap(fd, size) as mapped:
            before = mapped[offset : offset + length]
            mapped[offset : offset + length] = pattern(seed, length)
            if flush:
                mapped.flush()
        return _short(before)

    def ftruncate(self, slot: int, size: int) -> Outcome:
        os.ftruncate(self._content(slot), size)

    def fsync(self, slot: int, data_only: int) -> Outcome:
        (os.fdatasync if data_only else os.fsync)(self._content(slot))

    def fstat(self, slot: int) -> Outcome:
        return described(os.fstat(self.slots[slot]))

    def fchmod(self, slot: int, mode: int) -> Outcome:
        os.fchmod(self.slots[slot], mode)

    def fchown(self, slot: int, uid: int, gid: int) -> Outcome:
        _leave_to_root(uid, gid)
        os.fchown(self.slots[slot], uid, gid)

    def futimens(self, slot: int, atime: int | str, mtime: int | str) -> Outcome:
        _call(LIBC.futimens(self.slots[slot], _times(atime, mtime)))

    def flist(self, slot: int) -> Outcome:
        return sorted(os.fsencode(name) for name in os.listdir(self.slots[slot]))

    def flink(self, slot: int, path: bytes) -> Outcome:
        _call(LIBC.linkat(self.slots[slot], b"", AT_FDCWD, path, AT_EMPTY_PATH))

    def openat(self, slot: int, new: int, name: bytes, flags: int, mode: int) -> Outcome:
        os.umask(0o022)
        fd = os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=self.slots[slot])
        if new in self.slots:
            os.close(self.slots.pop(new))
        self.slots[new] = fd
        return stat.S_IFMT(os.fstat(fd).st_mode)

    # ---- paths

    def truncate(self, path: bytes, size: int) -> Outcome:
        os.truncate(path, size)
        return None

    def mkdir(self, path: bytes, mode: int, umask: int) -> Outcome:
        os.umask(umask)
        os.mkdir(path, mode)

    def rmdir(self, path: bytes) -> Outcome:
        os.rmdir(path)

    def unlink(self, path: bytes) -> Outcome:
        os.unlink(path)

    def rename(self, old: bytes, new: bytes, flags: int) -> Outcome:
        _call(LIBC.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))

    def link(self, old: bytes, new: bytes, follow: int) -> Outcome:
        os.link(old, new, follow_symlinks=bool(follow))

    def symlink(self, target: bytes, path: bytes) -> Outcome:
        os.symlink(target, path)

    def readlink(self, path: bytes) -> Outcome:
        return _short(os.readlink(path))

    def mknod(self, path: bytes, mode: int, device: int, umask: int) -> Outcome:
        os.umask(umask)
        os.mknod(path, mode, device)

    def chmod(self, path: bytes, mode: int) -> Outcome:
        os.chmod(path, mode)

    def chown(self, path: bytes, uid: int, gid: int, follow: int) -> Outcome:
        _leave_to_root(uid, gid)
        os.chown(path, uid, gid, follow_symlinks=bool(follow))

    def utimens(self, path: bytes, atime: int | str, mtime: int | str, follow: int) -> Outcome:
        _call(LIBC.utimensat(AT_FDCWD, path, _times(atime, mtime), 0 if follow else AT_SYMLINK_NOFOLLOW))

    def access(self, path: bytes, mode: int) -> Outcome:
        return os.access(path, mode)

    def stat(self, path: bytes, follow: int) -> Outcome:
        return described(os.stat(path, follow_symlinks=bool(follow)))

    def listdir(self, path: bytes) -> Outcome:
        with os.scandir(path) as entries:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries)

    def cat(self, path: bytes) -> Outcome:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "not read"
        with open(path, "rb", buffering=0) as file:
            return _short(file.read(8 << 20))


VERBS: Final[dict[str, Callable[..., Outcome]]] = {
    name: function
    for name, function in vars(Side).items()
    if name[0] != "_" and name not in ("do", "enter", "is_nameless_other")
}


def _tick() -> int:
    """The clock of a local file system's inodes."""
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


def main() -> None:
    uid, gid = int(sys.argv[1]), int(sys.argv[2])
    groups = [int(word) for word in sys.argv[3].split(",") if word]
    sides = [Side(os.open(base, os.O_RDONLY | os.O_DIRECTORY)) for base in sys.argv[4:]]
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    for line in sys.stdin:
        verb, *args = ast.literal_eval(line)
        if verb == "enter":
            for side in sides:
                side.enter(*args)
            print("None", flush=True)
            continue
        began = _tick()
        outcomes = [sides[0].do(verb, tuple(args))]
        while _tick() == began:  # or a time that did not move might have been set again
            time.sleep(0.0005)
        outcomes.append(sides[1].do(verb, tuple(args)))
        print(repr(outcomes), flush=True)


class Hands:
    """A user with open descriptors in both directories: a process of its own, which lives until `end`."""

    def __init__(self, uid: int, gid: int, groups: list[int], bases: list[Path]) -> None:
        words = [str(uid), str(gid), ",".join(map(str, groups)), *map(str, bases)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, *step: Any) -> list[Outcome]:  # noqa: ANN401 - a step's literals
        """The outcomes on both sides. Raises TimeoutError when a call hangs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(repr(step) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], STEP_S)[0]:
            raise TimeoutError(f"{step} hangs")
        outcomes: list[Outcome] = ast.literal_eval(self._process.stdout.readline())
        return outcomes

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    main()
