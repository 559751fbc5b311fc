"""Background work: how far it is, and what can be done about it."""

from collections.abc import Callable, Sequence

from p2pfs.coordinator.dashboard.figures import MOST_ROWS, data_table, moment, rate, size, span_of, state
from p2pfs.coordinator.dashboard.layout import Frame, action
from p2pfs.coordinator.dashboard.markup import Html, div, h2, join, progress, section, small, span
from p2pfs.runtime.sizes import format_count
from p2pfs.wire.jobs import ENDED, JobAction, JobInfo, JobState

MOST_ENDED = 30
TITLES = ("job", "of", "state", "progress", "left", "why", "actions")


Allows = Callable[[str, JobAction], bool]
"""Whether something can be done to jobs of a kind."""


def content(frame: Frame, jobs: Sequence[JobInfo], allows: Allows, now_s: float) -> Html:
    """What goes on, then what ended lately."""
    going_on = [job for job in jobs if job.state not in ENDED][:MOST_ROWS]
    ended = [job for job in jobs if job.state in ENDED][:MOST_ENDED]
    rows = [(*row, _actions(frame, job, allows)) for row, job in zip(job_rows(frame, going_on), going_on, strict=True)]
    over = [
        (
            _name(job),
            job.subject or "the pool",
            state(job.state),
            _done(job),
            moment(job.ended_s or now_s, now_s),
            job.error,
        )
        for job in ended
    ]
    return join(
        section(h2("Going on"), data_table("Jobs that go on", TITLES, rows)),
        section(h2("Over"), data_table("Jobs that ended", ("job", "of", "state", "done", "ended", "why"), over)),
    )


def job_rows(frame: Frame, jobs: Sequence[JobInfo]) -> list[tuple[str | Html, ...]]:
    """Without actions."""
    return [
        (
            _name(job),
            job.subject or "the pool",
            state(job.state),
            _progress(job),
            span_of(max(1.0, job.left_s)) if job.left_s is not None else "—",
            job.error or "—",
        )
        for job in jobs
    ]


def _name(job: JobInfo) -> str:
    return f"{job.id} {job.kind}"


def _done(job: JobInfo) -> str:
    return format_count(job.done, "chunk") + (f", {size(job.done_bytes)}" if job.done_bytes else "")


def _progress(job: JobInfo) -> Html:
    done, total = (job.done_bytes, job.total_bytes) if job.total_bytes else (job.done, job.total)
    words = f"{job.done} of {format_count(job.total, 'chunk')}"
    if job.total_bytes:
        words += f", {size(job.done_bytes)} of {size(job.total_bytes)}"
    if job.rate:
        words += f", {rate(job.rate)}"
    if not total:
        return span(small(words))
    return div(progress(value=done, max=total, aria_label=f"{_name(job)}: {words}"), small(words), class_="progress")


def _actions(frame: Frame, job: JobInfo, allows: Allows) -> Html:
    paused = job.state == JobState.PAUSED
    wanted = [JobAction.RESUME if paused else JobAction.PAUSE, JobAction.CANCEL]
    wanted += [JobAction.RETRY] if job.error and not paused else []
    return div(*(_button(frame, job, one) for one in wanted if allows(job.kind, one)), class_="actions")


def _button(frame: Frame, job: JobInfo, do: JobAction) -> Html:
    words = do.value.capitalize()
    return action(
        frame, f"/jobs/{job.id}/{do.value}", words, id=f"{do.value}-{job.id}", hint=f"{words} job {_name(job)}"
    )
