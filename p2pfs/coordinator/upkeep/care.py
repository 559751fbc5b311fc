"""Looks after every chunk: repair, drain, rebalance and trimming, from one walk over the index.

A survey goes through the index whenever the pool changed, a slice at a time, and asks `placement.care` about each
chunk; chunks that were reported (a damaged copy, a commit with too few receipts, a transfer that ended) are asked about
at once. What must be copied waits in a queue for each target, most urgent first; `orders` hands it to the peers, which
pull from each other. A location is committed when its receipt is here, and a surplus copy is taken off the index in the
transaction that finds enough others proved. All of it is planned again from the rows after a restart.

    survey ─need─▶ waiting[target] ─take─▶ in hand ─Stored─▶ location committed ─▶ looked at again (surplus: take off)
                                              └─Failed, lost─▶ back-off ─▶ looked at again
"""

import itertools
import logging
import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from p2pfs.coordinator.ledger import CHUNK_OVERHEAD_BYTES
from p2pfs.coordinator.receipts import ReceiptChecker
from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.upkeep.audits import Audits
from p2pfs.coordinator.upkeep.backlog import Backlog, Task
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.jobs import Job, Jobs
from p2pfs.coordinator.upkeep.keepers import changes_in_s, keeper
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.coordinator.usefulness import Arrival, Usefulness
from p2pfs.errors import Gone, Misuse
from p2pfs.meta import chunks_index, survey, usefulness
from p2pfs.meta.database import Database
from p2pfs.meta.survey import Surveyed
from p2pfs.placement import rendezvous
from p2pfs.placement.candidates import Candidate
from p2pfs.placement.care import Held, Keeper, Need, Urgency, need
from p2pfs.placement.groups import group_of
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.events import first_of
from p2pfs.runtime.worker import Progress
from p2pfs.types import ChunkId, GroupId, PeerNumber, VolumeId
from p2pfs.wire import failures
from p2pfs.wire.jobs import JobAction, JobKind
from p2pfs.wire.namespace import NewChunk
from p2pfs.wire.orders import Failed, Order, Result, Stored, Transfer

SLICE: Final = 200
"""Chunks asked about between two turns of the event loop: about 5 ms."""
LONGEST_REST_S: Final = 0.05
"""A survey rests after each slice for as long as that took, so that it never has more than half of the processor; at
most for so long, should the disk be slow. A million chunks take about a minute."""
SURVEY_EVERY_S: Final = 3600.0
"""Nothing may be overlooked for ever."""
FIRST: Final = 32
"""Peers remembered of the order of each group: of a thousand, all 65 536 groups would take half a GiB."""
MOVES: Final = 2
"""Transfers a peer has in hand at once that only put chunks where they belong."""
MARGIN: Final = 0.05
"""Share of its capacity that must be free at a peer to which chunks are only moved."""
_log = logging.getLogger(__name__)


