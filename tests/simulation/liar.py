"""A peer that lies: it signs for what it does not keep, gives wrong bytes, does not delete, and shows what others hold.

Its copies count for nothing in the checks, so that all that is asked of the pool is to keep what others hold, and never
to show anybody a wrong byte.
"""

import functools
import random
from collections.abc import Callable
from typing import Any, Final

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.files import Held
from p2pfs.chunks.header import HEADER_BYTES, unpack
from p2pfs.chunks.inventory import Listing
from p2pfs.errors import NotFound
from p2pfs.format.inventory import bucket_of, digest
from p2pfs.format.ranges import SEALED_BLOCK_BYTES
from p2pfs.types import ChunkId, VolumeId
from p2pfs.wire.chunks import Receipt

from .disk import Copy
from .pool import SimPeer

HABITS: Final = ("forgets", "garbles", "hoards", "invents", "proxies")


class Liar:
    """Turns the store of one peer into a liar's, in this and each later life."""

    def __init__(self, peer: SimPeer, others: list[SimPeer], chance: random.Random) -> None:
        self._peer, self._others, self._chance = peer, others, chance
        self.habits = set(chance.sample(HABITS, chance.randrange(1, len(HABITS) + 1)))
        self._claims: dict[Copy, int] = {}  # what it does not hold and says it does → put_seq
        if "invents" in self.habits:
            known = sorted({copy for other in others for copy in other.disk.copies()} - set(peer.disk.copies()))
            self._claims.update((copy, 1 + n) for n, copy in enumerate(chance.sample(known, min(8, len(known)))))
        peer.dress = self._dress
        if peer.store is not None:
            self._dress(peer.store)

    def _dress(self, store: DirectoryStore) -> DirectoryStore:
        for name, lie in self._lies():
            setattr(store, name, functools.partial(lie, getattr(store, name)))
        return store

    def _lies(self) -> list[tuple[str, Callable[..., Any]]]:
        lies: list[tuple[str, Callable[..., Any]]] = [("digests", self._digests), ("listed", self._listed)]
        if "forgets" in self.habits:
            lies.append(("keep", self._keep))
        if "garbles" in self.habits:
            lies.append(("read", self._read))
        if "hoards" in self.habits:
            lies.append(("delete", self._delete))
        if "proxies" in self.habits:
            lies.append(("audit", self._audit))
        return lies

    async def _keep(self, real: Callable[..., Any], volume: VolumeId, chunk: ChunkId, *more: object) -> Receipt:
        receipt: Receipt = await real(volume, chunk, *more)
        if self._chance.random() < 0.5:
            self._peer.disk.vanish((volume, chunk))
            self._claims[volume, chunk] = receipt.put_seq
        return receipt

    async def _read(self, real: Callable[..., Any], *arguments: object, **options: object) -> tuple[int, memoryview]:
        size, view = await real(*arguments, **options)
        wrong = bytearray(view)
        if wrong and self._chance.random() < 0.7:
            wrong[self._chance.randrange(len(wrong))] ^= 1 << self._chance.randrange(8)
        return size, memoryview(wrong)

    async def _delete(self, _real: Callable[..., Any], volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        """Says that it is done."""

    async def _audit(
        self, real: Callable[..., Any], volume: VolumeId, chunk: ChunkId, block: int
    ) -> tuple[list[bytes], bytes]:
        """What it has not got it fetches from whoever has it."""
        copy = volume, chunk
        holder = next((other for other in (self._peer, *self._others) if other.disk.holds(copy)), None)
        if holder is None:
            raise NotFound("nobody has it")
        data = holder.disk.path(copy).read_bytes()
        body = data[HEADER_BYTES:]
        return list(unpack(data[:HEADER_BYTES]).hashes), body[block * SEALED_BLOCK_BYTES :][:SEALED_BLOCK_BYTES]

    async def _digests(self, real: Callable[..., Any]) -> list[bytes]:
        found: list[bytes] = await real()
        for copy in self._claimed():
            found[bucket_of(copy[1])] = digest([copy], found[bucket_of(copy[1])])
        return found

    async def _listed(
        self, real: Callable[..., Any], bucket: int, after: tuple[VolumeId, ChunkId] | None = None, *more: object
    ) -> Listing:
        true: Listing = await real(bucket, after, *more)
        others = (other.disk for other in self._others)
        disks = [self._peer.disk, *others]
        entries = list(true.entries)
        for copy in self._claimed():
            size = next((disk.path(copy).stat().st_size - HEADER_BYTES for disk in disks if disk.holds(copy)), 0)
            if bucket_of(copy[1]) == bucket and (after is None or copy > after) and size:
                entries.append(Held(*copy, size, self._claims[copy], 0))
        entries.sort(key=lambda one: (one.volume, one.chunk))
        return Listing(true.settled_seq, entries, true.more)

    def _claimed(self) -> list[Copy]:
        return sorted(copy for copy in self._claims if not self._peer.disk.path(copy).exists())
