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
    for path in paths:
        mounted, inode = asking.located(path)
        line: Warmth = {}
        if request.get("most") is not None:
            request["most"] = max(0, request["most"] - total.get("fetched_bytes", 0) - total.get("cached_bytes", 0))
        with late_bar(what, "files") as show:
            for line in mounted.ask(op, inode=inode, **request):
                show(line["files"], line["of_files"])
        total = {name: total.get(name, 0) + value for name, value in line.items()}
        total["is_full"] = bool(total["is_full"])
    return total


def tell(total: Warmth) -> None:
    """Say what could not be had."""
    if total["failed"]:
        click.echo(f"not fetched or not kept: {format_count(total['failed'], 'chunk')}", err=True)
