"""From frozen bytes to stored and committed ones, in the background.

Called by `vfs.writer` for each freeze that was not committed at once; `vfs.settling` says what is waited for.
Data goes before metadata; commits of one inode go in the order its bytes were frozen. What could not be stored stays
dirty and is tried again; its error is kept for the program.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from p2pfs.errors import CoordinatorAway, Fenced, Gone, NotFound, PoolError, Unavailable
from p2pfs.types import InodeId
from p2pfs.vfs.committer import Committer
from p2pfs.vfs.dirty import pack
from p2pfs.vfs.inodes import Freeze, Inode, Upload
from p2pfs.vfs.limits import WriteLimits
from p2pfs.vfs.unsaved import Unsaved
from p2pfs.vfs.uploads import Uploader

log = logging.getLogger(__name__)

GATHERED: Final = 16
"""Freezes worth a commit of their own, which costs mount and coordinator as much as storing a chunk costs a peer."""
GATHER_S: Final = 0.25
"""How long what is stored waits for what is on its way."""


class Storer:
    """Stores and commits what one mount has frozen."""

    def __init__(
        self,
        uploader: Uploader,
        committer: Committer,
        unsaved: Unsaved,
        *,
        limits: WriteLimits,
        done: Callable[[Inode], None],
    ) -> None:
        """`done` hears of inodes that may have nothing unsaved any more."""
        self._uploader, self._committer, self._unsaved = uploader, committer, unsaved
        self._limits, self._done = limits, done
        self._awaited: dict[InodeId, list[int]] = {}  # the last freezes that callers wait for
        self.failures = 0
        """How often something could not be stored when it was tried."""
        self.lost_bytes = 0
        """Written to files that are still there, and given up."""
        self.left_bytes = 0
        """As many more are in the journal, for the next mount."""

    async def store(self, inode: Inode, freeze: Freeze) -> None:
        """Upload and commit until done; only a fenced session or a vanished inode gives bytes up. Raises nothing: what
        fails is kept with the inode.

        Durability: on return the bytes are committed, and before that on `min_replicas` peers if they do not fit the
        metadata; or they are given up.

        Cancellation: they stay unsaved, with the inode.
        """
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

    @contextmanager
    def awaited(self, inode: Inode, last: int) -> Iterator[None]:
        """Within the block somebody waits for the freezes up to this number."""
        awaited = self._awaited.setdefault(inode.id, [])
        awaited.append(last)
        inode.progress.pulse()  # who gathers looks again
        try:
            yield
        finally:
            awaited.remove(last)
            if not awaited:
                self._awaited.pop(inode.id, None)

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
