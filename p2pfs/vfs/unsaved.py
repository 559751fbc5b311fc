"""What a mount holds in memory and has not stored: its budget, and letting go of a freeze."""

from collections.abc import Iterable

from p2pfs.runtime.credits import ByteCredits
from p2pfs.vfs.appending import Appended
from p2pfs.vfs.dirty import FREEZE_COST, DirtyMib, moved
from p2pfs.vfs.inodes import Freeze, Inode
from p2pfs.vfs.journal.journal import NoJournal
from p2pfs.vfs.space import Space
from p2pfs.vfs.uploads import LateCopies


class Unsaved:
    """Shared by the writer, which fills it, and those who empty it: the committer, and whoever gives bytes up."""

    def __init__(self, space: Space, copies: LateCopies, budget_bytes: int, journal: NoJournal) -> None:
        self.space, self._copies, self.journal = space, copies, journal
        self.credits = ByteCredits(budget_bytes)

    def drop(self, inode: Inode, freeze: Freeze, *, is_left: bool = False) -> None:
        """The freeze is content now, or never will be; with `is_left` perhaps by the next mount."""
        if freeze in inode.frozen:
            inode.frozen.remove(freeze)
            if not is_left:
                self.journal.stored(freeze)
            self.credits.give(freeze.cost)
            self.space.settle(freeze.bytes, is_stored=bool(freeze.uploads))
            self.forget_uploads(freeze)
            if not inode.is_dirty:
                inode.appended.clear()

    def move_appended(self, inode: Inode, moves: list[tuple[Appended, int]]) -> None:
        """The file ends elsewhere than when these unsaved bytes were appended: they go so many bytes further. What was
        stored of them stays stored; only its place changes."""
        for region, by in reversed(moves) if moves[0][1] > 0 else moves:  # away from the others first
            for freeze in inode.frozen:
                freeze.mibs = moved(freeze.mibs.values(), region.start, region.end, by)
                freeze.cost = FREEZE_COST + self._weigh(freeze.cost - FREEZE_COST, freeze.mibs.values())
                for upload in freeze.uploads:
                    upload.plan.move(region.start, region.end, by)
            cost, size = sum(mib.cost for mib in inode.active.values()), sum(mib.bytes for mib in inode.active.values())
            inode.active = moved(inode.active.values(), region.start, region.end, by)
            self._weigh(cost, inode.active.values())
            self.space.settle(size - sum(mib.bytes for mib in inode.active.values()))  # laid over others
            region.start, region.end = region.start + by, region.end + by
        for freeze in inode.frozen:
            freeze.end = max(mib.end for mib in freeze.mibs.values())
            freeze.runs = sum(len(mib.runs) for mib in freeze.mibs.values())
        inode.moves += 1
        self.journal.moved(inode)
        inode.resize()

    def _weigh(self, before: int, mibs: Iterable[DirtyMib]) -> int:
        """What these cost now, after they cost `before`; the budget follows."""
        cost = sum(mib.cost for mib in mibs)
        self.credits.charge(max(0, cost - before))
        self.credits.give(max(0, before - cost))
        return cost

    def discard(self, inode: Inode) -> None:
        """The inode is no more: its unsaved bytes are nobody's."""
        for freeze in list(inode.frozen):
            if freeze.uploading is not None:
                freeze.uploading.cancel()
            self.drop(inode, freeze)
        for mib in inode.active.values():
            self.credits.give(mib.cost)
            self.space.settle(mib.bytes)
        inode.active.clear()
        self.give_up_doubt(inode)
        inode.appended.clear()
        inode.error = None
        inode.mtime_ns, inode.cached_change = 0, -1  # the trash may give back what was committed of it
        inode.resize()
        inode.progress.pulse()
        inode.kick.pulse()

    def give_up_doubt(self, inode: Inode) -> None:
        """Whether the last commit was done is nobody's business any more."""
        if inode.doubt is not None:
            inode.doubt.commit.give_up()
            inode.doubt = None

    def forget_uploads(self, freeze: Freeze) -> None:
        """What was stored for the freeze so far is void."""
        for upload in freeze.uploads:
            self._copies.forget(upload)
        freeze.uploads = []
