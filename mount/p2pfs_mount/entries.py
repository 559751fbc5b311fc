"""What the kernel is told of inodes: attributes as pyfuse3 takes them."""

import stat
from typing import Final

import pyfuse3
from pyfuse3 import EntryAttributes, InodeT, ModeT

from p2pfs.errors import Corrupt
from p2pfs.types import InodeId, Kind
from p2pfs.vfs.inodes import Stat
from p2pfs_mount.owners import Owners
from p2pfs_mount.trust import KERNEL_CACHE_S

DOTS: Final = 2
DIRECTORY_BYTES: Final = 4096
"""What a directory says its size is: as on ext4, and like there it says nothing of its content."""
MOST_TOLD: Final = 10_000
"""Inodes whose attributes are kept ready, about 500 bytes each."""
PREFERRED_BYTES: Final = 128 * 1024
"""st_blksize: what programs take as their buffer size."""

TYPES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
KINDS: Final = {number: kind for kind, number in TYPES.items()}


def dots(number: InodeId, parent: InodeId) -> list[tuple[int, InodeId]]:
    """Cookies and inodes of "." and ".."."""
    return [(1, number), (DOTS, parent)]


def dot(number: InodeId) -> EntryAttributes:
    """Number and kind: the kernel takes nothing else of these two."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino, entry.st_mode = InodeT(number), ModeT(stat.S_IFDIR)
    return entry


def nothing(seconds: float) -> EntryAttributes:
    """That a name leads nowhere, and for how long."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino, entry.entry_timeout = InodeT(0), seconds
    return entry


class Entries:
    """What the kernel was told of inodes in listings, to tell it again as long as they are the same. Bounded."""

    def __init__(self, owners: Owners) -> None:
        self._owners, self._is_plain = owners, owners.are_plain
        self._told: dict[InodeId, tuple[Stat, EntryAttributes]] = {}

    def of(self, row: Stat) -> EntryAttributes:
        """Its attributes, for use before the next checkpoint: whoever asks sets the timeouts. Raises Corrupt."""
        told = self._told.get(row.inode)
        if told is not None and told[0] is row:
            return told[1]
        entry = self.make(row)
        if len(self._told) >= MOST_TOLD:
            self._told.clear()
        self._told[row.inode] = row, entry
        return entry

    def drop(self, number: InodeId) -> None:
        """The kernel gave it back: it may have been removed."""
        self._told.pop(number, None)

    def make(self, row: Stat) -> EntryAttributes:
        """Its attributes, whose it is as this machine knows people. Raises Corrupt."""
        entry = entry_of(row)
        if not self._is_plain:
            entry.st_uid, entry.st_gid = self._owners.users.shown(row.uid), self._owners.groups.shown(row.gid)
        return entry


def entry_of(row: Stat) -> EntryAttributes:
    """Raises Corrupt on numbers that no kernel takes: they are the coordinator's word alone."""
    try:
        return _filled(row)
    except OverflowError:
        raise Corrupt(f"inode {row.inode}: its attributes are impossible") from None


def _filled(row: Stat) -> EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = InodeT(row.inode)
    entry.generation = 0
    entry.entry_timeout = entry.attr_timeout = KERNEL_CACHE_S
    entry.st_mode = ModeT(TYPES[row.kind] | row.mode)
    entry.st_nlink = row.links
    entry.st_uid, entry.st_gid = row.uid, row.gid
    entry.st_rdev = row.rdev
    entry.st_size = DIRECTORY_BYTES if row.kind is Kind.DIRECTORY else row.size
    entry.st_blksize = PREFERRED_BYTES
    entry.st_blocks = -(-entry.st_size // 512)
    entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = row.atime_ns, row.mtime_ns, row.ctime_ns
    return entry
