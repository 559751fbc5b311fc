"""The chunks of a volume: whether the index has enough copies of each, and with `--data` whether each copy is whole.

Every copy is fetched whole from its own holder and compared with its id: a holder that was merely asked whether its
copy is right could say anything. The first that is whole is opened too. So a check moves as many bytes as the volume
has copies; what a peer finds damaged when it is read, it sets aside and reports as ever.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import trio

from p2pfs.chunks.protocol import Blocks
from p2pfs.chunks.remote import RemoteStore
from p2pfs.errors import Corrupt, Misuse, NotFound, PoolError
from p2pfs.format.chunk import open_blocks, verify
from p2pfs.format.extents import open_extent
from p2pfs.format.heads import Head
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.ranges import block_count, plain_size
from p2pfs.placement.policy import copies_wanted
from p2pfs.runtime.sizes import format_count
from p2pfs.types import ChunkId, ChunkKey, InodeId, PeerNumber, PeerState, VolumeId
from p2pfs.vfs.fsck.findings import Code, Finding, Findings, Remedy
from p2pfs.vfs.fsck.walk import Item
from p2pfs.wire.membership import PoolMap
from p2pfs.wire.namespace import ChunkPlace, ExtentPage

AT_ONCE: Final = 8
"""Chunks being fetched: so many MiB are held."""
WAITING: Final = 4096
"""Chunks that wait for that; the walk goes on when there are fewer."""
_PATIENCE: Final = 2
"""A peer that was silent so often in a row is not asked again."""
_READABLE: Final = frozenset({PeerState.UP, PeerState.SUSPECT, PeerState.DRAINING})

Stores = Callable[[PeerNumber], RemoteStore | None]


class Chunks:
    """Every chunk that extents name, once each. `data` has copies fetched, in `run`."""

    def __init__(
        self, keys: VolumeKeys, volume: VolumeId, pool: PoolMap, stores: Stores, findings: Findings, *, data: bool
    ) -> None:
        self._keys, self._volume, self._stores, self._findings, self._data = keys, volume, stores, findings, data
        self._peers = {PeerNumber(peer.number): peer for peer in pool.peers}
        self._wanted, _ = copies_wanted(pool)
        self._files: dict[ChunkId, InodeId | list[InodeId]] = {}
        self._waiting: list[tuple[ChunkPlace, ChunkKey]] = []
        self._silent = Counter[PeerNumber]()
        self._unchecked = Counter[PeerNumber]()
        self.progress: Callable[[], None] = lambda: None

    def page(self, item: Item, _head: Head, page: ExtentPage) -> None:
        """What a walk found. Never waits."""
        places = {place.chunk: place for place in page.places}
        for row in page.extents:
            if row.chunk is None:
                continue
            chunk = ChunkId(row.chunk)
            known = self._files.get(chunk)
            if known is None:
                self._files[chunk] = item.inode
                extent = open_extent(self._keys, self._volume, item.inode, row)
                assert extent.key is not None
                self._meet(places[row.chunk], extent.key)
            elif known != item.inode and (not isinstance(known, list) or item.inode not in known):
                self._files[chunk] = [*(known if isinstance(known, list) else [known]), item.inode][:50]

    def _meet(self, place: ChunkPlace, key: ChunkKey) -> None:
        self._findings.tally.chunks += 1
        chunk, holders = ChunkId(place.chunk), [PeerNumber(number) for number in place.holders]
        if not holders:
            self._find(Code.LOST, chunk, "no peer has a copy of one of its chunks")
        elif not any(self._is_readable(peer) for peer in holders):
            names = ", ".join(map(self._name, holders))
            self._find(
                Code.LOST, chunk, f"no peer that answers has a copy of one of its chunks; those that do: {names}"
            )
        elif len(holders) < self._wanted:
            message = f"one of its chunks has {format_count(len(holders), 'copy')} of {self._wanted} that are wanted"
            self._find(Code.SHORT, chunk, message)
        if self._data and holders:
            self._waiting.append((place, key))

    @property
    def is_behind(self) -> bool:
        """Whether `run` should be called before the walk goes on."""
        return len(self._waiting) >= WAITING

    def files_of(self, chunk: ChunkId) -> Sequence[InodeId]:
        """Files that it is part of: 50 at most."""
        found = self._files.get(chunk, [])
        return found if isinstance(found, list) else [found]

    # ---- every copy

    async def run(self) -> None:
        """Check the copies of all chunks met so far."""
        waiting, self._waiting = self._waiting, []
        slots = trio.Semaphore(AT_ONCE)

        async def one(place: ChunkPlace, key: ChunkKey) -> None:
            try:
                await self._check(place, key)
            finally:
                slots.release()

        async with trio.open_nursery() as nursery:
            for place, key in waiting:
                await slots.acquire()
                nursery.start_soon(one, place, key)

    def finish(self) -> None:
        """Tell of the peers that could not be asked."""
        for peer, copies in sorted(self._unchecked.items()):
            message = f"{format_count(copies, 'copy')} on {self._name(peer)} could not be checked: it does not answer"
            self._findings.add(Finding(Code.UNCHECKED, b"", message, peer=peer))

    async def _check(self, place: ChunkPlace, key: ChunkKey) -> None:
        chunk, whole, bad, silent = ChunkId(place.chunk), 0, list[tuple[PeerNumber, str]](), 0
        for peer in map(PeerNumber, place.holders):
            if not self._is_readable(peer) or self._silent[peer] >= _PATIENCE:
                self._unchecked[peer] += 1
                silent += 1
                continue
            try:
                sealed = await self.fetch(peer, chunk, place.size)
            except (Corrupt, Misuse) as error:
                bad.append((peer, f"the copy on {self._name(peer)} is damaged ({error})"))
            except NotFound:
                bad.append((peer, f"{self._name(peer)} has not got the copy that it should have"))
            except PoolError:
                self._silent[peer] += 1
                self._unchecked[peer] += 1
                silent += 1
                continue
            else:
                if not whole:
                    self._open(chunk, key, sealed, place.size)
                whole += 1
            self._silent[peer] = 0
            self._findings.tally.copies += 1
        for peer, message in bad:
            finding = self._find(Code.COPY, chunk, message, Remedy.COPY if whole else Remedy.NONE)
            finding.peer = peer
        if bad and not whole and not silent:
            self._find(Code.LOST, chunk, "no copy of one of its chunks is whole")
        self.progress()

    def _open(self, chunk: ChunkId, key: ChunkKey, sealed: memoryview, size: int) -> None:
        try:
            open_blocks(key, sealed, first=0, size=size)
        except Corrupt as error:
            self._find(Code.BLOCK, chunk, f"one of its chunks is whole and does not open ({error})")

    async def fetch(self, peer: PeerNumber, chunk: ChunkId, size: int) -> memoryview:
        """One whole copy. Raises Corrupt, Misuse (no chunk has that size), NotFound, Unavailable."""
        store = self._stores(peer)
        if store is None:
            raise NotFound("there is no such peer")
        blocks = Blocks(0, block_count(plain_size(size)))
        sealed = await store.get(self._volume, chunk, size, blocks, check=lambda view: verify(chunk, view))
        self._findings.tally.bytes_read += len(sealed)
        return sealed

    def _is_readable(self, peer: PeerNumber) -> bool:
        known = self._peers.get(peer)
        return known is not None and known.state in _READABLE

    def _name(self, peer: PeerNumber) -> str:
        known = self._peers.get(peer)
        return known.name if known is not None else f"peer {peer}"

    def _find(self, code: Code, chunk: ChunkId, message: str, remedy: Remedy = Remedy.NONE) -> Finding:
        finding = Finding(code, b"", message, remedy, chunk=chunk)
        self._findings.add(finding)
        return finding
