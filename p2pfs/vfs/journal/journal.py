"""Keeping what a mount acknowledged and has not stored on its disk, where close does not wait (docs/durability.md).

Two things are kept: operations acknowledged under a delegation until they are committed (told by `vfs.delegation` and
the session), and freezes of closed or aged files until they are (told by the writer's parts). What a dead mount left is
finished by `vfs.journal.recovery`.

Every method but `keep` and `run` is synchronous and returns once the record is in the kernel's page cache: it survives
the death of the process, and within `SYNC_S` that of the machine. A disk that fails ends the journal, with a warning,
and nothing else.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from p2pfs.format.keys import VolumeKeys
from p2pfs.types import KIB, MIB, VolumeId
from p2pfs.vfs.inodes import Freeze, Inode
from p2pfs.vfs.journal.live import Live, Outstanding, kept_record, named
from p2pfs.vfs.journal.records import (
    Committing,
    Kept,
    Queued,
    Record,
    State,
    Stored,
    Untimed,
    head_digest,
    lasting,
)
from p2pfs.vfs.journal.segments import Segment, Segments
from p2pfs.wire import codec
from p2pfs.wire.namespace import Batch, Operation

log = logging.getLogger(__name__)

SYNC_S: Final = 1.0
SEGMENT_BYTES: Final = 8 * MIB
_LONG: Final = 256 * KIB  # to write so much takes long enough to let others go on


class NoJournal:
    """For mounts that keep none: nothing happens."""

    keeps = False
    has_ended = False
    """Whether there should be one and is none: no call is acknowledged for its sake then."""
    rejected = 0
    next_number = 1
    holds_names = False
    """Whether there are operations acknowledged and not committed, for the next mount should they never be."""

    async def run(self) -> None:
        """Have the disk follow, until cancelled."""

    # ---- names

    def opened(self, session: str) -> None:
        """From now on batches are those of this session, numbered from 1."""

    def granted(self, epoch: int) -> None:
        """From now on operations are acknowledged under this delegation. None is outstanding."""

    def queued(self, operations: Sequence[Operation]) -> None:
        """These are being acknowledged."""

    def sending(self, batch: Batch) -> None:
        """Before a batch is sent for the first time. One with an epoch is of the oldest operations outstanding."""

    def committed(self, operations: Sequence[Operation]) -> None:
        """These, the oldest outstanding, are."""

    # ---- bytes

    async def keep(self, inode: Inode) -> None:
        """Every freeze of the inode that is not committed is kept on return."""

    def moved(self, inode: Inode) -> None:
        """Frozen bytes of the inode are elsewhere now."""

    def untimed(self, inode: Inode) -> None:
        """What is frozen of the inode moves its time no more."""

    def committing(self, inode: Inode, head: bytes, included: int) -> None:
        """Before the inode gets this sealed head, with which all freezes up to `included` are in its content."""

    def stored(self, freeze: Freeze) -> None:
        """It is committed, or acknowledged as an operation, or nobody's any more."""

    def leave(self, freeze: Freeze) -> bool:
        """The session is over, and this mount cannot commit it: what is kept stays for the next one, and no more bytes
        are. Whether it is kept."""
        return False


class EndedJournal(NoJournal):
    """Where one should be kept and cannot be."""

    has_ended = True


