"""The kernel's end of a mount: cutting it off when nothing else helps.

A thread that waits in the kernel for the answer to a request cannot be ended, and its process cannot be killed, until
that request ends. Cutting the connection ends all requests; whoever uses the mount gets an error then.
"""

import ctypes
import logging
import os
import subprocess
from pathlib import Path
from typing import Final

import pyfuse3

from p2pfs import exitcodes
from p2pfs.runtime import mounts
from p2pfs_mount import life
from p2pfs_mount.pending import Pending

log = logging.getLogger(__name__)

_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_MNT_FORCE: Final = 1
_UMOUNT_NOFOLLOW: Final = 8


class Connection:
    """The connection behind one mount point, known from when it was made: later it may be detached."""

    def __init__(self, path: Path, connections: Path = _CONNECTIONS) -> None:
        self._path, self._connections = path, connections
        self.number = mounts.device(path)
        self._is_left = False

    def abort(self) -> bool:
        """End all requests and take none any more; whether that was possible. Never blocks.

        The abort file belongs to whoever mounted and is there where fusectl is mounted; root can force an unmount,
        which cuts the connection even if the mount then stays. Both leave a mount that answers ENOTCONN at worst.
        """
        if self.number is None:
            return False
        try:
            (self._connections / str(self.number) / "abort").write_text("1")
            return True
        except OSError as error:
            log.info("no abort file: %s", error)
        if os.geteuid() != 0 or mounts.device(self._path) != self.number:
            return False
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(os.fsencode(self._path), _MNT_FORCE | _UMOUNT_NOFOLLOW)  # EBUSY is usual: cut off, and still there
        return True

    def detach(self) -> None:
        """Take the mount out of the tree if it is still there, which it is when it was cut or did not end by an
        unmount: libfuse leaves a mount that was cut, and one that it did not make. Only the first call does something,
        as later another's mount may be there under the same number. Blocks while fusermount3 runs."""
        is_left, self._is_left = self._is_left, True
        if is_left or self.number is None or mounts.device(self._path) != self.number:
            return
        try:
            life.detach(self._path)
        except (OSError, subprocess.SubprocessError) as error:
            log.error("%s stays mounted: %s", self._path, error)


class Cut:
    """How a mount ends whose notification hangs (`KernelCache`): first the connection; asked again, the process."""

    def __init__(self, connection: Connection, pending: Pending) -> None:
        self._connection, self._pending = connection, pending
        self.is_cut = False

    def stuck(self) -> None:
        """Make `pyfuse3.main` return soon. Unsaved bytes can still be stored then, by who called it."""
        if self.is_cut:
            log.critical("a notification still hangs in the kernel: ending the process")
            os._exit(exitcodes.ABORTED)
        self.is_cut = True
        log.error("a notification hangs in the kernel: cutting the connection, the mount ends")
        if not self._connection.abort():
            log.error("not permitted to cut it: every request that waits fails instead")
        self._pending.release()
        pyfuse3.terminate()
