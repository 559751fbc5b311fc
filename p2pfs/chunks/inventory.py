"""What a directory store holds, gone through in the order of volume and id: for digests, listings and the scrub.

Directory by directory, each in a hop of its own, so that neither the number of chunks nor a slow disk makes one of them
outlast a disk's deadline, and nothing holds the names of all chunks. It is no snapshot: what is put or deleted
meanwhile may or may not be seen.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from p2pfs.chunks.disk import mapped
from p2pfs.chunks.files import ChunkFiles, Held
from p2pfs.errors import Misuse
from p2pfs.format import inventory
from p2pfs.types import ChunkId, VolumeId, volume_name

MOST_LISTED: Final = 10_000
"""Entries of one listing: less than a MiB on the wire."""
_HEADS: Final = 64
"""Headers read in one hop: within a disk's deadline even where each is a seek."""

T = TypeVar("T")


class Hop(Protocol):
    """Runs blocking work in a thread, bounded as the store bounds it."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """A part of a bucket, in the order of (volume, id)."""

    settled_seq: int  # every PUT up to this one that is not listed is not here, as far as the listing goes
    entries: list[Held]
    more: bool  # or the bucket ends here


class Inventory:
    """Of one store; its methods raise Unavailable when the disk fails or does not answer."""

    def __init__(self, files: ChunkFiles, hop: Hop) -> None:
        self._files = files
        self._hop = hop

    async def volumes(self) -> list[VolumeId]:
        """Those that have or had chunks here, ascending."""
        return await self._hop(lambda: _volumes(self._files.root))

    async def names(self, volume: VolumeId, bucket: int) -> list[ChunkId]:
        """The chunks of one volume whose ids begin with the byte `bucket`, ascending."""
        return await self._hop(lambda: _names(self._files.root, volume, bucket))

    async def digests(self) -> list[bytes]:
        """The digest of each of the 256 buckets over all volumes (format.inventory). Reads directories only."""
        found = [inventory.EMPTY] * inventory.BUCKETS
        for volume in await self.volumes():
            for bucket, before in enumerate(found):
                found[bucket] = await self._hop(partial(self._digest, volume, bucket, before))
        return found

    def _digest(self, volume: VolumeId, bucket: int, start: bytes) -> bytes:
        return inventory.digest(((volume, chunk) for chunk in _names(self._files.root, volume, bucket)), start)

    async def listed(
        self, bucket: int, after: tuple[VolumeId, ChunkId] | None = None, limit: int = MOST_LISTED
    ) -> Listing:
        """The chunks of a bucket behind `after`, at most `limit`; reads their headers, and a damaged one is not listed.

        Raises:
            Misuse: There is no such bucket, or nothing is to be listed.
        """
        if not 0 <= bucket < inventory.BUCKETS or limit < 1:
            raise Misuse("a listing is of one of 256 buckets and of something")
        settled = self._files.settled_seq()  # before anything is looked at
        entries: list[Held] = []
        first = after or (VolumeId(-1), ChunkId(b""))
        for volume in await self.volumes():
            names = await self.names(volume, bucket) if volume >= first[0] else []
            names = [chunk for chunk in names if (volume, chunk) > first]
            room = limit - len(entries)
            for at in range(0, min(room, len(names)), _HEADS):
                batch = names[at : min(at + _HEADS, room)]
                entries += await self._hop(partial(self._heads, volume, batch))
            if len(names) > room:
                return Listing(settled, entries, more=True)
        return Listing(settled, entries, more=False)

    def _heads(self, volume: VolumeId, chunks: Sequence[ChunkId]) -> list[Held]:
        found = (self._files.head(volume, chunk) for chunk in chunks)
        return [held for held in found if held is not None]


def _volumes(root: Path) -> list[VolumeId]:
    with mapped("listing volumes"):
        return sorted(VolumeId(int(name, 16)) for name in os.listdir(root) if _is_hex(name, 16))


def _names(root: Path, volume: VolumeId, bucket: int) -> list[ChunkId]:
    prefix = f"{bucket:02x}"
    with mapped("listing chunks"):
        try:
            names = os.listdir(root / volume_name(volume) / prefix)
        except FileNotFoundError:
            return []
    return [ChunkId(bytes.fromhex(prefix + name)) for name in sorted(names) if _is_hex(name, 62)]


def _is_hex(name: str, digits: int) -> bool:
    return len(name) == digits and not name.strip("0123456789abcdef")
