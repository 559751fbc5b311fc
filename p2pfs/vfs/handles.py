"""Open files: what a handle remembers between calls."""

from dataclasses import dataclass, field

from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.reader import ReadAhead


@dataclass(slots=True, eq=False)
class Handle:
    """An open file. `append`: what is written goes behind its end. `writes`: it was opened for writing, so that its
    close concerns what was written."""

    inode: Inode
    append: bool = False
    writes: bool = True
    ahead: ReadAhead = field(default_factory=ReadAhead)
