"""`p2pfs evict PATH…`: let go of what the mount caches of files. Asks the mount that holds them."""

from pathlib import Path

import click

from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json
from p2pfs.runtime.sizes import format_count, format_size


@click.command("evict")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def command(paths: tuple[Path, ...], quiet: bool, as_json: bool) -> None:
    """Drop what the mount caches of everything below each PATH: on disk, in memory, and the kernel's pages.

    Only what is stored in the pool is ever cached, so nothing is lost; the next read fetches it from peers. What others
    share goes too, and the kernel keeps its pages of files that are open.

    \b
    Example:
      p2pfs evict ~/photos/2019
    """
    from p2pfs.cli.files.caches import add_up

    total = add_up("evict", "evicting", paths)
    if as_json:
        print_json({"files": total["files"], "dropped_bytes": total["dropped_bytes"]})
    else:
        click.echo(
            f"{format_count(total['files'], 'file')}: {format_size(total['dropped_bytes'])} dropped from the disk cache"
        )
