"""What a peer offers, changed while real processes run: storage shrinks in peace, limits are kept, `top` shows it."""

import json
import os
import pty
import random
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pools import COMMAND, DemoPool, demo_pool, digest

pytestmark = pytest.mark.l5

MIB = 1 << 20
RATE = 2_500_000  # 20 Mbit/s
LIMIT_S = 60
SETTINGS = {
    "heartbeat": "500ms",
    "suspect": "3s",
    "down": "5s",
    "capacity": "1G",
    "cache_size": "0",
    "memory_cache": "1M",
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("offers"), peers=3, settings=SETTINGS) as pool:
        yield pool


def _share(pool: DemoPool, part: str, *offers: str) -> dict[str, Any]:
    told = json.loads(pool.p2pfs("share", *offers, "--json", home=pool.root / part).stdout)
    assert told["running"]
    return {one["kind"]: one for one in told["offers"]}


def _until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)  # other processes are at work


def _sent(pid: int) -> int:
    """What a process has written so far, as the kernel counts it: a peer that is only read from writes to sockets."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def test_storage_shrinks_without_a_copy_less_and_a_limit_is_kept(pool: DemoPool) -> None:
    file = pool.mount / "film"
    file.write_bytes(random.Random(3).randbytes(24 * MIB))
    before = digest(file)
    assert _share(pool, "peer-3")["storage"]["used"] > 4 * MIB
    assert _share(pool, "peer-3", "storage=0")["storage"]["offered"] == 0

    def has_moved() -> bool:
        status = pool.status()
        assert (status["chunks"]["under_replicated"], status["chunks"]["lost"]) == (0, 0)
        return bool(status["peers"][2]["used"] == 0 and status["peers"][0]["used"] >= 24 * MIB)

    _until(has_moved)
    pool.kill("peer-2")  # now peer-1 alone has the file
    _share(pool, "peer-1", "upload=20Mbit")
    pid = pool.pid("peer-1")
    digests: list[str] = []
    reading = threading.Thread(target=lambda: digests.append(digest(file)))
    reading.start()
    start = _sent(pid) + RATE
    _until(lambda: _sent(pid) >= start)
    began_s, start = time.monotonic(), _sent(pid)
    _until(lambda: time.monotonic() - began_s >= 4)
    took_s, sent = time.monotonic() - began_s, _sent(pid) - start
    assert reading.is_alive()
    assert sent / took_s == pytest.approx(RATE, rel=0.05)
    offered = next(one for one in pool.status()["offers"] if one["kind"] == "upload")
    assert (offered["offered"], offered["unlimited"], offered["free"] < RATE // 10) == (
        RATE,
        offered["peers"] - 1,
        True,
    )
    assert _share(pool, "peer-1", "upload=none")["upload"]["offered"] is None
    reading.join(LIMIT_S)
    assert digests == [before]


def test_an_offer_outlives_the_daemon(pool: DemoPool) -> None:
    _share(pool, "peer-1", "download=3Mbit@22:00-06:00,80Mbit")
    pool.kill("peer-1")
    pool.start()
    assert _share(pool, "peer-1")["download"]["rule"] == "3Mbit@22:00-06:00,80Mbit"
    assert _share(pool, "peer-1")["upload"]["rule"] == "none"


def test_top_draws_until_q_is_pressed(pool: DemoPool) -> None:
    ours, theirs = pty.openpty()
    environment = dict(os.environ, P2PFS_HOME=str(pool.root / "mount"), TERM="xterm", COLUMNS="80", LINES="24")
    process = subprocess.Popen([*COMMAND, "top"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        _until(lambda: bool(select.select([ours], [], [], 0)[0]))
        while b"demo@peer-3" not in seen:
            assert select.select([ours], [], [], LIMIT_S)[0]
            seen += os.read(ours, 65536)
        os.write(ours, b"sq")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"by name" in seen
