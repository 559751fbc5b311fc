#!/usr/bin/env python3
"""`make bench-scale`: what size costs the coordinator and a peer.

usage: scale.py --out DIRECTORY [--sizes N,N,…] [--only namespace,pool,listing,peer] [--plot FILE]

namespace   a coordinator's database filled to each size, files of ten extents with two copies each: median µs of
            questions and batches; then a coordinator that runs on the largest, its memory and its `status`
pool        a coordinator under 1 000 peers and 200 mounts over TLS: its share of a core, its memory
listing     a directory of 100 000 entries through a real mount
peer        a store of 1 000 000 chunks: how long a start takes, and its memory

Needs 4 GiB of disk, and a few minutes. One line each, and the same as JSON in DIRECTORY/scale.json; exit status 1 when
an aim is missed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import scale_fill
import scale_listing
import scale_namespace
import scale_plot
import scale_pool
import trio
from scale_pool import Coordinator

from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.init import initialise
from p2pfs.meta.connections import connect
from p2pfs.runtime.home import NodeHome
from p2pfs.types import NodeId

Figures = dict[str, float]
HERE = Path(__file__).resolve().parent
SIZES = "10000,50000,250000,1000000"
RATIO = 2.0
AIMS = {  # at most
    ("coordinator", "resident"): 200.0,
    ("pool", "cores"): 0.5,
    ("pool", "resident"): 200.0,
    ("listing", "names"): 2.0,
    ("peer", "opened"): 5.0,
    ("peer", "resident"): 150.0,
}
PEERS, MOUNTS, ENTRIES, CHUNKS = 1000, 200, 100_000, 1_000_000
QUIET = {"suspect": "1d", "down": "2d"}  # nobody beats, and all stay up
SURVEY_S = 30.0


def new_home(path: Path, peers: int) -> tuple[NodeHome, list[NodeId], int]:
    """A pool with so many peers: its home, they, and the number of the first."""
    home = initialise(path, pool_name="scale", name="root@server", settings={"listen": "127.0.0.1:0"})
    connection = connect(CoordinatorFiles(home).database)
    connection.execute("BEGIN")
    joined = [node.id for node in scale_fill.join_peers(connection, peers, now_s=time.time())]
    connection.execute("COMMIT")
    first = connection.execute("SELECT min(number) FROM peer WHERE capacity > 0").fetchone()[0]
    connection.close()
    return home, joined, first


def namespace(root: Path, sizes: list[int]) -> dict[str, Figures]:
    home, _, first = new_home(root / "home", scale_fill.PEERS)
    path = CoordinatorFiles(home).database
    found: dict[str, Figures] = {}
    changes: dict[int, int] = {}
    before = 1
    for size in sizes:
        connection = connect(path)
        scale_fill.fill(connection, before + 1, size, first_peer=first)
        connection.close()
        before = size
        with path.open("rb") as file:  # so that the kernel has it, as after a day of work
            while file.read(1 << 24):
                pass
        found[f"{size}"] = trio.run(partial(scale_namespace.measure, path, size, first, changes))
        print(
            f"{size} inodes: " + ", ".join(f"{name} {us:.0f} µs" for name, us in found[f"{size}"].items()), flush=True
        )
    found["coordinator"] = coordinator(home)
    return found


def coordinator(home: NodeHome) -> Figures:
    """The process on a filled database, which surveys it, and is asked for its status."""
    with Coordinator(home, **QUIET) as running:
        began, before = time.perf_counter(), running.cpu_s()
        words = [sys.executable, "-m", "p2pfs.cli.main", "status", "--json", "--home", str(home.path)]
        status = subprocess.run(words, stdout=subprocess.PIPE, check=False)
        status_s = time.perf_counter() - began
        assert json.loads(status.stdout)["chunks"]["total"], "the coordinator does not answer"
        time.sleep(SURVEY_S)
        return {
            "started": running.started_s,
            "status": status_s,
            "cores": (running.cpu_s() - before) / (time.perf_counter() - began),
            "resident": running.resident_mib("VmHWM"),
        }


def pool(root: Path) -> Figures:
    home, peers, first = new_home(root / "pool-home", PEERS)
    connection = connect(CoordinatorFiles(home).database)
    scale_fill.fill(connection, 2, 2, first_peer=first)
    connection.close()
    mounts = scale_pool.join_clients(home, MOUNTS)
    with Coordinator(home) as running:
        return trio.run(scale_pool.load, running, peers, mounts, 20.0)


def peer(root: Path) -> Figures:
    """The second start: the first counts every file."""
    store = root / "chunks"
    scale_fill.fill_peer(store, CHUNKS)
    words = [sys.executable, str(HERE / "scale_peer.py"), str(store)]
    first, second = (json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout) for _ in range(2))
    return {**second, "opened first": first["opened"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--only", default="namespace,pool,listing,peer")
    parser.add_argument("--plot", type=Path, help="where the curves go; default: scale.svg in --out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="p2pfs-scale-", dir=arguments.out)).resolve()
    sizes, wanted = [int(size) for size in arguments.sizes.split(",")], arguments.only.split(",")
    parts = {"pool": pool, "listing": lambda root: scale_listing.measure(root, ENTRIES), "peer": peer}
    found: dict[str, Figures] = {}
    missed: list[str] = []
    try:
        if "namespace" in wanted:
            found.update(namespace(root, sizes))
            missed += draw(arguments.plot or arguments.out / "scale.svg", found, sizes)
        for name in [name for name in parts if name in wanted]:
            found[name] = parts[name](root)
        for name, figures in found.items():
            if not name.isdecimal():
                print(f"{name}: " + ", ".join(f"{what} {value:.2f}" for what, value in figures.items()))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    (arguments.out / "scale.json").write_text(json.dumps(found, indent=1))
    missed += [
        f"{part} {what} is {found[part][what]:.2f}, more than {most}"
        for (part, what), most in AIMS.items()
        if part in found and found[part][what] > most
    ]
    print("\n".join(missed) or "all aims are reached")
    sys.exit(bool(missed))


def draw(path: Path, found: dict[str, Figures], sizes: list[int]) -> list[str]:
    """The curves of what runs in SQL; which of them end above the aim."""
    names = [name for name in found[f"{sizes[0]}"] if "committed" not in name]
    curves = {name: {size: found[f"{size}"][name] / found[f"{sizes[0]}"][name] for size in sizes} for name in names}
    scale_plot.write(path, curves, RATIO)
    worst = {name: max(curve.values()) for name, curve in curves.items()}
    return [f"{name} costs {ratio:.2f} times as much in the largest" for name, ratio in worst.items() if ratio > RATIO]


if __name__ == "__main__":
    main()
