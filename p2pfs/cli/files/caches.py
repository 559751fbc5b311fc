"""What `p2pfs warmup` and `p2pfs evict` share: asking the mount of each path, and how far it is."""

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from p2pfs.cli import asking
from p2pfs.cli.progress import late_bar
from p2pfs.errors import Misuse, TooLarge
from p2pfs.runtime.sizes import format_count

Warmth = dict[str, Any]
"""As p2pfs.vfs.warming.Warmth."""


def add_up(
    op: str,
    what: str,
    paths: Sequence[Path],
    *,
    at_once: int = 1,
    **request: Any,  # noqa: ANN401 - as asked
) -> Warmth:
    """Ask for `at_once` paths of a mount together, mount after mount; the sum of what was done. `most` bounds them all.
    Of a mount that gave up, or whose cache is full, the rest is not tried.

    Raises:
        UserError: A path is not there, or in no mount. Then nobody was asked for any.
        PoolError: What a mount refused it with.
    """
    total: Warmth = {}
    missing: list[str] = []
    most = request.get("most")
    for mounted, inodes in _by_mount(paths):
        line: Warmth = {}
        left = deque(inodes[at : at + at_once] for at in range(0, len(inodes), at_once))
        while left and not (line.get("is_full") or line.get("gave_up")):
            some = left.popleft()
            if most is not None:
                request["most"] = max(0, most - total.get("fetched_bytes", 0) - total.get("cached_bytes", 0))
            try:
                line = _asked(mounted, op, what, some, request)
            except (Misuse, TooLarge):
                if len(some) == 1:
                    raise
                left.extendleft([inode] for inode in reversed(some))  # an earlier version, or too many below them
                continue
            missing += [mounted.shown(inside) for inside in line.pop("missing", ())]
            total |= {name: total.get(name, 0) + value for name, value in line.items()}
        not_tried = sum(map(len, left))  # files at the least: nobody has looked what is below them
        total["of_files"] = total.get("of_files", 0) + not_tried
    for name in ("is_full", "gave_up"):
        total[name] = bool(total.get(name, False))  # mounts of an earlier version never give up
    return total | {"lacking": total.get("lacking", 0), "missing": missing}


def _by_mount(paths: Sequence[Path]) -> list[tuple[asking.Mounted, list[int]]]:
    found: dict[str, tuple[asking.Mounted, list[int]]] = {}
    for path in paths:
        mounted, inode = asking.located(path)
        found.setdefault(mounted.record.mount_point, (mounted, []))[1].append(inode)
    return list(found.values())


def _asked(mounted: asking.Mounted, op: str, what: str, inodes: Sequence[int], request: Mapping[str, Any]) -> Warmth:
    """The last line of the answer."""
    line: Warmth = {}
    named = {"inode": inodes[0]} if len(inodes) == 1 else {"inodes": inodes}
    with late_bar(what, "files") as show:
        for line in mounted.ask(op, **named, **request):
            show(line["files"], line["of_files"])
    return line


def tell(total: Warmth) -> None:
    """Say what could not be had."""
    if total["failed"] or total["lacking"]:
        of = f", of {format_count(total['lacking'], 'file')}" if total["lacking"] else ""
        click.echo(f"not fetched or not kept: {format_count(total['failed'], 'chunk')}{of}", err=True)
    for path in total["missing"]:
        click.echo(f"  {path}", err=True)
    if total["missing"] and total["lacking"] > len(total["missing"]):
        click.echo(f"  … and {total['lacking'] - len(total['missing'])} more", err=True)
    if total["missing"]:
        click.echo("`p2pfs why PATH` says who holds them", err=True)
    if total["gave_up"]:
        left = format_count(total["of_files"] - total["files"], "file")
        click.echo(f"gave up, as nothing came for long: {left} not tried; what is there stays", err=True)
