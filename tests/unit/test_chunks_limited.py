"""The limited store beyond the conformance suite: what it bounds, and that it gives everything back."""

import pytest
import trio
from sealed import VOLUME, sealed

from p2pfs.chunks.faulty import Fault, FaultyStore
from p2pfs.chunks.limited import LimitedStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Released
from p2pfs.errors import PoolError, Unavailable
from p2pfs.types import KIB, Buffer, ChunkId, VolumeId
from p2pfs.wire.chunks import Receipt

pytestmark = pytest.mark.l0

SLOW = Fault(delay_s=1)


async def test_no_more_requests_at_once_than_allowed(autojump_clock: trio.testing.MockClock) -> None:
    store = LimitedStore(FaultyStore(MemoryStore(), lambda *_: SLOW), requests=2, bytes_held=10 << 20)
    chunks = [sealed(seed, 1000) for seed in range(6)]
    async with trio.open_nursery() as nursery:
        for chunk in chunks:
            nursery.start_soon(store.put, VOLUME, chunk.id, [chunk.data])
    assert trio.current_time() == pytest.approx(3)


async def test_no_more_bytes_at_once_than_allowed(autojump_clock: trio.testing.MockClock) -> None:
    store = LimitedStore(FaultyStore(MemoryStore(), lambda *_: SLOW), requests=10, bytes_held=130 * KIB)
    chunks = [sealed(seed, 64 * KIB) for seed in range(6)]
    async with trio.open_nursery() as nursery:
        for chunk in chunks:
            nursery.start_soon(store.put, VOLUME, chunk.id, [chunk.data])
    assert trio.current_time() == pytest.approx(3)
    async with trio.open_nursery() as nursery:
        for chunk in chunks:
            nursery.start_soon(store.get, VOLUME, chunk.id, chunk.size, chunk.whole)
    assert trio.current_time() == pytest.approx(6)


async def test_bytes_count_until_the_inner_store_lets_go_of_them(autojump_clock: trio.testing.MockClock) -> None:
    class Straggling(MemoryStore):
        """Answers at once and goes on using the parts, as a replicated store does."""

        async def put(
            self, volume: VolumeId, chunk: ChunkId, parts: list[Buffer], *, released: Released | None = None
        ) -> list[Receipt]:
            assert released is not None
            holding.append(released)
            return await super().put(volume, chunk, parts)

    holding: list[Released] = []
    store = LimitedStore(Straggling(), requests=10, bytes_held=100)
    chunk = sealed(1, 1000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    with trio.move_on_after(5) as scope:
        await store.put(VOLUME, chunk.id, [chunk.data])
    assert scope.cancelled_caught
    holding[0]()
    await store.put(VOLUME, chunk.id, [chunk.data])


async def test_whoever_gives_up_waiting_is_released_and_holds_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hung = [True]
    inner = FaultyStore(MemoryStore(), lambda *_: Fault(hang=True) if hung[0] else None)
    store = LimitedStore(inner, requests=1, bytes_held=100)
    chunk = sealed(1, 1000)
    released: list[int] = []

    async def put(number: int) -> None:
        await store.put(VOLUME, chunk.id, [chunk.data], released=lambda: released.append(number))

    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(put, number)
    assert sorted(released) == [0, 1, 2]
    hung[0] = False
    with trio.fail_after(1):
        await put(3)


async def test_a_failure_gives_everything_back() -> None:
    store = LimitedStore(
        FaultyStore(MemoryStore(), lambda *_: Fault(refuse=Unavailable("no"))), requests=1, bytes_held=100
    )
    chunk = sealed(1, 1000)
    for _ in range(3):
        with pytest.raises(PoolError):
            await store.put(VOLUME, chunk.id, [chunk.data])
        with pytest.raises(PoolError):
            await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
        with pytest.raises(PoolError):
            await store.has(VOLUME, chunk.id)
        with pytest.raises(PoolError):
            await store.delete(VOLUME, chunk.id, 1)


async def test_nobody_else_runs_before_a_request_that_has_room(autojump_clock: trio.testing.MockClock) -> None:
    others = 0

    class Here(MemoryStore):
        async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
            return others == 0

    async def other() -> None:
        nonlocal others
        others += 1

    store, chunk = LimitedStore(Here(), requests=1, bytes_held=100), sealed(1, 1000)
    async with trio.open_nursery() as nursery:
        for _ in range(64):  # in any order, and so would this task be
            nursery.start_soon(other)
        assert await store.has(VOLUME, chunk.id)
