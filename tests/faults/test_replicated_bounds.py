"""Promise P2 to the millisecond: what each way of failing costs reads of a replicated store, in simulated time.

The whole pool is one process; peers fail by plan and the clock jumps, so bounds need no allowance for the machine.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from chunk_pool import pool_map
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.faulty import Fault, FaultyStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.errors import Corrupt, NoSpace, NotFound, Unavailable
from p2pfs.types import ChunkId, PeerNumber, VolumeId

pytestmark = pytest.mark.l3

WELL_S = 0.002
FIRST_S, LATER_S = 1.0, 0.05
KNOWN, READS = 20, 120
CHUNKS = [sealed(seed, 2000) for seed in range(12)]


def swapped(_: bytes) -> bytes:
    return CHUNKS[0].data[::-1]


FAULTS = {
    "refused": Fault(refuse=Unavailable("refused")),
    "hung": Fault(hang=True),
    "slow": Fault(delay_s=20.0),
    "trickling": Fault(flow_bytes=100, delay_s=20.0),
    "stopping": Fault(flow_bytes=4000, delay_s=0.2, hang=True),
    "late": Fault(delay_s=0.9),
    "reset": Fault(delay_s=0.9, lose_answer=Unavailable("reset")),
    "missing": Fault(refuse=NotFound("no such chunk here")),
    "missing, late": Fault(delay_s=0.9, refuse=NotFound("no such chunk here")),
    "damaged": Fault(refuse=Corrupt("quarantined")),
    "damaged, late": Fault(delay_s=0.9, refuse=Corrupt("quarantined")),
    "full": Fault(refuse=NoSpace("full")),
    "flipped": Fault(change=lambda data: bytes([data[0] ^ 1]) + data[1:]),
    "flipped, late": Fault(delay_s=0.9, change=lambda data: bytes([data[0] ^ 1]) + data[1:]),
    "truncated": Fault(change=lambda data: data[:-1]),
    "swapped": Fault(change=swapped),
}


@dataclass
class Pool:
    """Three peers, each chunk on two of them; `faults` says what each does wrong."""

    store: ReplicatedStore
    memory: dict[PeerNumber, MemoryStore]
    faults: dict[PeerNumber, Fault] = field(default_factory=dict)
    met: list[tuple[str, PeerNumber]] = field(default_factory=list)

    async def read(self, chunk: Sealed) -> float:
        """One read, right or an exception; how long it took."""

        def check(view: memoryview) -> None:
            if view != chunk.data:
                raise Corrupt("does not open")

        began = trio.current_time()
        assert await self.store.get(VOLUME, chunk.id, chunk.size, chunk.whole, check=check) == chunk.data
        return trio.current_time() - began

    def plan(self, call: str, peer: PeerNumber) -> Fault:
        fault = self.faults.get(peer)
        if fault is None:
            return Fault(delay_s=WELL_S)
        self.met.append((call, peer))
        return fault


@asynccontextmanager
async def serving() -> AsyncIterator[Pool]:
    memory = {PeerNumber(number): MemoryStore(PeerNumber(number)) for number in (1, 2, 3)}
    holders: dict[ChunkId, list[PeerNumber]] = {}
    for at, chunk in enumerate(CHUNKS):
        holders[chunk.id] = [PeerNumber(1 + at % 3), PeerNumber(1 + (at + 1) % 3)]
        for holder in holders[chunk.id]:
            await memory[holder].put(VOLUME, chunk.id, [chunk.data])
    current = pool_map(memory)

    async def locate(_volume: VolumeId, chunk: ChunkId) -> list[PeerNumber]:
        await trio.lowlevel.checkpoint()
        return holders[chunk]

    def peer(number: PeerNumber) -> FaultyStore:
        return FaultyStore(memory[number], lambda call, _volume, _chunk: pool.plan(call, number))

    async with trio.open_nursery() as nursery:
        store = ReplicatedStore(peer, map=lambda: current, locate=locate, nursery=nursery)
        pool = Pool(store, memory)
        yield pool
        nursery.cancel_scope.cancel()


def over(times: list[float], bound_s: float) -> list[tuple[int, float]]:
    return [(at, round(took, 4)) for at, took in enumerate(times) if took > WELL_S + bound_s + 1e-9]


@pytest.mark.parametrize("pause_s", [0.0, 0.5], ids=["busy", "now and then"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_failing_peer_costs_one_read_a_second_and_the_others_50_ms(
    fault: Fault, pause_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    chance = random.Random(1)
    async with serving() as pool:
        for _ in range(KNOWN):
            await pool.read(chance.choice(CHUNKS))
        pool.faults[PeerNumber(1)] = fault
        times = []
        for _ in range(READS):
            times.append(await pool.read(chance.choice(CHUNKS)))
            await trio.sleep(pause_s)
        assert pool.met, "no read met the failing peer"
        assert over(times, FIRST_S) == []
        assert len(over(times, LATER_S)) <= 1, over(times, LATER_S)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_mount_that_knows_nothing_yet_is_no_worse_off(
    fault: Fault, autojump_clock: trio.testing.MockClock
) -> None:
    """The first read of all meets the failing peer."""
    chance = random.Random(1)
    async with serving() as pool:
        pool.faults[PeerNumber(1)] = fault
        times = [await pool.read(chance.choice(CHUNKS)) for _ in range(READS)]
        assert over(times, FIRST_S) == []
        assert len(over(times, LATER_S)) <= 1, over(times, LATER_S)


async def test_a_peer_that_answers_questions_but_no_reads_costs_no_more_each_time_it_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The probe finds it alive every 15 s: the read that tries it then is hedged at once."""
    chance = random.Random(1)
    async with serving() as pool:
        for _ in range(KNOWN):
            await pool.read(chance.choice(CHUNKS))
        well = pool.plan
        pool.faults[PeerNumber(1)] = FAULTS["hung"]
        pool.plan = lambda call, peer: Fault() if call == "has" else well(call, peer)  # type: ignore[method-assign]
        times = []
        for _ in range(READS):
            times.append(await pool.read(chance.choice(CHUNKS)))
            await trio.sleep(1)
        assert pool.met.count(("get", PeerNumber(1))) > 3
        assert over(times, FIRST_S) == []
        assert len(over(times, LATER_S)) <= 1, over(times, LATER_S)


async def test_two_failing_peers_cost_a_second_each(autojump_clock: trio.testing.MockClock) -> None:
    """Chunks of both are unreachable; those that have one good copy left are read within the bounds."""
    readable = [chunk for at, chunk in enumerate(CHUNKS) if at % 3 != 0]
    async with serving() as pool:
        for _ in range(2):
            for chunk in CHUNKS:
                await pool.read(chunk)
        pool.faults = {PeerNumber(1): FAULTS["hung"], PeerNumber(2): FAULTS["flipped"]}
        times = [await pool.read(chunk) for _ in range(10) for chunk in readable]
        assert over(times, FIRST_S) == []
        assert len(over(times, LATER_S)) <= 2, over(times, LATER_S)


async def test_the_only_copy_left_is_found_whoever_lies(autojump_clock: trio.testing.MockClock) -> None:
    """P2: one valid copy within reach is enough, for every pair of faults."""
    for first in FAULTS.values():
        async with serving() as pool:
            pool.faults[PeerNumber(1)] = first
            for chunk in CHUNKS[::3]:  # held by 1 and 2
                assert await pool.read(chunk) <= WELL_S + FIRST_S
