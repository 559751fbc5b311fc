"""One replicated PUT: which peers, how many at once, when to try another, when to answer the caller.

Made by chunks.replicated for each `put`. The flight runs in the store's nursery and outlives the caller's wait: with
`min_replicas` receipts the caller goes on, the rest follow and are reported as late.

    sending ──(min_replicas receipts)──▶ answered ──(replicas receipts, nobody left, or grace over)──▶ done
       └────(full, or io_timeout in which nothing moved)──▶ failed

Where the uplink is thin a copy is sent when it is this PUT's turn (chunks.turns). Waiting for that is no failure of
anybody: those before it move, or lose theirs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.chunks.outcomes import Outcomes
from p2pfs.chunks.protocol import PeerStore, Released
from p2pfs.chunks.standing import Attempt, Standings
from p2pfs.chunks.turns import Turns
from p2pfs.chunks.uplink import Uplink
from p2pfs.errors import Denied, NoSpace, NotFound, PoolError, Unavailable, bare
from p2pfs.placement.distribution import Progress, Step, next_steps
from p2pfs.runtime.retry import backoff
from p2pfs.types import Buffer, ChunkId, Distribution, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import NewChunk

GRACE_S: Final = 5.0
"""How long stragglers may take after the caller was answered and they were begun, or three times what one took."""

_ROUNDS: Final = 3
"""When everybody has refused a chunk so often, that it moves is no progress any more, only a receipt is."""

Late = Callable[[VolumeId, NewChunk], None]


@dataclass(frozen=True, slots=True)
class Targets:
    """Where copies may go, as the map says at one moment."""

    order: Sequence[PeerNumber]  # placement order of the chunk's group
    states: Mapping[PeerNumber, str]
    replicas: int
    min_replicas: int
    how: Distribution = Distribution.DIRECT


@dataclass(slots=True)
class Made:
    """Copies that came about since the store was made."""

    sent: int = 0
    passed_on: int = 0  # by a peer to another


@dataclass(frozen=True, slots=True)
class Destinations:
    """What every PUT of a store shares."""

    peers: Callable[[PeerNumber], PeerStore | None]
    targets: Callable[[ChunkId], Targets]
    standings: Standings
    uplink: Uplink
    turns: Turns
    made: Made
    late: Late | None
    io_timeout_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What is stored."""

    volume: VolumeId
    chunk: ChunkId
    parts: Sequence[Buffer]
    size: int
    released: Released | None


@dataclass(slots=True)
class _Sending:
    """A PUT under way to one peer, or a fetch by it."""

    attempt: Attempt
    step: Step
    patience_s: float
    patience_ends_s: float
    turn_bytes: int = 0  # taken of the uplink
    overdue: bool = False


