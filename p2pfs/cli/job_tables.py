"""Jobs as a table for a person, and how a command follows them. Imported only where jobs are shown."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import click
import trio
from rich.table import Table
from rich.text import Text

from p2pfs.cli.connect import Coordinator
from p2pfs.cli.show import make_table
from p2pfs.errors import Unavailable
from p2pfs.runtime.sizes import format_duration, format_size
from p2pfs.wire.jobs import ENDED, JobInfo, JobState

POLL_S: Final = 1.0
_SILENCE_S: Final = 60.0
"""A coordinator that is started anew is waited for."""
_BAR: Final = 16
_STYLES: Final = {"running": "green", "paused": "yellow", "failed": "red"}
_TITLES: Final = ("job", "kind", "of", "state", "progress", "chunks", "size", "rate", "left", "why")
_RIGHT: Final = ("job", "chunks", "size", "rate", "left")


def goes_on(job: JobInfo) -> bool:
    """Whether it is not over."""
    return job.state not in ENDED


def job_table(jobs: Sequence[JobInfo]) -> Table:
    """One row a job."""
    return make_table(_TITLES, map(_row, jobs), right=_RIGHT)


async def follow(coordinator: Coordinator, see: Callable[[list[JobInfo]], bool]) -> None:
    """Call `see` with all jobs every second until it returns False.

    Raises:
        Unavailable: The coordinator does not answer at first, or was silent for a minute.
    """
    answered_s, is_silent = -math.inf, False
    while True:
        try:
            jobs = await coordinator.call("GET", "/jobs", None, list[JobInfo])
        except Unavailable:
            if trio.current_time() - answered_s > _SILENCE_S:
                raise
            if not is_silent:
                click.echo("the coordinator does not answer: what is shown is as it was", err=True)
            is_silent = True
        else:
            answered_s, is_silent = trio.current_time(), False
            if not see(jobs):
                return
        await trio.sleep(POLL_S)


def share(job: JobInfo) -> float | None:
    """How much of it is done, 0 to 1; None: it does not know how much there is."""
    done, total = (job.done_bytes, job.total_bytes) if job.total_bytes else (job.done, job.total)
    if job.state == JobState.DONE:
        return 1.0
    return min(1.0, done / total) if total else None


def _row(job: JobInfo) -> tuple[str | Text, ...]:
    return (
        f"{job.id}",
        job.kind,
        job.subject or "the pool",
        Text(job.state, style=_STYLES.get(job.state, "")),
        _bar(share(job)),
        f"{job.done}/{job.total}",
        f"{format_size(job.done_bytes)}/{format_size(job.total_bytes)}" if job.total_bytes else "",
        f"{format_size(round(job.rate))}/s" if job.rate else "",
        format_duration(max(1, round(job.left_s))) if job.left_s is not None else "",
        job.error,
    )


def _bar(part: float | None) -> str:
    if part is None:
        return "·" * _BAR
    full = int(part * _BAR)
    return "━" * full + " " * (_BAR - full) + f" {int(100 * part)}%"
