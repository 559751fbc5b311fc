"""Promise P1 on real processes: what fsync or close returned for is there after kill -9 of anything.

A writer (tests/durable_writer.py) says in a manifest outside the mount what it was promised; everything in the manifest
is read back through a new mount with empty caches and one peer missing. A kill counts only if something was in flight.
`P2PFS_KILLS` is the number of kills of the mount, `P2PFS_CRASHES` that of runs with random kills of everything (100 by
command: P2PFS_CRASHES=100 pytest tests/cluster/test_promise_durability.py -k random), `P2PFS_SEED` the first seed.
"""

import hashlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from durable_writer import ABSENT, Manifest, Promises
from pools import demo_pool
from written import writing

pytestmark = pytest.mark.l5

KILLS = int(os.environ.get("P2PFS_KILLS", "3"))
CRASHES = int(os.environ.get("P2PFS_CRASHES", "2"))
SEED = int(os.environ.get("P2PFS_SEED", "1"))
PEERS = 3
SETTINGS = {"heartbeat": "500ms"}  # parts that come back are heard of soon
PARTS = ("coordinator", *(f"peer-{number}" for number in range(1, PEERS + 1)))


def test_a_line_of_a_manifest_counts_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    manifest = Manifest(path)
    manifest.say("begin", tmp_path, size=1, sha="1")
    manifest.say("done", tmp_path, by="close", size=1, sha="1")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        promises = Promises(path)
        assert (promises.in_flight, promises.done) == (int(first <= size < len(whole)), int(size == len(whole)))


@pytest.mark.parametrize("moved", [b"", b"one"])
@pytest.mark.parametrize("replaced", [b"", b"two"])
def test_a_rename_is_half_done_where_both_names_say_so(tmp_path: Path, moved: bytes, replaced: bytes) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    manifest = Manifest(tmp_path / "manifest")
    versions = [{"size": len(content), "sha": hashlib.sha256(content).hexdigest()} for content in (moved, replaced)]
    for path, content, version in zip((old, new), (moved, replaced), versions, strict=True):
        path.write_bytes(content)
        manifest.say("done", path, by="close", **version)
    manifest.say("begin", new, **versions[0])
    manifest.say("begin", old, moves_to=str(new), **ABSENT)
    promises = Promises(tmp_path / "manifest")
    assert promises.broken() == []  # not begun
    new.write_bytes(moved)
    half = [] if moved == replaced else [f"{old}: its rename to {new} is half done"]
    assert promises.broken() == half
    old.rename(new)
    assert promises.broken() == []
    new.write_bytes(replaced)
    neither = [] if moved == replaced else [f"{old}: its rename to {new} is neither done"]
    assert promises.broken() == neither


def test_what_was_promised_outlives_a_killed_mount_a_lost_peer_and_every_cache(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    manifests: list[Path] = []
    in_flight = 0
    with demo_pool(tmp_path, peers=PEERS, settings=SETTINGS) as pool:
        for run in range(KILLS):
            with writing(pool, f"run-{run}", f"{SEED} {run}") as writer:
                manifests.append(pool.root / f"run-{run}.manifest")
                writer.until(chance.randint(12, 40))
                pool.kill("mount")
                promises = writer.wait_end()
            assert promises.in_flight, f"seed {SEED}, run {run}: nothing was in flight, so this run does not count"
            assert promises.ended
            in_flight += promises.in_flight
            lost = f"peer-{chance.randint(1, PEERS)}"
            pool.kill(lost)
            pool.clear_dead_mount()
            pool.empty_caches()
            pool.mount_alone()
            broken = [wrong for manifest in manifests for wrong in Promises(manifest).broken()]
            assert broken == [], f"seed {SEED}, run {run}, without {lost}"
            assert pool.status()["chunks"]["lost"] == 0
            pool.start()  # the peer comes back for the next run
        assert in_flight >= KILLS


def test_what_was_promised_outlives_kills_of_peers_coordinator_and_at_last_everything(tmp_path: Path) -> None:
    with demo_pool(tmp_path, peers=PEERS, settings=SETTINGS) as pool:
        with writing(pool, "run", f"{SEED} all") as writer:
            done = writer.until(10).done
            pool.kill("peer-1")
            done = writer.until(done + 15).done  # the others are enough
            pool.start()
            pool.kill("coordinator")
            assert writer.promises().in_flight
            pool.start()
            done = writer.until(done + 15).done  # nobody was told of an error
            pool.kill("peer-2")
            pool.kill("coordinator")
            pool.kill("peer-3")
            pool.start()
            done = writer.until(done + 15).done
            for part in ("mount", *PARTS):
                pool.kill(part)
            promises = writer.wait_end()
        assert promises.in_flight
        pool.clear_dead_mount()
        pool.empty_caches()
        pool.start()
        lost = f"peer-{random.Random(SEED).randint(1, PEERS)}"
        pool.kill(lost)
        pool.remount_alone()
        assert Promises(pool.root / "run.manifest").broken() == [], f"without {lost}"
        assert pool.status()["chunks"]["lost"] == 0


def test_what_was_promised_outlives_random_kills_of_anything(tmp_path: Path) -> None:
    """At random instants: the coordinator, a peer or several together, and at last the mount, alone or with others."""
    with demo_pool(tmp_path, peers=PEERS, settings=SETTINGS) as pool:
        for run in range(CRASHES):
            seed = f"{SEED} random {run}"
            chance = random.Random(seed)
            with writing(pool, f"crash-{run}", seed) as writer:
                done = writer.until(chance.randint(5, 30)).done
                for _ in range(chance.randrange(3)):
                    for part in chance.sample(PARTS, chance.choice((1, 1, 2, len(PARTS)))):
                        pool.kill(part)
                    pool.start()
                    done = writer.until(done + chance.randint(1, 30)).done  # nobody was told of an error
                for part in chance.choice((("mount",), ("mount", "coordinator"), ("coordinator", "mount", *PARTS[1:]))):
                    pool.kill(part)
                promises = writer.wait_end()
            assert promises.in_flight, f"seed {seed}: nothing was in flight, so this run does not count"
            pool.clear_dead_mount()
            pool.empty_caches()
            pool.start()
            assert promises.broken() == [], f"seed {seed}"
            assert pool.status()["chunks"]["lost"] == 0
            shutil.rmtree(pool.mount / f"crash-{run}")


def test_a_stopped_peer_does_not_keep_writes_from_going_on(tmp_path: Path) -> None:
    """SIGSTOP while 64 MiB are written: the others take over, and what it should have taken is on them."""
    chance = random.Random(SEED)
    content = [chance.randbytes(1 << 20) for _ in range(64)]
    with demo_pool(tmp_path, peers=PEERS, settings=SETTINGS) as pool:
        path = pool.mount / "big"
        with path.open("wb", buffering=0) as file:
            steps = []
            for at, mib in enumerate(content):
                if at == 8:
                    pool.signal("peer-2", signal.SIGSTOP)
                began = time.monotonic()
                assert file.write(mib) == len(mib)
                steps.append(time.monotonic() - began)
            began = time.monotonic()
            os.fsync(file.fileno())
            steps.append(time.monotonic() - began)
        assert max(steps) < 5.0, steps
        assert sum(step > 1.0 for step in steps) <= 2, steps
        pool.remount_alone()
        with path.open("rb") as file:
            assert all(file.read(len(mib)) == mib for mib in content)
