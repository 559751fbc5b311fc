"""`p2pfs du PATH…`: what files take, before and after equal chunks are stored once, and with all copies.

Works on a mounted path without any key: the mount's inode numbers are the volume's, and the coordinator knows which
chunks an inode has. Names are those that the mount shows.
"""

from pathlib import Path
from typing import Any, Final

import click

from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json, print_table
from p2pfs.runtime.sizes import format_size

_EVERY: Final = 1 << 30


@click.command("du", context_settings={"help_option_names": ["--help"]})
@click.argument("paths", metavar="[PATH...]", nargs=-1, type=click.Path(path_type=Path))
@click.option("-s", "summarize", is_flag=True, help="One line for each PATH, as -d 0.")
@click.option("-d", "--max-depth", type=click.IntRange(min=0), help="Lines for directories this far below PATH only.")
@click.option("-h", "human", is_flag=True, help="Sizes with units; the default.")
@click.option("-b", "--bytes", "exact", is_flag=True, help="Sizes in bytes.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def command(
    paths: tuple[Path, ...],
    summarize: bool,
    max_depth: int | None,
    human: bool,
    exact: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show what the files below each PATH take: their size, what is stored of it, and with all copies.

    Stored is what different chunks take, sealed, each once: equal content of all PATHs together counts where it is met
    first, and so does a file with several names. Small files are stored inline, in the coordinator's metadata, and
    take no chunk. What a mount has not stored yet is not counted.

    \b
    Examples:
      p2pfs du -s ~/photos/*
      p2pfs du -d 1 ~/photos
      p2pfs du --json ~/photos/2026
    """
    from p2pfs.cli.files import du_walk
    from p2pfs.cli.progress import late_bar

    depth = 0 if summarize else _EVERY if max_depth is None else max_depth
    with late_bar("looking", "files") as show:
        found = du_walk.measure(paths or (Path(),), depth, show)
    if as_json:
        print_json([{"path": one.path, **_figures(one)} for one in found])
        return
    shown = str if exact and not human else format_size
    numbers = ("size", "stored", "with copies", "inline", "files")
    rows = [
        (shown(one.size), shown(one.stored), shown(one.with_copies), shown(one.inline), f"{one.files}", one.path)
        for one in found
    ]
    print_table((*numbers, "path"), rows, right=numbers)


def _figures(one: Any) -> dict[str, int]:  # noqa: ANN401 - du_walk.Usage, imported only when it is made
    names = ("size", "stored", "with_copies", "inline", "files", "directories")
    return {name: getattr(one, name) for name in names}