class WriteFlight:
    """One PUT to several peers. `run` does it, `wait` gives the caller's answer."""

    def __init__(self, to: Destinations, load: Load) -> None:
        self._to = to
        self._load = load
        self._targets = to.targets(load.chunk)
        self._sending: dict[PeerNumber, _Sending] = {}
        self._refused: dict[PeerNumber, PoolError] = {}
        self._unserved: dict[PeerNumber, set[PeerNumber]] = {}  # by whom: sources that gave it nothing
        self._receipts: dict[PeerNumber, Receipt] = {}
        self._answer: list[Receipt] | PoolError | None = None
        self._answered = trio.Event()
        self._scope = trio.CancelScope()
        self._outcomes = Outcomes[Receipt | PoolError]()
        self._progress_s = trio.current_time()
        self._rounds = 0  # in which everybody refused
        self._is_queued = False
        self._listening: trio.CancelScope | None = None
        self._longest_s = 0.0  # that a copy took
        self._grace_s = GRACE_S

    async def wait(self) -> list[Receipt]:
        """The receipts that answer the caller.

        Cancellation: gives the whole flight up; what was stored stays.
        """
        try:
            await self._answered.wait()
        except trio.Cancelled:
            self._scope.cancel()
            raise
        if isinstance(self._answer, list):
            return self._answer
        raise self._answer or Unavailable("the store was closed before the chunk was stored")

    async def run(self) -> None:
        """Send until there are enough copies, nobody is left or time is up."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await self._drive(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            self._to.turns.leave(self._wake)
            for sending in self._sending.values():
                self._give_turn(sending)
            self._answered.set()
            if self._load.released is not None:
                self._load.released()

    # ---- decisions --------------------------------------------------------------------------------------------------

    def _next_steps(self) -> list[Step]:
        """What to begin now: copies for as many as are missing, not counting those that are overdue."""
        patient = [sending.step for sending in self._sending.values() if not sending.overdue]
        missing = self._targets.replicas - len(self._receipts) - len(patient)
        if missing <= 0:
            return []
        tried = self._sending.keys() | self._refused.keys() | self._receipts.keys()
        order = self._to.standings.write_order(self._targets.order, self._targets.states)
        targets = [peer for peer in order if peer not in tried][:missing]
        if self._targets.how is Distribution.DIRECT or not targets:
            return [Step(target) for target in targets]
        overdue = (sending.step for sending in self._sending.values() if sending.overdue)
        return next_steps(
            self._targets.how,
            targets,
            Progress(
                holders=list(self._receipts),
                under_way=patient,
                stuck={source for step in overdue for source in step.sources[:1]},
                unserved=self._unserved,
                doubtful=self._to.standings.unhelpful(order),
            ),
        )

    def _failure(self) -> PoolError | None:
        """Nobody is left to try: why it is hopeless, or None if waiting may help."""
        refusals = list(self._refused.values())
        full = sum(isinstance(refusal, NoSpace) for refusal in refusals)
        if full and len(self._targets.order) - full < self._targets.min_replicas:
            return NoSpace("too few peers have room for another chunk")
        if refusals and not any(isinstance(refusal, Unavailable | NoSpace | Denied) for refusal in refusals):
            return refusals[0]
        return None

    def _wake_s(self) -> float:
        """When something is due although nothing happened: a patience, the deadline."""
        patience_s = min((s.patience_ends_s for s in self._sending.values() if not s.overdue), default=math.inf)
        return min(patience_s, self._deadline_s())

    def _deadline_s(self) -> float:
        """Until when something must have moved or, once the caller was answered, have been stored."""
        if self._is_queued:
            return math.inf
        return self._progress_s + (self._to.io_timeout_s if self._answer is None else self._grace_s)

    def _see_progress(self, now: float) -> None:
        """That something moves is as good as a receipt: a thin uplink is no error."""
        for sending in self._sending.values():
            sending.attempt.quiet_s(now)
            if sending.attempt.moved:
                self._progressed(sending.attempt.moved_s)

    def _progressed(self, when_s: float) -> None:
        if self._rounds < _ROUNDS:
            self._progress_s = max(self._progress_s, when_s)

    def _is_over(self) -> bool:
        """Whether the flight may end; gives the caller a failure if that is how it ends."""
        if len(self._receipts) >= self._targets.replicas:
            return True
        if self._is_queued:
            return False
        now = trio.current_time()
        if self._answer is not None:
            # One that is overdue had its patience, and whoever follows it is not: holding on would only hold memory.
            return now >= self._deadline_s() or all(sending.overdue for sending in self._sending.values())
        if now >= self._deadline_s():
            self._see_progress(now)
        if now >= self._deadline_s():
            reason = next(iter(self._refused.values()), "they do not answer")
            self._give_answer(Unavailable(f"too few peers stored the chunk in time: {reason}"))
            return True
        return False

    # ---- effects ----------------------------------------------------------------------------------------------------

    async def _drive(self, nursery: trio.Nursery) -> None:
        pauses = backoff(0.25, 2.0)
        while True:
            self._begin(nursery)
            if self._is_over():
                return
            if self._sending or self._is_queued:
                await self._listen()
            elif not await self._recover(pauses):
                return

    def _begin(self, nursery: trio.Nursery) -> None:
        """Begin what may be begun now."""
        was_queued, self._is_queued = self._is_queued, False
        if was_queued:  # meanwhile it may have turned out that peers should pass chunks on
            self._targets = self._to.targets(self._load.chunk)
        for step in self._next_steps():
            if step.sources or (not self._is_queued and self._to.turns.take(self._load.size, self._wake)):
                self._start(step, nursery)
            else:
                self._is_queued = True
        if not self._is_queued:
            self._to.turns.leave(self._wake)
        if was_queued:
            self._progressed(trio.current_time())

    def _wake(self) -> None:
        """It may be this PUT's turn."""
        if self._listening is not None:
            self._listening.cancel()

    def _give_turn(self, sending: _Sending) -> None:
        size, sending.turn_bytes = sending.turn_bytes, 0
        if size:
            self._to.turns.give(size)

    async def _listen(self) -> None:
        """Take in one outcome, notice who is overdue, or that it is this PUT's turn."""
        with trio.move_on_at(self._wake_s()) as self._listening:
            self._take_in(*await self._outcomes.next())
        self._listening = None
        now = trio.current_time()
        for sending in self._sending.values():
            if now >= sending.patience_ends_s and not sending.overdue:
                fair = sending.attempt.fair = self._to.uplink.fair(sending.attempt)
                excuse_s = self._to.uplink.excuse_s(sending.attempt) if fair < math.inf else 0.0
                more_s = self._to.standings.look_again_s(sending.attempt, sending.patience_s + excuse_s)
                sending.overdue = more_s is None
                sending.patience_ends_s = now + (more_s or 0.0)
                if sending.overdue:
                    self._give_turn(sending)

    async def _recover(self, pauses: Iterator[float]) -> bool:
        """Everybody was tried. Once the caller has his answer that is the end; before, members that are away or full
        may come back, so wait and try all again, with a fresh map, until the deadline."""
        if self._answer is not None:
            return False
        failure = self._failure()
        if failure is not None:
            self._give_answer(failure)
            return False
        await trio.sleep(min(next(pauses), max(0.0, self._progress_s + self._to.io_timeout_s - trio.current_time())))
        self._rounds += 1
        self._refused.clear()
        self._unserved.clear()
        self._targets = self._to.targets(self._load.chunk)
        return True

    def _start(self, step: Step, nursery: trio.Nursery) -> None:
        patience_s = self._to.standings.write_patience_s(step.target)
        # What a fetch moves, its source sends; here nothing is seen of it before the receipt.
        attempt = self._to.standings.begin(step.target, 0 if step.sources else self._load.size)
        turn_bytes = 0 if step.sources else self._load.size
        patience_ends_s = trio.current_time() + patience_s
        self._sending[step.target] = _Sending(attempt, step, patience_s, patience_ends_s, turn_bytes)
        nursery.start_soon(self._store, attempt, step)

    def _take_in(self, peer: PeerNumber, outcome: Receipt | PoolError) -> None:
        sending = self._sending.pop(peer)
        self._give_turn(sending)
        step = sending.step
        if isinstance(outcome, NotFound) and step.sources:
            self._to.standings.gave_nothing(step.sources[0])
            self._unserved.setdefault(peer, set()).update(step.sources)
            return
        if isinstance(outcome, PoolError):
            self._refused[peer] = outcome
            return
        self._receipts[peer] = outcome
        now = trio.current_time()
        self._longest_s = max(self._longest_s, now - sending.attempt.started_s)
        if self._answer is None:
            self._progress_s = now
        if self._answer is not None:
            if self._to.late is not None:
                self._to.late(self._load.volume, NewChunk(self._load.chunk, self._load.size, [outcome]))
        elif len(self._receipts) >= self._targets.min_replicas:
            self._give_answer(list(self._receipts.values()))

    def _give_answer(self, answer: list[Receipt] | PoolError) -> None:
        self._answer = answer
        self._progress_s = trio.current_time()
        self._grace_s = max(GRACE_S, 3 * self._longest_s)
        self._answered.set()

    async def _store(self, attempt: Attempt, step: Step) -> None:
        """One copy on one peer; its outcome goes to the flight and to the peer's standing."""
        standings, peer = self._to.standings, attempt.peer
        outcome: Receipt | PoolError
        try:
            store = self._to.peers(peer)
            if store is None:
                raise Unavailable(f"the pool does not know peer {peer}")
            outcome = await self._copied(store, attempt, step)
            standings.wrote(attempt)
        except Unavailable as error:
            standings.failed(attempt)
            outcome = bare(error)
        except PoolError as error:
            standings.refused(attempt)
            outcome = bare(error)
        except trio.Cancelled:
            standings.dropped(attempt)
            raise
        self._outcomes.add(peer, outcome)

    async def _copied(self, store: PeerStore, attempt: Attempt, step: Step) -> Receipt:
        load = self._load
        if step.sources:
            (receipt,) = await store.fetch(load.volume, load.chunk, load.size, step.sources, watch=attempt.watch)
            self._to.made.passed_on += 1
            return receipt
        self._to.uplink.begin(attempt)
        is_stored = False
        try:
            (receipt,) = await store.put(load.volume, load.chunk, load.parts, watch=attempt.watch)
            self._to.made.sent += 1
            is_stored = True
            return receipt
        finally:
            self._to.uplink.end(attempt, is_stored=is_stored)
