"""A pool whose peers nobody can dial, from one end to the other: the coordinator finds it out, and the mount works."""

import random
import subprocess
import time
from pathlib import Path

import pytest
from pools import COMMAND, DemoPool, demo_pool

pytestmark = pytest.mark.l5

LONGEST_S = 60
NOWHERE = "127.0.0.1:1"
QUICK = {"heartbeat": "500ms"}


def move_behind_nat(pool: DemoPool, part: str) -> None:
    """Start a peer anew that says of itself an address where nobody is."""
    words = [f"--set=advertise={NOWHERE}" if "advertise=" in word else word for word in pool.words(part)]
    pool.kill(part)
    with (pool.root / "log" / f"{part}.log").open("ab") as log:
        process = subprocess.Popen([*COMMAND, *words], stdout=log, stderr=log, start_new_session=True)
    pool._children.append(process)
    (pool.root / "run" / f"{part}.pid").write_text(f"{process.pid}\n")


def addresses(pool: DemoPool) -> list[list[str]]:
    return [peer["addresses"] for peer in pool.status()["peers"]]


def wait_for_relay(pool: DemoPool) -> None:
    until_s = time.monotonic() + LONGEST_S
    while addresses(pool) != [[NOWHERE, "relay"]] * 2:  # each look takes a process of its own
        assert time.monotonic() < until_s, addresses(pool)


def test_a_mount_writes_and_reads_through_the_coordinator(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(20 << 20)
    with demo_pool(tmp_path, peers=2, settings=QUICK) as pool:
        for part in ("peer-1", "peer-2"):
            move_behind_nat(pool, part)
        wait_for_relay(pool)
        pool.unmount()
        pool.mount_alone()
        (pool.mount / "file").write_bytes(content)
        assert pool.status()["chunks"]["under_replicated"] == 0
        pool.remount_alone()
        assert (pool.mount / "file").read_bytes() == content
        assert pool.stats()["fetched_bytes"] >= len(content)
        assert addresses(pool) == [[NOWHERE, "relay"]] * 2  # nobody was dialled directly meanwhile


def test_peers_come_back_to_a_coordinator_that_was_killed(tmp_path: Path) -> None:
    content = random.Random(2).randbytes(4 << 20)
    with demo_pool(tmp_path, peers=2, settings=QUICK) as pool:
        for part in ("peer-1", "peer-2"):
            move_behind_nat(pool, part)
        wait_for_relay(pool)
        pool.kill("coordinator")
        pool.start()
        wait_for_relay(pool)
        pool.unmount()
        pool.mount_alone()
        (pool.mount / "file").write_bytes(content)
        pool.remount_alone()
        assert (pool.mount / "file").read_bytes() == content
