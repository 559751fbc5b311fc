"""A whole pool watched: figures of every process, the history, one mount's counters and requests, logs as JSON."""

import json
import random
import re
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from pools import COMMAND, demo_pool
from prometheus_client.parser import text_string_to_metric_families

from p2pfs.cli import connect
from p2pfs.runtime.home import NodeHome
from p2pfs.types import MIB

pytestmark = pytest.mark.l5

SECRET = "canary-in-a-name"
LONGEST_S = 30
SETTINGS = {"metrics_listen": "127.0.0.1:0", "log_format": "json", "heartbeat": "500ms"}

Samples = dict[tuple[str, ...], float]


def records(root: Path, part: str) -> list[dict[str, Any]]:
    """What a process logged; what its command said to whoever started it is no record."""
    lines = (root / "log" / f"{part}.log").read_text().splitlines()
    return [json.loads(line) for line in lines if not line.startswith("demo is mounted")]


def metrics(root: Path, part: str) -> tuple[str, Samples]:
    """What a process tells Prometheus: as text, and value by name and labels."""
    served = [
        found[1] for one in records(root, part) if (found := re.match(r"metrics are served at (\S+)", one["message"]))
    ]
    with urllib.request.urlopen(f"http://{served[-1]}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return text, {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}


def test_a_pool_is_watched_and_no_name_gets_out(tmp_path: Path) -> None:
    with demo_pool(tmp_path, peers=2, settings=SETTINGS) as pool:
        with subprocess.Popen([*COMMAND, "accesslog", str(pool.mount)], stdout=subprocess.PIPE, text=True) as reading:
            assert reading.stdout is not None
            lines: list[str] = []
            thread = threading.Thread(target=lines.extend, args=(reading.stdout,))
            thread.start()
            until_s, number = time.monotonic() + LONGEST_S, 0
            while not any(SECRET in line for line in lines):  # it begins to read when it is ready
                assert time.monotonic() < until_s
                number += 1
                (pool.mount / f"{SECRET}-{number}").write_bytes(random.randbytes(MIB))
            reading.terminate()
            thread.join()
        created = next(line for line in list(lines) if SECRET in line)
        assert re.search(r'uid=0 gid=0 pid=\d+ \w+ \(1, "canary-in-a-name-\d+".*\): (OK|ENOENT) <0\.\d+>', created)

        texts, samples = zip(*(metrics(pool.root, part) for part in ("coordinator", "peer-1", "mount")), strict=True)
        coordinator, peer, mount = samples
        assert coordinator["p2pfs_requests_total", "2xx", "heartbeat"] > 0
        assert peer["p2pfs_peer_chunk_bytes_total", "in"] >= MIB
        assert mount["p2pfs_mount_written_bytes_total",] >= MIB
        assert mount["p2pfs_mount_operation_seconds_count", "create"] >= 1
        assert mount["p2pfs_mount_info", "demo"] == 1

        told = json.loads(pool.p2pfs("stats", str(pool.mount), "--interval", "100ms", "--count", "1", "--json").stdout)
        assert told["counters"]["written_bytes"] >= MIB
        history = json.loads(connect.fetch(NodeHome(pool.root / "mount"), "/history?names=health,peers.up&since=-600"))
        assert [value for _, value in history["series"]["health"]] != []

        logs = [(pool.root / "log" / f"{part}.log").read_text() for part in ("coordinator", "peer-1", "mount")]
        for text in (*texts, *logs):
            assert SECRET not in text
        assert {one["part"] for one in records(pool.root, "peer-1")} == {"peer"}
