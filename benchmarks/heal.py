#!/usr/bin/env python3
"""`make bench-heal`, and the end of `make bench`: how fast a pool is whole again, and what it costs when it is.

usage: heal.py --out DIRECTORY [--gib N] [--peers N]

A demo pool of five peers holds N GiB, both copies of everything included. Then, one after the other:

idle    what the coordinator and the peers use of a processor while nothing is to be done
kill    SIGKILL of one peer for good, until every chunk has all its copies again on the others
drain   `peer drain` of another one, until it is let go. Meanwhile copies are counted by the coordinator (`status`), and
        for a sample of chunks as files on the peers' disks, without asking anybody: never one fewer than wanted
read    everything, through a mount with empty caches, compared by hash

One line each, and the same as JSON in DIRECTORY/heal.json. Exit status 1 when anything was short or wrong.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pool import Pool, processor_s

from p2pfs.cli import connect
from p2pfs.errors import PoolError, UserError
from p2pfs.runtime.home import NodeHome
from p2pfs.wire.membership import NodeInfo

MIB = 1 << 20
COPIES = 2
FILE_MIB = 64
SAMPLE = 1000
IDLE_S = 20.0
LONGEST_S = 3600.0
SETTINGS = {"heartbeat": "1s", "suspect": "2s", "down": "4s", "repair_delay": "1s", "cache_size": "0"}


class HealPool(Pool):
    """A demo pool whose peers come to harm."""

    def __init__(self, root: Path, peers: int) -> None:
        super().__init__(root)
        self.parts = [f"peer-{number}" for number in range(1, peers + 1)]
        self._home = NodeHome(self.root / "mount")

    def start(self) -> None:
        settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
        words = ["--root", str(self.root), "--mount", str(self.mount), "--peers", str(len(self.parts))]
        self.p2pfs("demo", "start", "-q", *words, "--replicas", str(COPIES), *settings)

    def remount(self) -> None:
        """With the caches empty; what is dead stays so."""
        self.p2pfs("umount", str(self.mount))
        with contextlib.suppress(OSError):
            Path("/proc/sys/vm/drop_caches").write_text("3")
        settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
        words = ["--passphrase-file", str(self.root / "passphrase"), "--pid-file", str(self.root / "run" / "mount.pid")]
        self.p2pfs("mount", "-d", "demo", str(self.mount), "--home", str(self._home.path), *words, *settings)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(connect.fetch(self._home, "/status"))
        return found

    def peer(self, part: str) -> dict[str, Any]:
        """What `status` says of one."""
        return next(peer for peer in self.status()["peers"] if peer["name"].endswith(part))

    def by_copies(self) -> dict[int, int]:
        return {int(copies): count for copies, count in self.status()["chunks"]["by_copies"].items()}

    def is_whole(self) -> bool:
        return set(self.by_copies()) == {COPIES}

    def drain(self, part: str) -> None:
        connect.call(self._home, "POST", f"/peers/{self.peer(part)['node']}/drain", None, NodeInfo)

    def chunks(self, part: str) -> set[str]:
        """Which chunk files a peer has, by path below its store."""
        root = self.root / part / "chunks"
        return {str(path.relative_to(root)) for path in root.glob("????????????????/??/*")}

    def cpu_s(self) -> dict[str, float]:
        """Processor time used so far, by part."""
        used = {}
        for part, pid in self.pids().items():
            with contextlib.suppress(OSError):
                used[part] = processor_s(pid)
        return used


class Sampler(threading.Thread):
    """Counts copies until stopped, by asking the coordinator and by looking at the disks."""

    def __init__(self, pool: HealPool, parts: list[str], leaving: str, sample: list[str]) -> None:
        super().__init__(daemon=True)
        self._pool, self._parts, self._leaving, self._sample = pool, parts, leaving, sample
        self._over = threading.Event()
        self.passes = 0
        self.fewest = {"status": COPIES, "disks": COPIES}
        self.failure = ""

    def run(self) -> None:
        try:
            over = False
            while not over:
                over = self._over.wait(0.1)  # and a last look after the end
                self._look()
                self.passes += 1
        except (OSError, PoolError, UserError, ValueError, KeyError) as error:
            self.failure = f"{type(error).__name__}: {error}"

    def _look(self) -> None:
        status = self._pool.status()  # first: files of a peer that has left do not count
        state = next(peer["state"] for peer in status["peers"] if peer["name"].endswith(self._leaving))
        counted = [part for part in self._parts if part != self._leaving or state != "left"]
        roots = [self._pool.root / part / "chunks" for part in counted]
        said = min(int(copies) for copies in status["chunks"]["by_copies"])
        found = min(sum((root / path).exists() for root in roots) for path in self._sample)
        self.fewest = {"status": min(said, self.fewest["status"]), "disks": min(found, self.fewest["disks"])}

    def stop(self) -> None:
        self._over.set()
        self.join()


def until(is_so: Callable[[], bool], pause_s: float = 0.1) -> float:
    """Wait until it is; the time then (monotonic). Raises TimeoutError."""
    limit = time.monotonic() + LONGEST_S
    while not is_so():
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {LONGEST_S:.0f} s")
        time.sleep(pause_s)
    return time.monotonic()


def fill(pool: HealPool, size_mib: int) -> dict[Path, str]:
    """So many MiB of noise in files; their digests."""
    chance, digests = random.Random(1), {}
    for number in range(max(1, size_mib // FILE_MIB)):
        path, digest = pool.mount / f"file-{number}", hashlib.sha256()
        with path.open("wb", buffering=0) as file:
            for _ in range(min(FILE_MIB, size_mib)):
                piece = chance.randbytes(MIB)
                digest.update(piece)
                file.write(piece)
        digests[path] = digest.hexdigest()
    return digests


def idle(pool: HealPool) -> dict[str, Any]:
    before = pool.cpu_s()
    time.sleep(IDLE_S)  # what is measured is that nothing happens
    used = {part: 100 * (after - before[part]) / IDLE_S for part, after in pool.cpu_s().items()}
    peers = [percent for part, percent in used.items() if part in pool.parts]
    return {"coordinator_percent": used["coordinator"], "peer_percent": max(peers)}


def kill(pool: HealPool, victim: str) -> dict[str, Any]:
    held = pool.peer(victim)
    before, began = pool.cpu_s(), time.monotonic()
    os.kill(pool.pids()[victim], signal.SIGKILL)
    (pool.root / "run" / f"{victim}.pid").unlink()  # for good
    noticed = until(lambda: pool.peer(victim)["state"] == "down")
    ended = until(pool.is_whole)
    cpu_s = sum(after - before[part] for part, after in pool.cpu_s().items())
    return _measured(held, began, ended, noticed_s=noticed - began, cpu_s=cpu_s)


def drain(pool: HealPool, leaving: str, parts: list[str]) -> dict[str, Any]:
    chunks = sorted(set().union(*(pool.chunks(part) for part in parts)))
    sampler = Sampler(pool, parts, leaving, random.Random(1).sample(chunks, min(SAMPLE, len(chunks))))
    held = pool.peer(leaving)
    before, began = pool.cpu_s(), time.monotonic()
    sampler.start()
    pool.drain(leaving)
    ended = until(lambda: pool.peer(leaving)["state"] == "left")
    cpu_s = sum(after - before[part] for part, after in pool.cpu_s().items())
    sampler.stop()
    found = {"passes": sampler.passes, "fewest": sampler.fewest, "sampler_failed": sampler.failure}
    return _measured(held, began, ended, noticed_s=0.0, cpu_s=cpu_s) | found


def _measured(held: dict[str, Any], began: float, ended: float, *, noticed_s: float, cpu_s: float) -> dict[str, Any]:
    mib, took_s = held["used"] / MIB, ended - began
    return {
        "chunks": held["chunks"],
        "mib": mib,
        "seconds": took_s,
        "noticed_s": noticed_s,
        "mib_per_s": mib / max(1e-3, took_s - noticed_s),
        "cpu_ms_per_mib": 1000 * cpu_s / max(1.0, mib),
    }


def read(pool: HealPool, digests: dict[Path, str]) -> int:
    """How many files are not what was written."""
    pool.remount()
    wrong = 0
    for path, digest in digests.items():
        with path.open("rb") as file:
            wrong += hashlib.file_digest(file, "sha256").hexdigest() != digest
    return wrong


def bench(pool: HealPool, gib: float) -> dict[str, Any]:
    """Every step; prints each as it ends."""
    pool.start()
    digests = fill(pool, int(gib * 1024 / COPIES))
    until(pool.is_whole)
    until(lambda: all(peer["state"] == "up" for peer in pool.status()["peers"]))
    results: dict[str, Any] = {"gib": gib, "peers": len(pool.parts), "cores": os.cpu_count()}
    results["idle_before"] = idle(pool)
    victim, leaving = pool.parts[-1], pool.parts[-2]
    results["kill"] = kill(pool, victim)
    say("kill", results["kill"], f"noticed after {results['kill']['noticed_s']:.1f} s")
    results["drain"] = found = drain(pool, leaving, pool.parts[:-1])
    seen = f"fewest copies {found['fewest']['status']} by status, {found['fewest']['disks']} on disks"
    say("drain", found, f"{seen}, in {found['passes']} looks {found['sampler_failed']}")
    results["idle"] = idle(pool)
    idle_line = "idle: coordinator {coordinator_percent:.1f} % of a core, each peer at most {peer_percent:.1f} %"
    print(idle_line.format(**results["idle"]))
    results["wrong_files"] = read(pool, digests)
    print(f"read: {results['wrong_files']} of {len(digests)} files are wrong")
    return results


def say(step: str, found: dict[str, Any], more: str) -> None:
    print(
        f"{step}: {found['chunks']} chunks, {found['mib']:.0f} MiB in {found['seconds']:.1f} s"
        f" ({found['mib_per_s']:.1f} MiB/s, {found['cpu_ms_per_mib']:.1f} CPU ms a MiB); {more}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=10.0, help="stored in all, copies included")
    parser.add_argument("--peers", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="p2pfs-heal-", dir=arguments.out))
    pool = HealPool(root, arguments.peers)
    try:
        results = bench(pool, arguments.gib)
    finally:
        pool.stop()
        with contextlib.suppress(OSError):
            shutil.copytree(pool.root / "log", arguments.out / "heal-log", dirs_exist_ok=True)
        shutil.rmtree(root, ignore_errors=True)
    (arguments.out / "heal.json").write_text(json.dumps(results, indent=1) + "\n")
    drained = results["drain"]
    is_right = min(drained["fewest"].values()) >= COPIES and not drained["sampler_failed"] and drained["passes"]
    return 0 if is_right and not results["wrong_files"] else 1


if __name__ == "__main__":
    sys.exit(main())
