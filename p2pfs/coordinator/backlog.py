"""What waits to be copied, what is being copied, and what must wait because it failed. Sync and without I/O.

One queue for each target, most urgent first: fewest copies, then repair before drain before moves. Bounded: what does
not fit is found again by the next survey. Also the account of it: a job for repair, one for moves, and one for each
peer that is being drained.
Used by `care` alone.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from p2pfs.coordinator.jobs import Job, Jobs
from p2pfs.placement.care import Urgency
from p2pfs.runtime.clocks import Clock
from p2pfs.types import PeerNumber
from p2pfs.wire.jobs import JobKind

MOST: Final = 50_000
"""Tasks that wait: about 15 MB."""
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


class Backlog:
    """`overflowed`: something did not fit. `done` counts copies made."""

    def __init__(self, jobs: Jobs, clock: Clock, node_of: Callable[[PeerNumber], str]) -> None:
        self._jobs = jobs
        self._node_of = node_of
        self._clock = clock
        self._queues: dict[PeerNumber, list[tuple[int, int, int]]] = {}  # heaps of (copies, urgency, chunk number)
        self._tasks: dict[tuple[int, PeerNumber], Task] = {}
        self._waiting_for: Counter[PeerNumber] = Counter()
        self._in_hand: dict[int, Task] = {}  # by order
        self._coming: dict[int, dict[PeerNumber, int]] = {}  # chunk → target → order
        self._coming_bytes: Counter[PeerNumber] = Counter()
        self._moving: Counter[PeerNumber] = Counter()
        self._paused: dict[int, float] = {}  # chunk → until when (monotonic)
        self._failures: dict[int, int] = {}  # chunk → how often in a row
        self._stuck: dict[Urgency, str] = {}  # why something of this urgency cannot be done, as of this survey
        self._seen: set[tuple[int, PeerNumber]] = set()  # tasks that their jobs have been told of
        self.overflowed = False
        self.done = 0

    @property
    def waiting(self) -> int:
        """Tasks that wait or are in hand."""
        return len(self._tasks) + len(self._in_hand)

    def waits(self, peer: PeerNumber) -> bool:
        """Whether a task waits for this peer, and nobody holds its kind back."""
        return self._waiting_for[peer] > 0

    def coming(self, number: int) -> Collection[PeerNumber]:
        """Who is being sent a copy of this chunk."""
        return self._coming.get(number, ())

    def coming_bytes(self, peer: PeerNumber) -> int:
        """What is on its way to this peer."""
        return self._coming_bytes[peer]

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """Let a task wait, unless its chunk has to pause."""
        key = task.number, task.target
        if task.number in self._paused:
            return
        if self._tasks.get(key) == task or task.target in self.coming(task.number):
            return
        if len(self._tasks) >= MOST and key not in self._tasks:
            self.overflowed = True
            return
        if key not in self._tasks:
            self._waiting_for[task.target] += 1
        self._tasks[key] = task
        heapq.heappush(self._queues.setdefault(task.target, []), (task.copies, task.urgency, task.number))
        if key not in self._seen:
            self._seen.add(key)
            for job in self._jobs_of(task):
                job.found(1, task.size)

    def drop(self, number: int, *, keep: Collection[PeerNumber] = ()) -> None:
        """The chunk needs no copies but on `keep`."""
        for target in [target for target in self._queues if (number, target) in self._tasks and target not in keep]:
            self._remove((number, target))

    def target_gone(self, peer: PeerNumber) -> None:
        """Nobody copies anything to this peer any more."""
        for key in [key for key in self._tasks if key[1] == peer]:
            self._remove(key)
        self._queues.pop(peer, None)

    def _remove(self, key: tuple[int, PeerNumber]) -> None:
        if self._tasks.pop(key, None) is not None:
            self._waiting_for[key[1]] -= 1

    # ---- in hand ----------------------------------------------------------------------------------------------------

    def take(self, peer: PeerNumber, room: int, *, moves: int) -> Iterator[Task]:
        """Up to `room` tasks for this peer, most urgent first; of mere moves only as many as make `moves` in hand."""
        queue, held = self._queues.get(peer, []), []
        while queue and room > 0:
            entry = heapq.heappop(queue)
            copies, urgency, number = entry
            task = self._tasks.get((number, peer))
            if task is None or (task.copies, task.urgency) != (copies, urgency):
                continue  # it was replaced or is no longer needed
            is_move = task.urgency is Urgency.REBALANCE
            if any(job.is_paused for job in self._jobs_of(task)) or (is_move and self._moving[peer] >= moves):
                held.append(entry)
                continue
            self._remove((number, peer))
            room -= 1
            yield task
        for entry in held:
            heapq.heappush(queue, entry)

    def begin(self, order: int, task: Task) -> None:
        """It was ordered."""
        self._in_hand[order] = task
        self._coming.setdefault(task.number, {})[task.target] = order
        self._coming_bytes[task.target] += task.size
        self._moving[task.target] += task.urgency is Urgency.REBALANCE

    def end(self, order: int, *, done: bool = True) -> Task | None:
        """The order is over; its task."""
        task = self._in_hand.pop(order, None)
        if task is None:
            return None
        targets = self._coming[task.number]
        targets.pop(task.target, None)
        if not targets:
            del self._coming[task.number]
        self._coming_bytes[task.target] -= task.size
        self._moving[task.target] -= task.urgency is Urgency.REBALANCE
        if done:
            self.done += 1
            self._paused.pop(task.number, None)
            self._failures.pop(task.number, None)
            self._seen.discard((task.number, task.target))
            for job in self._jobs_of(task):
                job.advanced(1, task.size)
                job.stuck("")
        return task

    # ---- pauses -----------------------------------------------------------------------------------------------------

    def failed(self, task: Task, reason: str) -> None:
        """Its chunk waits, longer each time."""
        failures = self._failures[task.number] = self._failures.get(task.number, 0) + 1
        pause_s = min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S)
        self._paused[task.number] = self._clock.monotonic() + pause_s
        for job in self._jobs_of(task):
            job.stuck(reason)

    def stuck(self, urgency: Urgency, reason: str) -> None:
        """Nothing can be done for a chunk; the next survey asks again."""
        self._stuck[urgency] = reason

    def over(self) -> list[int]:
        """Chunks whose pause has just ended."""
        now_s = self._clock.monotonic()
        ended = [number for number, until_s in self._paused.items() if until_s <= now_s]
        for number in ended:
            del self._paused[number]
        return ended

    def next_s(self) -> float:
        """When the next pause is over (monotonic)."""
        return min(self._paused.values(), default=math.inf)

    def forgive(self) -> None:
        """Nothing has to pause any more."""
        self._paused.clear()
        self._failures.clear()

    # ---- accounts ---------------------------------------------------------------------------------------------------

    def begin_survey(self) -> None:
        """What was stuck is asked about again."""
        self._stuck.clear()

    def settle(self) -> None:
        """Everything was asked about: end the jobs that have nothing left, and say why others do not get on. (Drains
        are ended by `leaving`, which knows whether the peer may go.)"""
        busy = {task.urgency for task in (*self._tasks.values(), *self._in_hand.values())}
        for urgency, kind in _KINDS.items():
            if urgency in busy or self.overflowed or (urgency is Urgency.REPAIR and self._paused):
                continue
            if urgency in self._stuck:
                self._jobs.open(kind).stuck(self._stuck[urgency])
            else:
                self._jobs.finish(kind)
        if not self.waiting and not self._paused:
            self._seen.clear()

    def _jobs_of(self, task: Task) -> list[Job]:
        """The jobs whose account a task is on."""
        found = [self._jobs.open(JobKind.DRAIN, self._node_of(peer)) for peer in task.leaving]
        if task.urgency in _KINDS:
            found.append(self._jobs.open(_KINDS[task.urgency]))
        return found
