"""`p2pfs reserve` against real processes: room is promised, stays so over a coordinator's death, is drawn, ends."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from pools import DemoPool, demo_pool

from p2pfs import exitcodes
from p2pfs.types import MIB

pytestmark = pytest.mark.l5

LONGEST_S = 60


def listed(pool: DemoPool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(pool.p2pfs("reserve", "list", "--json").stdout)
    return found


def wait_until_left(pool: DemoPool, left: list[int]) -> None:
    until_s = time.monotonic() + LONGEST_S
    while [one["left_bytes"] // MIB for one in listed(pool)] != left:  # each look takes a process of its own
        assert time.monotonic() < until_s, listed(pool)


def test_room_is_promised_drawn_from_and_free_again(tmp_path: Path) -> None:
    with demo_pool(tmp_path, settings={"capacity": "200M", "heartbeat": "500ms"}) as pool:
        made = json.loads(pool.p2pfs("reserve", "100M", "--for", "2h", "--json").stdout)
        assert (made["volume"], made["bytes"], made["short_bytes"]) == ("demo", 100 * MIB, 0)
        before = pool.status()["pool"]
        assert before["reserved"] == 100 * MIB
        assert before["writable"] < before["total"] - 100 * MIB
        room = os.statvfs(pool.mount)
        assert room.f_bavail * room.f_frsize > before["total"] - 10 * MIB  # the volume itself has all of it
        refused = pool.p2pfs("reserve", "50G", "--for", "2h", expect=exitcodes.POOL_FULL)
        assert "50 GiB cannot be reserved: at most " in refused.stderr
        assert refused.stderr.count("\n") == 1
        for words in (("100", "--for", "2h"), ("100M", "--for", "2"), ("100M", "--for", "8d"), ("100M",), ("x",)):
            pool.p2pfs("reserve", *words, expect=exitcodes.USAGE)
        pool.p2pfs("reserve", "--for", "1h", "--volume", "none", "1M", expect=exitcodes.NOT_FOUND)
        (pool.mount / "file").write_bytes(random.Random(1).randbytes(40 * MIB))
        wait_until_left(pool, [60])
        pool.kill("coordinator")
        pool.start()
        assert listed(pool)[0]["left_bytes"] in range(60 * MIB, 100 * MIB + 1)  # a crash may forget some seconds
        short = json.loads(pool.p2pfs("reserve", "--volume", "demo", "5M", "--for", "3s", "--json").stdout)
        assert short["id"] > made["id"]
        assert json.loads(pool.p2pfs("reserve", "release", str(made["id"]), "--json").stdout)["id"] == made["id"]
        pool.p2pfs("reserve", "release", str(made["id"]), expect=exitcodes.NOT_FOUND)
        wait_until_left(pool, [])
        assert pool.status()["pool"]["reserved"] == 0
