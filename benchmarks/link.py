#!/usr/bin/env python3
"""`make bench-link`: how full a pool keeps one slow link between a mount and its peers, in both directions.

usage: link.py --out DIRECTORY [--runs N] [--size MIB] [--mbit N] [--json]

Two network namespaces joined by one link of 100 Mbit/s (tbf at both ends). Coordinator and three peers are at one end,
the mount at the other. A file is written and synced, then read through a mount with empty caches and compared.

The share is that of useful bytes in the line rate: those of the file, once when read and once for each copy that the
mount sends itself when written. Frames, TCP and TLS take about 5 %, so 95 % is full. Beside it stands what the
interface counted, and how much that is for each useful byte: more than 1.06 is sent in vain.

Root, iproute2, util-linux. DIRECTORY/link.json keeps the figures. Exit status 1 if a byte was wrong.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from comparison import markdown, verdict
from pool import COMMAND, MIB, Pool, said
from tidy import end_on_sigterm, remove, undisturbed

TARGET = 0.9
COPIES = 2
FAR, NEAR = "p2pfs-link-far", "p2pfs-link-near"
FAR_ADDRESS, NEAR_ADDRESS = "10.98.98.1", "10.98.98.2"
DEVICE = "wire"


class Link:
    """Two namespaces and the wire between them."""

    def __init__(self, mbit: int) -> None:
        self.mbit = mbit

    def up(self) -> None:
        if Path(f"/run/netns/{FAR}").exists():
            raise SystemExit(f"another bench-link runs, or was left: ip netns delete {FAR}; ip netns delete {NEAR}")
        for name in (FAR, NEAR):
            _ip("netns", "add", name)
        _ip("-n", FAR, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", NEAR)
        for name, address in ((FAR, FAR_ADDRESS), (NEAR, NEAR_ADDRESS)):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
            for device in ("lo", DEVICE):
                _ip("-n", name, "link", "set", device, "up")
            shape = ["tbf", "rate", f"{self.mbit}mbit", "burst", "64kb", "latency", "50ms"]
            subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", DEVICE, "root", *shape], check=True)

    def down(self) -> None:
        for name in (FAR, NEAR):
            if Path(f"/run/netns/{name}").exists():
                _ip("netns", "delete", name)

    def counted_bytes(self) -> tuple[int, int]:
        """What the mount's end has sent and received."""
        shown = subprocess.run(
            ["ip", "-n", NEAR, "-s", "-j", "link", "show", DEVICE], check=True, capture_output=True, text=True
        )
        found = json.loads(shown.stdout)[0]["stats64"]
        return found["tx"]["bytes"], found["rx"]["bytes"]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _entering(name: str) -> list[str]:
    """Before a command: run it in that network, but with the machine's mounts (`ip netns exec` has its own)."""
    return ["nsenter", f"--net=/run/netns/{name}"]


