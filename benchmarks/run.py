#!/usr/bin/env python3
"""`make bench`: the workload on a demo pool's mount and on a plain directory, in turn, as medians and ratios.

usage: run.py --out DIRECTORY [--runs N] [--size MIB] [--files N] [--only large,small,tree]

Cold is cold: before each cold phase the mount is unmounted, its cache directory deleted and the kernel's caches
dropped; the bytes fetched from peers are counted by the mount itself and printed. The resident memory of every part
is sampled while the workload runs and its peak is printed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from pool import Pool, resident_mib

HERE = Path(__file__).resolve().parent


class Watch(threading.Thread):
    """Samples the pool's parts until stopped: peak resident MiB by part, and bytes the mounts fetched from peers."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(daemon=True)
        self._pool, self._over = pool, threading.Event()
        self.peak: dict[str, float] = {}
        self._fetched: dict[int, int] = {}

    @property
    def fetched_mib(self) -> float:
        return sum(self._fetched.values()) / (1 << 20)

    def run(self) -> None:
        while not self._over.wait(0.25):
            for part, pid in self._pool.pids().items():
                try:
                    self.peak[part] = max(self.peak.get(part, 0), resident_mib(pid))
                except OSError:
                    continue
                if part == "mount":
                    self._fetched[pid] = max(self._fetched.get(pid, 0), self._pool.fetched_bytes())

    def stop(self) -> None:
        self._over.set()
        self.join()


def workload(
    directory: Path, out: Path, arguments: argparse.Namespace, remount: str = ""
) -> dict[str, dict[str, float]]:
    """One run of workload.py; its rows."""
    command = [sys.executable, str(HERE / "workload.py"), str(directory), "--json", str(out)]
    command += ["--size", str(arguments.size), "--files", str(arguments.files)]
    if arguments.only:
        command += ["--only", arguments.only]
    if remount:
        command += ["--remount", remount]
    result = subprocess.run(command, check=False)
    if result.returncode:
        print(f"the workload on {directory} failed", file=sys.stderr)
    rows: dict[str, dict[str, float]] = json.loads(out.read_text())
    return rows


def table(ours: list[dict[str, dict[str, float]]], plain: list[dict[str, dict[str, float]]]) -> str:
    """Medians of every phase, ours beside the plain directory's, as Markdown."""
    lines = ["| phase | unit | p2pfs | plain directory | ratio | CPU ms each |", "|---|---|---|---|---|---|"]
    for name, row in ours[0].items():
        if "rate" not in row:
            lines.append(f"| {name} | | {row} | | | |")
            continue
        rate = statistics.median(run[name]["rate"] for run in ours if name in run)
        cpu = statistics.median(run[name]["cpu_ms_per_unit"] for run in ours if name in run)
        other = statistics.median(run[name]["rate"] for run in plain if name in run)
        lines.append(f"| {name} | {row['unit']} | {rate:.1f} | {other:.1f} | {rate / other:.3f} | {cpu:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="MiB of the large file")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="p2pfs-bench-", dir=arguments.out))
    pool = Pool(root)
    ours, plain = [], []
    (root / "plain").mkdir()
    watch = Watch(pool)
    try:
        pool.start()
        watch.start()
        for run in range(arguments.runs):
            print(f"run {run + 1} of {arguments.runs}: p2pfs", file=sys.stderr)
            ours.append(workload(pool.mount, arguments.out / f"p2pfs-{run}.json", arguments, pool.remount_command()))
            print(f"run {run + 1} of {arguments.runs}: plain directory", file=sys.stderr)
            plain.append(workload(root / "plain", arguments.out / f"plain-{run}.json", arguments))
        watch.stop()
        text = table(ours, plain) + "\n\npeak resident MiB: "
        text += ", ".join(f"{part} {peak:.0f}" for part, peak in sorted(watch.peak.items()))
        text += f"\nfetched from peers: {watch.fetched_mib:.0f} MiB in {arguments.runs} runs"
        (arguments.out / "table.md").write_text(text + f"\n\n{time.strftime('%F')}, {os.cpu_count()} cores\n")
        print(text)
    finally:
        pool.stop()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