class Care:
    """A worker that plans, and the desk that hands transfers out."""

    name = "care"

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        reservations: Reservations,
        receipts: ReceiptChecker,
        deletions: Deletions,
        audits: Audits,
        jobs: Jobs,
        noticed: Noticed,
        surveyed: Callable[[Mapping[PeerNumber, int]], None],
        usefulness: Usefulness,
        repair_delay_s: float,
        clock: Clock,
    ) -> None:
        """`surveyed` is told at the end of each survey how many chunks need what each leaving peer holds."""
        self._database = database
        self._roster = roster
        self._reservations = reservations
        self._receipts = receipts
        self._deletions = deletions
        self._audits = audits
        self._jobs = jobs
        self._repair_delay_s = repair_delay_s
        self._clock = clock
        self._noticed = noticed
        self._surveyed = surveyed
        self._usefulness = usefulness
        self._backlog = Backlog(jobs, clock, lambda peer: roster.peers[peer].node.id)
        self._keepers: Mapping[PeerNumber, Keeper] = {}
        self._staying: Sequence[Candidate] = ()
        self._placed: dict[GroupId, tuple[PeerNumber, ...]] = {}  # the first FIRST of them, by group
        self._as_of = (-1, 0)  # the roster's standing that both are of
        self._reported: dict[int, None] = {}  # chunk numbers to ask about at once
        self._at: int | None = 0  # the survey has come so far; None: it has come to the end
        self._again = False  # when it has, it is to begin anew
        self._surveyed_s = -math.inf
        self._stale_s = math.inf  # when silence will have lasted so long that copies count no more
        self._done_then = 0  # copies made and shown before the last survey began
        self._depend: Counter[PeerNumber] = Counter()  # chunks that need what each leaving peer holds, in this survey
        for kind in (JobKind.REPAIR, JobKind.DRAIN, JobKind.REBALANCE):
            jobs.on(kind, JobAction.RETRY, self._retried)
        jobs.on(JobKind.TRIM, JobAction.RESUME, self._retried)

    @property
    def waiting(self) -> int:
        """Copies that are to be made, or are being made."""
        return self._backlog.waiting

    @property
    def copied(self) -> int:
        """Copies made since the start."""
        return self._backlog.done

    # ---- what others tell -------------------------------------------------------------------------------------------

    def survey(self) -> None:
        """Go through the whole index once more."""
        if self._at:  # one is under way: it goes on to its end, or a pool that always changes is never gone through
            self._again = True
            return
        self._at, self._again = 0, False
        self._done_then = self._done()
        self._backlog.begin_survey()
        self._depend.clear()

    async def _retried(self, _job: Job) -> None:
        """Forget what failed, and how often, and look at everything."""
        self._backlog.forgive()
        self._noticed.everything()

    def _report(self, numbers: Iterable[int]) -> None:
        self._reported.update(dict.fromkeys(numbers))
        if self._reported:
            self._noticed.changed.set()

    # ---- the worker: planning ---------------------------------------------------------------------------------------

    async def work(self) -> Progress:
        """Ask about one slice of chunks."""
        self._look_at_peers()
        self._look_at_noticed()
        if self._reported:
            numbers = list(itertools.islice(self._reported, SLICE))
            for number in numbers:
                del self._reported[number]
            found = self._database.read(lambda connection: survey.these(connection, numbers))
            for number in set(numbers) - {chunk.number for chunk in found}:
                self._backlog.forget(number)
            await self._consider(found, counts=False)
            return Progress.BUSY
        start = self._at
        if start is not None:
            began_s = self._clock.monotonic()
            found = self._database.read(lambda connection: survey.after(connection, start, limit=SLICE))
            self._at = found[-1].number if found else None
            await self._consider(found, counts=True)
            if self._at is None:
                self._end_survey()
            await trio.sleep(min(self._clock.monotonic() - began_s, LONGEST_REST_S))
            return Progress.BUSY
        self._backlog.settle()
        is_over = not self._backlog.waiting and not self._audits.is_busy  # each copy that arrives may make a surplus
        if self._backlog.wants_more or (is_over and self._is_to_be_certain()):
            self.survey()
            return Progress.BUSY
        if is_over and not self._jobs.is_paused(JobKind.TRIM):
            self._jobs.finish(JobKind.TRIM)
        return Progress.IDLE

    def _is_to_be_certain(self) -> bool:
        """Whether somebody who wants to leave may be able to, by now."""
        return self._done() != self._done_then and any(one.is_leaving for one in self._keepers.values())

    def _done(self) -> int:
        """What can have brought somebody nearer to leaving: copies made, and copies shown."""
        return self._backlog.done + self._audits.shown

    async def wait(self) -> None:
        """Until the pool changes, a chunk is noticed, a pause ends, or it was long ago."""
        if self._as_of != self._roster.standing:
            return
        until_s = min(self._surveyed_s + SURVEY_EVERY_S, self._stale_s, self._backlog.next_s(), self._noticed.next_s())
        with trio.move_on_after(max(0.1, until_s - self._clock.monotonic())):
            await first_of(self._roster.changed, self._noticed.changed)
        if self._clock.monotonic() >= self._surveyed_s + SURVEY_EVERY_S:
            self.survey()

    def _look_at_noticed(self) -> None:
        chunks, is_everything = self._noticed.take()
        if is_everything:
            self.survey()
        if chunks:
            self._reported.update(
                dict.fromkeys(self._database.read(lambda connection: survey.numbers_of(connection, chunks)))
            )
        self._reported.update(dict.fromkeys(self._backlog.over()))

    def _look_at_peers(self) -> None:
        """Take over what the roster says, and begin anew if that matters to any chunk."""
        now_s, time_s = self._clock.monotonic(), self._clock.time()
        if self._as_of == self._roster.standing and now_s < self._stale_s:
            return
        members = self._roster.members()
        patience_s = self._roster.patience.down_s + self._repair_delay_s
        keepers = {peer.number: keeper(peer, now_s, time_s, patience_s) for peer in members}
        silent = [peer for peer in members if not peer.is_reachable and keepers[peer.number].is_expected]
        self._stale_s = min(
            (now_s + changes_in_s(peer, now_s, time_s, patience_s) for peer in silent), default=math.inf
        )
        self._as_of = self._roster.standing
        if keepers == self._keepers and self._surveyed_s > -math.inf:
            return
        for number in self._keepers.keys() - keepers.keys():
            self._reported.update(dict.fromkeys(self._backlog.target_gone(number)))
        staying = [one.candidate for one in keepers.values() if not one.is_leaving]
        if set(staying) != set(self._staying):
            self._placed.clear()
        self._keepers, self._staying = keepers, staying
        self.survey()

    async def _consider(self, chunks: Sequence[Surveyed], *, counts: bool) -> None:
        """Put each chunk where it has to wait, and take off what is surplus."""
        drops: list[tuple[Surveyed, PeerNumber]] = []
        short: list[Surveyed] = []
        for chunk in chunks:
            if self._noticed.expects(chunk.volume, chunk.id):
                continue
            for copy in chunk.copies:  # what was found on a peer, or taken back, has yet to be shown
                if copy.proved < 0 and copy.peer in self._keepers and self._keepers[copy.peer].is_readable:
                    self._audits.ask(copy.peer, chunk.volume, chunk.id, size=chunk.size)
            found = self._need(chunk)
            if counts:
                self._count(chunk, found)
            self._backlog.drop(chunk.number, keep=found.targets if found else ())
            if found is None:
                continue
            if found.stuck:
                self._backlog.stuck(found.urgency, found.stuck)
            if found.urgency is not Urgency.REBALANCE:
                short.append(chunk)
            leaving = tuple(self._leaving(chunk))
            for target in found.targets:
                precedence = self._usefulness.precedence(chunk.volume)
                self._backlog.add(
                    Task(chunk.number, chunk.size, target, found.urgency, found.copies, leaving, precedence)
                )
            for peer in found.audit:
                self._audits.ask(peer, chunk.volume, chunk.id, size=chunk.size)
            if found.drop is not None:
                drops.append((chunk, found.drop))
        self._noticed.tell(await self._deletions.revive([(chunk.volume, chunk.id) for chunk in short]))
        if drops and not self._jobs.is_paused(JobKind.TRIM):
            await self._take_off(drops)

    def _need(self, chunk: Surveyed) -> Need | None:
        group = group_of(chunk.id)
        placed = self._first(group)
        is_part = len(placed) < len(self._staying)
        is_enough = not is_part or all(copy.peer in placed for copy in chunk.copies)
        found = self._need_by(chunk, placed) if is_enough else None
        if is_part and not (is_enough and found is None):  # something may be to be done: then all peers count
            found = self._need_by(chunk, rendezvous.order(self._staying, group))
        if found is not None and found.urgency is Urgency.REBALANCE and found.targets:
            return found if self._has_room(found.targets[0], chunk.size, margin=MARGIN) else None
        return found

    def _wanted(self, chunk: Surveyed) -> int:
        """Copies: the pool's number, or what its owner was given when it wrote it."""
        wanted, _ = self._reservations.copies_wanted()
        return min(wanted, chunk.wanted or wanted)

    def _need_by(self, chunk: Surveyed, placed: Sequence[PeerNumber]) -> Need | None:
        held = [Held(copy.peer, copy.proved) for copy in chunk.copies]
        return need(
            held,
            keepers=self._keepers,
            placed=placed,
            wanted=self._wanted(chunk),
            room=lambda peer: not self._backlog.is_paused(chunk.number, peer) and self._has_room(peer, chunk.size),
            coming=self._backlog.coming(chunk.number),
        )

    def _leaving(self, chunk: Surveyed) -> Iterator[PeerNumber]:
        """Its holders that want to leave."""
        for copy in chunk.copies:
            one = self._keepers.get(copy.peer)
            if one is not None and one.is_leaving:
                yield copy.peer

    def _count(self, chunk: Surveyed, found: Need | None) -> None:
        """Whether somebody who wants to leave cannot yet, because of this chunk."""
        is_short = found is not None and found.urgency is not Urgency.REBALANCE
        if is_short or self._backlog.coming(chunk.number):
            self._depend.update(self._leaving(chunk))

    def _end_survey(self) -> None:
        depend = {peer: self._depend[peer] for peer, one in self._keepers.items() if one.is_leaving}
        self._surveyed_s = self._clock.monotonic()
        if self._again:
            self.survey()
        self._surveyed(depend)

    def _first(self, group: GroupId) -> tuple[PeerNumber, ...]:
        """The first of those that are to hold a group."""
        placed = self._placed.get(group)
        if placed is None:
            placed = self._placed[group] = rendezvous.order(self._staying, group)[:FIRST]
        return placed

    def _has_room(self, number: PeerNumber, size: int, *, margin: float = 0.0) -> bool:
        peer = self._roster.peers[number]
        free = self._reservations.free(peer) - self._backlog.coming_bytes(number)
        return free >= size + CHUNK_OVERHEAD_BYTES + margin * peer.offered

    async def _take_off(self, drops: Sequence[tuple[Surveyed, PeerNumber]]) -> None:
        now_s = self._clock.time()
        keep = {
            number: one.appearances for number, one in self._keepers.items() if one.is_readable and not one.is_leaving
        }

        def take_off(connection: sqlite3.Connection) -> list[tuple[Surveyed, PeerNumber]]:
            return [
                (chunk, peer)
                for chunk, peer in drops
                if survey.take_off(
                    connection, chunk.number, peer=peer, keep=keep, wanted=self._wanted(chunk), now_s=now_s
                )
            ]

        gone = await self._database.write(take_off)
        if not gone:
            return
        job = self._jobs.open(JobKind.TRIM)
        for chunk, peer in gone:
            self._deletions.added({peer: 1})
            job.found(1, chunk.size)
            job.advanced(1, chunk.size)
        self._report(chunk.number for chunk, _ in gone)  # one at a time: there may be more

    # ---- the desk: handing out --------------------------------------------------------------------------------------

    def waits(self, peer: PeerNumber) -> bool:
        return self._backlog.waits(peer)

    def take(self, peer: PeerNumber, room: int, numbers: Iterator[int]) -> Sequence[Order]:
        """Ask about what waits for this peer once more, and order what it still needs."""
        orders: list[Order] = []
        for task in self._backlog.take(peer, room, moves=MOVES):
            found = self._database.read(partial(survey.these, numbers=[task.number]))
            wanted = self._need(found[0]) if found else None
            if wanted is None or peer not in wanted.targets:
                self._report([task.number])
                continue
            order = Transfer(next(numbers), found[0].volume, found[0].id, found[0].size, list(wanted.sources))
            self._backlog.begin(order.order, task)
            orders.append(order)
        return orders

    async def settle(self, peer: PeerNumber, ended: Sequence[tuple[Order, Result]]) -> None:
        """Commit the locations of what was stored; let what failed wait."""
        stored: list[tuple[Transfer, Stored]] = []
        for order, result in ended:
            if not isinstance(order, Transfer):
                raise Misuse("this is no transfer")
            if isinstance(result, Stored) and self._is_proved(peer, order, result):
                stored.append((order, result))
            else:
                self._failed(order, result)

        safe = [peer, *(one.number for one in self._keepers.values() if one.is_readable and not one.is_leaving)]
        known = list(self._roster.peers)

        def commit(connection: sqlite3.Connection) -> list[tuple[list[Arrival], str]]:
            return [_committed(connection, peer, order, result, safe, known) for order, result in stored]

        outcomes = await self._database.write(commit) if stored else []
        for (order, result), (arrivals, refusal) in zip(stored, outcomes, strict=True):
            if refusal:
                self._failed(order, result, refusal)
                continue
            self._reservations.arrived(peer, order.size, put_seq=result.receipt.put_seq)
            task = self._backlog.stored(order.order)
            if task is not None and task.urgency is not Urgency.REBALANCE:  # else who goes away and returns would gain
                self._usefulness.ordered(arrivals)
            self._report([task.number] if task else [])

    def lost(self, peer: PeerNumber, orders: Sequence[Order]) -> None:
        tasks = [self._backlog.lost(order.order) for order in orders]
        self._report(task.number for task in tasks if task is not None)

    def _is_proved(self, peer: PeerNumber, order: Transfer, result: Stored) -> bool:
        """Whether the receipt is that of the ordered copy. One that is not proves nothing."""
        new = _new_chunk(order, result)
        try:
            self._receipts.verify(VolumeId(order.volume), new)
        except (Gone, Misuse) as error:
            _log.warning("peer %d: %s", peer, error)
            return False
        return result.receipt.peer == peer

    def _failed(self, order: Transfer, result: Result, refusal: str = "the receipt does not verify") -> None:
        reason = failures.shown(result.message) if isinstance(result, Failed) else refusal
        task = self._backlog.failed(order.order, reason)
        self._report([task.number] if task else [])  # perhaps to another peer
        known = set(order.sources)
        for source in result.sources if isinstance(result, Failed) else ():
            if source in known:
                self._audits.ask(PeerNumber(source), VolumeId(order.volume), order.chunk, size=order.size)


def _committed(
    connection: sqlite3.Connection,
    peer: PeerNumber,
    order: Transfer,
    result: Stored,
    safe: Sequence[PeerNumber],
    known: Sequence[PeerNumber],
) -> tuple[list[Arrival], str]:
    """Note the copy; (what is new, why it does not count or "" if it does)."""
    volume, arrivals = VolumeId(order.volume), list[Arrival]()

    def added(new: NewChunk, _: Sequence[PeerNumber], first: Sequence[PeerNumber]) -> None:
        if first:
            out = usefulness.out_of(connection, volume, chunk=ChunkId(new.chunk), safe=safe, known=known)
            arrivals.extend(Arrival(volume, one, new.size, tuple(out)) for one in first)

    if not chunks_index.add_replicas(connection, volume, new=_new_chunk(order, result), added=added):
        return [], "the chunk was deleted while it was copied"
    if not chunks_index.is_held(connection, volume, chunk=ChunkId(order.chunk), peer=peer):
        return [], "the receipt is as old as that of a copy which is gone"  # again at once would be without end
    return arrivals, ""


def _new_chunk(order: Transfer, result: Stored) -> NewChunk:
    return NewChunk(order.chunk, order.size, [result.receipt])
