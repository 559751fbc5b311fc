"""`p2pfs undelete PATH`: brings back what was there."""

import time
from datetime import datetime
from pathlib import Path

import click

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.files.trash import show_restored
from p2pfs.cli.options import json_option
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime.sizes import given_duration


@click.command("undelete")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--at", metavar="TIME", help="As it was at that time: 2026-11-22 14:30, or 2h for two hours ago.")
@json_option
def command(path: Path, at: str | None, as_json: bool) -> None:
    """Bring back the file or directory that was at PATH, a directory with all that was in it.

    Without --at that is what was removed or expired last. If something has that name now, what comes back gets
    another, which is printed. PATH lies in a mounted volume.

    \b
    Examples:
      p2pfs undelete ~/photos/2026
      p2pfs undelete --at '2026-11-22 14:30' ~/photos/album.xcf
      p2pfs undelete --at 2h ~/photos/album.xcf
    """
    at_s = None if at is None else parse_time(at, time.time())
    mounted = asking.mounted(path)
    if not mounted.path:
        raise UserError(f"{path} is the volume itself: name something that was in it", exitcodes.USAGE)
    show_restored(mounted, mounted.ask("undelete", path=mounted.path, at_s=at_s), as_json)


def parse_time(text: str, now_s: float) -> float:
    """UTC seconds of a point in time, local unless it says otherwise, or of a time span ago.

    Raises:
        UserError: It is neither.
    """
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        pass
    try:
        return now_s - given_duration(text)
    except Invalid:
        raise UserError(
            f"“{text}” has no unit or is no time: write 2026-11-22 14:30, or 2h for two hours ago", exitcodes.USAGE
        ) from None
