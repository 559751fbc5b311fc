"""Copies that peers pass on, in simulated time: what it costs the writer, and what it takes when peers fail."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from chunk_pool import pool_map
from far_pool import CHUNKS, Link, far_pool, write_all
from hypothesis import given
from hypothesis import strategies as st
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.faulty import Fault, FaultyStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Released
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.errors import Corrupt, Misuse, NoSpace, NotFound, PoolError, Unavailable
from p2pfs.net.watch import Watch
from p2pfs.types import MIB, Buffer, ChunkId, Distribution, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import NewChunk

pytestmark = pytest.mark.l0

RELAY, SWARM = Distribution.RELAY, Distribution.SWARM
PASSED_ON = pytest.mark.parametrize("how", [RELAY, SWARM])
DEAD = Fault(refuse=Unavailable("refused"))
HUNG = Fault(hang=True)
GONE = Fault(refuse=NotFound("never had it"))
LIES = Fault(change=lambda data: bytes(len(data)))
PATIENT_S = 1.0
"""What a real peer waits for a source (p2pfs_peerd.fetches.IDLE_S)."""


class Peer(MemoryStore):
    """A peer that gives up a source which does not answer, as the real one does."""

    async def fetch(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        size: int,
        sources: Sequence[PeerNumber],
        *,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        for source in sources:
            with trio.move_on_after(PATIENT_S):
                try:
                    return await super().fetch(volume, chunk, size, [source])
                except NotFound:
                    pass
        raise NotFound("no source gave it")


@dataclass
class Pool:
    """Peers, what was asked of them, and a store over them."""

    store: ReplicatedStore
    memory: dict[PeerNumber, Peer]
    faults: dict[tuple[str, int], Fault]
    asked: list[tuple[str, int]] = field(default_factory=list)
    late: list[NewChunk] = field(default_factory=list)

    async def write(self, chunk: Sealed) -> tuple[set[int], float]:
        began = trio.current_time()
        receipts = await self.store.put(VOLUME, chunk.id, [chunk.data])
        return {receipt.peer for receipt in receipts}, trio.current_time() - began

    def copies(self, chunk: Sealed) -> set[int]:
        return {number for number, peer in self.memory.items() if (VOLUME, chunk.id) in peer.chunks}

    def placed(self, chunk: Sealed) -> list[PeerNumber]:
        return list(self.store._targets(chunk.id).order)

    def count(self, call: str) -> int:
        return sum(asked == call for asked, _ in self.asked)


@asynccontextmanager
async def pool_of(
    count: int, how: Distribution, *, replicas: int = 3, min_replicas: int = 2, quick: Fault | None = None
) -> AsyncIterator[Pool]:
    memory = {PeerNumber(number): Peer(PeerNumber(number)) for number in range(1, count + 1)}
    quick = quick or Fault(delay_s=0.002)

    def peer(number: PeerNumber) -> FaultyStore | None:
        def plan(call: str, _volume: VolumeId, _chunk: ChunkId) -> Fault:
            pool.asked.append((call, number))
            return pool.faults.get((call, number), quick)

        return FaultyStore(memory[number], plan) if number in memory else None

    for one in memory.values():
        one.fellows = peer

    async def locate(_volume: VolumeId, chunk: ChunkId) -> list[PeerNumber]:
        await trio.lowlevel.checkpoint()
        return [number for number, one in memory.items() if (VOLUME, chunk) in one.chunks]

    current = pool_map(range(1, count + 1), replicas=replicas, min_replicas=min_replicas)
    async with trio.open_nursery() as nursery:
        store = ReplicatedStore(
            peer,
            map=lambda: current,
            locate=locate,
            nursery=nursery,
            late=lambda _volume, new: pool.late.append(new),
            distribution=how,
        )
        pool = Pool(store, memory, {})
        yield pool
        nursery.cancel_scope.cancel()


@PASSED_ON
@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
async def test_the_writer_sends_a_chunk_once(
    how: Distribution, replicas: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(9, how, replicas=replicas, min_replicas=min(2, replicas)) as pool:
        for seed in range(5):
            chunk = sealed(seed, 5000)
            got, _ = await pool.write(chunk)
            assert len(got) >= min(2, replicas)
            assert got <= pool.copies(chunk)
            assert await pool.store.settle(9)
            assert len(pool.copies(chunk)) == replicas
        assert (pool.count("put"), pool.count("fetch")) == (5, 5 * (replicas - 1))
        assert sum(len(new.receipts) for new in pool.late) == 5 * (replicas - min(2, replicas))


async def test_chunks_begin_at_different_peers_and_no_holder_serves_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pool_of(8, SWARM, replicas=8) as pool:
        for seed in range(40):
            await pool.write(sealed(seed, 2000))
        assert await pool.store.settle(9)
        begun = Counter(number for call, number in pool.asked if call == "put")
        served = Counter(number for call, number in pool.asked if call == "get")
        assert len(begun) >= 6
        assert served.total() == 40 * 7
        assert max(served.values()) < 2 * 40


async def test_a_swarm_doubles_at_each_step(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(8, SWARM, replicas=8, min_replicas=8, quick=Fault(delay_s=0.1)) as pool:
        _, took_s = await pool.write(sealed(1, 5000))
        assert took_s == pytest.approx(0.1 + 3 * 0.2)  # a put; then three times a request, and what it fetches


@PASSED_ON
@pytest.mark.parametrize("fault", [GONE, LIES, DEAD, HUNG], ids=["gone", "lies", "dead", "hung"])
async def test_a_first_holder_that_gives_nothing_costs_a_second_and_is_not_begun_with_again(
    how: Distribution, fault: Fault, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(4, how) as pool:
        chunk = sealed(1, 5000)
        bad = pool.placed(chunk)[0]
        pool.faults["get", bad] = fault
        got, took_s = await pool.write(chunk)
        assert took_s < 1.1
        assert len(got) == 2
        assert await pool.store.settle(9)
        assert len(pool.copies(chunk)) == 3
        assert pool.count("put") == 2
        pool.asked.clear()
        for seed in range(2, 12):
            _, took_s = await pool.write(sealed(seed, 5000))
            assert took_s < 0.1
            assert await pool.store.settle(9)
        assert pool.count("put") == 10
        assert ("put", bad) not in pool.asked


@PASSED_ON
async def test_a_peer_that_waits_for_a_hung_holder_does_not_keep_the_next_from_being_sent_its_copy(
    how: Distribution, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setitem(globals(), "PATIENT_S", 20.0)
    async with pool_of(6, how, replicas=2) as pool:
        chunk = sealed(1, 5000)
        pool.faults["get", pool.placed(chunk)[0]] = HUNG
        _, took_s = await pool.write(chunk)
        assert took_s < 1.1
        assert (pool.count("put"), pool.count("fetch")) == (2, 1)


@PASSED_ON
@pytest.mark.parametrize("call", ["put", "fetch"])
@pytest.mark.parametrize(
    "fault",
    [DEAD, HUNG, Fault(refuse=NoSpace("full")), Fault(delay_s=0.3, refuse=Unavailable("broke off"))],
    ids=["dead", "hung", "full", "breaking off"],
)
async def test_another_takes_the_place_of_a_peer_that_does_not_store(
    how: Distribution, call: str, fault: Fault, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(5, how) as pool:
        chunk = sealed(1, 5000)
        bad = pool.placed(chunk)[0 if call == "put" else 1]
        pool.faults["put", bad] = pool.faults["fetch", bad] = fault
        _, took_s = await pool.write(chunk)
        assert took_s < 1.1
        assert await pool.store.settle(9)
        assert len(pool.copies(chunk) - {bad}) == 3


@PASSED_ON
async def test_peers_that_cannot_fetch_are_sent_their_copy(
    how: Distribution, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(3, how) as pool:  # as an earlier version answers: there is no such route
        for number in range(1, 4):
            pool.faults["fetch", number] = Fault(refuse=NotFound("there is no such route"))
        chunk = sealed(1, 5000)
        await pool.write(chunk)
        assert await pool.store.settle(9)
        assert pool.copies(chunk) == {1, 2, 3}
        assert pool.count("put") == 3


@PASSED_ON
async def test_what_does_not_fit_its_name_is_refused_as_ever(
    how: Distribution, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(3, how) as pool:
        with pytest.raises(Misuse):
            await pool.store.put(VOLUME, sealed(1, 5000).id, [sealed(2, 5000).data])
        for number in range(1, 4):
            pool.faults["put", number] = Fault(refuse=NoSpace("full"))
        with pytest.raises(NoSpace):
            await pool.write(sealed(3, 5000))


@pytest.mark.parametrize("mib_per_s", [0.3, 1.2, 5, 100])
async def test_a_slow_uplink_is_no_reason_to_send_anything_twice(
    mib_per_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with far_pool(SWARM, Link(mib_per_s * MIB)) as (store, peers):
        took_s = await write_all(store)
        assert sum(peer.sent for peer in peers.values()) == len(CHUNKS)
        assert took_s < 1.2 * len(CHUNKS) / mib_per_s + 1


async def test_a_first_holder_that_takes_a_trickle_is_given_up_also_on_a_slow_uplink(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with far_pool(SWARM, Link(1.2 * MIB, {number: 2000.0 for number in (1, 2)})) as (store, peers):
        took_s = await write_all(store)
        assert took_s < 1.5 * len(CHUNKS) / 1.2
        assert sum(peer.sent for peer in peers.values()) < 1.5 * len(CHUNKS)


async def test_peers_that_hang_are_no_slow_uplink(autojump_clock: trio.testing.MockClock) -> None:
    link = Link(100 * MIB, dict.fromkeys(range(1, 8), 0.0))
    async with far_pool(Distribution.AUTO, link) as (store, _):
        for chunk in CHUNKS[:4]:
            with pytest.raises(Unavailable):
                await store.put(VOLUME, chunk.id, [chunk.data])
        link.slow.clear()
        await write_all(store)
        assert store.made.passed_on == 0


@pytest.mark.parametrize(("mib_per_s", "passed_on"), [(1.2, True), (100, False)])
async def test_auto_finds_out_by_itself(
    mib_per_s: float, passed_on: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with far_pool(Distribution.AUTO, Link(mib_per_s * MIB)) as (store, peers):
        await write_all(store)
        await write_all(store)
        sent = sum(peer.sent for peer in peers.values())
        if passed_on:
            assert sent <= 2 * len(CHUNKS) + 2 * 8  # the first eight went to all
            assert store.uplink.rate == pytest.approx(mib_per_s * MIB, rel=0.1)
        else:
            assert (sent, store.made.passed_on) == (3 * 2 * len(CHUNKS), 0)


FAULTS = st.sampled_from([DEAD, HUNG, GONE, LIES, Fault(delay_s=0.4), Fault(refuse=Corrupt("damaged"))])


@given(
    st.sampled_from([RELAY, SWARM]),
    st.integers(2, 6),
    st.dictionaries(st.tuples(st.sampled_from(["put", "fetch", "get"]), st.integers(1, 6)), FAULTS),
)
def test_what_is_acknowledged_is_on_min_replicas_peers(
    how: Distribution, count: int, faults: dict[tuple[str, int], Fault]
) -> None:
    async def check() -> None:
        async with pool_of(count, how, replicas=min(3, count)) as pool:
            pool.faults.update(faults)
            for seed in range(2):
                chunk = sealed(seed, 2000)
                released: list[bool] = []

                def release(seen: list[bool] = released) -> None:
                    seen.append(True)

                await acknowledged(pool, chunk, release)
                assert await pool.store.settle(120)
                assert released == [True]
                assert len(pool.copies(chunk)) == len({*pool.copies(chunk)})

    async def acknowledged(pool: Pool, chunk: Sealed, release: Released) -> None:
        parts: list[Buffer] = [chunk.data]
        working = {
            number for number in pool.memory if {("put", number), ("fetch", number)}.isdisjoint(faults)
        }  # whose sending always works
        try:
            receipts = await pool.store.put(VOLUME, chunk.id, parts, released=release)
        except PoolError:
            assert len(working) < 2
        else:
            holders = {receipt.peer for receipt in receipts}
            assert len(holders) >= 2
            assert holders <= pool.copies(chunk)

    trio.run(check, clock=trio.testing.MockClock(autojump_threshold=0))
