"""A mount against ext4: random steps of three users in both, and each outcome and all that shows compared.

`P2PFS_STEPS` is how many steps (200 000 by command: P2PFS_STEPS=200000 pytest tests/fuse/test_against_ext4.py),
`P2PFS_SEED` the first seed. A difference prints its seed and the fewest steps found that still make it; paste them into
`KEPT`. Where loop devices cannot be had, a local directory takes the place of ext4.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool
from posix_steps import Difference, Pair, Step, fewer, replay, run_round, shown

pytestmark = pytest.mark.l4

STEPS = int(os.environ.get("P2PFS_STEPS", "2000"))
SEED = int(os.environ.get("P2PFS_SEED", "1"))
ROUND = 400

KEPT: dict[str, list[Step]] = {
    "set-id bits given after a write stay": [
        (1, "open", 1, b"f", os.O_RDWR | os.O_CREAT, 0o777, 0o022),
        (1, "write", 1, 7, 10),
        (1, "chmod", b"f", 0o2755),
    ],
    "a commit does not move ctime back behind fchmod": [
        (1, "open", 1, b"f", os.O_RDWR | os.O_CREAT, 0o777, 0o022),
        (1, "write", 1, 7, 200_000),
        (1, "fchmod", 1, 0o755),
    ],
    "a commit does not move ctime back behind link and unlink": [
        (1, "open", 1, b"f", os.O_RDWR | os.O_CREAT, 0o777, 0o022),
        (1, "write", 1, 7, 4096),
        (1, "link", b"f", b"g", 0),
        (1, "write", 1, 7, 4096),
        (1, "unlink", b"f"),
        (1, "write", 1, 7, 4096),
        (1, "mknod", b"h", 0o100644, 0, 0),
        (1, "rename", b"g", b"h", 2),
    ],
    "O_TRUNC of an empty file moves its times": [
        (1, "open", 1, b"f", os.O_RDWR | os.O_CREAT, 0o777, 0o022),
        (1, "open", 2, b"f", os.O_RDWR | os.O_TRUNC, 0o777, 0o022),
    ],
    "O_TRUNC takes set-id bits at once": [
        (0, "open", 1, b"f", os.O_RDWR | os.O_CREAT, 0o777, 0),
        (0, "write", 1, 7, 10),
        (0, "chmod", b"f", 0o6777),
        (1, "open", 2, b"f", os.O_RDWR | os.O_TRUNC, 0o777, 0),
    ],
    "truncate to the same size moves times": [
        (1, "open", 1, b"f", os.O_RDWR | os.O_CREAT, 0o777, 0o022),
        (1, "truncate", b"f", 0),
        (1, "ftruncate", 1, 0),
    ],
    "chown to nobody moves ctime": [(0, "mkdir", b"d", 0o755, 0), (0, "chown", b"d", -1, -1, 0)],
    "a write shows at once that mtime is not in the future any more": [
        (1, "open", 1, b"f", os.O_RDWR | os.O_CREAT, 0o777, 0o022),
        (1, "utimens", b"f", "omit", 4_000_000_000_000_000_000, 0),
        (1, "write", 1, 7, 10),
        (1, "stat", b"f", 0),
    ],
    "a write of whole MiB has one time": [
        (1, "open", 1, b"f", os.O_RDWR | os.O_CREAT, 0o777, 0o022),
        (1, "write", 1, 7, 2 << 20),
        (1, "stat", b"f", 0),
        (1, "fsync", 1, 0),
    ],
}
"""Every difference there was, in its fewest steps."""


@pytest.fixture(scope="module", params=["alone", "shared"])
def pool(
    pool: DemoPool, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DemoPool]:
    """As all other tests have it, with the delegation, and one that never gets it."""
    if request.param == "alone":
        yield pool
        return
    with demo_pool(tmp_path_factory.mktemp("shared"), settings={"delegation": "0"}) as shared:
        yield shared


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of an ext4 of its own."""
    root = tmp_path_factory.mktemp("ext4")
    image, mount = root / "image", root / "mnt"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 30)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop,nosuid,nodev", str(image), str(mount)], check=True, capture_output=True)
        yield mount
        subprocess.run(["umount", str(mount)], check=True)
        return
    yield mount


@pytest.fixture
def pair(mounted: Path, local: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    (local / mounted.name).mkdir()
    made = Pair(mounted, local / mounted.name)
    yield made
    made.end()
    shutil.rmtree(mounted)


def test_random_steps_give_what_ext4_gives(pair: Pair, pool: DemoPool, request: pytest.FixtureRequest) -> None:
    is_alone = "alone" in request.node.name
    for seed in range(SEED, SEED + -(-STEPS // ROUND)):
        try:
            run_round(pair, f"{seed}", seed, min(ROUND, STEPS))
        except Difference as difference:
            steps: list[Step] = difference.steps  # type: ignore[attr-defined]
            raise AssertionError(_report(pair, seed, steps, str(difference))) from None
    pair.end()
    assert (pool.stats()["kernel_trusted"] > 0) == is_alone
    pool.remount_empty()
    pair.look_again(f"{seed}")


def _report(pair: Pair, seed: int, steps: list[Step], difference: str) -> str:
    tried = 0

    def fails(shorter: list[Step]) -> bool:
        nonlocal tried
        tried += 1
        return bool(replay(pair, f"{seed}-{tried}", shorter))

    shorter = fewer(steps, fails) if fails(steps) else steps
    how = replay(pair, f"{seed}-last", shorter) or f"{difference} (not when repeated with a look after each step)"
    return f"seed {seed}, step {len(steps)}: {how}\n" + "".join(f"    {shown(step)},\n" for step in shorter)


@pytest.mark.parametrize("name", KEPT)
def test_differences_that_were_stay_away(pair: Pair, name: str) -> None:
    assert replay(pair, "kept", KEPT[name]) == ""
