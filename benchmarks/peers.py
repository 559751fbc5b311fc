#!/usr/bin/env python3
"""`make bench-peers`: the workload on p2pfs and on MooseFS in turn, as medians and ratios beside their targets.

usage: peers.py --out DIRECTORY [--runs N] [--size MIB] [--files N] [--only large,small,tree] [--append] [--json]
                [--modes close,fsync,shared] [--systems p2pfs,MooseFS,nothing,plain]

Each run brings up one system afresh (three storage nodes, two copies), runs the workload and takes it down, so that
nobody works beside another. Beside them stand a pyfuse3 file system that does nothing and a plain directory, which
belong to every mode:

close   -o durability=close beside MooseFS whose chunkservers sync a chunk when it is closed (FSYNC=1)
fsync   -o durability=fsync beside MooseFS as it is by default (FSYNC=0)
shared  as close, while a second mount of the same volume is there and does nothing

Cold is cold: before each cold phase the mount is unmounted, its cache deleted, mounted again, and the kernel's caches
dropped; the bytes fetched are counted (p2pfs: from peers, by its mount; MooseFS: all traffic of its own loopback).
DIRECTORY/peers.json keeps every turn, DIRECTORY/peers.md the tables. --append adds runs to those that are there, with
the same --size and --files. Root, and the packages of moosefs.sh. Exit status 1 if anything failed.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comparison
import measured
from comparison import MODES, NOTHING, OURS, PLAIN, THEIRS, Mode
from systems import Local, MooseFS, Nothing, Ours, Refused, System
from tidy import end_on_sigterm, remove, undisturbed

LONGEST_TURN_S = 1800.0
SYSTEMS = (OURS, THEIRS, NOTHING, PLAIN)


class Record:
    """What was measured so far; on disk after each turn."""

    def __init__(self, out: Path, arguments: argparse.Namespace) -> None:
        self._out, self._sizes = out, {"size_mib": arguments.size, "files": arguments.files}
        self.turns: list[dict[str, Any]] = []
        self.refusals: dict[str, str] = {}
        if arguments.append and (out / "peers.json").exists():
            known = json.loads((out / "peers.json").read_text())
            if known["sizes"] != self._sizes:
                raise SystemExit(f"{out}/peers.json was measured with {known['sizes']}: give the same, or no --append")
            self.turns = known["turns"]

    def add(self, mode: str, system: str, load: float, rows: dict[str, Any]) -> None:
        """`load`: the machine's before the turn; what others did meanwhile is in every figure."""
        at = time.strftime("%FT%TZ", time.gmtime())
        self.turns.append({"mode": mode, "system": system, "at": at, "load": load, "rows": rows})
        self.write()

    def write(self) -> None:
        text = json.dumps(self.as_dict(), indent=1)
        (self._out / "peers.json").write_text(text + "\n")
        (self._out / "peers.md").write_text(self.markdown() + "\n")

    def as_dict(self) -> dict[str, Any]:
        machine = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
        return {"sizes": self._sizes, "machine": machine, "refusals": self.refusals, "turns": self.turns}

    def markdown(self) -> str:
        last = f"{time.strftime('%F')}, {os.cpu_count()} cores, kernel {platform.release()}"
        sizes = f"{self._sizes['size_mib']} MiB in one file, {self._sizes['files']} small files of 4 KiB"
        loads = [turn["load"] for turn in self.turns]
        before = (
            f"Load before the turns: {min(loads):.1f} to {max(loads):.1f}, the turn before it included."
            if loads
            else ""
        )
        tables = comparison.report(self.turns, self.refusals)
        return f"{tables}\n\n{last}; {sizes}, the standard library as the tree. {before}".rstrip()


def system_of(name: str, root: Path, mode: Mode | None) -> System:
    if name == NOTHING:
        return Nothing(root)
    if mode is None:
        return Local(root)
    if name == OURS:
        return Ours(root, options=mode.options, shared=mode.shared)
    return MooseFS(root, sync=mode.sync, shared=mode.shared)


@contextlib.contextmanager
def running(system: System, root: Path) -> Iterator[None]:
    """Up for the block. Raises Refused."""
    try:
        with undisturbed():
            system.start()
        yield
    finally:
        with undisturbed():
            system.stop()
            remove(root)


def turn(system: System, root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of the workload, in a process of its own so that it can be ended at any time; its rows.

    Raises:
        Refused: The system did not start.
    """
    root.mkdir(parents=True)
    rows = root.with_suffix(".json")
    with running(system, root):
        child = multiprocessing.get_context("fork").Process(target=measured.run, args=(system, rows, arguments))
        child.start()
        try:
            child.join(LONGEST_TURN_S)
        finally:
            if child.pid and child.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.kill()
                child.join()
    if not rows.exists():
        return {"workload": {"error": f"ended with {child.exitcode}"}}
    found: dict[str, Any] = json.loads(rows.read_text())
    rows.unlink()
    return found


def plan(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """(mode, system) of one round; what belongs to every mode comes once."""
    beside = [("", name) for name in (NOTHING, PLAIN) if name in arguments.systems]
    return beside + [(mode, name) for mode in arguments.modes for name in (OURS, THEIRS) if name in arguments.systems]


def bench(record: Record, root: Path, arguments: argparse.Namespace) -> None:
    for run in range(arguments.runs):
        for mode, name in plan(arguments):
            if f"{name} {mode}" in record.refusals:
                continue
            print(f"run {run + 1} of {arguments.runs}: {name} {mode}".rstrip(), file=sys.stderr, flush=True)
            place = root / f"{name}-{mode or 'any'}-{run}"
            load = os.getloadavg()[0]
            try:
                record.add(mode, name, load, turn(system_of(name, place, MODES.get(mode)), place, arguments))
            except Refused as error:
                print(f"{name} refused: {error}", file=sys.stderr)
                record.refusals[f"{name} {mode}"] = str(error)
                record.write()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="MiB of the large file")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--only", default="", help="of large,small,tree")
    parser.add_argument("--modes", type=_some_of(MODES), default=list(MODES), help="of close,fsync,shared")
    parser.add_argument("--systems", type=_some_of(SYSTEMS), default=list(SYSTEMS), help=f"of {','.join(SYSTEMS)}")
    parser.add_argument("--append", action="store_true", help="add to the runs in DIRECTORY/peers.json")
    parser.add_argument("--json", action="store_true", help="print peers.json instead of the tables")
    arguments = parser.parse_args()
    if os.geteuid():
        raise SystemExit("bench-peers mounts, makes a network namespace and drops the kernel's caches: run it as root")
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = Record(arguments.out, arguments)
    root = Path(tempfile.mkdtemp(prefix="p2pfs-peers-", dir=arguments.out)).resolve()
    end_on_sigterm()
    try:
        bench(record, root, arguments)
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        remove(root)
    print(json.dumps(record.as_dict(), indent=1) if arguments.json else record.markdown())
    failed = any("error" in row for turn in record.turns for row in turn["rows"].values())
    return 1 if failed or record.refusals else 0


def _some_of(known: Any) -> Any:  # noqa: ANN401 - what argparse takes
    def parse(text: str) -> list[str]:
        words = text.split(",")
        if not set(words) <= set(known):
            raise argparse.ArgumentTypeError(f"take some of {','.join(known)}")
        return words

    return parse


if __name__ == "__main__":
    sys.exit(main())
