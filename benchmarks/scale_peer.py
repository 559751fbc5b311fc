"""One start of a peer's store, in a process of its own: seconds, and resident memory with and after everything is
listed once. Called by `scale`.

usage: scale_peer.py ROOT
"""

import json
import sys
import time
from pathlib import Path

import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs_peerd import daemon


def resident_mib() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


async def main() -> None:
    assert daemon.run  # all that a peer imports is in memory, too
    began = time.perf_counter()
    store = await DirectoryStore.open(Path(sys.argv[1]), sign=lambda *_: [], capacity=1 << 62)  # type: ignore[arg-type, return-value]
    opened = time.perf_counter()
    await store.keep_tally()
    await store.digests()
    print(
        json.dumps(
            {
                "chunks": store.usage().chunks,
                "opened": opened - began,
                "listed": time.perf_counter() - opened,
                "resident": resident_mib(),
            }
        )
    )


trio.run(main)
