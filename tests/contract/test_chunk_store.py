"""What every chunk store does, whatever it is made of."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from chunk_pool import pool_map, serving_peer
from sealed import OTHER_VOLUME, VOLUME, sealed

from p2pfs.chunks.cached import CachedStore
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.faulty import FaultyStore
from p2pfs.chunks.limited import LimitedStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Blocks, ChunkStore
from p2pfs.chunks.receipts import sign_for
from p2pfs.chunks.replicated import ReplicatedStore
from p2pfs.errors import Corrupt, Misuse, NotFound
from p2pfs.types import GIB, KIB, MIB, ChunkId, Distribution, PeerNumber, VolumeId

pytestmark = pytest.mark.l1

Make = Callable[[Path], AbstractAsyncContextManager[ChunkStore]]


@asynccontextmanager
async def memory(_tmp_path: Path) -> AsyncIterator[ChunkStore]:
    yield MemoryStore()


@asynccontextmanager
async def directory(tmp_path: Path) -> AsyncIterator[ChunkStore]:
    yield await DirectoryStore.open(tmp_path / "chunks", sign=sign_for(PeerNumber(1)), capacity=GIB)


@asynccontextmanager
async def remote(tmp_path: Path) -> AsyncIterator[ChunkStore]:
    async with serving_peer(tmp_path) as peer:
        yield peer.store


@asynccontextmanager
async def replicated(_tmp_path: Path, distribution: Distribution = Distribution.DIRECT) -> AsyncIterator[ChunkStore]:
    peers = {PeerNumber(number): MemoryStore(PeerNumber(number)) for number in (1, 2, 3)}
    for peer in peers.values():
        peer.fellows = peers.get

    async def locate(volume: VolumeId, chunk: ChunkId) -> list[PeerNumber]:
        return [number for number, peer in peers.items() if await peer.has(volume, chunk)]

    pool = pool_map(peers)
    async with trio.open_nursery() as nursery:
        yield ReplicatedStore(peers.get, map=lambda: pool, locate=locate, nursery=nursery, distribution=distribution)
        nursery.cancel_scope.cancel()


def relay(tmp_path: Path) -> AbstractAsyncContextManager[ChunkStore]:
    return replicated(tmp_path, Distribution.RELAY)


def swarm(tmp_path: Path) -> AbstractAsyncContextManager[ChunkStore]:
    return replicated(tmp_path, Distribution.SWARM)


@asynccontextmanager
async def cached(tmp_path: Path) -> AsyncIterator[ChunkStore]:
    async with trio.open_nursery() as nursery:
        yield await CachedStore.open(MemoryStore(), tmp_path / "cache", budget=GIB, nursery=nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def limited(_tmp_path: Path) -> AsyncIterator[ChunkStore]:
    yield LimitedStore(MemoryStore(), requests=2, bytes_held=MIB)


@asynccontextmanager
async def faulty(_tmp_path: Path) -> AsyncIterator[ChunkStore]:
    yield FaultyStore(MemoryStore(), lambda *_: None)


MAKERS = [memory, directory, remote, replicated, relay, swarm, cached, limited, faulty]
DELETING = [memory, directory, cached, limited, faulty]
"""Stores one may delete from: a mount may not delete from peers."""


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ChunkStore]:
    async with request.param(tmp_path) as made:
        yield made


@pytest.fixture(params=DELETING, ids=lambda make: make.__name__)
async def deleting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ChunkStore]:
    async with request.param(tmp_path) as made:
        yield made


@pytest.mark.parametrize("plain", [1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB])
async def test_what_was_put_comes_back(store: ChunkStore, plain: int) -> None:
    chunk = sealed(1, plain)
    receipts = await store.put(VOLUME, chunk.id, [chunk.data])
    assert receipts
    view = await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    assert bytes(view) == chunk.data


@pytest.mark.parametrize("run", [Blocks(0, 1), Blocks(3, 1), Blocks(2, 5), Blocks(15, 1), Blocks(0, 16)])
async def test_any_run_of_blocks_comes_back(store: ChunkStore, run: Blocks) -> None:
    chunk = sealed(2)
    await store.put(VOLUME, chunk.id, [chunk.data])
    for _ in range(2):  # the second time perhaps from a cache
        view = await store.get(VOLUME, chunk.id, chunk.size, run)
        block = 64 * KIB + 16
        assert bytes(view) == chunk.data[run.first * block : (run.first + run.count) * block]
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_parts_are_joined_in_order(store: ChunkStore) -> None:
    chunk = sealed(3, 200_000)
    data = memoryview(chunk.data)
    parts = [data[:1], bytearray(data[1:100_000]), bytes(data[100_000:])]
    await store.put(VOLUME, chunk.id, parts)
    assert bytes(await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)) == chunk.data


async def test_what_was_read_stays_as_it_is(store: ChunkStore) -> None:
    first, second = sealed(4), sealed(5)
    await store.put(VOLUME, first.id, [first.data])
    await store.put(VOLUME, second.id, [second.data])
    view = await store.get(VOLUME, first.id, first.size, first.whole)
    await store.get(VOLUME, second.id, second.size, second.whole)
    assert bytes(view) == first.data


async def test_putting_again_gives_a_newer_receipt(store: ChunkStore) -> None:
    chunk = sealed(6, 1000)
    first = await store.put(VOLUME, chunk.id, [chunk.data])
    again = await store.put(VOLUME, chunk.id, [chunk.data])
    older = {receipt.peer: receipt.put_seq for receipt in first}
    assert all(receipt.put_seq > older.get(receipt.peer, 0) for receipt in again)
    assert bytes(await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)) == chunk.data


async def test_wrong_bytes_are_refused_and_not_kept(store: ChunkStore) -> None:
    chunk = sealed(7, 70_000)
    with pytest.raises(Misuse):
        await store.put(VOLUME, chunk.id, [chunk.data[:-1] + b"!"])
    assert not await store.has(VOLUME, chunk.id)


@pytest.mark.parametrize("data", [b"", b"x" * 16, b"x" * (MIB + 16 * 16 + 1)], ids=len)
async def test_sizes_no_chunk_has_are_refused(store: ChunkStore, data: bytes) -> None:
    with pytest.raises(Misuse):
        await store.put(VOLUME, sealed(8).id, [data])


async def test_what_is_not_there_is_not_found(store: ChunkStore) -> None:
    chunk = sealed(9, 1000)
    assert not await store.has(VOLUME, chunk.id)
    with pytest.raises(NotFound):
        await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)


async def test_volumes_do_not_share_chunks(store: ChunkStore) -> None:
    chunk = sealed(10, 1000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    assert await store.has(VOLUME, chunk.id)
    assert not await store.has(OTHER_VOLUME, chunk.id)
    with pytest.raises(NotFound):
        await store.get(OTHER_VOLUME, chunk.id, chunk.size, chunk.whole)


@pytest.mark.parametrize("run", [Blocks(0, 0), Blocks(-1, 1), Blocks(0, 3), Blocks(2, 1)])
async def test_runs_the_chunk_does_not_have_are_misuse(store: ChunkStore, run: Blocks) -> None:
    chunk = sealed(11, 70_000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    with pytest.raises(Misuse):
        await store.get(VOLUME, chunk.id, chunk.size, run)


async def test_another_size_than_the_chunk_has_is_never_served(store: ChunkStore) -> None:
    chunk = sealed(12, 70_000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    for size in (chunk.size - 1, chunk.size + 1):
        with pytest.raises(Corrupt):
            await store.get(VOLUME, chunk.id, size, Blocks(0, 2))
    assert bytes(await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)) == chunk.data


async def test_the_check_sees_the_bytes_and_can_refuse_them(store: ChunkStore) -> None:
    chunk = sealed(13, 70_000)
    await store.put(VOLUME, chunk.id, [chunk.data])
    seen: list[bytes] = []
    await store.get(VOLUME, chunk.id, chunk.size, chunk.whole, check=lambda view: seen.append(bytes(view)))
    assert seen == [chunk.data]

    def refuse(_view: memoryview) -> None:
        raise Corrupt("these do not open")

    with pytest.raises(Corrupt):
        await store.get(VOLUME, chunk.id, chunk.size, chunk.whole, check=refuse)


async def test_the_parts_are_released_exactly_once(store: ChunkStore) -> None:
    chunk = sealed(14, 70_000)
    released: list[str] = []
    await store.put(VOLUME, chunk.id, [chunk.data], released=lambda: released.append("good"))
    with pytest.raises(Misuse):
        await store.put(VOLUME, chunk.id, [b"x" * 100], released=lambda: released.append("bad"))
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert sorted(released) == ["bad", "good"]


async def test_many_at_once(store: ChunkStore) -> None:
    chunks = [sealed(seed, 50_000 + seed) for seed in range(20, 30)]
    async with trio.open_nursery() as nursery:
        for chunk in chunks:
            nursery.start_soon(store.put, VOLUME, chunk.id, [chunk.data])

    async def compare(at: int) -> None:
        chunk = chunks[at]
        assert bytes(await store.get(VOLUME, chunk.id, chunk.size, chunk.whole)) == chunk.data

    async with trio.open_nursery() as nursery:
        for at in range(len(chunks)):
            nursery.start_soon(compare, at)


async def test_a_delete_takes_the_chunk_away(deleting: ChunkStore) -> None:
    chunk = sealed(15, 70_000)
    (receipt,) = await deleting.put(VOLUME, chunk.id, [chunk.data])
    await deleting.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    await deleting.delete(VOLUME, chunk.id, receipt.put_seq)
    assert not await deleting.has(VOLUME, chunk.id)
    with pytest.raises(NotFound):
        await deleting.get(VOLUME, chunk.id, chunk.size, chunk.whole)
    await deleting.delete(VOLUME, chunk.id, receipt.put_seq)
    await deleting.put(VOLUME, chunk.id, [chunk.data])
    assert bytes(await deleting.get(VOLUME, chunk.id, chunk.size, chunk.whole)) == chunk.data


async def test_a_delete_does_not_mean_a_newer_put(deleting: ChunkStore) -> None:
    chunk = sealed(16, 1000)
    (first,) = await deleting.put(VOLUME, chunk.id, [chunk.data])
    (second,) = await deleting.put(VOLUME, chunk.id, [chunk.data])
    await deleting.delete(VOLUME, chunk.id, first.put_seq)
    assert await deleting.has(VOLUME, chunk.id)
    await deleting.delete(VOLUME, chunk.id, second.put_seq)
    assert not await deleting.has(VOLUME, chunk.id)
