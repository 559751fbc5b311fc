"""Copies a chunk from other peers to this one's disk, for who was told to: by an order, by a client, or by the peer
that stands in for the coordinator.

A source is a number of the pool's map and nothing else, and a chunk is kept only when its bytes are those of its id.
How many at once, and who may ask, is decided by the callers: `orders`, `fetches` and `copies`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.peers import PeerStores
from p2pfs.chunks.protocol import PeerStore
from p2pfs.errors import Corrupt, Misuse, NotFound, PoolError, Unavailable
from p2pfs.net.client import Client, Endpoint
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.membership import PoolMap

_MAP_S: Final = 10.0
_NOT_THERE: Final = (NotFound, Corrupt)
FAILURES: Final = 8
"""In a row, after which a source is failing."""
_FAILING_S: Final = 600.0
"""After its last failure."""


class NotPulled(Exception):
    """Why a chunk was not copied, and which sources answered that they have not got it, or sent something else.
    `is_ours`: this disk failed, which is no source's fault."""

    def __init__(self, reason: PoolError, missing: Sequence[int], *, is_ours: bool = False) -> None:
        super().__init__(str(reason))
        self.reason, self.missing, self.is_ours = reason, list(missing), is_ours


class Fellows:
    """The map that names the sources."""

    def __init__(self, client: Client, coordinator: Endpoint) -> None:
        self._client, self._coordinator = client, coordinator
        self._map: PoolMap | None = None
        self._is_lacking = False

    def map(self) -> PoolMap:
        """Raises Unavailable before the first `refresh`."""
        if self._map is None:
            raise Unavailable("the pool's map is not known yet")
        return self._map

    async def refresh(self, version: int) -> None:
        """Have a map of at least this version, if the coordinator has. Raises PoolError."""
        if self._map is None or self._is_lacking or self._map.version < version:
            await self.fetch(_MAP_S)

    async def fetch(self, timeout_s: float) -> None:
        """Have the newest map. Raises PoolError."""
        self._map = await self._client.call(self._coordinator, "GET", "/map", None, PoolMap, timeout_s=timeout_s)
        self._is_lacking = False

    def knows(self, numbers: Iterable[int]) -> bool:
        """Whether the map names all of these."""
        return self._map is not None and {peer.number for peer in self._map.peers}.issuperset(numbers)

    def miss(self) -> None:
        """The map lacks somebody: fetch it again at the next `refresh`."""
        self._is_lacking = True


class Puller:
    """`peers` gives the store of each member, None for others; `miss` is called with each of those."""

    def __init__(
        self,
        store: DirectoryStore,
        peers: Callable[[PeerNumber], PeerStore | None],
        *,
        miss: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self.peers = peers
        self._miss = miss
        self._took_s: dict[int, float] = {}  # the last answer of each source
        self._failed: dict[int, tuple[int, float]] = {}  # source → how often in a row, and when last

    def is_failing(self, source: int) -> bool:
        """Whether it gave nothing of what was last wanted of it, again and again."""
        times, last_s = self._failed.get(source, (0, 0.0))
        return times >= FAILURES and trio.current_time() < last_s + _FAILING_S

    def quickest(self, sources: Iterable[int]) -> list[int]:
        """Who keeps this peer waiting is asked last."""
        return sorted(sources, key=lambda source: self._took_s.get(source, 0.0))

    async def pull(self, volume: VolumeId, chunk: ChunkId, size: int, sources: Iterable[int]) -> Receipt:
        """Copy a chunk from the first of `sources` that gives it.

        Durability: as of `DirectoryStore.put`.

        Raises:
            NotPulled: None did, or this disk does not take it.
        """
        missing: list[int] = []
        last: PoolError = Unavailable("the chunk has no source that this peer knows")
        for source in sources:
            try:
                body = await self._fetch(volume, chunk, size, PeerNumber(source))
            except PoolError as error:
                last = error
                self._fail(source)
                if isinstance(error, _NOT_THERE):
                    missing.append(source)
                continue
            try:
                (receipt,) = await self._store.put(volume, chunk, [body])
                self._failed.pop(source, None)
                return receipt
            except Misuse:
                self._fail(source)
                last = Corrupt("the source sent other bytes than those of the chunk")
                missing.append(source)
            except PoolError as error:
                raise NotPulled(error, missing, is_ours=True) from error  # another source makes no room here
        raise NotPulled(last, missing)

    def _fail(self, source: int) -> None:
        times, _ = self._failed.get(source, (0, 0.0))
        self._failed[source] = times + 1, trio.current_time()

    async def _fetch(self, volume: VolumeId, chunk: ChunkId, size: int, source: PeerNumber) -> memoryview:
        store = self.peers(source)
        if store is None:
            self._miss()  # perhaps it is older than the order
            raise Unavailable(f"peer {source} is not in the map")
        began_s = trio.current_time()
        try:
            return await store.get(volume, chunk, size, runs.whole(size))
        finally:
            self._took_s[source] = trio.current_time() - began_s


class MapPuller(Puller):
    """From peers of the newest map. `timeout_s` for a source, and if `idle_s` is given, so long without a byte."""

    def __init__(
        self, client: Client, fellows: Fellows, store: DirectoryStore, *, timeout_s: float, idle_s: float | None = None
    ) -> None:
        peers = PeerStores(client, fellows.map, lambda _peer, _size: None, timeout_s=timeout_s, idle_s=idle_s)
        super().__init__(store, peers, miss=fellows.miss)
        self.fellows = fellows
