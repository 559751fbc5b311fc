"""`p2pfs warmup PATH…`: have files in the mount's disk cache before somebody reads them."""

from pathlib import Path
from typing import Final

import click

from p2pfs import exitcodes
from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json
from p2pfs.runtime.sizes import format_count, format_size, given_size

_AT_ONCE: Final = 2000
"""Paths in one request to a mount, which takes 64 KiB."""


@click.command("warmup")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--most", metavar="SIZE", help="Fetch no more than this; never more than the cache holds.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def command(paths: tuple[Path, ...], most: str | None, quiet: bool, as_json: bool) -> int:
    """Fetch what is below each PATH into the disk cache of its mount, so that it is read without the network.

    What is there already is not fetched again. Ctrl-C ends it; what was fetched stays. What nobody gives is passed over
    and told in the end; when nothing comes for long, the rest is not tried. Exit status 7: some of it could not be had.

    \b
    Examples:
      p2pfs warmup ~/photos/2026
      p2pfs warmup --most 2G ~/photos && echo ready for the train
    """
    from p2pfs.cli.files.caches import add_up, tell

    limit = None if most is None else given_size(most)
    total = add_up("warmup", "warming up", paths, at_once=_AT_ONCE, most=limit, named=True)
    if as_json:
        print_json(total)
    else:
        tell(total)
        fetched, cached = format_size(total["fetched_bytes"]), format_size(total["cached_bytes"])
        click.echo(f"{format_count(total['files'], 'file')}: {fetched} fetched, {cached} were there already")
        if total["is_full"]:
            click.echo("that is all that may be cached: see --most and the setting cache_size", err=True)
    return exitcodes.UNREACHABLE if total["failed"] or total["lacking"] or total["gave_up"] else exitcodes.OK
