"""Small files written so that a crash leaves the old or the new content, never a mixture.

Not for chunks, which have their own store. Blocking: call it at start-up or in a thread.
"""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from p2pfs.errors import NoSpace, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_durably(path: Path, data: bytes, mode: int = 0o644, *, sync: bool = True, like: Path | None = None) -> None:
    """Replace `path` by `data`. Written by root, it is given to the owner of `like`: commands are typed as root in the
    homes of daemons that have a user of their own.

    Durability: on return content and name are on stable storage; without `sync` only a crash of this process leaves the
    old or the new content for certain.

    Raises:
        NoSpace: The disk is full; the old file is untouched.
        Unavailable: Any other failure of the disk; the old file is untouched or already replaced.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # The mode is given at creation: a secret is never readable for others, not for an instant.
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            if like is not None:
                give_to_owner(fd, like)
            os.fchmod(fd, mode)
            _write_all(fd, data)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        if sync:
            sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # a disk that went read-only refuses this, too
            temporary.unlink()
        if error.errno in _FULL:
            raise NoSpace(f"no space left on the disk of {path}") from error
        raise Unavailable(f"cannot write {path}: {error.strerror}") from error


def give_to_owner(fd: int, like: Path) -> None:
    """Have a file that root made belong to the owner of `like`; nothing where somebody else calls, or where the file
    has other names: whoever owns the directory may have put somebody else's file there. Raises OSError."""
    if os.geteuid() == 0:
        owner, found = like.stat(), os.fstat(fd)
        is_only_here = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if is_only_here and found.st_uid != owner.st_uid:  # otherwise nothing needs the right to give
            os.fchown(fd, owner.st_uid, owner.st_gid)


def sync_directory(path: Path) -> None:
    """Make names created, renamed or removed in this directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
