"""How `p2pfs bench` shows what it does and what it found. Imported only when it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from p2pfs.cli.show import print_json, print_table
from p2pfs.cli.trying.bench_figures import MEANINGS, PERCENTILES, fetched_sentence, row
from p2pfs.cli.trying.bench_phases import Found, Show

_TITLES = ("phase", "rate", "p50 ms", "p95 ms", "p99 ms")


@contextmanager
def progress(*, quiet: bool) -> Iterator[Show]:
    """A bar on standard error for the phase that is under way; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def show(name: str, done: int, total: int) -> None:
            bars.update(task, description=name, completed=done, total=total)

        yield show


def show(path: Path, volume: str, found: Found, *, as_json: bool) -> None:
    """Print it."""
    if as_json:
        print_json({"path": str(path), "volume": volume, **msgspec.structs.asdict(found)})
        return
    print_table(_TITLES, [row(phase) for phase in found.phases], right=_TITLES[1:])
    click.echo()
    for phase in found.phases:
        click.echo(f"{phase.name}: {MEANINGS[phase.name]}")
    click.echo()
    click.echo(fetched_sentence(found.fetched_bytes, found.size_mib))
    click.echo(PERCENTILES)
