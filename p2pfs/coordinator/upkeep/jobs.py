"""Background work as people see it: what is under way, how fast, how long still, and why it is stuck.

A job is an account, not a task: the workers do the work, look whether their job is paused, and note what they did. Kept
in memory and written to the database every few seconds and at its end, so that a restarted coordinator goes on with the
same jobs, paused ones included. Called by the workers, by `handlers` and by `status`.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from p2pfs.errors import Invalid, NotFound
from p2pfs.meta import jobs as rows
from p2pfs.meta.database import Database
from p2pfs.meta.jobs import JobRow
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.wire.jobs import ENDED, JobAction, JobInfo, JobKind, JobState

KEPT: Final = 200
"""Jobs that have ended and can still be seen."""
_SAVE_EVERY_S: Final = 5.0
_RATE_OVER_S: Final = 10.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """One job at work. Workers change it through its methods."""

    row: JobRow
    clock: Clock
    rate: float = 0.0  # bytes a second, smoothed
    _counted: int = 0
    _counted_s: float = 0.0  # monotonic
    is_dirty: bool = field(default=True)

    @property
    def is_paused(self) -> bool:
        return self.row.state is JobState.PAUSED

    @property
    def is_over(self) -> bool:
        return self.row.state in ENDED

    def found(self, chunks: int, size: int) -> None:
        """There is so much more to do, or less."""
        self.row.total = max(self.row.done, self.row.total + chunks)
        self.row.total_bytes = max(self.row.done_bytes, self.row.total_bytes + size)
        self._touch()

    def advanced(self, chunks: int, size: int) -> None:
        """So much more is done."""
        self.row.done += chunks
        self.row.done_bytes += size
        self._counted += size
        self._measure()
        self._touch()

    def set(self, *, done: int, total: int, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """The account as somebody else keeps it."""
        self._counted += max(0, done_bytes - self.row.done_bytes)
        self.row.done, self.row.total = done, total
        self.row.done_bytes, self.row.total_bytes = done_bytes, total_bytes
        self._measure()
        self._touch()

    def stuck(self, reason: str) -> None:
        """Why it does not get on; "" when it does."""
        if reason != self.row.error:
            self.row.error = reason
            self._touch()

    def lately(self) -> float:
        """Bytes a second; 0 when nothing was done for a while."""
        return self.rate if self.clock.monotonic() - self._counted_s <= 3 * _RATE_OVER_S else 0.0

    def _measure(self) -> None:
        now_s = self.clock.monotonic()
        passed_s = now_s - self._counted_s
        if not self._counted_s or passed_s > 6 * _RATE_OVER_S:
            self._counted, self._counted_s = 0, now_s
        elif passed_s >= 1.0:
            weight = min(1.0, passed_s / _RATE_OVER_S) if self.rate else 1.0
            self.rate += weight * (self._counted / passed_s - self.rate)
            self._counted, self._counted_s = 0, now_s

    def _touch(self) -> None:
        self.row.updated_s = self.clock.time()
        self.is_dirty = True


Act = Callable[[Job], Awaitable[None]]


class Jobs:
    """All jobs. A worker that keeps them in the database."""

    name = "jobs"

    def __init__(self, database: Database, clock: Clock, known: Iterable[JobRow] = ()) -> None:
        self._database = database
        self._clock = clock
        self._jobs: dict[int, Job] = {row.id: Job(row, clock, is_dirty=False) for row in known}
        self._going_on = {_key(job): job for job in self._jobs.values() if not job.is_over}
        self._next = max(self._jobs, default=0) + 1
        self._acts: dict[tuple[JobKind, JobAction], Act] = {}
        self._wake = trio.Event()

    # ---- for workers ------------------------------------------------------------------------------------------------

    def open(self, kind: JobKind, subject: str = "") -> Job:
        """The job of this kind and subject that goes on, or a new one."""
        job = self.current(kind, subject)
        if job is None:
            row = JobRow(self._next, kind, subject, self._clock.time())
            job = self._jobs[self._next] = self._going_on[kind, subject] = Job(row, self._clock)
            self._next += 1
            self._wake.set()
        return job

    def current(self, kind: JobKind, subject: str = "") -> Job | None:
        """The job of this kind and subject that goes on."""
        return self._going_on.get((kind, subject))

    def going_on(self, kind: JobKind) -> list[Job]:
        """All of this kind that go on."""
        return [job for job in self._going_on.values() if job.row.kind is kind]

    def is_paused(self, kind: JobKind, subject: str = "") -> bool:
        """Whether somebody holds this work back."""
        job = self.current(kind, subject)
        return job is not None and job.is_paused

    def end(self, job: Job, state: JobState = JobState.DONE, error: str = "") -> None:
        """It is over."""
        if job.is_over:
            return
        job.row.state, job.row.error, job.row.ended_s = state, error, self._clock.time()
        self._going_on.pop(_key(job), None)
        job.is_dirty = True
        self._wake.set()
        _log.log(
            logging.WARNING if state is JobState.FAILED else logging.INFO,
            "%s%s: %s%s",
            job.row.kind.value,
            f" of {job.row.subject}" if job.row.subject else "",
            state.value,
            f": {error}" if error else "",
        )

    def finish(self, kind: JobKind, subject: str = "") -> None:
        """Nothing of this kind is left to do."""
        job = self.current(kind, subject)
        if job is not None:
            self.end(job)

    def on(self, kind: JobKind, action: JobAction, act: Act) -> None:
        """What an action means for jobs of this kind, beyond the change of state. Cancelling is allowed only so."""
        self._acts[kind, action] = act

    # ---- for people -------------------------------------------------------------------------------------------------

    def listed(self, name: Callable[[str], str] = str) -> list[JobInfo]:
        """What goes on first, then the latest that ended; `name` makes of a subject what people call it."""
        ordered = sorted(self._jobs.values(), key=lambda job: (job.is_over, -job.row.id))
        return [_info(job, name) for job in ordered]

    async def act(self, number: int, action: JobAction, name: Callable[[str], str] = str) -> JobInfo:
        """Pause, resume, cancel or retry; `name` as of `listed`.

        Raises:
            NotFound: There is no such job (any more).
            Invalid: This cannot be done to it.
        """
        job = self._jobs.get(number)
        if job is None:
            raise NotFound(f"there is no job {number}: `p2pfs jobs` lists them")
        handler = self._acts.get((job.row.kind, action))
        if job.is_over:
            raise Invalid(f"job {number} is over: {job.row.state.value}")
        if action is JobAction.CANCEL and handler is None:
            raise Invalid(f"{job.row.kind.value} keeps the pool's promises and cannot be cancelled: pause it instead")
        if action is JobAction.RETRY and handler is None:
            raise Invalid(f"{job.row.kind.value} tries again by itself")
        self._move(job, action)
        if handler is not None:
            await handler(job)
        return _info(job, name)

    def allows(self, kind: str, action: JobAction) -> bool:
        """Whether this can be done to a job of this kind while it goes on."""
        return action in (JobAction.PAUSE, JobAction.RESUME) or (JobKind(kind), action) in self._acts

    def _move(self, job: Job, action: JobAction) -> None:
        if action is JobAction.CANCEL:
            self.end(job, JobState.CANCELLED)
            return
        if job.is_over:
            return
        job.row.state = JobState.PAUSED if action is JobAction.PAUSE else JobState.RUNNING
        if action is not JobAction.PAUSE:
            job.row.error = ""
        job.is_dirty = True
        self._wake.set()

    # ---- a worker: what is known is kept ----------------------------------------------------------------------------

    async def work(self) -> Progress:
        self._wake = trio.Event()
        changed = [job for job in self._jobs.values() if job.is_dirty]
        if changed:
            for job in changed:
                job.is_dirty = False
            written = [replace(job.row) for job in changed]  # the writer thread sees these, workers change the others
            try:
                await self._database.write(lambda connection: rows.save(connection, written, keep=KEPT))
            except BaseException:
                for job in changed:
                    job.is_dirty = True
                raise
        over = sorted(number for number, job in self._jobs.items() if job.is_over)
        for number in over[:-KEPT]:
            del self._jobs[number]
        return Progress.IDLE

    async def wait(self) -> None:
        with trio.move_on_after(_SAVE_EVERY_S):
            await self._wake.wait()


def _key(job: Job) -> tuple[JobKind, str]:
    return job.row.kind, job.row.subject


def _info(job: Job, name: Callable[[str], str]) -> JobInfo:
    row = job.row
    left = row.total_bytes - row.done_bytes
    rate = job.lately() if row.state is JobState.RUNNING else 0.0
    return JobInfo(
        row.id,
        row.kind.value,
        name(row.subject) if row.subject else "",
        row.state.value,
        done=row.done,
        total=row.total,
        done_bytes=row.done_bytes,
        total_bytes=row.total_bytes,
        rate=round(rate),
        left_s=left / rate if rate > 0 and left > 0 else None,
        started_s=row.started_s,
        ended_s=row.ended_s,
        error=row.error,
    )