class FarPool(Pool):
    """A demo pool at one end of the link. The demo knows loopback only, so its address is changed in its process."""

    _PROGRAM = (
        "from p2pfs.cli import main; from p2pfs.cli.trying import demo_plan; "
        f"demo_plan.HOST = {FAR_ADDRESS!r}; main.main()"
    )

    def p2pfs(self, *arguments: str) -> str:
        return said(*self._command(*arguments))

    def status(self) -> dict[str, Any]:
        """What the pool counts, whatever it thinks of its health."""
        command = self._command("status", "--json", "--home", str(self.root / "mount"))
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)

    def _command(self, *arguments: str) -> list[str]:
        return [*_entering(FAR), sys.executable, "-c", self._PROGRAM, *arguments]

    def remount(self) -> None:
        """At the near end, with every cache empty."""
        self.p2pfs("umount", "-q", str(self.mount))
        subprocess.run(["rm", "-rf", str(self.root / "mount" / "cache")], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        plan = json.loads((self.root / "demo.json").read_text())
        words = ["--passphrase-file", str(self.root / "passphrase"), "--pid-file", str(self.root / "run" / "mount.pid")]
        words += ["--home", str(self.root / "mount")] + [
            f"--set={key}={value}" for key, value in plan["settings"].items()
        ]
        said(*_entering(NEAR), *COMMAND, "mount", "-d", "demo", str(self.mount), *words)


P = TypeVar("P", bound=FarPool)


@contextlib.contextmanager
def linked(root: Path, mbit: int, pool: P) -> Iterator[tuple[Link, P]]:
    """A pool below `root` and its mount, for the block."""
    link = Link(mbit)
    try:
        with undisturbed():
            link.up()
            pool.start()
        yield link, pool
    finally:
        with undisturbed():
            if (pool.root / "demo.json").exists():
                with contextlib.suppress(subprocess.CalledProcessError):  # it has said why
                    pool.stop()
            link.down()
            remove(root)


def run(link: Link, pool: FarPool, size: int) -> dict[str, Any]:
    """One file written and read back."""
    pool.remount()
    path, content = pool.mount / "file", random.Random(size).randbytes(size * MIB)
    began, (sent, _) = time.monotonic(), link.counted_bytes()
    with path.open("wb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view[:MIB]) :]
        os.fsync(file.fileno())
    written_s = time.monotonic() - began
    wire_bytes = link.counted_bytes()[0] - sent
    # One of two copies where peers pass chunks on to each other.
    copies = COPIES if wire_bytes > (COPIES - 0.5) * size * MIB else 1
    up = _figures(link, copies * size * MIB, written_s, wire_bytes) | {"mib_per_s": size / written_s}
    pool.remount()
    began, (_, received) = time.monotonic(), link.counted_bytes()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    read_s = time.monotonic() - began
    down = _figures(link, size * MIB, read_s, link.counted_bytes()[1] - received) | {"mib_per_s": size / read_s}
    path.unlink()
    return {"up": up, "down": down, "wrong": digest != hashlib.sha256(content).digest()}


def _figures(link: Link, useful_bytes: int, seconds: float, wire_bytes: int) -> dict[str, float]:
    line = link.mbit * 1e6 / 8 * seconds
    return {"share": useful_bytes / line, "wire_share": wire_bytes / line, "sent_per_useful": wire_bytes / useful_bytes}


def table(runs: list[dict[str, Any]]) -> str:
    """Medians."""
    rows = []
    for direction, meaning in (("up", "written"), ("down", "read cold")):
        found = {key: statistics.median(run[direction][key] for run in runs) for key in runs[0][direction]}
        shares = [f"{100 * found[key]:.1f} %" for key in ("share", "wire_share")]
        row = [meaning, f"{found['mib_per_s']:.2f}", *shares, f"{found['sent_per_useful']:.2f}"]
        rows.append([*row, f"≥ {100 * TARGET:.0f} %", verdict(found["share"], TARGET)])
    heads = [
        "direction",
        "file MiB/s",
        "useful share of the line",
        "as the interface counts",
        "sent for each useful byte",
    ]
    return markdown([*heads, "target", "reached"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64, help="MiB of the file")
    parser.add_argument("--mbit", type=int, default=100, help="of the link, a second")
    parser.add_argument("--json", action="store_true", help="print link.json instead of the table")
    arguments = parser.parse_args()
    if os.geteuid():
        raise SystemExit("bench-link makes network namespaces and mounts: run it as root")
    arguments.out.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="p2pfs-link-", dir=arguments.out)).resolve()
    end_on_sigterm()
    try:
        with linked(root, arguments.mbit, FarPool(root)) as (link, pool):
            runs = [run(link, pool, arguments.size) for _ in range(arguments.runs)]
    except KeyboardInterrupt:
        return 130
    found = {"mbit": arguments.mbit, "size_mib": arguments.size, "cores": os.cpu_count(), "runs": runs}
    text = json.dumps(found, indent=1)
    (arguments.out / "link.json").write_text(text + "\n")
    print(text if arguments.json else table(runs))
    wrong = any(run["wrong"] for run in runs)
    if wrong:
        print("FAILED: what was read is not what was written", file=sys.stderr)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
