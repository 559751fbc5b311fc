"""`p2pfs search`: files by words that were said of them, or by their content."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json, print_table
from p2pfs.cli.waiting import waiting
from p2pfs.errors import Invalid, PoolError, UserError
from p2pfs.runtime.sizes import format_duration, format_size
from p2pfs.runtime.terminal import printable

_PART_BYTES = 1 << 20
_WHERE = click.Path(path_type=Path)


@click.command("search")
@click.argument("words", metavar="[WORD...]", nargs=-1)
@click.option("--any", "is_any", is_flag=True, help="One of the words is enough.")
@click.option(
    "--hash", "file", metavar="FILE", type=click.Path(path_type=Path),
    help="What has the same content as FILE, which stays here.",
)  # fmt: skip
@click.option("--in", "where", metavar="PATH", type=_WHERE, help="Only below PATH (default: all mounted volumes).")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Show at most so many.")
@json_option
def command(
    words: tuple[str, ...], is_any: bool, file: Path | None, where: Path | None, limit: int, as_json: bool
) -> int:
    """Find files and directories by all of the given words, in tags and notes (`p2pfs tag`), and in names if the volume
    has index_names=on. The most relevant come first.

    A star at the end of a word stands for any ending, if the volume has index_prefixes=on.

    \b
    Examples:
      p2pfs search 'invoice 2026'
      p2pfs search --any tax invoice --in ~/papers
      p2pfs search 'inv*'
      p2pfs search --hash ~/Downloads/bill.pdf --json | jq '.[].path'
    """
    if bool(words) == (file is not None):
        raise UserError("say what to look for: words, or --hash FILE", exitcodes.USAGE)
    if file is not None:
        with waiting(f"reading {file}"):
            op, request = "search hash", {"blake3": _digest(file)}
    else:
        op, request = "search", _query(" ".join(words), is_any)
    with waiting("searching"):
        found = _found(where, op, {**request, "limit": limit})[:limit]
    if as_json:
        print_json(found)
    elif found:
        _print(found)
    elif file is not None:
        click.echo("nothing was found: only what was tagged with `p2pfs tag --content` is known by its content")
    else:
        click.echo("nothing was found")
    return exitcodes.OK if found else exitcodes.NOT_FOUND


def _query(text: str, is_any: bool) -> dict[str, Any]:
    """Refused here: a mistake in it is not each mount's to tell."""
    from p2pfs.vfs.query import Query

    try:
        Query.parse(text)
    except Invalid as error:
        raise UserError(str(error), exitcodes.USAGE) from None
    return {"query": text, "any": is_any}


def _found(where: Path | None, op: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """In all volumes, the best first. Their mounts are asked at once: each may have to wait for its pool."""
    volumes = _one_mount_each(asking.mounts_of(where))
    with ThreadPoolExecutor(len(volumes)) as threads:
        answers = [threads.submit(_found_in, mounted, op, request) for mounted in volumes]
    found: list[dict[str, Any]] = []
    for mounted, answer in zip(volumes, answers, strict=True):
        try:
            found += answer.result()
        except PoolError as error:
            if len(volumes) == 1:
                raise
            why = "the mount is of an older version" if str(error) == asking.NOT_KNOWN else error
            click.echo(f"{mounted.record.mount_point}: {why}", err=True)
    return sorted(found, key=lambda item: (item["stale"], -item["relevance"]))


def _found_in(mounted: asking.Mounted, op: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for line in mounted.ask(op, below=mounted.path, **request):
        if "unreadable" in line:
            _warn(mounted.record.mount_point, line["unreadable"])
        else:
            found.append({**line, "path": mounted.shown(line["path"])})
    return found


def _one_mount_each(volumes: Sequence[asking.Mounted]) -> list[asking.Mounted]:
    """Of two mounts of one volume, which would find the same twice, the one that the current directory is in, or the
    first. Volumes of an earlier version's mounts are known by a name only, which says less than it seems."""
    here = Path(os.path.realpath(os.curdir))
    nearest = sorted(volumes, key=lambda mounted: not here.is_relative_to(mounted.record.mount_point))
    chosen = {mounted.record.volume_id or mounted.record.mount_point: mounted for mounted in reversed(nearest)}
    return [mounted for mounted in volumes if mounted in chosen.values()]


def _warn(mount_point: str, unreadable: int) -> None:
    labels = "1 label or name" if unreadable == 1 else f"{unreadable} labels or names"
    click.echo(f"{mount_point}: {labels} could not be read, and may be what you look for", err=True)


def _print(found: list[dict[str, Any]]) -> None:
    now_s = time.time()
    rows = [
        (
            item["path"] + ("/" if item["kind"] == "directory" else "") + (" (changed since)" if item["stale"] else ""),
            printable(item["note"].replace("\n", " ")),
            "" if item["kind"] == "directory" else format_size(item["size"]),
            _lease(item["expires_s"], now_s),
            "" if item["copies"] is None else str(item["copies"]),
        )
        for item in found
    ]
    print_table(("path", "note", "size", "kept for", "copies"), rows, right=("size", "copies"))


def _lease(expires_s: int, now_s: float) -> str:
    if not expires_s:
        return "ever"
    return format_duration(expires_s - now_s) if expires_s - now_s >= 1 else "over"


def _digest(file: Path) -> str:
    from blake3 import blake3

    hasher = blake3()
    try:
        with file.open("rb") as opened:
            while part := opened.read(_PART_BYTES):
                hasher.update(part)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}", exitcodes.NOT_FOUND) from None
    return hasher.hexdigest()
