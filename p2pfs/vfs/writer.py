"""Collecting what programs write, and putting it on its way: frozen bytes, which no write changes any more.

Called by `vfs.filesystem`, `vfs.promises`, `vfs.settling` and, for what a crash left, `vfs.journal.recovery`. What fits
a commit and needs nobody asked (`Committer.commit_now`) is committed where it is frozen; all else is stored by
`vfs.storing`, in the nursery given here. docs/concurrency.md says which lock protects what.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import trio

from p2pfs.errors import Unavailable
from p2pfs.format.ranges import pieces
from p2pfs.types import CHUNK_BYTES, MIB, Buffer
from p2pfs.vfs import appending
from p2pfs.vfs.committer import MOST_ROWS, Committer
from p2pfs.vfs.content import check_size
from p2pfs.vfs.dirty import FREEZE_COST, MOST_RUNS, RUN_COST, DirtyMib
from p2pfs.vfs.inodes import Freeze, Inode
from p2pfs.vfs.limits import WriteLimits
from p2pfs.vfs.storing import Storer
from p2pfs.vfs.unsaved import Unsaved


class Writer:
    """What one mount writes, until it is frozen.

    `unsaved` bounds what is in memory (with a price for each run, so that scattered single bytes count too).
    """

    def __init__(
        self,
        storer: Storer,
        committer: Committer,
        unsaved: Unsaved,
        nursery: trio.Nursery,
        *,
        limits: WriteLimits,
        now_ns: Callable[[], int],
        inodes: Callable[[], list[Inode]],
        done: Callable[[Inode], None],
        moved_s: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        """`done` hears of inodes that may have nothing unsaved any more; `moved_s` says when bytes last left."""
        self._storer, self._committer = storer, committer
        self._unsaved, self._nursery = unsaved, nursery
        self._credits, self._space = unsaved.credits, unsaved.space
        self._numbers = itertools.count(unsaved.journal.next_number)
        self._limits, self._now_ns = limits, now_ns
        self._inodes, self._done, self._moved_s = inodes, done, moved_s

    # ---- collecting

    async def write(self, inode: Inode, offset: int | None, data: Buffer) -> int:
        """Take bytes in, behind the end of the file if `offset` is None; where they went. Blocks while too much is
        unsaved.

        Raises:
            NoSpace: The pool cannot promise room for them.
            PoolError: An earlier write of this inode could not be stored (raised once).
        """
        if not self._limits.by_kernel:  # which would drop these bytes too, and tells the program only at fsync or close
            inode.raise_error()
        check_size((inode.size if offset is None else offset) + len(data))
        await self._promise(len(data))
        cost = len(data) + RUN_COST * (2 + len(data) // MIB)
        try:
            await self._take_credits(inode, cost)
        except BaseException:
            self._space.settle(len(data))
            raise
        # no checkpoint until the bytes are counted in the inode: a reader must see all of them or none
        if offset is None:
            offset = appending.place(
                inode.appended, len(data),
                size=inode.size, unsaved_end=inode.unsaved_end,
            )  # fmt: skip
        full = []
        view = memoryview(data)
        now = trio.current_time()
        for piece in pieces(offset, len(data)):
            mib = inode.active.get(piece.index)
            if mib is None:
                mib = inode.active[piece.index] = DirtyMib(piece.index, now)
            bytes_before, cost_before = mib.bytes, mib.cost
            whole = piece.at == 0 and piece.length == len(data)
            mib.write(piece.off, data if whole else view[piece.at : piece.at + piece.length])
            self._space.settle(piece.length - (mib.bytes - bytes_before))  # overwritten before they were stored
            cost -= mib.cost - cost_before
            if mib.is_full or len(mib.runs) > MOST_RUNS:
                full.append(piece.index)
        self._credits.give(cost)
        inode.size = max(inode.size, offset + len(data))
        inode.mtime_ns = self._time_ns()
        if full and inode.appended:
            self.freeze(inode)  # all in one commit: a record that another mount's could part is none
        else:
            for index in full:
                self._freeze_up_to(inode, index)
        return offset

    def _time_ns(self) -> int:
        """When what comes now is written: 0 if the kernel has it from programs and sets the time itself."""
        return 0 if self._limits.by_kernel else self._now_ns()

    async def _promise(self, size: int) -> None:
        """Room for bytes. Those of a kernel, which gives them up when they are refused, are held without while nobody
        answers: then an error of storing them is told, and they are tried again."""
        try:
            await self._space.promise(size)
        except Unavailable:
            if not self._limits.by_kernel:
                raise
            self._space.adopt(size)

    async def _take_credits(self, inode: Inode, size: int) -> None:
        if self._credits.available < size + self._limits.dirty_bytes // 4:
            self._freeze_for_room()
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._credits.take_nowait(size):
            return
        is_patient = self._limits.hard or self._limits.by_kernel  # which has a deadline, and then loses these bytes
        patience_s = math.inf if is_patient else self._limits.io_timeout_s
        while True:
            with trio.move_on_after(patience_s):
                await self._credits.take(size)
                return
            inode.raise_error()
            if not self.moves(patience_s):
                raise Unavailable("earlier writes could not be stored in time")

    def moves(self, within_s: float) -> bool:
        """Whether bytes leave, however slowly: then whoever waits for that goes on waiting. What cannot be stored all
        the same is an error of its own."""
        return trio.current_time() - self._moved_s() < within_s

    def _freeze_for_room(self) -> None:
        """Under pressure everything unsaved goes on its way, or nobody would ever free a credit."""
        for inode in self._inodes():
            if inode.active:
                self.freeze(inode)

    def freeze_aged(self) -> list[Inode]:
        """Send what has been dirty for longer than `age_s`; the inodes of which something that old is not stored."""
        limit = trio.current_time() - self._limits.age_s
        found = []
        for inode in self._inodes():
            if any(mib.since < limit for mib in inode.active.values()):
                self.freeze(inode)
            if any(freeze.since < limit for freeze in inode.frozen):
                found.append(inode)
        return found

    # ---- freezing

    def freeze(self, inode: Inode) -> None:
        """Start storing everything dirty of an inode, without waiting."""
        for indices in _portions(inode.active[index] for index in sorted(inode.active)):
            self._freeze(inode, indices)

    def _freeze_up_to(self, inode: Inode, index: int) -> None:
        """A MiB that will not grow, and in one commit with it what leads up to it without a gap: of a file that is
        written from start to end a crash leaves a beginning, not zeros where the rest of a MiB was still waited for.
        No more than that, as who writes here and there goes on doing so, and each time it would be a chunk more. A
        kernel with pages of its own sends them in any order; there nothing is known to lead up to anything."""
        first = index if self._limits.by_kernel else _leading_up_to(inode.active, index)
        for indices in _portions(inode.active[at] for at in range(first, index + 1)):
            self._freeze(inode, indices)

    def _freeze(self, inode: Inode, indices: list[int]) -> None:
        mibs = {index: inode.active.pop(index) for index in indices}
        freeze = self._frozen(next(self._numbers), mibs, inode.mtime_ns or self._time_ns(), inode)
        self._credits.charge(FREEZE_COST)
        inode.freezes = freeze.number
        inode.frozen.append(freeze)
        if self._committer.commit_now(inode, freeze):
            self._done(inode)
        else:
            self._nursery.start_soon(self._storer.store, inode, freeze)

    def _frozen(self, number: int, mibs: dict[int, DirtyMib], mtime_ns: int, inode: Inode) -> Freeze:
        return Freeze(
            number=number,
            since=min(mib.since for mib in mibs.values()),
            mibs=mibs,
            uploads=[],
            end=max(mib.end for mib in mibs.values()),
            mtime_ns=mtime_ns,
            bytes=sum(mib.bytes for mib in mibs.values()),
            cost=FREEZE_COST + sum(mib.cost for mib in mibs.values()),
            runs=sum(len(mib.runs) for mib in mibs.values()),
            inline=inode.size <= self._limits.small_file,
        )

    def restore(self, inode: Inode, number: int, mtime_ns: int, runs: Iterable[tuple[int, Buffer]]) -> Freeze:
        """Bytes (by offset) that an earlier mount had frozen under this number are on their way again. Freezes of one
        inode are restored in their order, before anything else is written to it. No room is asked for: they are
        there whether or not the pool has any now. They count as promised, as what settles them counts on."""
        mibs: dict[int, DirtyMib] = {}
        for offset, data in runs:
            for piece in pieces(offset, len(data)):
                mib = mibs.setdefault(piece.index, DirtyMib(piece.index, trio.current_time()))
                mib.write(piece.off, memoryview(data)[piece.at : piece.at + piece.length])
        inode.size = max(inode.size, *(mib.end for mib in mibs.values()))
        inode.mtime_ns = mtime_ns
        freeze = self._frozen(number, mibs, mtime_ns, inode)
        self._credits.charge(freeze.cost)
        self._space.adopt(freeze.bytes)
        inode.freezes = number
        inode.frozen.append(freeze)
        self._nursery.start_soon(self._storer.store, inode, freeze)
        return freeze

    def discard(self, inode: Inode) -> None:
        """The inode is no more: its unsaved bytes are nobody's."""
        self._unsaved.discard(inode)
        inode.times_of_pages = None
        self._done(inode)

    def unsaved_bytes(self) -> int:
        """Bytes not yet stored and committed, with their bookkeeping."""
        return self._credits.taken


def _leading_up_to(active: Mapping[int, DirtyMib], index: int) -> int:
    """The first MiB from which on everything up to the start of this one is dirty, or its own index."""
    while (before := active.get(index - 1)) is not None and before.end == index * CHUNK_BYTES:
        index -= 1
        if before.runs[-1].start > 0:
            break
    return index


def _portions(mibs: Iterable[DirtyMib]) -> Iterator[list[int]]:
    """Indices in groups that one commit can carry."""
    portion: list[int] = []
    runs = 0
    for mib in list(mibs):
        if portion and runs + len(mib.runs) > MOST_ROWS:
            yield portion
            portion, runs = [], 0
        portion.append(mib.index)
        runs += len(mib.runs)
    if portion:
        yield portion
