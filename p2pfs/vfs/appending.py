"""Appending: where the bytes of an O_APPEND write go, and where they must go when another mount appended too.

A mount lays them behind the end it knows and goes on. When they are committed the file may end elsewhere: then they
move there before they become content (`Unsaved.move_appended`), so that records of several mounts all survive, each in
one piece. Pure; called by writer and committer.
"""

from p2pfs.vfs.inodes import Appended, Inode


def place(inode: Inode, length: int) -> int:
    """The offset of `length` bytes appended now."""
    region = inode.appended
    if region is None:
        offset = inode.size
        region = inode.appended = Appended(offset, offset, offset if offset > inode.head.size else 0)
    else:
        offset = max(region.end, inode.unsaved_end)  # not the file's end: all of it moves there together
    region.end = offset + length
    return offset


def shift(inode: Inode) -> int:
    """How far the appended bytes are from where the file ends now, as far as this mount knows."""
    region = inode.appended
    return max(inode.head.size, region.floor) - region.start if region is not None else 0


def committed(inode: Inode, size: int) -> None:
    """A commit of this mount made the file `size` bytes long."""
    region = inode.appended
    if region is None:
        return
    region.start = max(region.start, min(size, region.end))
    if size >= region.floor:
        region.floor = 0
    if region.start == region.end:
        inode.appended = None
