"""What each durability promises, on a pool whose mount is killed: docs/durability.md."""

import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool

pytestmark = pytest.mark.l5

SIZES = (0, 700, 20_000, 3 << 20)
STORED_WITHIN_S = 5.0
BUSY_S = 20.0
"""What a busy machine may take beyond that."""


def write(path: Path, number: int) -> bytes:
    content = os.urandom(SIZES[number % len(SIZES)])
    path.write_bytes(content)
    return content


def killed(pool: DemoPool) -> None:
    """The mount, and its machine's disk: what is there now is what the pool has."""
    pool.kill("mount")
    pool.clear_dead_mount()
    shutil.rmtree(pool.root / "mount" / "cache", ignore_errors=True)
    pool.start()


def test_without_waiting_closed_files_are_stored_in_time_and_replaced_names_never_show_less(tmp_path: Path) -> None:
    with demo_pool(tmp_path, settings={"durability": "fsync"}) as pool:
        written = {f"{number}": write(pool.mount / f"{number}", number) for number in range(20)}
        limit = time.monotonic() + STORED_WITHIN_S + BUSY_S
        while pool.stats()["unsaved_bytes"] or pool.stats()["changes_waiting"]:
            assert time.monotonic() < limit, "closed files stay unsaved"
            time.sleep(0.1)
        versions = [written["3"], *(write(pool.mount / f"new-{number}", 3) for number in range(3))]
        for number in range(3):
            (pool.mount / f"new-{number}").rename(pool.mount / "3")
        assert (pool.stats()["store_failures"], pool.stats()["lost_bytes"]) == (0, 0)
        killed(pool)
        assert (pool.mount / "3").read_bytes() in versions
        del written["3"]
        assert {name: (pool.mount / name).read_bytes() for name in written} == written


def test_under_sync_what_returned_is_there_without_any_close(tmp_path: Path) -> None:
    with demo_pool(tmp_path, options="sync") as pool:
        (pool.mount / "old").mkdir()
        fd = os.open(pool.mount / "open", os.O_WRONLY | os.O_CREAT)
        content = os.urandom(300_000)
        os.write(fd, content)
        (pool.mount / "old").rename(pool.mount / "new")
        killed(pool)
        with contextlib.suppress(OSError):  # its mount is gone
            os.close(fd)
        assert (pool.mount / "open").read_bytes() == content
        assert sorted(os.listdir(pool.mount)) == ["new", "open"]
