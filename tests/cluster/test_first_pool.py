"""The main job from one end to the other, as a newcomer does it: mount, work, lose a peer, lose nothing."""

import os
import random
import shutil
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool, digest

pytestmark = pytest.mark.l5

MIB = 1 << 20


def fill(directory: Path) -> dict[Path, str]:
    """100 MiB in one file and 1 000 small ones; path → digest of what was meant to be written."""
    noise = random.Random(1)
    source = directory.parent / "source"
    source.mkdir()
    with (source / "big").open("wb") as big:
        for _ in range(100):
            big.write(noise.randbytes(MIB))
    for number in range(1000):
        folder = source / f"d{number % 10}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(noise.randbytes(noise.choice([0, 1, 300, 4096, 16384, 16385, 70_000])))
    shutil.copytree(source, directory / "tree")
    return {directory / "tree" / path.relative_to(source): digest(path) for path in source.rglob("*") if path.is_file()}


def test_what_was_written_outlives_a_killed_peer_and_every_cache(tmp_path: Path) -> None:
    with demo_pool(tmp_path) as pool:
        expected = fill(pool.mount)
        rename_and_remove(pool.mount)
        assert pool.status()["chunks"]["under_replicated"] == 0
        pool.kill("peer-2")
        pool.unmount()
        pool.empty_caches()
        mount_alone(pool)
        assert {path: digest(path) for path in expected} == expected
        assert sorted(os.listdir(pool.mount)) == ["renamed", "tree"]


def mount_alone(pool: DemoPool) -> None:
    """Mount again while the killed peer stays dead."""
    pool.start()
    pool.kill("peer-2")


def rename_and_remove(mount: Path) -> None:
    (mount / "one").write_bytes(b"first")
    (mount / "two").write_bytes(b"second")
    os.rename(mount / "one", mount / "renamed")
    os.unlink(mount / "two")
    assert (mount / "renamed").read_bytes() == b"first"
