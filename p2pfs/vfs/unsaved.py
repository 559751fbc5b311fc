"""What a mount holds in memory and has not stored: its budget, and letting go of a freeze."""

from p2pfs.runtime.credits import ByteCredits
from p2pfs.vfs.inodes import Freeze, Inode
from p2pfs.vfs.space import Space
from p2pfs.vfs.uploads import LateCopies


class Unsaved:
    """Shared by the writer, which fills it, and the committer, which empties it."""

    def __init__(self, space: Space, copies: LateCopies, budget_bytes: int) -> None:
        self.space, self._copies = space, copies
        self.credits = ByteCredits(budget_bytes)

    def drop(self, inode: Inode, freeze: Freeze) -> None:
        """The freeze is content now, or never will be."""
        if freeze in inode.frozen:
            inode.frozen.remove(freeze)
            self.credits.give(freeze.cost)
            self.space.settle(freeze.bytes)
            self.forget_uploads(freeze)

    def discard(self, inode: Inode) -> None:
        """The inode is no more: its unsaved bytes are nobody's."""
        for freeze in list(inode.frozen):
            self.drop(inode, freeze)
        for mib in inode.active.values():
            self.credits.give(mib.cost)
            self.space.settle(mib.bytes)
        inode.active.clear()
        inode.error = None
        inode.progress.pulse()
        inode.kick.pulse()

    def forget_uploads(self, freeze: Freeze) -> None:
        """What was stored for the freeze so far is void."""
        for upload in freeze.uploads:
            self._copies.forget(upload)
        freeze.uploads = []
