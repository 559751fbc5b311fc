"""Which nodes hold a file, for `p2pfs where` and `p2pfs why`.

Works on a mounted path without any key: the mount's inode number is the volume's, and the coordinator knows which
chunks an inode has and who holds them.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from p2pfs import exitcodes
from p2pfs.cli.waiting import waiting
from p2pfs.errors import UserError
from p2pfs.runtime import mounts
from p2pfs.runtime.home import NodeHome
from p2pfs.types import DIGEST_RANGE_BYTES, VolumeId
from p2pfs.wire.membership import PoolMap
from p2pfs.wire.namespace import ExtentPage, ReadExtents
from p2pfs.wire.volumes import VolumeInfo


@dataclass(frozen=True, slots=True)
class Place:
    """One chunk of the file."""

    index: int  # which MiB of the file
    chunk: str
    size: int  # sealed bytes
    peers: list[dict[str, str | int]]


@dataclass(frozen=True, slots=True)
class Held:
    """A file, and who holds it. `inline`: it lives in the metadata and has no chunks."""

    home: NodeHome
    volume: str
    inode: int
    size: int
    inline: bool
    places: list[Place]


def find(path: Path) -> Held:
    """Ask for the file at a mounted path.

    Raises:
        UserError: NOT_FOUND, NOT_MOUNTED, or it is no regular file.
        PoolError: What the coordinator said.
    """
    record, found = _locate(path)
    home = NodeHome(Path(record.home))
    with waiting("asking where it is"):
        volume, inline, places = _places(home, record.identity, found)
    return Held(home, volume, found.st_ino, found.st_size, inline, places)


def _locate(path: Path) -> tuple[mounts.MountRecord, os.stat_result]:
    try:
        found = path.lstat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", exitcodes.NOT_FOUND) from None
    absolute = Path(os.path.realpath(path.parent)) / path.name if path.name else Path(os.path.realpath(path))
    record = mounts.find_above(absolute)
    if record is None or not record.alive():
        raise UserError(f"{path} is not in a volume mounted by this user", exitcodes.NOT_MOUNTED)
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is no regular file: only those have content on nodes", exitcodes.USAGE)
    return record, found


def _places(home: NodeHome, volume: str, found: os.stat_result) -> tuple[str, bool, list[Place]]:
    """(volume name, whether the content is inline, its chunks by index)."""
    from p2pfs.cli import connect
    from p2pfs.cli.members import find_volume

    async def ask(coordinator: connect.Coordinator) -> tuple[str, bool, list[Place]]:
        info = find_volume(await coordinator.call("GET", "/volumes", None, list[VolumeInfo]), volume)
        names = _names(await coordinator.call("GET", "/map", None, PoolMap))
        inline, places = False, []
        for number in range(max(1, -(-found.st_size // DIGEST_RANGE_BYTES))):
            question = ReadExtents(found.st_ino, number)
            page = await coordinator.ask(VolumeId(info.volume), question, ExtentPage)
            inline = inline or page.attributes.inline is not None
            places += _of_page(page, names)
        return info.name, inline, places

    return connect.converse(home, ask)


def _of_page(page: ExtentPage, names: dict[int, dict[str, str | int]]) -> list[Place]:
    holders = {place.chunk: place for place in page.places}
    chunks = sorted({(row.index, row.chunk) for row in page.extents if row.chunk is not None})
    places = []
    for index, chunk in chunks:
        place = holders.get(chunk)
        peers = [names.get(number, {"number": number, "name": "?"}) for number in place.holders] if place else []
        places.append(Place(index, chunk.hex(), place.size if place else 0, peers))
    return places


def _names(pool: PoolMap) -> dict[int, dict[str, str | int]]:
    return {
        peer.number: {"number": peer.number, "name": peer.name, "node": peer.node, "state": peer.state}
        for peer in pool.peers
    }
