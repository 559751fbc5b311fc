"""A client that can dial one peer of three and nobody else: it reserves room, mounts, writes and reads through it."""

import json
import random
import subprocess
from pathlib import Path

import pytest
from narrow import narrow_network
from pools import COMMAND, DemoPool, demo_pool

from p2pfs.types import MIB

pytestmark = pytest.mark.l5


def run(way: list[str], pool: DemoPool, *words: str) -> str:
    done = subprocess.run(
        [*way, *COMMAND, *words, "--home", str(pool.root / "mount")], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def mount(way: list[str], pool: DemoPool) -> None:
    run(
        way, pool, "mount", "-d", "--passphrase-file", str(pool.root / "passphrase"), "demo", str(pool.mount),
        "--pid-file", str(pool.root / "run" / "mount.pid"), "--log-file", str(pool.root / "log" / "mount.log"),
    )  # fmt: skip


def test_one_peer_is_enough_to_use_all(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(24 * MIB)
    with demo_pool(tmp_path, settings={"capacity": "200M", "heartbeat": "500ms"}) as pool:
        pool.unmount()
        known = json.loads((pool.root / "mount" / "peers.json").read_text())
        assert len(known) == 3
        port = int(known[0]["addresses"][0].rpartition(":")[2])
        with narrow_network(tmp_path, [port]) as way:
            assert json.loads(run(way, pool, "reserve", "60M", "--for", "1h", "--json"))["bytes"] == 60 * MIB
            mount(way, pool)
            (pool.mount / "file").write_bytes(content)
            pool.unmount()
            pool.empty_caches()
            mount(way, pool)
            assert (pool.mount / "file").read_bytes() == content
            pool.unmount()
        status = pool.status()
        assert status["chunks"]["by_copies"] == {"2": 24}
        assert json.loads(pool.p2pfs("reserve", "list", "--json").stdout)[0]["left_bytes"] == 36 * MIB
        for peer in ("peer-1", "peer-2", "peer-3"):
            assert list((pool.root / peer / "chunks").rglob("*")), peer
