"""`p2pfs where PATH`: which nodes hold a file."""

from pathlib import Path

import click

from p2pfs.cli.files import holders
from p2pfs.cli.files.holders import Place
from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.runtime.sizes import format_size


@click.command("where")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def command(path: Path, as_json: bool) -> None:
    """Show which nodes hold the file at PATH, chunk by chunk. PATH lies in a mounted volume.

    \b
    Examples:
      p2pfs where ~/photos/2026/beach.jpg
      p2pfs where --json ~/photos/2026/beach.jpg | jq .nodes
    """
    held = holders.find(path)
    nodes = sorted({str(peer["name"]) for place in held.places for peer in place.peers})
    if as_json:
        chunks = [{"index": at.index, "chunk": at.chunk, "size": at.size, "peers": at.peers} for at in held.places]
        of_file = {"path": str(path), "volume": held.volume, "inode": held.inode, "size": held.size}
        print_json(of_file | {"inline": held.inline, "nodes": nodes, "chunks": chunks})
    elif held.inline:
        say(f"{path} is small: it lives sealed in the coordinator's metadata")
    elif not held.places:
        say(f"{path} has no stored content")
    else:
        rows = [_row(place) for place in held.places]
        print_table(("MiB", "chunk", "size", "copies", "nodes"), rows, right=("MiB", "size", "copies"))
        say(f"nodes: {', '.join(nodes) or 'none'}")


def _row(place: Place) -> tuple[str, ...]:
    nodes = ", ".join(
        str(peer["name"]) if peer.get("state") == "up" else f"{peer['name']} ({peer.get('state', 'unknown')})"
        for peer in place.peers
    )
    return f"{place.index}", place.chunk[:16], format_size(place.size), f"{len(place.peers)}", nodes
