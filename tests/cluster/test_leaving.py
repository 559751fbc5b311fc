"""Peers that go, on real processes: drained under load without a chunk ever short, away without a repair."""

import hashlib
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import COMMAND, DemoPool, demo_pool, digest

from p2pfs import exitcodes

pytestmark = pytest.mark.l5

MIB = 1 << 20
COPIES = 2
LIMIT_S = 90
PAUSE_S = 0.25
"""Between two files: what is written has to be copied when peers go, at `repair_rate`."""
SETTINGS = {
    "heartbeat": "500ms", "suspect": "3s", "down": "5s", "repair_delay": "1s",  # more than a busy machine makes of one
    "repair_rate": "4M",  # so slow that a drain can be watched
    "cache_size": "0", "memory_cache": "1M", "capacity": "2G",
}  # fmt: skip


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("leaving"), peers=4, settings=SETTINGS) as pool:
        yield pool


class Load(threading.Thread):
    """Writes files until told to stop; what close returned for is `written`, with its digest."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        directory.mkdir()
        self._directory = directory
        self.enough = threading.Event()
        self.written: dict[Path, str] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        chance, number = random.Random(7), 0
        try:
            while not self.enough.is_set():
                path = self._directory / f"{number}"
                content = chance.randbytes(chance.randint(MIB // 2, 3 * MIB))
                path.write_bytes(content)
                self.written[path] = hashlib.sha256(content).hexdigest()
                number += 1
                self.enough.wait(PAUSE_S)
        except OSError as error:
            self.error = error


def _jobs(pool: DemoPool, kind: str) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = json.loads(pool.p2pfs("jobs", "--all", "--json").stdout)
    return [job for job in jobs if job["kind"] == kind]


def _fewest_copies(pool: DemoPool, path: Path) -> int:
    where = json.loads(pool.p2pfs("where", "--json", str(path)).stdout)
    return min(len(chunk["peers"]) for chunk in where["chunks"])


def _peer(pool: DemoPool, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(peer for peer in pool.status()["peers"] if peer["name"] == name)
    return found


def test_a_peer_that_is_away_as_it_said_is_not_copied(pool: DemoPool) -> None:
    kept = pool.mount / "kept"
    kept.write_bytes(random.Random(1).randbytes(24 * MIB))
    pool.p2pfs("peer", "away", "8h", home=pool.root / "peer-2")
    pool.kill("peer-2")
    limit = time.monotonic() + LIMIT_S
    # Far beyond the silence after which a peer that said nothing is copied.
    while (peer := _peer(pool, "demo@peer-2"))["silent_s"] < 12:
        assert time.monotonic() < limit
    assert peer["state"] == "away"
    assert _jobs(pool, "repair") == []
    report = pool.status()
    assert (report["health"], [reason["code"] for reason in report["reasons"]]) == ("healthy", ["PEER_AWAY"])
    assert report["chunks"]["away"] == report["chunks"]["under_replicated"] > 0
    pool.start()
    assert _peer(pool, "demo@peer-2")["state"] == "up"
    assert _jobs(pool, "repair") == []
    assert _fewest_copies(pool, kept) == COPIES


def test_a_peer_is_drained_under_load_and_no_chunk_is_ever_short(pool: DemoPool) -> None:
    content = random.Random(2).randbytes(64 * MIB)
    whole = pool.mount / "whole"
    whole.write_bytes(content)
    sums = {whole: hashlib.sha256(content).hexdigest()}
    plan = pool.p2pfs("plan", "drain", "demo@peer-4", "--json")
    assert json.loads(plan.stdout)["copy_bytes"] > 0
    load = Load(pool.mount / "load")
    load.start()
    progress, fewest = [], []
    try:
        pool.p2pfs("peer", "drain", "demo@peer-4", "--yes", "--no-wait")
        limit = time.monotonic() + LIMIT_S
        while (job := _jobs(pool, "drain")[0])["state"] == "running":
            assert time.monotonic() < limit, job
            progress.append(job["done"])
            fewest.append(_fewest_copies(pool, whole))
    finally:
        load.enough.set()
        load.join()
    assert load.error is None
    assert load.written
    assert (job["state"], job["subject"]) == ("done", "demo@peer-4")
    assert any(0 < done < job["total"] for done in progress), "nobody saw it on its way"
    assert fewest
    assert min(fewest) >= COPIES
    sums |= load.written
    assert pool.p2pfs("peer", "drain", "demo@peer-4", "--yes").stdout  # again is fine
    # The peer goes, with everything on it: nothing depends on it.
    pool.signal("peer-4", signal.SIGKILL)
    for path in list(sums)[:12]:
        assert _fewest_copies(pool, path) >= COPIES
    pool.remount_alone()
    assert {path: digest(path) for path in sums} == sums
    assert pool.status()["chunks"]["under_replicated"] == 0


def test_what_stopping_and_losing_peers_would_mean(pool: DemoPool) -> None:
    one = pool.p2pfs("peer", "safe-to-stop", "demo@peer-1", expect=exitcodes.HEALTH_WARNING)
    assert "stays readable" in one.stdout
    two = pool.p2pfs("plan", "lose", "demo@peer-1", "demo@peer-2", "--json", expect=exitcodes.HEALTH_ERROR)
    (risk,) = json.loads(two.stdout)["files"]
    assert str(pool.mount / "whole") in risk["paths"]


def test_a_peer_told_to_stop_leaves_in_peace_first(pool: DemoPool) -> None:
    words = pool.words("peer-3")
    pool.kill("peer-3")
    process = subprocess.Popen([*COMMAND, *words, "--drain"], stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + LIMIT_S
        while pool.pid("peer-3") != process.pid or _peer(pool, "demo@peer-3")["state"] != "up":
            assert time.monotonic() < limit
        process.send_signal(signal.SIGTERM)
        while not any(job["subject"] == "demo@peer-3" and job["done"] for job in _jobs(pool, "drain")):
            assert time.monotonic() < limit
        assert process.poll() is None, "it went before what it holds was copied"
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.wait()
    assert _peer(pool, "demo@peer-3")["state"] == "left"
    chunks = pool.status()["chunks"]
    assert (chunks["under_replicated"], chunks["lost"]) == (0, 0)
