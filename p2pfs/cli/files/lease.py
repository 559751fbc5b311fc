"""`p2pfs lease show|set|extend|list`: until when files and directories are kept."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.errors import Invalid, PoolError, UserError
from p2pfs.runtime.sizes import format_duration, format_size, parse_span

_NEVER: Final = "never"
_FOR_EVER: Final = 0


@click.group("lease")
def command() -> None:
    """Keep files for a time: when it is over they go to the trash, and from there after some days.

    What is made in a directory takes its lease. Without one, files are kept for ever.

    \b
    Example:
      p2pfs lease set ~/photos/inbox 30d
    """


@command.command("show")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def show(path: Path, as_json: bool) -> None:
    """Show until when PATH is kept.

    \b
    Examples:
      p2pfs lease show ~/photos/inbox
      p2pfs lease show --json ~/photos | jq .expires_s
    """
    mounted, inode = asking.located(path)
    (line,) = mounted.ask("lease show", inode=inode)
    _show(path, line["expires_s"], as_json)


_ONLY_NEW = click.option("--only-new", is_flag=True, help="Of a directory: not what is in it, only what will be made.")


@command.command("set")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("span", metavar="TIME")
@_ONLY_NEW
@json_option
def set_lease(path: Path, span: str, only_new: bool, as_json: bool) -> None:
    """Keep PATH, and everything in it, for TIME from now: 12h, 30d, 8w, 100y (years of 365 days), or never to let it
    expire. Of a volume, name the directory it is mounted at.

    \b
    Examples:
      p2pfs lease set ~/photos/inbox 30d
      p2pfs lease set --only-new ~/photos 1y
      p2pfs lease set ~/photos/album.xcf never
    """
    expires_s = _FOR_EVER if span == _NEVER else int(time.time() + _parse_span(span))
    mounted, inode = asking.located(path)
    changed = _followed(mounted.ask("lease set", inode=inode, expires_s=expires_s, only_new=only_new))
    _show(path, expires_s, as_json, changed)


@command.command("extend")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("span", metavar="TIME")
@_ONLY_NEW
@json_option
def extend(path: Path, span: str, only_new: bool, as_json: bool) -> None:
    """Keep PATH, and everything in it, for TIME longer than it would be; what is kept for ever stays so.

    \b
    Examples:
      p2pfs lease extend ~/photos/inbox 30d
    """
    span_s = int(_parse_span(span))
    mounted, inode = asking.located(path)
    request = {"inode": inode, "span_s": span_s, "now_s": int(time.time()), "only_new": only_new}
    changed = _followed(mounted.ask("lease extend", **request))
    (line,) = mounted.ask("lease show", inode=inode)
    _show(path, line["expires_s"], as_json, changed)


@command.command("list")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--expiring", metavar="TIME", default="7d", show_default=True, help="What expires within TIME.")
@json_option
def list_leases(path: Path | None, expiring: str, as_json: bool) -> None:
    """List what expires soon below PATH, or in all volumes this user has mounted, the first first.

    A directory lives as long as anything in it.

    \b
    Examples:
      p2pfs lease list --expiring 7d
      p2pfs lease list --expiring 30d --json ~/photos | jq '.[].path'
    """
    now_s = time.time()
    before_s = int(now_s + _parse_span(expiring))
    found: list[dict[str, Any]] = []
    for mounted in asking.mounts_of(path):
        try:
            lines = mounted.ask("lease list", before_s=before_s, below=mounted.path)
            found += [{**line, "path": mounted.shown(line["path"])} for line in lines]
        except PoolError as error:
            if path is not None:
                raise
            say(f"{mounted.record.mount_point}: {error}", err=True)
    found.sort(key=lambda item: item["expires_s"])
    if as_json:
        print_json(found)
    elif not found:
        say(f"nothing expires within {expiring}")
    else:
        rows = [
            (
                _moment(item["expires_s"]),
                _left(item["expires_s"], now_s),
                "" if item["kind"] == "directory" else format_size(item["size"]),
                item["path"] + ("/" if item["kind"] == "directory" else ""),
            )
            for item in found
        ]
        print_table(("kept until", "left", "size", "path"), rows, right=("size",))


def _parse_span(text: str) -> float:
    try:
        return parse_span(text)
    except Invalid as error:
        raise UserError(str(error), exitcodes.USAGE) from None


def _followed(lines: Iterator[dict[str, Any]]) -> int:
    """How many inodes it was in the end; a count for who watches a terminal."""
    from p2pfs.cli.progress import late_bar

    changed = 0
    with late_bar("changing", "files and directories") as show:
        for line in lines:
            changed = line["changed"]
            show(changed, None)
    return changed


def _show(path: Path, expires_s: int, as_json: bool, changed: int | None = None) -> None:
    if as_json:
        found: dict[str, object] = {"path": str(path), "expires_s": expires_s}
        print_json(found if changed is None else found | {"changed": changed})
        return
    of = "" if changed is None or changed < 2 else f" ({changed} files and directories)"
    if expires_s == _FOR_EVER:
        say(f"{path} is kept for ever{of}")
    else:
        say(f"{path} is kept until {_moment(expires_s)}: {_left(expires_s, time.time())}{of}")


def _moment(expires_s: int) -> str:
    try:
        return datetime.fromtimestamp(expires_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "after the year 9999"


def _left(expires_s: int, now_s: float) -> str:
    left_s = expires_s - now_s
    return format_duration(left_s) if left_s >= 1 else "over"
