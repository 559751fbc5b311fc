"""A progress bar for data on its way into the pool. Imported only when one is shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


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
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("storing", total=None, visible=False)
        most = 0

        def pending(count: int) -> None:
            nonlocal most
            most = max(most, count)  # what is still dirty when the bar appears is the whole
            progress.update(task, total=most, completed=most - count, visible=most > 0)

        yield pending
