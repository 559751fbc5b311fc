"""Real processes without their coordinator: one peer of four dies, another is elected and asks for copies, holders pull
them; the coordinator comes back, learns of it, and trims what is surplus once the dead peer is there again.

A few seconds by default; `P2PFS_ABSENCE_S=300` keeps the coordinator away for five minutes, with longer delays.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pools import DemoPool, demo_pool, digest

from p2pfs.runtime.home import NodeHome

pytestmark = pytest.mark.l5

ABSENCE_S: Final = float(os.environ.get("P2PFS_ABSENCE_S", "0"))
PEERS: Final = 4
COPIES: Final = 2
SETTINGS: Final = {"heartbeat": "500ms", "suspect": "1500ms", "down": "3s", "inventory_interval": "1h"} | (
    {"elect_after": "30s", "repair_delay": "30s"} if ABSENCE_S else {"elect_after": "4s", "repair_delay": "2s"}
)
PATIENCE_S: Final = 60 + ABSENCE_S


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[DemoPool]:
    with demo_pool(tmp_path, peers=PEERS, settings=SETTINGS) as started:
        yield started


def held(pool: DemoPool, *peers: int) -> dict[str, list[int]]:
    """Chunk → the peers among these whose disks have it."""
    found: dict[str, list[int]] = {}
    for peer in peers:
        for path in (pool.root / f"peer-{peer}" / "chunks").glob("[0-9a-f]" * 16 + "/??/" + "[0-9a-f]" * 62):
            found.setdefault(path.parent.name + path.name, []).append(peer)
    return found


def told(pool: DemoPool, peer: int) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(pool.p2pfs("peer", "status", "--json", home=pool.root / f"peer-{peer}").stdout)
    return answer


def await_that(holds: Callable[[], bool], what: str) -> float:
    """Seconds until it is so."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < PATIENCE_S, what
        time.sleep(0.2)  # other processes' work is looked for on their disks
    return time.monotonic() - began_s


def test_copies_are_made_while_the_coordinator_is_away_and_trimmed_when_it_is_back(pool: DemoPool) -> None:
    files = {f"file-{number}": os.urandom(1_500_000) for number in range(12)}
    for name, content in files.items():
        (pool.mount / name).write_bytes(content)
    expected = {name: digest(pool.mount / name) for name in files}
    await_that(lambda: pool.status()["health"] == "healthy", "the pool is not healthy")
    await_that(lambda: all(told(pool, peer)["knows_members"] for peer in range(1, PEERS + 1)), "no list of members")
    everyone = range(1, PEERS + 1)
    before = held(pool, *everyone)
    assert len(before) >= len(files)
    assert {len(peers) for peers in before.values()} == {COPIES}
    time.sleep(3)  # so that the list that was fetched last has all four

    pool.kill("coordinator")
    pool.kill("peer-1")  # the smallest number, which would lead
    began_s = time.monotonic()
    left = range(2, PEERS + 1)
    short = [chunk for chunk, peers in before.items() if 1 in peers]
    assert short
    took_s = await_that(
        lambda: all(len(held(pool, *left).get(chunk, ())) >= COPIES for chunk in before), "chunks stay short"
    )
    leader = NodeHome(pool.root / "peer-2").record().peer  # the smallest number among those that are left
    states = {peer: told(pool, peer) for peer in left}
    print(f"{len(short)} of {len(before)} chunks were short; {took_s:.1f} s until all had {COPIES} copies", states)
    assert {state["leader"] for state in states.values()} == {leader}
    assert [peer for peer, state in states.items() if state["leads"]] == [2]
    assert states[2]["copies_requested"] >= len(short)
    assert sum(state["copies_taken"] for state in states.values()) >= len(short)
    assert "this peer asks for copies of what is short" in pool.log("peer-2")
    assert all(f"peer {leader} asks for copies of what is short" in pool.log(f"peer-{peer}") for peer in left[1:])
    for chunk, peers in before.items():
        assert set(held(pool, *left).get(chunk, ())) >= set(peers) - {1}, "something was deleted meanwhile"
    while time.monotonic() - began_s < ABSENCE_S:
        time.sleep(1)
    assert sum(map(len, held(pool, *left).values())) == COPIES * len(before), "more was copied than was short"

    pool.start()  # the coordinator and the dead peer are back
    await_that(
        lambda: {len(peers) for peers in held(pool, *everyone).values()} == {COPIES}, "what is surplus is not trimmed"
    )
    await_that(lambda: pool.status()["health"] == "healthy", "the pool does not recover")
    assert {told(pool, peer)["leader"] for peer in everyone} == {0}
    assert "the coordinator answers again; until then" in pool.log("peer-2")
    pool.remount_empty()
    assert {name: digest(pool.mount / name) for name in files} == expected
