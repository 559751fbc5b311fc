"""`p2pfs search`: files by words that were said of them, or by their content."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json, print_table
from p2pfs.cli.waiting import waiting
from p2pfs.errors import Invalid, PoolError, Unavailable, UserError
from p2pfs.runtime.sizes import format_duration, format_size
from p2pfs.runtime.terminal import printable

_PART_BYTES = 1 << 20
_PATIENCE_S: Final = 5.0
"""For a mount, until another of the same volume is asked as well."""
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


_Answer = tuple[list[dict[str, Any]], dict[str, int]]
"""What was found, and how many labels could not be read in the mounts that had such."""


def _found(where: Path | None, op: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """In all volumes, the best first. They are asked at once: each mount may have to wait for its pool."""
    volumes = _by_volume(asking.mounts_of(where))
    answers = [_in_thread(partial(_first_answer, mounts, op, request)) for mounts in volumes]
    found: list[dict[str, Any]] = []
    for mounts, answer in zip(volumes, answers, strict=True):
        try:
            lines, unreadable = answer.result()
        except PoolError as error:
            if len(volumes) == 1:
                raise
            why = "the mount is of an older version" if str(error) == asking.NOT_KNOWN else error
            click.echo(f"{mounts[0].record.mount_point}: {why}", err=True)
            continue
        found += lines
        for mount_point, labels in unreadable.items():
            _warn(mount_point, labels)
    return sorted(found, key=lambda item: (item["stale"], -item["relevance"]))


def _first_answer(mounts: Sequence[asking.Mounted], op: str, request: dict[str, Any]) -> _Answer:
    """Of one of a volume's mounts, which would find the same. Raises PoolError: what the first refused it with, if all
    did."""
    left, asked = list(mounts), set[Future[_Answer]]()
    refused: PoolError | None = None
    while left or asked:
        if left:
            asked.add(_in_thread(partial(_found_in, left.pop(0), op, request)))
        answered, asked = wait(asked, _PATIENCE_S if left else None, FIRST_COMPLETED)
        for answer in answered:
            try:
                return answer.result()
            except PoolError as error:
                refused = refused or error
    raise refused or Unavailable("no mount was asked")


def _found_in(mounted: asking.Mounted, op: str, request: dict[str, Any]) -> _Answer:
    found, unreadable = [], {}
    for line in mounted.ask(op, below=mounted.path, **request):
        if "unreadable" in line:
            unreadable[mounted.record.mount_point] = line["unreadable"]
        else:
            found.append({**line, "path": mounted.shown(line["path"])})
    return found, unreadable


def _in_thread(work: Callable[[], _Answer]) -> Future[_Answer]:
    """In a thread that Ctrl-C does not wait for: a mount may be silent for minutes."""
    future = Future[_Answer]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised where the result is wanted
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _by_volume(mounts: Sequence[asking.Mounted]) -> list[list[asking.Mounted]]:
    """The mounts of each volume, that first which the current directory is in. Volumes of an earlier version's mounts
    are known by a name only, which says less than it seems."""
    try:
        here = Path(os.getcwd())  # as the kernel knows it: no link is read in what may be a dead mount
    except OSError:  # it is gone
        here = Path("/")
    volumes: dict[str, list[asking.Mounted]] = {}
    for mounted in sorted(mounts, key=lambda mounted: not here.is_relative_to(mounted.record.mount_point)):
        volumes.setdefault(mounted.record.volume_id or mounted.record.mount_point, []).append(mounted)
    return list(volumes.values())


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
