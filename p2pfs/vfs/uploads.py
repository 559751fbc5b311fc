"""From a chunk plan to receipts: seal, put on the peers, remember where it is.

Used by `vfs.storing` for what was frozen and by the committer for what must be stored beside it. Receipts that come
after a put has returned are kept with the upload while it is uncommitted, and sent on their own afterwards, so that no
copy is forgotten.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

import trio

from p2pfs.chunks.protocol import ChunkStore
from p2pfs.errors import PoolError
from p2pfs.format.chunk import SealedChunk, seal
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.protocol import Namespace
from p2pfs.runtime.threads import Threads
from p2pfs.types import CHUNK_BYTES, ChunkId, PeerNumber, VolumeId
from p2pfs.vfs.content import Sealer
from p2pfs.vfs.inodes import Upload
from p2pfs.vfs.places import Places
from p2pfs.vfs.space import Space
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import AddReplicas, NewChunk

log = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Chunks on their way to peers at once."""
SLOW_SEAL_S: Final = 0.002
"""A chunk takes 0.4 ms with AES instructions, 6 to 20 ms without them."""
_TRIES: Final = 3


def seals_slowly(keys: VolumeKeys, *, now_s: Callable[[], float] = time.perf_counter) -> bool:
    """Whether this processor seals chunks too slowly for the event loop. The best of some tries: others use it too."""
    chunk = bytes(CHUNK_BYTES)
    for _ in range(_TRIES):
        began_s = now_s()
        seal(keys, [chunk])
        if now_s() - began_s <= SLOW_SEAL_S:
            return False
    return True


def one_a_peer(older: Iterable[Receipt], newer: Iterable[Receipt]) -> list[Receipt]:
    """Receipts of one chunk, each peer's newest: equal chunks under way together bring several from one peer, and a
    commit may name each peer once."""
    newest: dict[int, Receipt] = {}
    for receipt in (*older, *newer):
        known = newest.get(receipt.peer)
        if known is None or receipt.put_seq > known.put_seq:
            newest[receipt.peer] = receipt
    return list(newest.values())


class LateCopies:
    """Receipts that come after their put has returned. `_uncommitted` maps a chunk to the uploads that wait for their
    commit; what comes for others is sent to the coordinator on its own."""

    def __init__(self, namespace: Namespace, nursery: trio.Nursery) -> None:
        self._namespace, self._nursery = namespace, nursery
        self._uncommitted: dict[ChunkId, list[Upload]] = {}

    def expect(self, upload: Upload) -> None:
        """The upload is on its way, and then waits for its commit."""
        if upload.chunk is not None:
            self._uncommitted.setdefault(upload.chunk, []).append(upload)

    def late(self, volume: VolumeId, new: NewChunk) -> None:
        """A receipt came after its put had returned."""
        waiting = self._uncommitted.get(ChunkId(new.chunk))
        if not waiting:
            self._nursery.start_soon(self._record, new)
        for upload in waiting or ():
            if upload.is_stored:
                upload.receipts = one_a_peer(upload.receipts, new.receipts)
            else:
                upload.early = one_a_peer(upload.early, new.receipts)

    def committed(self, uploads: list[Upload], sent: list[NewChunk]) -> None:
        """A commit named these uploads with the receipts in `sent`; what came after it was built follows now."""
        told = {ChunkId(new.chunk): {receipt.peer for receipt in new.receipts} for new in sent}
        for upload in uploads:
            self.forget(upload)
            chunk = upload.chunk
            if chunk is None or chunk not in told:
                continue
            more = [receipt for receipt in upload.receipts if receipt.peer not in told[chunk]]
            if more:
                self._nursery.start_soon(self._record, NewChunk(chunk, upload.size, more))

    def forget(self, upload: Upload) -> None:
        """The upload is committed, or never will be."""
        waiting = self._uncommitted.get(upload.chunk) if upload.chunk is not None else None
        if waiting and upload in waiting and upload.chunk is not None:
            waiting.remove(upload)
            if not waiting:
                del self._uncommitted[upload.chunk]

    async def _record(self, new: NewChunk) -> None:
        try:
            await self._namespace.apply([AddReplicas([new])])
        except PoolError as error:
            log.info("a late copy is not recorded: %s", error)


class Uploader:
    """Stores chunks of one volume for one mount."""

    def __init__(
        self,
        sealer: Sealer,
        store: ChunkStore,
        places: Places,
        space: Space,
        copies: LateCopies,
        *,
        dedup: bool,
        seal_in_thread: bool = False,
    ) -> None:
        self._sealer, self._store, self._places = sealer, store, places
        self._space, self._copies, self._dedup = space, copies, dedup
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._sealing = Threads(1) if seal_in_thread else None

    async def put(self, upload: Upload) -> None:
        """Store the chunk; late receipts are then collected until it is committed or forgotten.

        Raises:
            NoSpace, Unavailable: As the store's `put`.
        """
        async with self._at_once:
            sealed = await self._seal(upload)
            await self._space.cover(sealed.size)
            upload.chunk, upload.key, upload.size = sealed.id, sealed.key, sealed.size
            self._copies.expect(upload)  # before the put: a third receipt may come before this task wakes up
            try:
                receipts = await self._store.put(self._sealer.volume, sealed.id, [sealed.data])
            except BaseException:
                self._copies.forget(upload)
                raise
            # no checkpoint until the receipts are set: `is_stored` is read by other tasks
            upload.receipts = one_a_peer(upload.early, receipts)
            self._places.put(sealed.id, (PeerNumber(receipt.peer) for receipt in receipts))

    async def _seal(self, upload: Upload) -> SealedChunk:
        """In the event loop where that is fast: a thread takes the interpreter from it for each block, which costs both
        of them twice the 0.4 ms that this takes. Without AES instructions one lets the loop wait 0.1 ms instead of 40,
        and stores a quarter less; a second one gains nothing, as the cipher keeps the interpreter."""
        parts = upload.plan.parts  # which nobody changes any more
        if self._sealing is None:
            return seal(self._sealer.keys, parts, dedup=self._dedup)
        return await self._sealing.run(lambda: seal(self._sealer.keys, parts, dedup=self._dedup))
