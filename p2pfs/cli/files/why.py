"""`p2pfs why PATH`: what a file can lose and still be read."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from p2pfs.cli.files import holders
from p2pfs.cli.files.holders import Held, Place
from p2pfs.cli.options import json_option
from p2pfs.cli.report import parse
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.runtime.sizes import format_count, format_duration
from p2pfs.types import PeerState

_READABLE: Final = frozenset({PeerState.UP, PeerState.SUSPECT, PeerState.DRAINING})

Peer = Mapping[str, Any]
"""As the coordinator's report has it."""


@dataclass(frozen=True, slots=True)
class Survival:
    """How many at once may be lost, whichever they are; -1: some of the file cannot be read now."""

    machines: int
    owners: int
    zones: int


@click.command("why")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def command(path: Path, as_json: bool) -> None:
    """Show what the file at PATH can lose and still be read: who holds it, where they stand, when it was last checked.

    \b
    Example:
      p2pfs why ~/photos/2026/beach.jpg
    """
    from p2pfs.cli import connect

    held = holders.find(path)
    report = parse(connect.fetch(held.home, "/status"))
    peers = {peer["number"]: peer for peer in report["peers"]}
    survival = judge(held.places, peers)
    chunks = Counter(int(peer["number"]) for place in held.places for peer in place.peers)
    if as_json:
        print_json(
            {
                "path": str(path),
                "inline": held.inline,
                "chunks": len(held.places),
                "copies_wanted": report["pool"]["replicas"],
                "survives": None if not held.places else survival,
                "holders": [_described(peers.get(number), number, chunks[number]) for number in sorted(chunks)],
                "backup": report.get("backup"),
            }
        )
        return
    _show(path, held, survival, report)
    if chunks:
        rows = [_row(_described(peers.get(number), number, chunks[number]), time.time()) for number in sorted(chunks)]
        print_table(("node", "owner", "zone", "state", "chunks", "last compared"), rows, right=("chunks",))


def judge(places: Sequence[Place], peers: Mapping[int, Peer]) -> Survival:
    """By the copies on peers that answer. Where no zone is told, each machine is one of its own."""

    def fewest(domain: Callable[[Peer], object]) -> int:
        spans = [len({domain(peers[number]) for number in _readable(place, peers)}) for place in places]
        return min(spans, default=0) - 1

    return Survival(
        fewest(lambda peer: peer["number"]),
        fewest(lambda peer: peer["owner"]),
        fewest(lambda peer: peer["zone"] or peer["number"]),
    )


def _readable(place: Place, peers: Mapping[int, Peer]) -> list[int]:
    numbers = [int(peer["number"]) for peer in place.peers]
    return [number for number in numbers if number in peers and peers[number]["state"] in _READABLE]


def _show(path: Path, held: Held, survival: Survival, report: Mapping[str, Any]) -> None:
    if held.inline:
        backup = report.get("backup") or {}
        say(
            f"{path} is small: it lives sealed in the coordinator's metadata, of which {backup.get('holders', 0)} peers"
            " keep a backup"
        )
    elif not held.places:
        say(f"{path} has no stored content")
    elif survival.machines < 0:
        say(f"{path} cannot be read as a whole now: no peer that answers has some of its chunks")
    else:
        say(
            f"{path}: {format_count(len(held.places), 'chunk')}, {report['pool']['replicas']} copies wanted."
            f" It stays readable when it loses {_any(survival.machines, 'machine')}, {_any(survival.owners, 'owner')},"
            f" {_any(survival.zones, 'zone')}"
        )


def _any(number: int, what: str) -> str:
    """How many may be lost, in words."""
    return f"no {what}" if number == 0 else f"any {number} {what}{'' if number == 1 else 's'}"


def _described(peer: Peer | None, number: int, chunks: int) -> dict[str, Any]:
    known = peer or {"name": "?", "owner": "?", "zone": "", "state": "unknown"}
    told = {key: known[key] for key in ("name", "owner", "zone", "state")}
    return {"number": number} | told | {"chunks": chunks, "compared_s": known.get("recounted_s", 0.0)}


def _row(holder: Mapping[str, Any], now_s: float) -> tuple[str, ...]:
    compared_s = holder["compared_s"]
    ago = f"{format_duration(round(max(0.0, now_s - compared_s)))} ago" if compared_s else "not yet"
    return holder["name"], holder["owner"], holder["zone"] or "-", holder["state"], f"{holder['chunks']}", ago
