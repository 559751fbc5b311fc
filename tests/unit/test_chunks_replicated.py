"""Promise P2 in simulated time: what a replicated store does when peers die, hang, fill up or lie."""

import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from chunk_pool import pool_map
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.faulty import Fault, FaultyStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.errors import Corrupt, Denied, Misuse, NoSpace, NotFound, PoolError, Unavailable
from p2pfs.types import ChunkId, PeerNumber, PeerState, VolumeId
from p2pfs.wire.membership import PoolMap
from p2pfs.wire.namespace import NewChunk

pytestmark = pytest.mark.l0

DEAD = Fault(refuse=Unavailable("refused"))
HUNG = Fault(hang=True)


@pytest.fixture(autouse=True, params=[False, True], ids=["tasks", "asked"])
def _asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All promises hold whether the first holder is asked by a task of its own or by the read itself."""
    monkeypatch.setattr(FaultyStore, "asks", request.param)


@dataclass
class Pool:
    """Peers with faults, a store over them, and what the coordinator would know."""

    store: ReplicatedStore
    map: PoolMap
    memory: dict[PeerNumber, MemoryStore]
    faults: dict[PeerNumber, Fault]
    asked: list[tuple[str, PeerNumber]]
    late: list[NewChunk]
    holders: dict[ChunkId, list[PeerNumber]] = field(default_factory=dict)

    async def hold(self, chunk: Sealed, *numbers: int) -> None:
        for number in numbers:
            await self.memory[PeerNumber(number)].put(VOLUME, chunk.id, [chunk.data])
        self.holders[chunk.id] = [PeerNumber(number) for number in numbers]

    async def read(self, chunk: Sealed, *, check: Callable[[memoryview], object] | None = None) -> tuple[bytes, float]:
        began = trio.current_time()
        view = await self.store.get(VOLUME, chunk.id, chunk.size, chunk.whole, check=check)
        return bytes(view), trio.current_time() - began

    async def write(self, chunk: Sealed) -> tuple[set[int], float]:
        began = trio.current_time()
        receipts = await self.store.put(VOLUME, chunk.id, [chunk.data])
        return {receipt.peer for receipt in receipts}, trio.current_time() - began

    def copies(self, chunk: Sealed) -> set[int]:
        return {number for number, peer in self.memory.items() if (VOLUME, chunk.id) in peer.chunks}

    def placed(self, chunk: Sealed) -> list[PeerNumber]:
        """The chunk's peers in placement order."""
        return list(self.store._targets(chunk.id).order)

    def fault(self, fault: Fault | None, *numbers: int) -> None:
        for number in numbers:
            if fault is None:
                self.faults.pop(PeerNumber(number), None)
            else:
                self.faults[PeerNumber(number)] = fault


@asynccontextmanager
async def pool_of(
    count: int, *, replicas: int = 2, min_replicas: int = 2, states: dict[int, PeerState] | None = None
) -> AsyncIterator[Pool]:
    memory = {PeerNumber(n): MemoryStore(PeerNumber(n)) for n in range(1, count + 1)}
    faults: dict[PeerNumber, Fault] = {}
    asked: list[tuple[str, PeerNumber]] = []
    late: list[NewChunk] = []
    holders: dict[ChunkId, list[PeerNumber]] = {}

    def peer(number: PeerNumber) -> FaultyStore | None:
        def plan(call: str, _volume: VolumeId, _chunk: ChunkId) -> Fault:
            asked.append((call, number))
            return faults.get(number) or Fault(delay_s=0.002)

        return FaultyStore(memory[number], plan) if number in memory else None

    async def locate(_volume: VolumeId, chunk: ChunkId) -> list[PeerNumber]:
        await trio.lowlevel.checkpoint()
        return holders.get(chunk, [])

    current = pool_map(range(1, count + 1), replicas=replicas, min_replicas=min_replicas, states=states)
    async with trio.open_nursery() as nursery:
        store = ReplicatedStore(
            peer,
            map=lambda: current,
            locate=locate,
            nursery=nursery,
            late=lambda _volume, new: late.append(new),
            io_timeout_s=30,
        )
        yield Pool(store, current, memory, faults, asked, late, holders)
        nursery.cancel_scope.cancel()


class Held:
    """Something of whom asks, that is to be gone when the request is."""


REFUSALS = [NotFound, Corrupt, Denied, Unavailable, Misuse]

# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("delay_s", [0.002, 0.4])
async def test_a_read_that_a_peer_refused_leaves_no_garbage(
    refusal: type[PoolError], delay_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Found: each kept its chunk, and a mount at rest several MiB. The failure was kept with its traceback, that is
    with the frames it went through, and those with the failure."""
    async with pool_of(2) as pool:
        chunk, held = sealed(1, 5000), Held()
        kept = weakref.ref(held)
        await pool.hold(chunk, 1, 2)
        pool.fault(Fault(delay_s=delay_s, refuse=refusal("no")), 1)
        await pool.read(chunk, check=lambda _, held=held: held)
        del held
        await trio.sleep(60)
        pool.faults.clear()  # which the error is kept in
        assert kept() is None


@pytest.mark.parametrize("known", [0, 20])
@pytest.mark.parametrize(
    "fault",
    [
        DEAD,
        HUNG,
        Fault(delay_s=20),
        Fault(delay_s=0.4),
        Fault(delay_s=0.4, refuse=NotFound("lost")),
        Fault(delay_s=0.4, refuse=Corrupt("damaged")),
        Fault(delay_s=0.4, refuse=Denied("no")),
        Fault(delay_s=0.4, refuse=Misuse("what")),
    ],
    ids=[
        "dead",
        "hung",
        "very slow",
        "slow",
        "slow and empty",
        "slow and damaged",
        "slow and denying",
        "slow nonsense",
    ],
)
async def test_a_peer_that_fails_costs_the_first_read_a_second_and_later_ones_50_ms(
    fault: Fault, known: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(3) as pool:
        chunks = [sealed(seed, 5000) for seed in range(known + 20)]
        for at, chunk in enumerate(chunks):
            await pool.hold(chunk, *((1, 2), (2, 1))[at % 2])
        for chunk in chunks[:known]:
            await pool.read(chunk)
        pool.fault(fault, 1)
        times = []
        for chunk in chunks[known:]:
            data, took = await pool.read(chunk)
            assert data == chunk.data
            times.append(took)
            await trio.sleep(1.5)  # past the 15 s probe too
        met = next((at for at, took in enumerate(times) if took > 0.003), len(times))
        assert times[met : met + 1] <= [1.0]
        assert max(times[met + 1 :], default=0) <= 0.05


async def test_reads_under_way_when_a_peer_hangs_are_hedged(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        chunks = [sealed(seed, 5000) for seed in range(30)]
        for chunk in chunks:
            await pool.hold(chunk, 1, 2)
        for chunk in chunks[:10]:
            await pool.read(chunk)
        pool.fault(HUNG, 1)
        slowest = 0.0

        async def read(chunk: Sealed) -> None:
            nonlocal slowest
            slowest = max(slowest, (await pool.read(chunk))[1])

        async with trio.open_nursery() as nursery:
            for chunk in chunks[10:]:
                nursery.start_soon(read, chunk)
        assert slowest <= 1.0


@pytest.mark.parametrize("known", [0, 20])
async def test_a_second_peer_is_not_asked_while_the_bytes_of_the_first_arrive(
    known: int, autojump_clock: trio.testing.MockClock
) -> None:
    """A full link: a second request would only take its share of it."""
    async with pool_of(2) as pool:
        chunks = [sealed(seed, 5000) for seed in range(known + 10)]
        for chunk in chunks:
            await pool.hold(chunk, 1, 2)
        for chunk in chunks[:known]:
            await pool.read(chunk)
        pool.asked.clear()
        pool.fault(Fault(flow_bytes=4000, delay_s=1.4), 1, 2)
        for chunk in chunks[known:]:
            assert (await pool.read(chunk))[1] == pytest.approx(1.4)
        assert len(pool.asked) == 10
        assert not any(pool.store.standings.is_silent(peer) for peer in pool.memory)


@pytest.mark.parametrize(
    ("fault", "longest_s"),
    [
        (Fault(flow_bytes=100, delay_s=20), 1.0),
        (Fault(flow_bytes=4000, delay_s=0.3, hang=True), 0.75),
        (Fault(flow_bytes=4000, delay_s=1.2, hang=True), 1.5),
    ],
    ids=["trickles", "stops early", "stops late"],
)
async def test_a_second_peer_is_asked_when_the_first_stops_or_trickles(
    fault: Fault, longest_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(2) as pool:
        chunk = sealed(1, 5000)
        await pool.hold(chunk, 1, 2)
        pool.fault(fault, 1)
        assert await pool.read(chunk) == (chunk.data, pytest.approx(longest_s, abs=0.01))


@pytest.mark.parametrize(
    "change",
    [lambda data: b"?" + data[1:], lambda data: data[:-1], lambda data: data + b"!", lambda _: b""],
    ids=["flipped", "cut", "longer", "empty"],
)
async def test_wrong_bytes_are_never_returned_and_their_peer_is_avoided(
    change: Callable[[bytes], bytes], autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(2) as pool:
        chunks = [sealed(seed, 5000) for seed in range(20)]
        pool.fault(Fault(delay_s=0.001, change=change), 1)
        for chunk in chunks:
            await pool.hold(chunk, 1, 2)

            def check(view: memoryview, expected: bytes = chunk.data) -> None:
                if bytes(view) != expected:
                    raise Corrupt("does not open")

            data, took = await pool.read(chunk, check=check)
            assert data == chunk.data
            assert took < 0.01
        assert pool.asked.count(("get", PeerNumber(1))) == 1


async def test_bytes_that_open_nowhere_are_corrupt_and_blame_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        chunk = sealed(1, 5000)
        await pool.hold(chunk, 1, 2)

        def check(_view: memoryview) -> None:
            raise Corrupt("the wrong key")

        began = trio.current_time()
        with pytest.raises(Corrupt):
            await pool.read(chunk, check=check)
        assert trio.current_time() - began < 1
        assert all(pool.store.standings.of(peer).distrusted_until_s < 0 for peer in pool.memory)


async def test_not_found_only_if_every_holder_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(3) as pool:
        chunk = sealed(1, 5000)
        pool.holders[chunk.id] = [PeerNumber(1), PeerNumber(2)]
        with pytest.raises(NotFound):
            await pool.read(chunk)
        pool.fault(DEAD, 2)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await pool.read(chunk)
        assert trio.current_time() - began == pytest.approx(30, abs=2.5)


async def test_a_read_waits_for_a_holder_that_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        chunk = sealed(1, 5000)
        await pool.hold(chunk, 1, 2)
        pool.fault(DEAD, 1, 2)

        async def heal() -> None:
            await trio.sleep(12)
            pool.fault(None, 2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heal)
            data, took = await pool.read(chunk)
        assert data == chunk.data
        assert 12 <= took < 15


async def test_a_read_learns_of_new_copies(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(3) as pool:
        chunk = sealed(1, 5000)
        await pool.hold(chunk, 1)
        pool.fault(DEAD, 1)

        async def repair() -> None:
            await trio.sleep(1)
            await pool.hold(chunk, 1, 3)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(repair)
            data, took = await pool.read(chunk)
        assert data == chunk.data
        assert took < 4


async def test_a_silent_peer_is_used_again_once_it_answers_a_probe(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        chunk = sealed(1, 5000)
        await pool.hold(chunk, 1, 2)
        pool.fault(DEAD, 1)
        for _ in range(3):
            await pool.read(chunk)
        assert pool.store.standings.is_silent(PeerNumber(1))
        pool.fault(None, 1)
        await trio.sleep(16)
        await pool.read(chunk)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        assert not pool.store.standings.is_silent(PeerNumber(1))


async def test_a_pool_that_is_slow_as_a_whole_is_not_asked_for_everything_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pool_of(2) as pool:
        chunk = sealed(1, 5000)
        await pool.hold(chunk, 1, 2)
        for _ in range(40):
            await pool.read(chunk)
        pool.asked.clear()
        pool.fault(Fault(delay_s=0.3), 1, 2)
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(pool.read, chunk)
        assert 60 <= sum(call == "get" for call, _ in pool.asked) <= 60 + 15


async def test_a_cancelled_read_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        chunk = sealed(1, 5000)
        await pool.hold(chunk, 1, 2)
        pool.fault(HUNG, 1, 2)
        with trio.move_on_after(0.4) as scope:
            await pool.read(chunk)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert not any(pool.store.standings.of(peer).attempts for peer in pool.memory)


# ---- writing --------------------------------------------------------------------------------------------------------


async def test_copies_go_where_placement_says(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(5, replicas=3) as pool:
        for seed in range(20):
            chunk = sealed(seed, 1000)
            receipts, took = await pool.write(chunk)
            await pool.store.settle(10)
            assert pool.copies(chunk) == set(pool.placed(chunk)[:3])
            assert len(receipts) >= 2
            assert took < 0.01
        assert len(pool.late) <= 20


async def test_the_caller_goes_on_at_min_replicas_and_the_rest_is_reported_late(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pool_of(3, replicas=3) as pool:
        chunk = sealed(1, 1000)
        slow = pool.placed(chunk)[1]
        pool.fault(Fault(delay_s=0.8), slow)
        receipts, took = await pool.write(chunk)
        assert receipts == set(pool.placed(chunk)) - {slow}
        assert took < 0.01
        assert await pool.store.settle(10)
        assert [receipt.peer for new in pool.late for receipt in new.receipts] == [slow]
        assert pool.late[0].chunk == chunk.id
        assert pool.late[0].size == chunk.size


@pytest.mark.parametrize("fault", [DEAD, HUNG, Fault(refuse=NoSpace("full"))], ids=["dead", "hung", "full"])
async def test_a_failing_peer_delays_the_first_write_by_a_second_at_most(
    fault: Fault, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(4) as pool:
        pool.fault(fault, 1)
        times = []
        for seed in range(40):
            chunk = sealed(seed, 1000)
            receipts, took = await pool.write(chunk)
            assert 1 not in receipts
            assert len(receipts) == 2
            times.append(took)
        slow = [took for took in times if took > 0.05]
        assert len(slow) <= 1
        assert max(times) <= 1.05


async def test_no_third_peer_gets_a_chunk_while_the_bytes_to_two_flow(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(3) as pool:
        chunk = sealed(1, 5000)
        pool.fault(Fault(flow_bytes=3000, delay_s=1.9), 1, 2, 3)
        assert await pool.write(chunk) == (set(pool.placed(chunk)[:2]), pytest.approx(1.9))
        assert len(pool.asked) == 2


@pytest.mark.parametrize(
    "fault",
    [Fault(flow_bytes=100, delay_s=20), Fault(flow_bytes=4000, delay_s=0.3, hang=True)],
    ids=["trickle", "stop"],
)
async def test_a_third_peer_gets_a_chunk_when_the_bytes_to_another_stop_or_trickle(
    fault: Fault, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(3) as pool:
        chunk = sealed(1, 5000)
        pool.fault(fault, pool.placed(chunk)[0])
        receipts, took = await pool.write(chunk)
        assert receipts == set(pool.placed(chunk)[1:])
        assert took <= 2.01


async def test_down_and_suspect_peers_are_passed_over_while_there_are_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pool_of(4, states={1: PeerState.DOWN, 2: PeerState.SUSPECT}) as pool:
        for seed in range(10):
            assert (await pool.write(sealed(seed, 1000)))[0] == {3, 4}


async def test_a_write_waits_for_members_that_are_away(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        pool.fault(DEAD, 1)

        async def heal() -> None:
            await trio.sleep(20)
            pool.fault(None, 1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heal)
            receipts, took = await pool.write(sealed(1, 1000))
        assert receipts == {1, 2}
        assert 20 <= took < 25


async def test_too_few_peers_within_the_deadline_is_unavailable(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        pool.fault(DEAD, 1)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await pool.write(sealed(1, 1000))
        assert trio.current_time() - began == pytest.approx(30, abs=1)


async def test_hung_peers_within_the_deadline_are_unavailable(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        pool.fault(HUNG, 1, 2)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await pool.write(sealed(1, 1000))
        assert trio.current_time() - began == pytest.approx(30, abs=1)
        assert await pool.store.settle(1)


async def test_a_full_pool_is_no_space_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(3) as pool:
        pool.fault(Fault(refuse=NoSpace("full")), 1, 2)
        began = trio.current_time()
        with pytest.raises(NoSpace):
            await pool.write(sealed(1, 1000))
        assert trio.current_time() - began < 1
        pool.fault(None, 2)
        assert (await pool.write(sealed(1, 1000)))[0] == {2, 3}


async def test_a_pool_of_one_peer_works(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(1, replicas=3) as pool:
        chunk = sealed(1, 1000)
        assert (await pool.write(chunk))[0] == {1}


async def test_our_own_mistake_is_told_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(3) as pool:
        began = trio.current_time()
        with pytest.raises(Misuse):
            await pool.store.put(VOLUME, sealed(1, 1000).id, [b"x" * 500])
        assert trio.current_time() - began < 1


async def test_a_lost_answer_is_no_copy_but_no_harm(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(3) as pool:
        chunk = sealed(1, 1000)
        pool.fault(Fault(lose_answer=Unavailable("reset")), pool.placed(chunk)[0])
        receipts, _ = await pool.write(chunk)
        assert receipts == set(pool.placed(chunk)[1:])


@pytest.mark.parametrize("fault", [None, DEAD, HUNG, Fault(delay_s=3)], ids=["well", "dead", "hung", "slow"])
async def test_parts_are_released_once_when_nobody_uses_them_any_more(
    fault: Fault | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(3, replicas=3) as pool:
        chunk = sealed(1, 1000)
        pool.fault(fault, pool.placed(chunk)[0])
        released: list[float] = []
        began = trio.current_time()
        await pool.store.put(
            VOLUME, chunk.id, [chunk.data], released=lambda: released.append(trio.current_time() - began)
        )
        await pool.store.settle(60)
        assert len(released) == 1
        assert released[0] <= 2.0


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("refusal", [*REFUSALS, NoSpace])
async def test_a_write_that_a_peer_refused_leaves_no_garbage(
    refusal: type[PoolError], autojump_clock: trio.testing.MockClock
) -> None:
    async with pool_of(4, replicas=3) as pool:
        chunk, held = sealed(1, 5000), Held()
        kept = weakref.ref(held)
        pool.fault(Fault(delay_s=0.002, refuse=refusal("no")), *pool.placed(chunk)[:1])
        await pool.store.put(VOLUME, chunk.id, [chunk.data], released=lambda held=held: None)
        del held
        await trio.sleep(60)
        pool.faults.clear()  # which the error is kept in
        assert kept() is None


async def test_a_cancelled_write_releases_its_parts(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        pool.fault(HUNG, 1, 2)
        released: list[int] = []
        with trio.move_on_after(0.5):
            await pool.store.put(VOLUME, sealed(1, 1000).id, [b"x"], released=lambda: released.append(1))
        assert await pool.store.settle(1)
        assert released == [1]


async def test_a_new_member_is_used_as_soon_as_the_map_has_it(autojump_clock: trio.testing.MockClock) -> None:
    peers = {PeerNumber(n): MemoryStore(PeerNumber(n)) for n in (1, 2)}
    current = pool_map([1], replicas=2, min_replicas=1)

    async def locate(_volume: VolumeId, _chunk: ChunkId) -> list[PeerNumber]:
        await trio.lowlevel.checkpoint()
        return []

    async with trio.open_nursery() as nursery:
        store = ReplicatedStore(peers.get, map=lambda: current, locate=locate, nursery=nursery)
        chunk = sealed(1, 1000)
        await store.put(VOLUME, chunk.id, [chunk.data])
        assert not peers[PeerNumber(2)].chunks
        current = pool_map([1, 2], replicas=2, min_replicas=1, version=2)
        await store.put(VOLUME, chunk.id, [chunk.data])
        await store.settle(5)
        assert peers[PeerNumber(2)].chunks
        nursery.cancel_scope.cancel()


async def test_any_holder_is_enough_for_has(autojump_clock: trio.testing.MockClock) -> None:
    async with pool_of(2) as pool:
        chunk = sealed(1, 1000)
        await pool.hold(chunk, 1, 2)
        pool.fault(DEAD, 1)
        assert await pool.store.has(VOLUME, chunk.id)
        pool.fault(DEAD, 2)
        with pytest.raises(PoolError):
            await pool.store.has(VOLUME, chunk.id)


async def test_a_silent_peer_is_written_to_again_once_it_answers_a_probe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Without any read: a mount that only writes would otherwise go round it for ever."""
    async with pool_of(3) as pool:
        chunks = [chunk for seed in range(40) if (pool.placed(chunk := sealed(seed)))[0] == PeerNumber(1)]
        pool.fault(DEAD, 1)
        assert (await pool.write(chunks[0]))[0] == {2, 3}
        pool.fault(None, 1)
        assert (await pool.write(chunks[1]))[0] == {2, 3}
        await trio.sleep(16)
        await pool.write(chunks[2])
        await trio.sleep(1)
        assert 1 in (await pool.write(chunks[3]))[0]


async def test_of_two_answers_at_the_same_moment_the_first_is_taken_and_none_is_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Both come before the read runs again, the first at the moment when its patience ends."""
    async with pool_of(2) as pool:
        for seed in range(5):
            chunk = sealed(seed, 5000)
            await pool.hold(chunk, 1, 2)
            pool.fault(Fault(delay_s=0.5), 1, 2)
            data, took = await pool.read(chunk)
            assert data == chunk.data
            assert took <= 0.5
        await trio.sleep(2)
        assert not any(pool.store.standings.of(peer).attempts for peer in pool.memory)
