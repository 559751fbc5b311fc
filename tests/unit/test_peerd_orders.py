"""A peer that does what it is ordered, with a real store, from sources good and bad."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from chunk_pool import pool_map
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.errors import NotFound, Unavailable
from p2pfs.net.dialled import Endpoint
from p2pfs.runtime.clocks import SystemClock
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import MIB, NodeId, PeerNumber, PoolId, Role
from p2pfs.wire import codec
from p2pfs.wire.orders import (
    Audit,
    Audited,
    Delete,
    Deleted,
    Failed,
    List,
    Listed,
    Order,
    Orders,
    Report,
    Result,
    Steer,
    Stored,
    Transfer,
)
from p2pfs.wire.routes import COORDINATOR_ROUTES
from p2pfs_peerd.orders import AT_ONCE, MOST_WORKING, ROOM, OrderRunner, report_of
from p2pfs_peerd.pulling import Fellows

pytestmark = [pytest.mark.l2, pytest.mark.trio]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real threads cannot live under a mock clock."""
    monkeypatch.setattr("p2pfs_peerd.orders._AFTER_FAILURE_S", 0.01)


@dataclass
class Coordinator:
    """Gives what is in `orders`, keeps the reports, and can be out of order."""

    orders: list[Order] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    fails: int = 0  # so many reports with results get no answer
    told: trio.Event = field(default_factory=trio.Event)

    @property
    def results(self) -> list[Result]:
        return [result for report in self.reports for result in report.results]

    async def call(self, _endpoint: object, _method: str, path: str, message: Any, *_: object, **__: object) -> object:  # noqa: ANN401
        await trio.lowlevel.checkpoint()
        if path == "/map":
            return pool_map([1, 2, 3])
        if self.fails and message.results:
            self.fails -= 1
            raise Unavailable("no answer")
        self.reports.append(message)
        self.told.set()
        orders, self.orders = self.orders, []
        return Orders(orders)


@dataclass
class Source:
    """What another peer answers when it is asked for a chunk."""

    answer: bytes | Exception | None = None  # None: nothing, ever
    pause: trio.Event | None = None  # it comes only then
    asked: int = 0
    most: int = 0
    at_once: int = 0

    async def get(self, *_: object, **__: object) -> memoryview:
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await trio.lowlevel.checkpoint()
            if self.answer is None:
                await trio.sleep_forever()
            if self.pause is not None:
                await self.pause.wait()
            if isinstance(self.answer, Exception):
                raise self.answer
            assert self.answer is not None
            return memoryview(self.answer)
        finally:
            self.at_once -= 1


@dataclass
class Rig:
    runner: OrderRunner
    coordinator: Coordinator
    store: DirectoryStore
    sources: dict[int, Source]

    async def do(self, *orders: Order) -> list[Result]:
        """The results of these."""
        self.coordinator.reports.clear()
        self.coordinator.orders += orders
        self.runner.wake(map_version=1)
        with trio.fail_after(5):
            while len(self.coordinator.results) < len(orders):
                await self.coordinator.told.wait()
                self.coordinator.told = trio.Event()
        return self.coordinator.results


@asynccontextmanager
async def rig(path: Path, *, capacity: int = 64 * MIB) -> AsyncIterator[Rig]:
    coordinator, sources = Coordinator(), {1: Source(), 2: Source()}
    pool = PoolId("0" * 32)
    store = await DirectoryStore.open(path, sign=ReceiptKey(pool, PeerNumber(3), bytes(32)).sign, capacity=capacity)
    endpoint = Endpoint(NodeId("c" * 32), Role.COORDINATOR, ("127.0.0.1:1",))
    limit = RateLimit(None, SystemClock())
    fellows = Fellows(coordinator, endpoint)  # type: ignore[arg-type]
    runner = OrderRunner(coordinator, endpoint, store, fellows=fellows, rate=limit, scrub=None)  # type: ignore[arg-type]
    runner.puller.peers = sources.get  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        yield Rig(runner, coordinator, store, sources)
        nursery.cancel_scope.cancel()


def transfer(chunk: Sealed, *, order: int = 1, sources: tuple[int, ...] = (1, 2)) -> Transfer:
    return Transfer(order, VOLUME, chunk.id, chunk.size, list(sources))


