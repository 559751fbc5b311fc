"""What waits to be copied, what is being copied, and what must wait because it failed. Sync and without I/O.

For each target a queue of each urgency, fewest copies first, then by the precedence of the owners. Bounded for each
urgency and number of copies, so that what is less urgent never takes the place of what is more so; what does not fit is
found again by the next survey. A copy that failed, or was lost again and again, pauses for its target alone: a peer
that takes nothing, or says nothing, keeps nobody else from holding the chunk. Also the account of it: a job for repair,
one for moves, and one for each peer that is being drained.
Used by `care` alone.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from p2pfs.coordinator.upkeep.jobs import Job, Jobs
from p2pfs.placement.care import Urgency
from p2pfs.runtime.clocks import Clock
from p2pfs.types import PeerNumber
from p2pfs.wire.jobs import JobKind

MOST: Final = 20_000
"""Tasks that wait, of one urgency and number of copies: about 6 MB."""
MOST_PAUSED: Final = 50_000
"""Chunks whose failures are remembered; further ones are tried again by the next survey only."""
SPENT: Final = 1000
"""Entries of a queue that may stand for nothing any more, beside as many as wait: for a target that takes none."""
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 3600.0
_KINDS: Final = {Urgency.REPAIR: JobKind.REPAIR, Urgency.REBALANCE: JobKind.REBALANCE}


@dataclass(frozen=True, slots=True)
class Task:
    """Copy this chunk to that peer."""

    number: int  # of the chunk
    size: int
    target: PeerNumber
    urgency: Urgency
    copies: int  # readable ones
    leaving: tuple[PeerNumber, ...] = ()  # holders that wait for it to leave
    precedence: int = 0  # of its owner, among tasks of equal rank; lower is sooner

    @property
    def rank(self) -> tuple[Urgency, int]:
        """How much it matters; lower is more."""
        return self.urgency, self.copies


@dataclass(slots=True)
class _Trouble:
    """What went wrong with a chunk."""

    failures: int = 0  # in a row, whatever the target
    paused: dict[PeerNumber, float] = field(default_factory=dict)  # target → until when (monotonic)


_Entry = tuple[int, int, int]
"""(copies, precedence, chunk number)."""


class Backlog:
    """`done` counts copies made."""

    def __init__(self, jobs: Jobs, clock: Clock, node_of: Callable[[PeerNumber], str]) -> None:
        self._jobs = jobs
        self._node_of = node_of
        self._clock = clock
        self._queues: dict[PeerNumber, dict[Urgency, list[_Entry]]] = {}  # heaps
        self._tasks: dict[int, dict[PeerNumber, Task]] = {}  # chunk → target → what waits
        self._waiting_for: Counter[PeerNumber] = Counter()
        self._waiting: Counter[tuple[Urgency, int]] = Counter()  # by rank
        self._overflowed: set[tuple[Urgency, int]] = set()  # ranks of which something did not fit
        self._in_hand: dict[int, Task] = {}  # by order
        self._coming: dict[int, dict[PeerNumber, int]] = {}  # chunk → target → order
        self._coming_bytes: Counter[PeerNumber] = Counter()
        self._moving: Counter[PeerNumber] = Counter()
        self._troubles: dict[int, _Trouble] = {}  # by chunk
        self._pauses: list[tuple[float, int, PeerNumber]] = []  # heap of (until when, chunk, target)
        self._stuck: dict[Urgency, str] = {}  # why something of this urgency cannot be done, as of this survey
        self.done = 0
        for kind in (*_KINDS.values(), JobKind.DRAIN):
            for job in jobs.going_on(kind):  # of an earlier run: what was not done is found again
                job.set(done=job.row.done, total=job.row.done, done_bytes=job.row.done_bytes)

    @property
    def waiting(self) -> int:
        """Tasks that wait or are in hand."""
        return self._waiting.total() + len(self._in_hand)

    @property
    def wants_more(self) -> bool:
        """Whether something did not fit that would fit by now."""
        return any(not self._waiting[rank] for rank in self._overflowed)

    def waits(self, peer: PeerNumber) -> bool:
        """Whether a task waits for this peer."""
        return self._waiting_for[peer] > 0

    def coming(self, number: int) -> Collection[PeerNumber]:
        """Who is being sent a copy of this chunk."""
        return self._coming.get(number, ())

    def coming_bytes(self, peer: PeerNumber) -> int:
        """What is on its way to this peer."""
        return self._coming_bytes[peer]

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """Let a task wait, unless its target has to pause."""
        known = self._tasks.get(task.number, {}).get(task.target)
        if known == task or task.target in self.coming(task.number) or self.is_paused(task.number, task.target):
            return
        if known is not None:
            self._remove(known)
        if self._waiting[task.rank] >= MOST:
            self._overflowed.add(task.rank)
            return
        self._tasks.setdefault(task.number, {})[task.target] = task
        self._waiting_for[task.target] += 1
        self._waiting[task.rank] += 1
        queue = self._queues.setdefault(task.target, {}).setdefault(task.urgency, [])
        heapq.heappush(queue, (task.copies, task.precedence, task.number))
        if len(queue) > 2 * self._waiting_for[task.target] + SPENT:
            queue[:] = sorted({entry for entry in queue if self._awaited(task.target, task.urgency, entry)})
        for job in self._jobs_of(task):
            job.found(1, task.size)

    def drop(self, number: int, *, keep: Collection[PeerNumber] = ()) -> None:
        """The chunk needs no copies but on `keep`."""
        for task in [task for task in self._tasks.get(number, {}).values() if task.target not in keep]:
            self._remove(task)

    def target_gone(self, peer: PeerNumber) -> list[int]:
        """Nobody copies anything to this peer any more; the chunks that were being copied."""
        for task in [tasks[peer] for tasks in self._tasks.values() if peer in tasks]:
            self._remove(task)
        self._queues.pop(peer, None)
        orders = [order for order, task in self._in_hand.items() if task.target == peer]
        return [task.number for task in map(self.lost, orders) if task is not None]

    def _remove(self, task: Task) -> None:
        """It does not wait any more, and is on nobody's account."""
        targets = self._tasks[task.number]
        del targets[task.target]
        if not targets:
            del self._tasks[task.number]
        self._waiting_for[task.target] -= 1
        self._waiting[task.rank] -= 1
        for job in self._jobs_of(task):
            job.found(-1, -task.size)

    # ---- in hand ----------------------------------------------------------------------------------------------------

    def take(self, peer: PeerNumber, room: int, *, moves: int) -> Iterator[Task]:
        """Up to `room` tasks for this peer, most urgent first; of mere moves only as many as make `moves` in hand."""
        for urgency in Urgency:
            queue = self._queues.get(peer, {}).get(urgency, [])
            if not queue or self._is_held_back(urgency):
                continue
            held: list[_Entry] = []
            try:
                while queue and room > 0 and (urgency is not Urgency.REBALANCE or self._moving[peer] < moves):
                    entry = heapq.heappop(queue)
                    task = self._awaited(peer, urgency, entry)
                    if task is None:
                        continue
                    if urgency is Urgency.DRAIN and all(self._is_drain_held_back(one) for one in task.leaving):
                        held.append(entry)
                        continue
                    self._remove(task)
                    room -= 1
                    yield task
            finally:
                for entry in held:
                    heapq.heappush(queue, entry)

    def _awaited(self, peer: PeerNumber, urgency: Urgency, entry: _Entry) -> Task | None:
        """What an entry of a queue stands for; None: it was replaced, taken or is no longer needed."""
        copies, precedence, number = entry
        task = self._tasks.get(number, {}).get(peer)
        is_it = task is not None and (*task.rank, task.precedence) == (urgency, copies, precedence)
        return task if is_it else None

    def _is_held_back(self, urgency: Urgency) -> bool:
        """Whether somebody paused everything of this urgency."""
        if urgency is Urgency.DRAIN:
            drains = self._jobs.going_on(JobKind.DRAIN)
            return bool(drains) and all(job.is_paused for job in drains)
        return self._jobs.is_paused(_KINDS[urgency])

    def _is_drain_held_back(self, peer: PeerNumber) -> bool:
        return self._jobs.is_paused(JobKind.DRAIN, self._node_of(peer))

    def begin(self, order: int, task: Task) -> None:
        """It was ordered."""
        self._in_hand[order] = task
        self._coming.setdefault(task.number, {})[task.target] = order
        self._coming_bytes[task.target] += task.size
        self._moving[task.target] += task.urgency is Urgency.REBALANCE
        for job in self._jobs_of(task):
            job.found(1, task.size)

    def stored(self, order: int) -> Task | None:
        """The copy is made; its task."""
        task = self._end(order)
        if task is not None:
            self.done += 1
            self._troubles.pop(task.number, None)
            for job in self._jobs_of(task):
                job.advanced(1, task.size)
                job.stuck("")
        return task

    def failed(self, order: int, reason: str) -> Task | None:
        """It could not be made: its target pauses, longer each time; its task."""
        task = self._end(order)
        if task is not None:
            self._trouble(task, forgiven=0)
            for job in self._jobs_of(task):
                job.found(-1, -task.size)
                job.stuck(reason)
        return task

    def lost(self, order: int) -> Task | None:
        """Nobody will tell what became of it; its task. Once is weather: a restart, an answer that did not arrive."""
        task = self._end(order)
        if task is not None:
            self._trouble(task, forgiven=1)
            for job in self._jobs_of(task):
                job.found(-1, -task.size)
        return task

    def _end(self, order: int) -> Task | None:
        task = self._in_hand.pop(order, None)
        if task is None:
            return None
        targets = self._coming[task.number]
        targets.pop(task.target, None)
        if not targets:
            del self._coming[task.number]
        self._coming_bytes[task.target] -= task.size
        self._moving[task.target] -= task.urgency is Urgency.REBALANCE
        return task

    # ---- pauses -----------------------------------------------------------------------------------------------------

    def is_paused(self, number: int, target: PeerNumber) -> bool:
        """Whether this chunk is not to be copied there for now."""
        trouble = self._troubles.get(number)
        return trouble is not None and target in trouble.paused

    def _trouble(self, task: Task, *, forgiven: int) -> None:
        """It went wrong once more; more often than `forgiven` times in a row, the target pauses."""
        if task.number not in self._troubles and len(self._troubles) >= MOST_PAUSED:
            del self._troubles[next(iter(self._troubles))]
        trouble = self._troubles.setdefault(task.number, _Trouble())
        trouble.failures += 1
        if trouble.failures > forgiven:
            pause_s = min(FIRST_PAUSE_S * 2.0 ** min(trouble.failures - 1, 16), LONGEST_PAUSE_S)
            trouble.paused[task.target] = until_s = self._clock.monotonic() + pause_s
            heapq.heappush(self._pauses, (until_s, task.number, task.target))

    def over(self) -> list[int]:
        """Chunks of which a pause has just ended."""
        now_s, ended = self._clock.monotonic(), dict[int, None]()
        while self._pauses and self._pauses[0][0] <= now_s:
            until_s, number, target = heapq.heappop(self._pauses)
            trouble = self._troubles.get(number)
            if trouble is not None and trouble.paused.get(target) == until_s:
                del trouble.paused[target]
                ended[number] = None
        return list(ended)

    def next_s(self) -> float:
        """When the next pause is over (monotonic)."""
        return self._pauses[0][0] if self._pauses else math.inf

    def forgive(self) -> None:
        """Nothing has to pause any more."""
        self._pauses.clear()
        self._troubles.clear()

    def forget(self, number: int) -> None:
        """Nothing names the chunk any more."""
        self.drop(number)
        self._troubles.pop(number, None)

    # ---- accounts ---------------------------------------------------------------------------------------------------

    def stuck(self, urgency: Urgency, reason: str) -> None:
        """Nothing can be done for a chunk; the next survey asks again."""
        self._stuck[urgency] = reason

    def begin_survey(self) -> None:
        """What was stuck, or did not fit, is asked about again."""
        self._stuck.clear()
        self._overflowed.clear()

    def settle(self) -> None:
        """Everything was asked about: end the jobs that have nothing left, and say why others do not get on. (Drains
        are ended by `leaving`, which knows whether the peer may go.)"""
        busy = {urgency for (urgency, _), count in self._waiting.items() if count}
        busy |= {task.urgency for task in self._in_hand.values()} | {urgency for urgency, _ in self._overflowed}
        for urgency, kind in _KINDS.items():
            if urgency in busy or (urgency is Urgency.REPAIR and self._pauses):
                continue
            if urgency in self._stuck:
                self._jobs.open(kind).stuck(self._stuck[urgency])
            else:
                self._jobs.finish(kind)

    def _jobs_of(self, task: Task) -> list[Job]:
        """The jobs whose account a task is on. A drain has one for as long as it goes on."""
        drains = (self._jobs.current(JobKind.DRAIN, self._node_of(peer)) for peer in task.leaving)
        found = [job for job in drains if job is not None]
        if task.urgency in _KINDS:
            found.append(self._jobs.open(_KINDS[task.urgency]))
        return found
