"""Copies on several peers seen as one store: what a mount writes to and reads from.

It decides nothing about content (callers pass `check`) and nothing for good: where copies should be is placement's,
where they are is the coordinator's. One PUT is chunks.writing, one read chunks.reading, what was seen of the peers is
chunks.standing. Made by the composition of a mount; tasks run in the nursery it is given and end by their own
deadlines.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks import reading
from p2pfs.chunks.protocol import Blocks, Check, PeerStore, Released
from p2pfs.chunks.reading import Count, Locate, Sources, Wanted
from p2pfs.chunks.standing import Standings
from p2pfs.chunks.turns import Turns
from p2pfs.chunks.uplink import Uplink
from p2pfs.chunks.writing import Destinations, Late, Load, Made, Targets, WriteFlight
from p2pfs.errors import Misuse, NotFound, PoolError, Unavailable
from p2pfs.placement.candidates import candidates
from p2pfs.placement.distribution import chosen
from p2pfs.placement.groups import group_of
from p2pfs.placement.policy import copies_wanted
from p2pfs.placement.rendezvous import order
from p2pfs.runtime.latency import Latency
from p2pfs.types import KIB, Buffer, ChunkId, Distribution, GroupId, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.membership import PoolMap

log = logging.getLogger(__name__)

_ORDERS_KEPT: Final = 4096


class ReplicatedStore:
    """`replicas` copies of every chunk, reads from whichever is nearest."""

    def __init__(
        self,
        peers: Callable[[PeerNumber], PeerStore | None],
        *,
        map: Callable[[], PoolMap],
        locate: Locate,
        nursery: trio.Nursery,
        refresh: Locate | None = None,
        late: Late | None = None,
        count: Count = lambda _peer, _volume, _chunk, _size: None,
        io_timeout_s: float = 30.0,
        distribution: Distribution = Distribution.DIRECT,
    ) -> None:
        """`locate` says where copies are as far as known, `refresh` (the same, if not given) asks again; `late` takes
        receipts that came after `put` had returned; `count` hears of what was read where."""
        self._map = map
        self._nursery = nursery
        self._io_timeout_s = io_timeout_s
        self._flights = 0
        self._landed = trio.Event()
        self._orders: dict[GroupId, tuple[PeerNumber, ...]] = {}
        self._states: Mapping[PeerNumber, str] = {}
        self._orders_of: tuple[PoolMap, int] | None = None
        self.standings = Standings(trio.current_time)
        self.uplink = Uplink(trio.current_time)
        self.made = Made()
        self.putting, self.getting = Latency(), Latency()  # of those that succeeded
        self._distribution = distribution
        self._auto = Distribution.DIRECT
        self._sources = Sources(peers, self._current_states, locate, refresh or locate, self.standings, nursery, count)
        self._destinations = Destinations(
            peers, self._targets, self.standings, self.uplink, Turns(self.uplink.room), self.made, late, io_timeout_s
        )

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        """As in the protocol; returns with `min_replicas` receipts (capped by the number of members).

        Raises:
            NoSpace: So many members are full that `min_replicas` copies cannot be made.
            Unavailable: Not enough peers stored it, and for `io_timeout` none more did.
        """
        reading.probe_silent(self._sources, volume, chunk, self._targets(chunk).order)
        flight = WriteFlight(self._destinations, Load(volume, chunk, parts, runs.total_bytes(parts), released))
        self._nursery.start_soon(self._fly, flight)
        began_ns = time.perf_counter_ns()
        receipts = await flight.wait()
        self.putting.note(time.perf_counter_ns() - began_ns)
        return receipts

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        runs.span(size, blocks)
        began_ns = time.perf_counter_ns()
        view = await reading.read(self._sources, Wanted(volume, chunk, size, blocks, check), self._io_timeout_s)
        self.getting.note(time.perf_counter_ns() - began_ns)
        return view

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        """Whether any holder that answers has a copy.

        Raises:
            Unavailable: None said yes and some did not answer.
        """
        failure: PoolError | None = None
        for peer in await self._sources.locate(volume, chunk):
            store = self._sources.peers(peer)
            try:
                if store is not None and await store.has(volume, chunk):
                    return True
            except NotFound:
                continue
            except PoolError as error:
                failure = error
        if failure is not None:
            raise Unavailable(f"not every holder answered: {failure}")
        return False

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        """Refused: a `put_seq` belongs to one peer, and deleting is the coordinator's, one copy at a time."""
        await trio.lowlevel.checkpoint()
        raise Misuse("copies are deleted one peer at a time")

    async def settle(self, timeout_s: float) -> bool:
        """Wait until no PUT is under way any more, stragglers included; False if that took too long."""
        with trio.move_on_after(timeout_s):
            while self._flights:
                self._landed = trio.Event()
                await self._landed.wait()
        return not self._flights

    async def _fly(self, flight: WriteFlight) -> None:
        self._flights += 1
        try:
            await flight.run()
        finally:
            self._flights -= 1
            self._landed.set()

    def _targets(self, chunk: ChunkId) -> Targets:
        pool = self._current_map()
        group = group_of(chunk)
        placed = self._orders.get(group)
        if placed is None:
            placed = self._orders[group] = order(candidates(pool.peers), group)
            if len(self._orders) > _ORDERS_KEPT:
                del self._orders[next(iter(self._orders))]
        replicas, min_replicas = copies_wanted(pool)
        return Targets(placed, self._states, replicas, min_replicas, self._how(replicas))

    def _how(self, copies: int) -> Distribution:
        """How chunks get to their peers now."""
        if self._distribution is not Distribution.AUTO:
            return self._distribution
        how = chosen(self._auto, self.uplink.rate, copies)
        if how is not self._auto:
            log.info("an uplink of %.0f KiB/s: copies are made %s from now on", (self.uplink.rate or 0) / KIB, how)
            self._auto = how
        return how

    def _current_states(self) -> Mapping[PeerNumber, str]:
        self._current_map()
        return self._states

    def _current_map(self) -> PoolMap:
        """The map; orders and states are forgotten when it has become another."""
        pool = self._map()
        if self._orders_of is None or self._orders_of[0] is not pool:
            if self._orders_of is None or self._orders_of[1] != pool.version:
                self._orders.clear()
            self._orders_of = (pool, pool.version)
            self._states = {PeerNumber(peer.number): peer.state for peer in pool.peers}
        return pool