class Journal(NoJournal):
    """One mount's. `keeps` False: only what is taken over from an earlier mount is followed."""

    def __init__(
        self,
        directory: Path,
        keys: VolumeKeys,
        volume: VolumeId,
        *,
        keeps: bool,
        budget_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """`budget_bytes` is what the mount may hold unsaved. `take_over` comes next."""
        self.keeps = keeps
        self._most_bytes = 2 * budget_bytes + 4 * segment_bytes
        self._segment_bytes = segment_bytes
        self.segments = Segments(directory, keys, volume)
        self._state = self._written = State()
        self._queued = 0  # the position behind the last operation
        self._operations: deque[Outstanding] = deque()
        self._live: dict[int, Live] = {}
        self._is_broken = self._is_left = False

    def take_over(
        self, kept: Iterable[tuple[Kept, Segment]], *, position: int, last_number: int, whole: int | None = None
    ) -> None:
        """Begin behind an earlier mount's segments; without room for that the journal ends. `kept` are its freezes that
        are not stored yet, `position` that behind its last operation; all of those are finished, in one way or another.
        `whole`: the last segment is torn behind so many bytes, which would be damage in one that another follows.
        """
        for record, segment in kept:
            self._live[record.number] = Live(segment, record)
            segment.live += 1
        self.next_number = last_number + 1
        self._queued = position
        self._state = State(done=position)
        try:
            if whole is not None:
                self.segments.cut(self.segments.current, whole)
            self.segments.begin()
            self.segments.append(codec.encode(self._state))
        except OSError as error:
            self._end(error)
        else:
            self.segments.trim()

    def replace(self, numbers: Iterable[int], records: Iterable[Kept]) -> list[Kept]:
        """Keep these of an earlier mount instead of those; a number of its own for each that has none."""
        added = []
        for record in records:
            if not record.number:
                record = msgspec.structs.replace(record, number=self.next_number)
                self.next_number += 1
            self._put(record.number, record)
            added.append(record)
        for number in set(numbers) - {record.number for record in added}:
            self.finished(number)
        return added

    def adopt(self, inode: Inode, freeze: Freeze) -> None:
        """A freeze of an earlier mount is this one's now."""
        if (live := self._live.get(freeze.number)) is not None:
            live.record, live.inode, live.freeze = None, inode, freeze

    def finished(self, number: int) -> None:
        """Nothing is to be done about a freeze any more."""
        live = self._live.pop(number, None)  # first: what follows may write those that live once more
        if live is not None:
            live.segment.live -= 1
        self._append(Stored(number))
        self._trim()

    # ---- names

    def opened(self, session: str) -> None:
        """See NoJournal."""
        if self.keeps:
            self._change(session=session, epoch=0, seq=0, acked=0, sent_seq=0, sent_upto=0)

    def granted(self, epoch: int) -> None:
        """See NoJournal."""
        if self.keeps:
            self._change(epoch=epoch)

    def queued(self, operations: Sequence[Operation]) -> None:
        """See NoJournal."""
        if self.keeps and (kept := lasting(operations)):
            segment = self._append(Queued(self._queued, kept))
            self._queued += len(kept)
            if segment is not None:
                segment.live += 1
                self._operations.append(Outstanding(self._queued, kept, segment))

    def sending(self, batch: Batch) -> None:
        """See NoJournal."""
        if not self.keeps:
            return
        seq, done = max(self._state.seq, batch.seq), self._state.done
        if batch.epoch:
            self._change(
                seq=seq, acked=batch.acked, sent_seq=batch.seq, sent_upto=done + len(lasting(batch.operations))
            )
        else:
            self._change(seq=seq, acked=batch.acked)

    def committed(self, operations: Sequence[Operation]) -> None:
        """See NoJournal. What is written next will say so: until then the batch would only get its old answer."""
        if self.keeps:
            self._state = msgspec.structs.replace(self._state, done=self._state.done + len(lasting(operations)))
            self._forget_operations()

    @property
    def holds_names(self) -> bool:  # type: ignore[override]
        """See NoJournal."""
        return bool(self._operations) and not self._is_broken

    def _change(self, **fields: str | int) -> None:
        self._state = msgspec.structs.replace(self._state, **fields)
        self._append(self._state)

    def _forget_operations(self) -> None:
        while self._operations and self._operations[0].upto <= self._state.done:
            self._operations.popleft().segment.live -= 1
        self._trim()

    # ---- bytes

    async def keep(self, inode: Inode) -> None:
        """See NoJournal. Cancellation: some may be."""
        if not self.keeps or self._is_left:
            return
        for freeze in list(inode.frozen):
            if freeze.number not in self._live and freeze in inode.frozen:
                self._keep(inode, freeze)
                if freeze.bytes >= _LONG:
                    await trio.lowlevel.checkpoint()

    def _keep(self, inode: Inode, freeze: Freeze) -> None:
        self._put(freeze.number, kept_record(inode, freeze))
        if (live := self._live.get(freeze.number)) is not None:
            live.record, live.inode, live.freeze = None, inode, freeze

    def _put(self, number: int, record: Kept) -> None:
        """In the place of the record of that number before, if there is one."""
        segment = self._append(record)
        if segment is None:
            return
        before = self._live.get(number)
        if before is not None:
            before.segment.live -= 1
        segment.live += 1
        self._live[number] = Live(segment, record)

    def moved(self, inode: Inode) -> None:
        """See NoJournal."""
        for freeze in inode.frozen:
            if freeze.number in self._live and not self._is_left:
                self._keep(inode, freeze)

    def untimed(self, inode: Inode) -> None:
        """See NoJournal."""
        if self._follows(inode):
            self._append(Untimed(inode.id, inode.frozen[-1].number))

    def committing(self, inode: Inode, head: bytes, included: int) -> None:
        """See NoJournal."""
        if self._is_left or not (self.keeps or self._live):
            return
        digest = head_digest(head)
        inode.last_commit = (digest, included)
        if inode.attributes.change and (name := named(inode)) is not None:  # of a new file its making tells
            self._append(name)
        if self._follows(inode):
            self._append(Committing(inode.id, digest, included))

    def _follows(self, inode: Inode) -> bool:
        return any(freeze.number in self._live for freeze in inode.frozen)

    def stored(self, freeze: Freeze) -> None:
        """See NoJournal."""
        if freeze.number in self._live:
            self.finished(freeze.number)

    def leave(self, freeze: Freeze) -> bool:
        """See NoJournal."""
        self._is_left = self.has_ended = True
        live = self._live.get(freeze.number)
        if live is not None:
            live.inode = live.freeze = None
        return live is not None

    # ---- the files

    def _append(self, record: Record) -> Segment | None:
        """Where it is; None when the journal has ended."""
        if self._is_broken:
            return None
        try:
            if self.segments.current.size > self._segment_bytes:
                self.segments.begin()
                self.segments.append(codec.encode(self._state))
                self._written = self._state
                self._shrink()
            if isinstance(record, State):
                self._written = record
            return self.segments.append(codec.encode(record))
        except OSError as error:
            self._break(error)
            return None

    def _trim(self) -> None:
        """Delete what is not needed, once what remains says so."""
        if self._is_broken or self.segments.oldest.live or self.segments.oldest is self.segments.current:
            return
        if self._written != self._state:
            self._append(self._state)
        if not self._is_broken:
            self.segments.trim()

    def _shrink(self) -> None:
        """What is stored or committed late must not keep everything behind it: it is written once more."""
        self.segments.trim()
        for oldest in self.segments:
            if self._is_left or self.segments.size <= self._most_bytes or oldest is self.segments.current:
                return
            needed: list[Live | Outstanding] = [*self._live.values(), *self._operations]
            for kept in needed:
                if kept.segment is oldest and (record := kept.as_record()) is not None:
                    kept.segment = self.segments.append(codec.encode(record))
                    kept.segment.live += 1
                    oldest.live -= 1
            self.segments.trim()

    def _break(self, error: OSError) -> None:
        """A journal that lacks something would be worse than none."""
        self._end(error)
        self._live.clear()
        try:
            self.segments.delete()
        except OSError as more:
            log.warning("the journal of this mount cannot be deleted: %s", more)

    def _end(self, error: OSError) -> None:
        self._is_broken = self.has_ended = True
        self.keeps = False
        log.warning(
            "the journal of this mount ends: from now on each close waits until its file is stored, and what is on its"
            " way now would be lost in a crash: %s", error,
        )  # fmt: skip

    async def run(self) -> None:
        """See NoJournal."""
        while not self._is_broken:
            await trio.sleep(SYNC_S)
            await self.sync()

    async def sync(self) -> None:
        """Everything appended before is on the disk on return, or the journal has ended."""
        if self._is_broken or not self.segments.is_unsynced:
            return
        unsynced = self.segments.unsynced()
        try:
            with trio.CancelScope(shield=True):  # the thread cannot be cancelled anyway, and owns the descriptors
                await trio.to_thread.run_sync(self.segments.sync, unsynced)
            if not self._is_broken:
                self.segments.synced(unsynced)
        except OSError as error:
            if not self._is_broken:
                self._break(error)

    def close(self) -> None:
        """At the end; what is not finished stays for the next mount, on the disk."""
        if not (self._live or self.holds_names):
            self.segments.delete()
            return
        try:
            if not self._is_broken:
                self.segments.sync(unsynced := self.segments.unsynced())
                self.segments.synced(unsynced)
        except OSError as error:
            log.warning("what the journal of this mount has for the next one may not be on the disk: %s", error)
        self.segments.close()
