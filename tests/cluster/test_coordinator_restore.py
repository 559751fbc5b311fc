"""P1, the coordinator's disk: it is killed and its directory gone; peers give it back, and files are what they were."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import DemoPool, demo_pool, digest

from p2pfs import exitcodes

pytestmark = pytest.mark.l5


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[DemoPool]:
    with demo_pool(tmp_path, settings={"backup_interval": "1s"}) as started:
        yield started


def await_backup(pool: DemoPool, state_s: float) -> dict[str, Any]:
    """Until three peers have backups of what was committed before `state_s` (UTC); the newest one. `status` tells of
    the peer that is ahead: once one of them has a later round, all have had theirs of the round before."""
    _await_newest(pool, state_s)
    return _await_newest(pool, time.time())


def _await_newest(pool: DemoPool, state_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        backup: dict[str, Any] = pool.status()["backup"]
        if backup["holders"] == 3 and time.time() - backup["age_s"] > state_s:
            return backup
    raise AssertionError(f"no backup of {state_s}: {backup}")


def restore(pool: DemoPool, *options: str, expect: int = 0) -> str:
    """On the same address, knowing one peer."""
    plan = json.loads((pool.root / "demo.json").read_text())
    result = pool.p2pfs(
        "coordinator", "restore", "--yes", "--home", str(pool.root / "coordinator"),
        "--kit", str(pool.root / "recovery-kit"), "--peer", f"127.0.0.1:{plan['peer_ports'][1]}", *options,
        expect=expect,
    )  # fmt: skip
    return result.stdout + result.stderr


def test_a_pool_survives_the_loss_of_its_coordinators_disk(pool: DemoPool) -> None:
    files = {f"small-{number}": os.urandom(100 + number) for number in range(50)}
    files |= {f"large-{number}": os.urandom(1_500_000) for number in range(4)}
    (pool.mount / "directory").mkdir()
    for name, content in files.items():
        (pool.mount / "directory" / name).write_bytes(content)
    expected = {name: digest(pool.mount / "directory" / name) for name in files}
    before = await_backup(pool, time.time())
    assert (before["holders"], before["wanted"]) == (3, 3)
    assert pool.status()["health"] == "healthy"
    pool.kill("coordinator")
    shutil.rmtree(pool.root / "coordinator")
    kit = (pool.root / "recovery-kit").read_bytes()
    refused = pool.p2pfs("demo", "start", "--root", str(pool.root), expect=1)  # not a new pool over this one
    assert "coordinator restore" in refused.stderr
    assert (pool.root / "recovery-kit").read_bytes() == kit

    told = restore(pool)
    assert "this machine is the coordinator" in told
    pool.start()
    with pytest.raises(OSError, match="Stale"):  # the mount saw what the pool may not know any more
        (pool.mount / "directory" / "new").write_bytes(b"x")
    left = pool.p2pfs("umount", str(pool.mount), expect=None)
    assert left.returncode in (exitcodes.OK, exitcodes.DATA_NOT_STORED)  # whether it knew before it took the byte
    pool.remount_empty()
    assert {name: digest(pool.mount / "directory" / name) for name in files} == expected
    (pool.mount / "new").write_bytes(b"after")
    pool.remount_empty()
    assert (pool.mount / "new").read_bytes() == b"after"

    status = pool.status()
    assert status["pool"]["incarnation"] == 2
    assert status["restored"]["orphans_suspended"]
    assert 0 < status["restored"]["restored_s"] - status["restored"]["state_s"] < 60
    assert "RESTORED" in {reason["code"] for reason in status["reasons"]}
    pool.p2pfs("coordinator", "confirm", "orphans")
    after = await_backup(pool, time.time())
    assert int(after["generation"], 16) >> 48 == 2
    assert pool.status()["health"] == "healthy"


def test_what_came_after_the_backup_is_lost_and_counted(pool: DemoPool) -> None:
    (pool.mount / "kept").write_bytes(b"kept")
    await_backup(pool, time.time())
    pool.p2pfs("demo", "stop", "--root", str(pool.root))
    plan = json.loads((pool.root / "demo.json").read_text())
    plan["settings"]["backup_interval"] = "1h"
    (pool.root / "demo.json").write_text(json.dumps(plan))
    pool.start()
    (pool.mount / "lost").write_bytes(os.urandom(3_000_000))
    pool.kill("coordinator")
    shutil.rmtree(pool.root / "coordinator")
    restore(pool)
    pool.start()
    pool.remount_empty()
    assert (pool.mount / "kept").read_bytes() == b"kept"
    assert not (pool.mount / "lost").exists()
    end = time.monotonic() + 30
    while (restored := pool.status()["restored"])["unknown_chunks"] != 2 * 3:  # each peer has to be heard first
        assert time.monotonic() < end, restored
    assert 6_000_000 <= restored["unknown_bytes"] < 6_100_000


def test_a_coordinator_that_lives_is_not_replaced(pool: DemoPool, tmp_path: Path) -> None:
    await_backup(pool, time.time())
    told = restore(pool, "--home", str(tmp_path / "second"), expect=exitcodes.BUSY)
    assert "still answers" in told
    assert not (tmp_path / "second").exists()
