"""From written bytes to a stored and committed freeze (design: journeys, write).

Called by `vfs.filesystem`; runs uploads in the nursery it is given. Data goes before metadata; commits of one inode go
in the order its bytes were frozen. What could not be stored stays dirty and is tried again; its error is kept for the
program. docs/concurrency.md says which lock protects what.
"""

import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from p2pfs.errors import CoordinatorAway, Fenced, Gone, NotFound, PoolError, Unavailable
from p2pfs.format.ranges import pieces
from p2pfs.runtime.retry import backoff
from p2pfs.types import MIB, Buffer, InodeId
from p2pfs.vfs import appending
from p2pfs.vfs.committer import MOST_ROWS, Committer
from p2pfs.vfs.content import check_size
from p2pfs.vfs.dirty import FREEZE_COST, MOST_RUNS, RUN_COST, DirtyMib, pack
from p2pfs.vfs.inodes import Freeze, Inode, Upload
from p2pfs.vfs.limits import WriteLimits
from p2pfs.vfs.unsaved import Unsaved
from p2pfs.vfs.uploads import Uploader

log = logging.getLogger(__name__)

GATHERED: Final = 16
"""Freezes worth a commit of their own, which costs mount and coordinator as much as storing a chunk costs a peer."""
GATHER_S: Final = 0.25
"""How long what is stored waits for what is on its way."""


