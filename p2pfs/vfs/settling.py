"""Waiting until what was written is stored and committed; and the two changes that need that first, of a file's size
and of its mtime.

Called by `vfs.filesystem`, `vfs.promises`, `vfs.attribute_changes` and `vfs.digests`. `vfs.writer` puts bytes on their
way, `vfs.storing` stores them.
"""

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from p2pfs.errors import CoordinatorAway, PoolError, Unavailable
from p2pfs.runtime.retry import backoff
from p2pfs.vfs.committer import Committer
from p2pfs.vfs.content import check_size
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.limits import WriteLimits
from p2pfs.vfs.storing import Storer
from p2pfs.vfs.unsaved import Unsaved
from p2pfs.vfs.writer import Writer

log = logging.getLogger(__name__)


class Settler:
    """Has what one mount wrote stored, and waits for it."""

    def __init__(
        self,
        writer: Writer,
        storer: Storer,
        committer: Committer,
        unsaved: Unsaved,
        *,
        limits: WriteLimits,
        inodes: Callable[[], list[Inode]],
        hurry: Callable[[], None],
    ) -> None:
        """`hurry` has the changes of names that were acknowledged sent without waiting for more of them."""
        self._writer, self._storer, self._committer, self._unsaved = writer, storer, committer, unsaved
        self._limits, self._inodes, self._hurry = limits, inodes, hurry

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
        self._writer.freeze(inode)
        if not inode.frozen:
            return
        last = inode.freezes
        with self._hurried(inode, last), inode.listening():
            while any(freeze.number <= last for freeze in inode.frozen):
                with trio.move_on_after(patience_s) as waiting:
                    await inode.progress.wait()
                inode.raise_error()
                if waiting.cancelled_caught and not self._writer.moves(patience_s):
                    raise Unavailable("what was written could not be stored in time; it is kept and tried again")
            inode.raise_error()

    @contextmanager
    def _hurried(self, inode: Inode, last: int) -> Iterator[None]:
        """As `Storer.awaited`; and what the commit goes behind, or what pauses after a failure, goes on at once."""
        self._hurry()  # the commit goes behind the making of the file, which can go while chunks are stored
        inode.kick.pulse()
        with self._storer.awaited(inode, last):
            yield

    async def _settle_at_last(self, inode: Inode) -> None:
        """As `_settle`, where no program waits that could try again: a coordinator that is away may be back within
        2 × `io_timeout`. Errors kept from earlier attempts are forgotten."""
        patience_s = 2 * self._limits.io_timeout_s
        least, until_s = self._writer.unsaved_bytes(), trio.current_time() + patience_s
        for pause_s in backoff(0.5, 5.0):
            inode.error = None
            try:
                return await self._settle(inode, patience_s)
            except CoordinatorAway:
                if self._writer.unsaved_bytes() < least:
                    least, until_s = self._writer.unsaved_bytes(), trio.current_time() + patience_s
                if trio.current_time() >= until_s and not self._writer.moves(patience_s):
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
            report(self._writer.unsaved_bytes())

        report(self._writer.unsaved_bytes())
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
            self._writer.freeze(inode)
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

    async def truncate(self, inode: Inode, size: int) -> bool:
        """Set the size, shrinking or growing with zeros; committed on return. False if it was the size already.

        Raises:
            PoolError: As `settle_for_others`, and whatever the commit raises; the size is then unchanged.
        """
        check_size(size)
        await self.settle_for_others(inode)
        return await self._committer.truncate(inode, size)
