"""Files as listings showed them: of most of a long directory nobody wants more, and an `Inode` of each would take six
times the memory and half the time of a listing. `InodeTable` keeps them, and makes an inode of one that is asked for.
"""

from typing import Final

import msgspec
import trio

from p2pfs.format.heads import Head
from p2pfs.format.keys import VolumeKeys
from p2pfs.types import InodeId, Kind, VolumeId
from p2pfs.vfs.inodes import Inode, Stat, opened_head
from p2pfs.wire.namespace import UNTOLD, Attributes


class Glimpse:
    """Verified attributes; nobody has the file open, and nothing of it is unsaved."""

    __slots__ = ("_stat", "_told_s", "attributes", "head", "id", "kind")

    handles: Final = 0
    is_dirty: Final = False

    def __init__(self, keys: VolumeKeys, volume: VolumeId, attributes: Attributes) -> None:
        """Raises Corrupt."""
        self.id = InodeId(attributes.inode)
        self.attributes = attributes
        self.head: Head = opened_head(keys, volume, attributes)
        self.kind: Kind = self.head.kind
        self._stat: Stat | None = None
        self._told_s = 0.0

    @property
    def size(self) -> int:
        return self.head.size

    def stat(self) -> Stat:
        """What the kernel is told now; the same object each time."""
        if self._stat is None:
            row, head, self._told_s = self.attributes, self.head, trio.current_time()
            self._stat = Stat(
                self.id, head.kind, row.mode & 0o7777, row.links, row.uid, row.gid, row.rdev, head.size,
                row.atime_ns, row.mtime_ns, row.ctime_ns, head.change,
            )  # fmt: skip
        return self._stat

    def let_go(self) -> None:
        """See Inode."""
        self.attributes = msgspec.structs.replace(self.attributes, inline=UNTOLD)

    def inode(self, keys: VolumeKeys, volume: VolumeId) -> Inode:
        """All there is to know of it."""
        inode = Inode(keys, volume, self.attributes, self.head)
        if self._stat is not None:
            inode.kernel_size.tell(self._stat.size, self._told_s)
        return inode
