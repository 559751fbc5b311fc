"""Mounting so that the kernel leaves the umask to us, which default access lists need: a file made in a directory that
has one gets what the list allows, not what the umask leaves.

The kernel does so for mounts with the flag `acl` (or FUSE_DONT_MASK, which pyfuse3 cannot ask for). fusermount3 cannot
give that flag either, so root calls mount(2) itself and hands libfuse the open device. Anybody else mounts as ever,
and then the umask counts too.
"""

import contextlib
import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from p2pfs.runtime import mounts
from p2pfs_mount import life

log = logging.getLogger(__name__)

_READ_ONLY: Final = 1
_NO_SET_ID: Final = 2
_NO_DEVICES: Final = 4
_POSIX_ACL: Final = 1 << 16
_DIRECTORY: Final = "40000"  # rootmode, octal


@contextlib.contextmanager
def mounted(path: Path, source: str, *, read_only: bool) -> Iterator[str]:
    """What libfuse is to take as its mount point: an open device mounted at `path`, or `path` itself where we may not
    mount. The block hands it to libfuse, and an exception there takes the mount away; behind the block that is left to
    who goes on with it, since libfuse does not unmount what it did not mount (`Connection.detach`)."""
    if os.geteuid() != 0:
        yield str(path)
        return
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    flags = _NO_SET_ID | _NO_DEVICES | _POSIX_ACL | (_READ_ONLY if read_only else 0)
    data = f"fd={device},rootmode={_DIRECTORY},user_id=0,group_id={os.getegid()},default_permissions,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    given = (source, os.fspath(path), mounts.KERNEL_TYPE, data)
    encoded = [os.fsencode(text) for text in given]
    if libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]) != 0:
        log.info("%s cannot be mounted with acl (%s): the umask will count", path, os.strerror(ctypes.get_errno()))
        os.close(device)
        yield str(path)
        return
    try:
        yield f"/dev/fd/{device}"  # libfuse closes it
    except BaseException:
        life.detach(path)
        raise
