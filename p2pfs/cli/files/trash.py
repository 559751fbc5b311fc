"""`p2pfs trash list|restore|purge`: what was removed and can be brought back."""

import time
from pathlib import Path
from typing import Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.asking import Mounted
from p2pfs.cli.options import json_option, yes_option
from p2pfs.cli.progress import late_bar
from p2pfs.cli.show import print_json, print_table
from p2pfs.errors import UserError
from p2pfs.runtime.sizes import format_count, format_duration, format_size

AT_ONCE: Final = 1000
"""Inodes in one request."""


@click.group("trash")
def command() -> None:
    """See what was removed from a mounted volume or has expired there, bring it back, or let it go.

    \b
    Example:
      p2pfs trash list ~/photos
    """


@command.command("list")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def list_trash(path: Path, as_json: bool) -> None:
    """List what is in the trash of the volume mounted at PATH, or what was below PATH, the newest first.

    \b
    Examples:
      p2pfs trash list ~/photos
      p2pfs trash list --json ~/photos/2026 | jq '.[].path'
    """
    mounted = asking.mounted(path)
    found = _listed(mounted)
    if as_json:
        print_json([{**item, "path": mounted.shown(item["path"])} for item in found])
        return
    if not found:
        click.echo("the trash is empty")
        return
    now_s = time.time()
    rows = [
        (
            str(item["inode"]),
            item["reason"],
            f"{format_duration(max(0.0, now_s - item['removed_s']))} ago",
            format_duration(item["purge_s"] - now_s) if item["purge_s"] > now_s else "goes when it is quiet",
            "" if item["kind"] == "directory" else format_size(item["size"]),
            mounted.shown(item["path"]) + ("/" if item["kind"] == "directory" else ""),
        )
        for item in found
    ]
    print_table(("number", "why", "since", "kept for", "size", "path"), rows, right=("number", "size"))


@command.command("restore")
@click.argument("mount_point", type=click.Path(path_type=Path))
@click.argument("numbers", metavar="NUMBER...", type=int, nargs=-1, required=True)
@json_option
def restore(mount_point: Path, numbers: tuple[int, ...], as_json: bool) -> None:
    """Bring back what `p2pfs trash list` shows under these numbers, directories with all that was in them.

    It comes to where it was. If the name is taken it gets another, which is printed.

    \b
    Examples:
      p2pfs trash restore ~/photos 4711
      p2pfs trash restore --json ~/photos 4711 4712
    """
    mounted = asking.mounted(mount_point)
    show_restored(mounted, mounted.ask("trash restore", inodes=list(numbers)), as_json)


@command.command("purge")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("numbers", metavar="[NUMBER...]", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that was below PATH.")
@yes_option
@json_option
def purge(path: Path, numbers: tuple[int, ...], everything: bool, yes: bool, as_json: bool) -> int:
    """Let go what is in the trash before its time. It cannot be brought back then.

    \b
    Examples:
      p2pfs trash purge ~/photos 4711
      p2pfs trash purge --all ~/photos/private
    """
    if bool(numbers) == everything:
        raise UserError("say which: numbers from `p2pfs trash list`, or --all", exitcodes.USAGE)
    mounted = asking.mounted(path)
    found = [item for item in _listed(mounted) if everything or item["inode"] in numbers]
    size = format_size(sum(item["size"] for item in found))
    if found and not yes:
        for item in found[:10]:
            click.echo(f"  {mounted.shown(item['path'])}", err=True)
        if len(found) > 10:
            click.echo(f"  … and {len(found) - 10} more", err=True)
        if not click.confirm(
            f"Destroy {format_count(len(found), 'file or directory', 'files and directories')}, {size}, for good?",
            err=True,
        ):
            return exitcodes.FAILED
    purged = 0
    with late_bar("letting go", "files") as show:
        for first in range(0, len(found), AT_ONCE):
            inodes = [item["inode"] for item in found[first : first + AT_ONCE]]
            purged += sum(line["purged"] for line in mounted.ask("trash purge", inodes=inodes))
            show(purged, len(found))
    if as_json:
        print_json({"purged": purged})
    else:
        click.echo(f"gone from the trash: {format_count(purged, 'file or directory', 'files and directories')}")
    return exitcodes.OK if found or everything else exitcodes.NOT_FOUND


def show_restored(mounted: Mounted, lines: Any, as_json: bool) -> None:  # noqa: ANN401 - an iterator of lines
    """Print what is back, as it comes back."""
    found = []
    for line in lines:
        item = {name: mounted.shown(line[name]) for name in ("path", "was")}
        found.append(item)
        if not as_json:
            renamed = "" if item["path"] == item["was"] else f" (was {item['was']})"
            click.echo(f"restored {item['path']}{renamed}")
    if as_json:
        print_json(found)


def _listed(mounted: Mounted) -> list[dict[str, Any]]:
    """The newest first."""
    found = []
    with late_bar("looking", "files") as show:
        for item in mounted.ask("trash list", below=mounted.path):
            found.append(item)
            show(len(found), None)
    return sorted(found, key=lambda item: -item["removed_s"])