class Writer:
    """Collects, stores and commits what one mount writes.

    `unsaved` bounds what is in memory (with a price for each run, so that scattered single bytes count too).
    """

    def __init__(
        self,
        uploader: Uploader,
        committer: Committer,
        unsaved: Unsaved,
        nursery: trio.Nursery,
        *,
        limits: WriteLimits,
        now_ns: Callable[[], int],
        inodes: Callable[[], list[Inode]],
        done: Callable[[Inode], None],
        hurry: Callable[[], None],
        moved_s: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        """`hurry` has the changes of names that were acknowledged sent without waiting for more of them; `moved_s` says
        when bytes last left."""
        self._uploader, self._committer = uploader, committer
        self._unsaved, self._nursery = unsaved, nursery
        self._credits, self._space = unsaved.credits, unsaved.space
        self._numbers = itertools.count(unsaved.journal.next_number)
        self._limits, self._now_ns = limits, now_ns
        self._inodes, self._done, self._hurry, self._moved_s = inodes, done, hurry, moved_s
        self._awaited: dict[InodeId, list[int]] = {}  # the last freezes that callers wait for
        self.failures = 0
        """How often something could not be stored when it was tried."""
        self.lost_bytes = 0
        """Written to files that are still there, and given up."""
        self.left_bytes = 0
        """As many more are in the journal, for the next mount."""

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
                self._freeze(inode, [index])
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
            if not self._moves(patience_s):
                raise Unavailable("earlier writes could not be stored in time")

    def _moves(self, within_s: float) -> bool:
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

    # ---- freezing and storing

    def freeze(self, inode: Inode) -> None:
        """Start storing everything dirty of an inode, without waiting."""
        for indices in _portions(inode.active[index] for index in sorted(inode.active)):
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
            self._nursery.start_soon(self._store, inode, freeze)

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
        self._nursery.start_soon(self._store, inode, freeze)
        return freeze

    async def _store(self, inode: Inode, freeze: Freeze) -> None:
        """Upload and commit until done; only a fenced session or a vanished inode gives bytes up."""
        pause = 0.5
        trouble_s = math.inf  # from when on what passes by itself, as a rule, is the program's trouble too
        while freeze in inode.frozen:
            try:
                with trio.CancelScope() as freeze.uploading:  # ends early when the inode is removed
                    await self._upload(inode, freeze)
                if freeze in inode.frozen:
                    await self._gather(inode, freeze)
                if freeze in inode.frozen:
                    await self._committer.commit_stored(inode)
                self._done(inode)
                if freeze.is_stored and _is_behind(inode, freeze):
                    await inode.progress.wait()
                continue
            except (Fenced, NotFound) as error:
                self._abandon(inode, freeze, error)
                return
            except PoolError as error:
                log.info("inode %d: storing is delayed: %s", inode.id, error)
                if isinstance(error, (Gone, CoordinatorAway)):
                    trouble_s = min(trouble_s, trio.current_time() + self._limits.io_timeout_s)
                if self._is_told(inode, error, is_late=trio.current_time() >= trouble_s):
                    self._fail(inode, error)
            except Exception:  # a bug met by one file must not cost the unsaved bytes of all others
                log.exception("inode %d: storing failed unexpectedly", inode.id)
                self._fail(inode, Unavailable("storing failed unexpectedly; it is tried again"))
            with trio.move_on_after(pause):
                await inode.kick.wait()
            pause = min(2 * pause, 15.0)

    def _is_told(self, inode: Inode, error: PoolError, *, is_late: bool) -> bool:
        """Whether programs hear of this error, or only that it is tried again."""
        if isinstance(error, Gone) and not is_late:  # a peer left, or a chunk was purged, between its storing and now
            return False
        if isinstance(error, Unavailable) and self._limits.hard:
            return False
        if isinstance(error, CoordinatorAway) and not is_late:  # known to be away, it is one within some seconds
            return inode.listeners > 0  # not a later call, when it may be back
        return True

    def _fail(self, inode: Inode, error: PoolError) -> None:
        self.failures += 1
        inode.fail(error)

    async def _upload(self, inode: Inode, freeze: Freeze) -> None:
        if inode.doubt is None:  # else it may be committed as it is
            freeze.inline = self._committer.may_be_inline(inode, freeze)
        if freeze.is_stored:
            return
        if not freeze.uploads:
            freeze.uploads = [Upload(plan) for plan in pack(freeze.mibs.values())]
        errors: list[PoolError] = []

        async def put(upload: Upload) -> None:
            try:
                await self._uploader.put(upload)
            except PoolError as error:  # the others go on: what is stored need not be stored again
                errors.append(error)

        missing = [upload for upload in freeze.uploads if not upload.is_stored]
        if len(missing) == 1:
            await put(missing[0])
        else:
            async with trio.open_nursery() as nursery:
                for upload in missing:
                    nursery.start_soon(put, upload)
        if errors:
            raise errors[0]
        inode.progress.pulse()  # who gathers counts again

    async def _gather(self, inode: Inode, freeze: Freeze) -> None:
        """Let what is on its way be stored before a commit, but not what nobody waits for before what somebody does."""
        with trio.move_on_after(GATHER_S):
            while freeze in inode.frozen and _may_grow(inode, self._last_wanted(inode, freeze)):
                await inode.progress.wait()

    def _last_wanted(self, inode: Inode, freeze: Freeze) -> int:
        """The last freeze that may hold up `freeze`: the first that somebody who needs `freeze` waits for, or any."""
        awaited = self._awaited.get(inode.id, ())
        return min((last for last in awaited if last >= freeze.number), default=inode.freezes)

    # ---- letting go

    def _abandon(self, inode: Inode, freeze: Freeze, error: PoolError) -> None:
        if freeze not in inode.frozen:
            return  # discarded meanwhile
        is_missed = not isinstance(error, NotFound)  # else somebody removed the file
        is_left = is_missed and self._unsaved.journal.leave(freeze)
        if is_left:
            self.left_bytes += freeze.bytes
        elif is_missed:
            self.lost_bytes += freeze.bytes
            inode.lose(error)
        log.log(
            logging.ERROR if is_missed else logging.INFO,
            "inode %d: %d unsaved bytes are %s: %s",
            inode.id, freeze.bytes, "left to the next mount of this node" if is_left else "given up", error,
        )  # fmt: skip
        self._unsaved.drop(inode, freeze, is_left=is_left)
        if not inode.frozen:
            self._unsaved.give_up_doubt(inode)
        self._fail(inode, error)
        self._done(inode)

    def discard(self, inode: Inode) -> None:
        """The inode is no more: its unsaved bytes are nobody's."""
        self._unsaved.discard(inode)
        inode.times_of_pages = None
        self._done(inode)

    # ---- waiting

    async def settle(self, inode: Inode) -> None:
        """Wait until everything written so far is committed (fsync, close).

        Raises:
            PoolError: Something written since the last such call could not be stored at first; what is not stored by
                now stays dirty and is tried again. Raised once.
        """
        inode.raise_error()
        await self._settle(inode, math.inf if self._limits.hard else 2 * self._limits.io_timeout_s)

    async def settle_for_others(self, inode: Inode) -> None:
        """As `settle`, for a call that needs the bytes stored and is not their writer's: its error is the writer's too,
        and is raised there once more. That nobody answered earlier is the writer's to hear alone: if the bytes are
        stored now, what needs them can go on."""
        kept = inode.error if isinstance(inode.error, Unavailable) else None
        if kept is not None:
            inode.error = None
        try:
            await self.settle(inode)
        except PoolError as error:
            inode.error = kept or inode.error or error
            raise
        inode.error = kept

    async def stored(self, inode: Inode, last: int) -> None:
        """Wait until the freezes up to this number are committed, however often that is tried, or given up. Whatever
        goes wrong is its writer's to hear."""
        if inode.frozen and inode.frozen[0].number <= last:
            with self._hurried(inode, last):
                while any(freeze.number <= last for freeze in inode.frozen):
                    await inode.progress.wait()

    async def _settle(self, inode: Inode, patience_s: float) -> None:
        self.freeze(inode)
        if not inode.frozen:
            return
        last = inode.freezes
        with self._hurried(inode, last), inode.listening():
            while any(freeze.number <= last for freeze in inode.frozen):
                with trio.move_on_after(patience_s) as waiting:
                    await inode.progress.wait()
                inode.raise_error()
                if waiting.cancelled_caught and not self._moves(patience_s):
                    raise Unavailable("what was written could not be stored in time; it is kept and tried again")
            inode.raise_error()

    @contextmanager
    def _hurried(self, inode: Inode, last: int) -> Iterator[None]:
        """Within the block somebody waits for the freezes up to this number."""
        self._hurry()  # the commit goes behind the making of the file, which can go while chunks are stored
        inode.kick.pulse()
        awaited = self._awaited.setdefault(inode.id, [])
        awaited.append(last)
        inode.progress.pulse()  # who gathers looks again
        try:
            yield
        finally:
            awaited.remove(last)
            if not awaited:
                self._awaited.pop(inode.id, None)

    async def _settle_at_last(self, inode: Inode) -> None:
        """As `_settle`, where no program waits that could try again: a coordinator that is away may be back within
        2 × `io_timeout`. Errors kept from earlier attempts are forgotten."""
        patience_s = 2 * self._limits.io_timeout_s
        least, until_s = self.unsaved_bytes(), trio.current_time() + patience_s
        for pause_s in backoff(0.5, 5.0):
            inode.error = None
            try:
                return await self._settle(inode, patience_s)
            except CoordinatorAway:
                if self.unsaved_bytes() < least:
                    least, until_s = self.unsaved_bytes(), trio.current_time() + patience_s
                if trio.current_time() >= until_s and not self._moves(patience_s):
                    raise
            await trio.sleep(pause_s)

    async def settle_all(self, report: Callable[[int], None] = lambda _: None) -> None:
        """Store everything (unmount); tells the unsaved bytes after each inode. Errors kept from earlier attempts are
        forgotten: they are repeated now. Waits 2 × `io_timeout` without progress at most, even if programs wait longer.
        Raises the first error met once every inode had its chance."""
        errors: list[PoolError] = []

        async def settle(inode: Inode) -> None:
            try:
                await self._settle_at_last(inode)
            except PoolError as error:
                errors.append(error)
            report(self.unsaved_bytes())

        report(self.unsaved_bytes())
        async with trio.open_nursery() as nursery:
            for inode in self._inodes():
                if inode.is_dirty:
                    nursery.start_soon(settle, inode)
        if errors:
            raise errors[0]

    async def settle_closed(self) -> None:
        """Store what was written to files nobody here has open any more: others are about to open them. What cannot be
        stored stays dirty, and its error is kept for the next who uses the file."""

        async def settle(inode: Inode) -> None:
            kept = inode.error
            try:
                await self._settle_at_last(inode)
            except PoolError as error:
                log.info("inode %d: not stored before others may open it: %s", inode.id, error)
                kept = kept or error
            finally:
                inode.error = kept or inode.error

        async with trio.open_nursery() as nursery:
            for inode in self._inodes():
                if inode.is_dirty and not inode.handles:
                    nursery.start_soon(settle, inode)

    @asynccontextmanager
    async def untimed(self, inode: Inode) -> AsyncIterator[None]:
        """The block sets mtime: what was written before it moves that no more when it is committed. Nothing is
        committed meanwhile. Raises what asking after a commit in doubt raises."""
        async with inode.content:
            await self._committer.resolve(inode)
            self.freeze(inode)
            times = [(freeze, freeze.mtime_ns) for freeze in inode.frozen]
            written_ns = inode.mtime_ns
            for freeze in inode.frozen:
                freeze.mtime_ns = 0
            try:
                yield
            except BaseException:
                for freeze, time_ns in times:
                    freeze.mtime_ns = time_ns
                raise
            self._unsaved.journal.untimed(inode)
            if inode.mtime_ns == written_ns:  # else somebody wrote meanwhile
                inode.mtime_ns = 0

    def unsaved_bytes(self) -> int:
        """Bytes not yet stored and committed, with their bookkeeping."""
        return self._credits.taken

    async def truncate(self, inode: Inode, size: int) -> bool:
        """Set the size, shrinking or growing with zeros; committed on return. False if it was the size already.

        Raises:
            PoolError: As `settle_for_others`, and whatever the commit raises; the size is then unchanged.
        """
        check_size(size)
        await self.settle_for_others(inode)
        return await self._committer.truncate(inode, size)


def _may_grow(inode: Inode, last: int) -> bool:
    """Whether more of the freezes up to `last` may soon be stored than are, and those are not yet worth a commit."""
    for stored, freeze in enumerate(inode.frozen):
        if not freeze.is_stored:
            return stored < GATHERED and freeze.number <= last
    return False


def _is_behind(inode: Inode, freeze: Freeze) -> bool:
    """Whether an earlier freeze is still on its way."""
    return freeze in inode.frozen and not all(
        earlier.is_stored for earlier in inode.frozen[: inode.frozen.index(freeze)]
    )


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
