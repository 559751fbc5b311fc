"""Progress bars: for data on its way into the pool, and for a peer on its way out. Imported only when one is shown."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from p2pfs.cli.show import say
from p2pfs.cli.waiting import LATE_S, drawing, is_wanted
from p2pfs.runtime.sizes import format_count, format_size
from p2pfs.vfs.fsck.findings import Tally
from p2pfs.wire.jobs import JobInfo, JobState


@contextmanager
def _drawn(*columns: ProgressColumn) -> Iterator[Progress]:
    """Bars for who wants them, gone at the end; see `waiting.is_wanted`."""
    console = Console(stderr=True)
    with drawing(), Progress(*columns, console=console, transient=True, disable=not is_wanted()) as progress:
        yield progress


@contextmanager
def stored_bar() -> Iterator[Callable[[int], None]]:
    """A bar on standard error; the function is told how many bytes still have to be stored."""
    columns = (
        TextColumn("storing"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with _drawn(*columns) as progress:
        task = progress.add_task("storing", total=None, visible=False)
        most = 0

        def pending(count: int) -> None:
            nonlocal most
            most = max(most, count)  # what is still dirty when the bar appears is the whole
            progress.update(task, total=most, completed=most - count, visible=most > 0)

        yield pending


@contextmanager
def drain_bar(name: str) -> Iterator[Callable[[JobInfo], None]]:
    """A bar on standard error; the function is told the job as it is. Where there is none (`waiting.is_wanted`), only
    why it is stuck is printed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[why]}", style="yellow"),
    )
    told = ""
    with _drawn(*columns) as progress:
        task = progress.add_task(f"draining {name}", total=None, why="")

        def show(job: JobInfo) -> None:
            nonlocal told
            why = "held back: p2pfs jobs resume" if job.state == JobState.PAUSED else job.error
            progress.update(task, total=job.total_bytes or None, completed=job.done_bytes, why=why)
            if why and why != told and not is_wanted():
                say(f"the drain of {name} does not get on: {why}", err=True)
            told = why

        yield show


@contextmanager
def counted_bar(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """A bar on standard error, once it has taken LATE_S; the function is told how many files are done, of how many, and
    how many bytes were read for that."""
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} files"),
        TextColumn("{task.fields[read]}"),
        TimeRemainingColumn(),
    )
    with _drawn(*columns) as progress:
        task = progress.add_task(what, total=None, visible=False, read="")
        began_s = time.monotonic()

        def show(done: int, of: int, read_bytes: int) -> None:
            read = f"{format_size(read_bytes)} read" if read_bytes else ""
            is_late = time.monotonic() - began_s >= LATE_S
            progress.update(task, total=of, completed=done, visible=is_late, read=read)

        yield show


class CheckedBar:
    """How far a check is; see `checked_bar`."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def show(self, tally: Tally, inodes: int) -> None:
        """`inodes` are those of the whole volume."""
        copies = format_count(tally.copies, "copy")
        read = f"{copies}, {format_size(tally.bytes_read)} read" if tally.copies else ""
        total = max(inodes, tally.inodes)
        self._progress.update(
            self._task, total=total, completed=tally.inodes, counted=f"{tally.inodes}/{total} files", read=read
        )

    def pause(self) -> None:
        """Make way for a question."""
        self._progress.stop()


@contextmanager
def checked_bar() -> Iterator[CheckedBar]:
    """A bar on standard error that is told what was looked at."""
    columns = (
        TextColumn("checking"),
        BarColumn(),
        TextColumn("{task.fields[counted]}"),
        TextColumn("{task.fields[read]}"),
        TimeRemainingColumn(),
    )
    with _drawn(*columns) as progress:
        yield CheckedBar(progress, progress.add_task("checking", total=None, counted="", read=""))


@contextmanager
def late_bar(what: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on standard error, once it has taken LATE_S; the function is told how many are done, and of how many (None:
    nobody knows)."""
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.fields[counted]}"), TimeRemainingColumn())
    with _drawn(*columns) as progress:
        task = progress.add_task(what, total=None, visible=False, counted="")
        began_s = time.monotonic()

        def show(done: int, of: int | None) -> None:
            counted = f"{done} {unit}" if of is None else f"{done}/{of} {unit}"
            is_late = time.monotonic() - began_s >= LATE_S
            progress.update(task, total=of, completed=done, counted=counted, visible=is_late)

        yield show
