"""Who gives little may take little, and may take again when it gives: two owners, and programs that write."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import COMMAND, DemoPool, demo_pool, digest

from p2pfs.runtime import mounts
from p2pfs.types import MIB

pytestmark = pytest.mark.l5

GRANT = 16 * MIB
SOON_S = 60.0


class Anna:
    """Another owner: a laptop that mounts a volume of hers, and later a peer."""

    def __init__(self, pool: DemoPool, root: Path) -> None:
        self.pool, self.root = pool, root
        self.home, self.mount = root / "laptop", root / "anna"
        self.passphrase = root / "passphrase"
        self._peer: subprocess.Popen[bytes] | None = None
        self.mount.mkdir(parents=True)
        self.passphrase.write_text("a long and winding phrase\n")
        self._join("anna@laptop", "client", self.home)
        words = ("volume", "create", "hers", "--passphrase-file", str(self.passphrase))
        pool.p2pfs(*words, "--recovery-file", str(root / "recovery"), home=self.home)

    def _join(self, name: str, roles: str, home: Path) -> None:
        invite = self.root / f"{name}.invite"
        invite.write_text(self.pool.p2pfs("invite", name, "--roles", roles).stdout)
        self.pool.p2pfs("join", str(invite), home=home)

    def begin(self) -> None:
        words = ("mount", "hers", str(self.mount), "-d", "--passphrase-file", str(self.passphrase))
        self.pool.p2pfs(*words, "--set", "cache_size=0", home=self.home)

    def offer(self) -> None:
        """Start a peer."""
        home = self.root / "nas"
        self._join("anna@nas", "peer", home)
        words = [*COMMAND, "peer", "start", "--set", "listen=127.0.0.1:0", "--set", "capacity=1G", "--set", "reserve=0"]
        environment = dict(os.environ, P2PFS_HOME=str(home))
        with (self.root / "nas.log").open("wb") as log:
            self._peer = subprocess.Popen(words, env=environment, stdout=log, stderr=log)

    def end(self) -> None:
        if mounts.mounted_type(self.mount) is not None:
            self.pool.p2pfs("umount", str(self.mount), home=self.home)
        if self._peer is not None:
            self._peer.send_signal(signal.SIGTERM)
            self._peer.wait(30)


@pytest.fixture
def anna(tmp_path: Path) -> Iterator[Anna]:
    settings = {"policy": "fair", "fair_grant": f"{GRANT >> 20}M"}
    with demo_pool(tmp_path / "demo", peers=2, settings=settings) as pool, contextlib.ExitStack() as stack:
        her = Anna(pool, tmp_path / "hers")
        stack.callback(her.end)
        her.begin()
        yield her


def judged(pool: DemoPool, owner: str) -> dict[str, Any]:
    report = json.loads(pool.p2pfs("usefulness", "--json").stdout)
    (found,) = [one for one in report["owners"] if one["owner"] == owner]
    return dict(found)


def soon(question: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not question():
        assert time.monotonic() < until_s
        time.sleep(0.2)


def fill(path: Path, size: int) -> int:
    """Write until it is done or refused with EDQUOT; how much the pool took."""
    written = 0
    with path.open("wb", buffering=0) as file:
        try:
            while written < size:
                written += file.write(os.urandom(MIB))
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
        os.fsync(file.fileno())
    return written


def test_growth_ends_with_the_share_and_goes_on_when_something_is_given(anna: Anna) -> None:
    pool, mount = anna.pool, anna.mount
    free = os.statvfs(mount)
    assert free.f_bavail * free.f_frsize <= GRANT // 2

    took = fill(mount / "first", 64 * MIB)  # two copies, both with others
    assert GRANT // 2 - 2 * MIB <= took <= GRANT // 2
    kept = digest(mount / "first")
    assert fill(mount / "second", 64 * MIB) <= GRANT // 2  # what had been promised and not used
    (mount / "small").write_bytes(b"small files are on nobody's disk")
    (mount / "second").unlink()

    found = judged(pool, "anna")
    assert found["coefficient"] == 0
    assert found["counts"]["u_special"] == found["placed"]
    assert 2 * took <= found["placed"] <= 2 * GRANT  # beyond the grant only what was on its way when it was asked
    assert judged(pool, "demo")["counts"]["d_special"] == found["placed"]
    told = pool.p2pfs("usefulness", "--explain", home=anna.home).stdout
    assert "offer a peer" in told
    assert "policy fair" in told

    pool.p2pfs("umount", str(mount), home=anna.home)  # reading is never refused, and is counted at both ends
    anna.begin()
    assert digest(mount / "first") == kept
    soon(lambda: judged(pool, "anna")["counts"]["d_usual"] >= took // 2)
    counts = judged(pool, "demo")["counts"]
    assert counts["u_usual"] == judged(pool, "anna")["counts"]["d_usual"] <= took + took // 64

    anna.offer()
    soon(lambda: fill(pool.mount / "of others", MIB) == MIB and judged(pool, "anna")["counts"]["d_special"] > 0)
    assert fill(pool.mount / "more of others", 16 * MIB) == 16 * MIB
    soon(lambda: judged(pool, "anna")["counts"]["d_special"] > 12 * MIB)
    found = judged(pool, "anna")
    assert 0 < found["coefficient"] < 1
    assert found["allowed"] >= GRANT + found["held"] > found["placed"] + 8 * MIB
    assert fill(mount / "third", 8 * MIB) == 8 * MIB
    assert digest(mount / "first") == kept
