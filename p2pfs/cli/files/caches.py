"""What `p2pfs warmup` and `p2pfs evict` share: asking the mount of each path, and how far it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from p2pfs.cli import asking
from p2pfs.cli.progress import late_bar
from p2pfs.runtime.sizes import format_count

Warmth = dict[str, Any]
"""As p2pfs.vfs.warming.Warmth."""


def add_up(op: str, what: str, paths: Sequence[Path], **request: Any) -> Warmth:  # noqa: ANN401 - as asked
    """Ask for each path in turn; the sum of what was done. `most` bounds them together.

    Raises:
        UserError: A path is not there, or in no mount.
        PoolError: What a mount refused it with.
    """
    total: Warmth = {}
    missing: list[str] = []
    most = request.get("most")
    for path in paths:
        mounted, inode = asking.located(path)
        line: Warmth = {}
        if most is not None:
            request["most"] = max(0, most - total.get("fetched_bytes", 0) - total.get("cached_bytes", 0))
        with late_bar(what, "files") as show:
            for line in mounted.ask(op, inode=inode, **request):
                show(line["files"], line["of_files"])
        missing += [mounted.shown(inside) for inside in line.pop("missing", ())]
        total |= {name: total.get(name, 0) + value for name, value in line.items()}
    for name in ("is_full", "gave_up"):
        total[name] = bool(total.get(name, False))  # mounts of an earlier version never give up
    return total | {"lacking": total.get("lacking", 0), "missing": missing}


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