async def test_a_chunk_is_taken_from_whoever_has_it(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.sources[1].answer, r.sources[2].answer = NotFound("no"), chunk.data
        (stored,) = await r.do(transfer(chunk))
        assert isinstance(stored, Stored)
        assert (stored.chunk, stored.size, stored.receipt.peer) == (chunk.id, chunk.size, 3)
        assert await r.store.has(VOLUME, chunk.id)


@pytest.mark.parametrize("lie", [sealed(2, 5000).data, b"", sealed(1, 5000).data[:-1]])
async def test_other_bytes_are_not_kept_and_their_source_is_named(tmp_path: Path, lie: bytes) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.sources[1].answer = lie
        r.sources[2].answer = Unavailable("down")
        (failed,) = await r.do(transfer(chunk))
        assert isinstance(failed, Failed)
        assert failed.sources == [1]  # the other may have it
        assert not await r.store.has(VOLUME, chunk.id)
        assert r.store.usage().used == 0


async def test_a_source_nobody_knows_is_weather(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        (failed,) = await r.do(transfer(chunk, sources=(9,)))
        assert isinstance(failed, Failed)
        assert (failed.code, failed.sources) == ("Unavailable", [])
        (nothing,) = await r.do(transfer(chunk, order=2, sources=()))
        assert isinstance(nothing, Failed)


async def test_a_full_disk_blames_no_source(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path, capacity=1000) as r:
        r.sources[1].answer = r.sources[2].answer = chunk.data
        (failed,) = await r.do(transfer(chunk))
        assert isinstance(failed, Failed)
        assert (failed.code, failed.sources) == ("NoSpace", [])
        assert r.sources[2].asked == 0  # another source makes no room


async def test_no_more_at_once_than_the_disk_likes_and_all_are_told(tmp_path: Path) -> None:
    chunks = [sealed(number, 5000) for number in range(ROOM)]
    async with rig(tmp_path) as r:
        r.coordinator.orders += [transfer(chunk, order=at, sources=(1,)) for at, chunk in enumerate(chunks)]
        r.runner.wake(map_version=1)
        await trio.testing.wait_all_tasks_blocked()
        assert r.sources[1].most == AT_ONCE
        r.runner.wake(map_version=1)
        await trio.testing.wait_all_tasks_blocked()
        last = r.coordinator.reports[-1]
        assert (last.working, last.room, last.results) == (list(range(ROOM)), 0, [])


async def test_results_are_told_again_until_somebody_hears(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.coordinator.fails = 1
        results = await r.do(Delete(1, VOLUME, sealed(1, 5000).id, 5), Delete(2, VOLUME, sealed(2, 5000).id, 5))
        assert sorted(result.order for result in results) == [1, 2]
        await trio.testing.wait_all_tasks_blocked()
        assert len(r.coordinator.results) == 2  # and no more once somebody has


async def test_what_could_not_be_told_yet_is_not_taken_for_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfs_peerd.orders.MOST_RESULTS", 1)
    async with rig(tmp_path) as r:
        r.runner._results += [Deleted(order, VOLUME, bytes(32), 5) for order in (1, 2, 3)]
        await r.do()
        await trio.testing.wait_all_tasks_blocked()
        told = [([result.order for result in one.results], one.working) for one in r.coordinator.reports]
        assert told == [([1], [2, 3]), ([2], [3]), ([3], [])]


async def test_the_other_orders(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.sources[1].answer = chunk.data
        (stored,) = await r.do(transfer(chunk))
        assert isinstance(stored, Stored)
        seq = stored.receipt.put_seq
        await r.do(Audit(2, VOLUME, chunk.id, chunk.size, 0), List(3, chunk.id[0]), Steer(4, "start"))
        listed = next(result for result in r.coordinator.results if isinstance(result, Listed))
        assert [(entry.chunk, entry.put_seq) for entry in listed.entries] == [(chunk.id, seq)]
        assert any(isinstance(result, Failed) and result.order == 4 for result in r.coordinator.results)
        await r.do(Delete(5, VOLUME, chunk.id, seq - 1))
        assert await r.store.has(VOLUME, chunk.id)
        (deleted,) = await r.do(Delete(6, VOLUME, chunk.id, seq))
        assert isinstance(deleted, Deleted)
        assert not await r.store.has(VOLUME, chunk.id)
        (audited,) = await r.do(Audit(7, VOLUME, chunk.id, chunk.size, 0))
        assert isinstance(audited, Failed)
        assert audited.code == "NotFound"


@pytest.mark.parametrize(
    "order",
    [
        Delete(1, VOLUME, b"", 5),
        Delete(1, VOLUME, b"\x12", 5),  # the directory of a bucket
        Delete(1, -1, bytes(32), 5),
        Audit(1, VOLUME, bytes(33), 5000, 0),
        Transfer(1, VOLUME, bytes(32), 1 << 60, [1]),
        Transfer(1, VOLUME, bytes(32), -1, [1]),
    ],
)
async def test_an_impossible_order_fails_and_ends_nothing(tmp_path: Path, order: Order) -> None:
    async with rig(tmp_path) as r:
        (failed,) = await r.do(order)
        assert isinstance(failed, Failed)
        assert failed.code == "Misuse"


async def test_more_orders_than_anybody_gives_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs_peerd.orders.MOST_WORKING", 5)
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:  # the sources never answer
        r.coordinator.orders += [transfer(chunk, order=number) for number in range(20)]
        r.runner.wake(map_version=1)
        await trio.testing.wait_all_tasks_blocked()
        r.runner.wake(map_version=1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(r.coordinator.reports[-1].working) == 5


async def test_what_piled_up_is_told_in_reports_that_the_coordinator_takes() -> None:
    results: list[Result] = [Audited(number, [bytes(32)], bytes(65_552)) for number in range(100)]
    limit = next(route.body_limit for route in COORDINATOR_ROUTES if route.name == "orders")
    told: list[Result] = []
    while len(told) < len(results):
        some = report_of(results[len(told) :])
        assert some
        assert len(codec.encode(Report(some, list(range(MOST_WORKING)), ROOM))) < limit
        told += some
    assert told == results


async def test_a_source_that_keeps_others_waiting_is_asked_last(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.sources[1].answer = Unavailable("after all this time")
        r.sources[1].pause = trio.Event()
        r.sources[2].answer = chunk.data
        r.coordinator.orders.append(transfer(chunk))
        r.runner.wake(map_version=1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1)
        r.sources[1].pause.set()
        with trio.fail_after(5):
            while not r.coordinator.results:
                await r.coordinator.told.wait()
                r.coordinator.told = trio.Event()
        await r.do(transfer(chunk, order=2))
        await r.do(transfer(chunk, order=3))
        assert (r.sources[1].asked, r.sources[2].asked) == (1, 3)
