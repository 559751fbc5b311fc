"""`durability=fsync` on real processes: closed files outlive kill -9 of the mount though nothing could be stored."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool

pytestmark = pytest.mark.l5

SIZES = (0, 700, 20_000, 3 << 20)
PEERS = ("peer-1", "peer-2", "peer-3")


@contextmanager
def stopped(pool: DemoPool, *parts: str) -> Iterator[None]:
    for part in parts:
        pool.signal(part, signal.SIGSTOP)
    try:
        yield
    finally:
        for part in parts:
            pool.signal(part, signal.SIGCONT)


def write(directory: Path, count: int) -> dict[str, bytes]:
    written = {}
    for number in range(count):
        content = os.urandom(SIZES[number % len(SIZES)])
        (directory / f"{number}").write_bytes(content)
        written[f"{number}"] = content
    return written


def until_delegated(pool: DemoPool) -> None:
    """And long enough for the mount to answer everything alone."""
    limit = time.monotonic() + 30
    while not pool.stats()["kernel_trusted"]:
        assert time.monotonic() < limit, "the volume is not delegated"
        os.listdir(pool.mount)
        pool.mount.stat()
        time.sleep(0.05)


def killed(pool: DemoPool) -> None:
    assert pool.stats()["unsaved_bytes"] or pool.stats()["changes_waiting"], "all was stored: this does not count"
    pool.kill("mount")


def test_closed_files_are_there_when_the_mount_died_before_anything_could_be_stored(tmp_path: Path) -> None:
    with demo_pool(tmp_path, settings={"durability": "fsync"}) as pool:
        until_delegated(pool)
        with stopped(pool, *PEERS):
            written = write(pool.mount, 12)
            killed(pool)
            pool.clear_dead_mount()
            pool.mount_alone()  # from the journal's memory
            assert {name: (pool.mount / name).read_bytes() for name in written} == written
            assert pool.stats()["unsaved_bytes"] > 3 << 20
        pool.remount_empty()
        assert {name: (pool.mount / name).read_bytes() for name in written} == written
        assert pool.stats()["journal_rejected"] == 0
        assert "are given up" not in pool.log("mount")


def test_what_others_changed_meanwhile_stays_and_what_the_dead_mount_wrote_is_in_a_file_beside(tmp_path: Path) -> None:
    with demo_pool(tmp_path, settings={"durability": "fsync", "delegation": "3s"}) as pool:
        mine, theirs, before = (os.urandom(2 << 20) for _ in range(3))
        (pool.mount / "large").write_bytes(before)
        (pool.mount / "small").write_bytes(before[:1000])
        (pool.mount / "only mine").write_bytes(before[:1000])
        os.sync()
        until_delegated(pool)
        with stopped(pool, *PEERS, "coordinator"):
            for name, size in (("large", 2 << 20), ("small", 2000), ("only mine", 3000)):
                with (pool.mount / name).open("r+b") as file:
                    file.write(mine[:size])
            (pool.mount / "new").write_bytes(mine[:700])
            killed(pool)
        pool.clear_dead_mount()
        with mounted_elsewhere(pool, tmp_path) as other:
            for name, size in (("large", 2 << 20), ("small", 1000)):
                (other / name).write_bytes(theirs[:size])
        pool.start()
        assert (pool.mount / "large").read_bytes() == theirs
        assert (pool.mount / "small").read_bytes() == theirs[:1000]
        assert (pool.mount / "only mine").read_bytes() == mine[:3000]
        assert (pool.mount / "new").read_bytes() == mine[:700]
        assert recovered(pool, "large") == mine
        assert recovered(pool, "small") == mine[:2000]
        assert len(os.listdir(pool.mount)) == 6
        assert pool.log("mount").count("are in conflict with what others did since: they are in inode") == 2


@contextmanager
def mounted_elsewhere(pool: DemoPool, root: Path) -> Iterator[Path]:
    """By a node that lacks the journal of the other."""
    home, there = root / "elsewhere", root / "there"
    shutil.copytree(pool.root / "mount", home, ignore=shutil.ignore_patterns("journal", "cache", "*.sock"))
    there.mkdir()
    pool.p2pfs("mount", "-d", "--passphrase-file", str(pool.root / "passphrase"), "demo", str(there), home=home)
    try:
        yield there
    finally:
        pool.p2pfs("umount", str(there), home=home)


def recovered(pool: DemoPool, name: str) -> bytes:
    limit = time.monotonic() + 30
    while True:
        found = list(pool.mount.glob(f"{name}.recovered-????-??-??"))
        assert len(found) <= 1
        if found and not pool.stats()["unsaved_bytes"]:
            return found[0].read_bytes()
        assert time.monotonic() < limit, f"{name} was not given back"
        time.sleep(0.05)


def test_names_that_no_coordinator_heard_of_come_back_in_order(tmp_path: Path) -> None:
    with demo_pool(tmp_path, settings={"durability": "fsync"}) as pool:
        until_delegated(pool)
        (pool.mount / "d").mkdir()
        old = os.urandom(2000)
        (pool.mount / "d" / "old").write_bytes(old)
        os.sync()
        with stopped(pool, *PEERS, "coordinator"):
            written = write(pool.mount / "d", 12)
            (pool.mount / "d" / "0").rename(pool.mount / "d" / "moved")
            (pool.mount / "d" / "1").rename(pool.mount / "d" / "old")
            (pool.mount / "d" / "2").unlink()
            os.utime(pool.mount / "d" / "3", ns=(10**18, 10**18))
            os.link(pool.mount / "d" / "4", pool.mount / "linked")
            killed(pool)
        written["moved"], written["old"] = written.pop("0"), written.pop("1")
        del written["2"]
        pool.clear_dead_mount()
        pool.start()
        assert sorted(os.listdir(pool.mount / "d")) == sorted(written)
        assert (pool.mount / "d" / "3").stat().st_mtime_ns == 10**18
        assert (pool.mount / "linked").read_bytes() == written["4"]
        pool.remount_empty()
        assert {name: (pool.mount / "d" / name).read_bytes() for name in written} == written
        assert pool.stats()["journal_rejected"] == 0
