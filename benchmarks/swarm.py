#!/usr/bin/env python3
"""`make bench-swarm`: what copies cost a mount with a thin uplink, by how its chunks are distributed.

usage: swarm.py --out DIRECTORY [--copies 2,3,8] [--how direct,relay,swarm] [--size MIB] [--mbit N] [--json]

As `bench-link`: the mount at one end of a link of 20 Mbit/s (tbf), coordinator and eight peers at the other. For each
number of copies and each distribution one file is written and synced; then it is waited for until the pool counts every
copy. Shown are MiB of the file a second, until it was acknowledged (on two peers' disks) and until all copies were
there, and the bytes that the mount's end of the link sent until then for each byte of the file: frames, TCP, TLS and the
coordinator included, which are 5 to 6 %.

Root, iproute2, util-linux. DIRECTORY/swarm.json keeps the figures. Exit status 1 if
copies are missing after a minute, or could not be written.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comparison import markdown
from link import FarPool, Link, linked
from pool import MIB
from tidy import end_on_sigterm

PEERS = 8
LONGEST_S = 60.0


class SwarmPool(FarPool):
    """Eight peers, and so many copies of everything."""

    def __init__(self, root: Path, copies: int) -> None:
        super().__init__(root)
        self._copies = copies

    def start(self) -> None:
        words = ["--root", str(self.root), "--mount", str(self.mount), "--peers", str(PEERS)]
        # Backups go to peers too, but from the coordinator, which is at their end; repair would hide what is missing.
        self.p2pfs("demo", "start", "-q", *words, "--replicas", str(self._copies), "--set", "repair_delay=1h")

    def distribute(self, how: str) -> None:
        """From now on; mounts anew."""
        key = ["--passphrase-file", str(self.root / "passphrase")]
        self.p2pfs("volume", "set", "demo", f"distribution={how}", "--home", str(self.root / "mount"), *key)
        self.remount()

    def chunks(self) -> tuple[int, int]:
        """(chunks that the pool knows, those of them with all copies)."""
        counted = self.status()["chunks"]
        return counted["total"], counted["by_copies"].get(str(self._copies), 0)


def run(link: Link, pool: SwarmPool, how: str, size: int) -> dict[str, Any]:
    """One file written, until all copies are there."""
    pool.distribute(how)
    before, _ = pool.chunks()
    content = random.Random(how).randbytes(size * MIB)
    time.sleep(1)  # what a mount asks when it begins is not the file's
    sent, began = link.counted_bytes()[0], time.monotonic()
    with (pool.mount / how).open("wb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view[:MIB]) :]
        os.fsync(file.fileno())
    stored_s = time.monotonic() - began
    while True:
        sent_bytes, settled_s = link.counted_bytes()[0] - sent, time.monotonic() - began
        total, whole = pool.chunks()
        if (total - before >= size and whole == total) or settled_s > stored_s + LONGEST_S:
            break
        time.sleep(0.2)
    return {
        "how": how,
        "mib_per_s": size / stored_s,
        "settled_mib_per_s": size / settled_s,
        "sent_per_byte": sent_bytes / (size * MIB),
        "missing": total - whole,
    }


def table(found: list[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        if "error" in one:
            rows.append([str(one["copies"]), one["how"], one["error"], "", "", ""])
            continue
        figures = [f"{one['mib_per_s']:.2f}", f"{one['settled_mib_per_s']:.2f}", f"{one['sent_per_byte']:.2f}"]
        rows.append([str(one["copies"]), one["how"], *figures, str(one["missing"])])
    heads = ["copies", "distribution", "MiB/s acknowledged", "MiB/s with all copies", "sent for each byte"]
    return markdown([*heads, "chunks that lack copies"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--copies", default="2,3,8")
    parser.add_argument("--how", default="direct,relay,swarm", help="of direct,relay,swarm,auto")
    parser.add_argument("--size", type=int, default=16, help="MiB of each file")
    parser.add_argument("--mbit", type=int, default=20, help="of the link, a second")
    parser.add_argument("--json", action="store_true", help="print swarm.json instead of the table")
    arguments = parser.parse_args()
    if os.geteuid():
        raise SystemExit("bench-swarm makes network namespaces and mounts: run it as root")
    arguments.out.mkdir(parents=True, exist_ok=True)
    end_on_sigterm()
    found: list[dict[str, Any]] = []
    try:
        for copies in map(int, arguments.copies.split(",")):
            root = Path(tempfile.mkdtemp(prefix="p2pfs-swarm-", dir=arguments.out)).resolve()
            with linked(root, arguments.mbit, SwarmPool(root, copies)) as (link, pool):
                for how in arguments.how.split(","):
                    try:
                        found.append(run(link, pool, how, arguments.size) | {"copies": copies})
                    except OSError as error:
                        print(f"{copies} copies, {how}: {error}", file=sys.stderr)
                        found.append({"copies": copies, "how": how, "error": str(error)})
    except KeyboardInterrupt:
        return 130
    text = json.dumps({"mbit": arguments.mbit, "size_mib": arguments.size, "runs": found}, indent=1)
    (arguments.out / "swarm.json").write_text(text + "\n")
    print(text if arguments.json else table(found))
    return int(any(one.get("missing", 1) for one in found))


if __name__ == "__main__":
    sys.exit(main())
