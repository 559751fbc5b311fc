"""Open files: what a handle remembers between calls."""

from dataclasses import dataclass, field

from p2pfs.errors import bare
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.reader import ReadAhead


@dataclass(slots=True, eq=False)
class Handle:
    """An open file. `append`: what is written goes behind its end. `writes`: it was opened for writing, so that its
    close concerns what was written. `told`: of the losses of the inode, how many are not this handle's to tell."""

    inode: Inode
    append: bool = False
    writes: bool = True
    ahead: ReadAhead = field(default_factory=ReadAhead)
    told: int = field(init=False)

    def __post_init__(self) -> None:
        self.told = self.inode.losses

    def raise_loss(self) -> None:
        """Raise why something was lost that was written while this handle was open, each time until `told` follows: a
        handle is closed more than once, by its duplicates and in a child that begins another program, and who looks
        at the answer of which is not known."""
        if self.inode.losses > self.told and self.inode.loss is not None:
            raise bare(self.inode.loss)
