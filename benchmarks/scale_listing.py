"""A directory of very many entries, listed through a real mount. Called by `scale`.

The entries are made by sealed batches of a session of their own, as a mount would make them, only faster.
"""

import os
import time
from pathlib import Path

import trio
from run import Pool

from p2pfs.format.heads import Head, seal_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import dentry_tag, seal_name
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.runtime.home import NodeHome
from p2pfs.types import ROOT_INODE, InodeId, Kind, VolumeId
from p2pfs.vfs.attach import connect
from p2pfs.wire.namespace import FIRST_CHANGE, Make
from p2pfs.wire.volumes import OpenSession

BATCH = 500


def measure(root: Path, entries: int) -> dict[str, float]:
    """Seconds to make the directory, to list its names, and to list it with the attributes of each, cold and again."""
    pool = Pool(root)
    pool.start()
    try:
        began = time.perf_counter()
        trio.run(_make, NodeHome(pool.root / "mount"), (pool.root / "passphrase").read_text().strip(), entries)
        found = {"entries": float(entries), "made": time.perf_counter() - began}
        pool.p2pfs("umount", str(pool.mount))
        pool.start()
        path = pool.mount / "many"
        for name in ("names", "names again"):
            began = time.perf_counter()
            count = len(os.listdir(path))
            found[name] = time.perf_counter() - began
            assert count == entries, count
        pool.p2pfs("umount", str(pool.mount))
        pool.start()
        began = time.perf_counter()
        with os.scandir(path) as listing:
            assert sum(entry.stat().st_size == 0 for entry in listing) == entries
        found["attributes"] = time.perf_counter() - began
        return found
    finally:
        pool.stop()


async def _make(home: NodeHome, passphrase: str, entries: int) -> None:
    async with connect(home, home.settings()) as pool:
        info = await pool.volume("demo")
        volume, keys = VolumeId(info.volume), await pool.keys(home, info, passphrase)
        namespace = await RemoteNamespace.open(
            pool.client, pool.coordinator, volume, request=OpenSession(), io_timeout_s=30.0
        )
        top, dentry = await namespace.new_ids(2)
        await namespace.apply([_entry(keys, volume, ROOT_INODE, b"many", top, dentry, Kind.DIRECTORY)])
        for first in range(0, entries, BATCH):
            count = min(BATCH, entries - first)
            ids = iter(await namespace.new_ids(2 * count))
            await namespace.apply(
                [
                    _entry(keys, volume, top, b"entry-%07d" % (first + at), next(ids), next(ids), Kind.FILE)
                    for at in range(count)
                ]
            )
        await namespace.aclose()


def _entry(keys: VolumeKeys, volume: VolumeId, parent: int, name: bytes, inode: int, dentry: int, kind: Kind) -> Make:
    above = InodeId(parent)
    return Make(
        above,
        seal_name(keys, volume, above, name),
        dentry,
        dentry_tag(keys, volume, above, name, InodeId(inode), kind),
        inode,
        int(kind),
        0o755 if kind is Kind.DIRECTORY else 0o644,
        0,
        0,
        0,
        seal_head(keys, volume, InodeId(inode), Head(FIRST_CHANGE, 0, kind)),
        time.time_ns(),
    )
