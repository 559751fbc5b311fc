"""Open files: what a handle remembers between calls."""

from dataclasses import dataclass, field
from typing import Final

from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.reader import ReadAhead

PAGE_BYTES: Final = 4096


@dataclass(slots=True, eq=False)
class Handle:
    """An open file. `append`: what is written goes behind its end."""

    inode: Inode
    append: bool = False
    ahead: ReadAhead = field(default_factory=ReadAhead)

    def appends(self, offset: int, length: int) -> bool:
        """Whether a write goes to the end. Pages of a shared mapping come through whichever handle there is, and stay
        where they are: an append starts where the kernel takes the end to be."""
        inode = self.inode
        is_page = offset != inode.told_size and offset % PAGE_BYTES == 0 and offset + length <= inode.size
        return self.append and not is_page
