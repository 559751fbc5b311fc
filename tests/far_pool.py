"""Peers in memory beyond one uplink, in simulated time."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from chunk_pool import pool_map
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Released
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.errors import Unavailable
from p2pfs.net.watch import Watch
from p2pfs.types import KIB, Buffer, ChunkId, Distribution, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt

_GRACE_S = 10.0


@dataclass
class Link:
    """An uplink that all PUTs share, and peers that take only so much of it. `slowest` is the rate below which peers
    refuse a body."""

    rate: float
    slow: dict[int, float] = field(default_factory=dict)
    slowest: float = 0.0
    most: int = 0  # PUTs that it was shared by
    _sending: Counter[int] = field(default_factory=Counter)

    async def pass_on(self, peer: int, size: int, moved: Callable[[float], None]) -> None:
        self._sending[peer] += 1
        self.most = max(self.most, self._sending.total())
        began_s, left = trio.current_time(), float(size)
        step_s = 0.02 if self.rate >= 256 * KIB else 0.2
        try:
            while left > 0:
                await trio.sleep(step_s)
                step = min(left, step_s * self._share(peer))
                moved(step)
                left -= step
                if self.slowest and trio.current_time() - began_s > _GRACE_S + size / self.slowest:
                    raise Unavailable("the body came too slowly")
        finally:
            self._sending[peer] -= 1

    def _share(self, peer: int) -> float:
        """Bytes a second for one PUT: what slow peers leave is the others'."""
        if peer in self.slow:
            return min(self.slow[peer], self.rate / self._sending.total())
        left = self.rate - sum(self.slow[slow] * self._sending[slow] for slow in self.slow)
        return left / sum(count for other, count in self._sending.items() if other not in self.slow)


class Far(MemoryStore):
    """A peer beyond such a link."""

    link: Link
    sent = 0

    async def put(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        parts: Sequence[Buffer],
        *,
        released: Released | None = None,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        if watch is not None:  # not as a part of a fetch
            self.sent += 1
            total = 0.0

            def moved(step: float) -> None:
                nonlocal total
                total += step

            watch.follow(lambda: int(total))
            await self.link.pass_on(self.peer, sum(map(len, parts)), moved)
        return await super().put(volume, chunk, parts, released=released)


@asynccontextmanager
async def far_pool(
    how: Distribution, link: Link, *, replicas: int = 3, peers: int = 8, io_timeout_s: float = 30.0
) -> AsyncIterator[tuple[ReplicatedStore, dict[PeerNumber, Far]]]:
    far = {PeerNumber(number): Far(PeerNumber(number)) for number in range(1, peers + 1)}
    for one in far.values():
        one.fellows, one.link = far.get, link

    async def locate(_volume: VolumeId, _chunk: ChunkId) -> list[PeerNumber]:
        return []

    current = pool_map(far, replicas=replicas)
    async with trio.open_nursery() as nursery:
        store = ReplicatedStore(
            far.get,
            map=lambda: current,
            locate=locate,
            nursery=nursery,
            distribution=how,
            io_timeout_s=io_timeout_s,
        )
        yield store, far
        nursery.cancel_scope.cancel()


CHUNKS = [sealed(seed) for seed in range(24)]


async def write_all(store: ReplicatedStore, chunks: Iterable[Sealed] = CHUNKS) -> float:
    """Eight at once, as mounts do; how long that took. Ends when all copies are there."""
    began_s, left = trio.current_time(), iter(chunks)

    async def one_after_the_other() -> None:
        for chunk in left:
            await store.put(VOLUME, chunk.id, [chunk.data])

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one_after_the_other)
    took_s = trio.current_time() - began_s
    assert await store.settle(60)
    return took_s
