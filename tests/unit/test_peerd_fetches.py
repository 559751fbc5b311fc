"""A peer that takes chunks from others because a client says so, over real TLS: for whom, from whom, and how much."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from chunk_pool import ServingPeer, pool_map, serving_peer
from msgspec.structs import replace
from sealed import OTHER_VOLUME, VOLUME, Sealed, sealed

from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.errors import Denied, Misuse, NoSpace, NotFound, Unavailable
from p2pfs.net.client import Client, Endpoint
from p2pfs.types import MIB, MOST_SOURCES, NodeId, PeerNumber, Role
from p2pfs.wire import codec
from p2pfs.wire.chunks import RESERVATION_HEADER, Fetch, Receipt, Token
from p2pfs.wire.membership import PoolMap
from p2pfs_peerd import fetches
from p2pfs_peerd.pulling import Fellows, MapPuller

pytestmark = pytest.mark.l1


@dataclass
class Coordinator:
    """Has a map, and counts who wants it."""

    map: PoolMap | None = field(default_factory=lambda: pool_map([1, 2, 3]))
    asked: int = 0

    async def call(self, *_: object, **__: object) -> object:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.map is None:
            raise Unavailable("away")
        return self.map


@dataclass
class Source:
    """Another peer."""

    answer: bytes | Exception | None = None  # None: nothing until `over`, if ever
    asked: int = 0
    at_once: int = 0
    most: int = 0
    crowd: int = 4
    busy: trio.Event = field(default_factory=trio.Event)
    """Asked so many times at once."""
    over: trio.Event = field(default_factory=trio.Event)

    async def get(self, *_: object, **__: object) -> memoryview:
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.at_once == self.crowd:
            self.busy.set()
        try:
            await trio.lowlevel.checkpoint()
            if self.answer is None:
                await self.over.wait()
                raise NotFound("now it says so")
            if isinstance(self.answer, Exception):
                raise self.answer
            assert self.answer is not None
            return memoryview(self.answer)
        finally:
            self.at_once -= 1


@dataclass
class Rig:
    peer: ServingPeer
    coordinator: Coordinator
    sources: dict[int, Source]

    async def fetch(
        self,
        chunk: Sealed,
        *sources: int,
        token: Token | None = None,
        size: int | None = None,
        client: Client | None = None,
    ) -> Receipt:
        token = token or self.peer.tokens.make(VOLUME, PeerNumber(1))
        reply = await (client or self.peer.client).request(
            self.peer.endpoint,
            "POST",
            f"/volumes/{VOLUME:016x}/chunks/{chunk.id.hex()}/fetch",
            parts=[codec.encode(Fetch(size or chunk.size, list(sources)))],
            headers=((RESERVATION_HEADER, codec.encode(token).hex()),),
            timeout_s=30,
        )
        return codec.decode(reply.body, Receipt)


@asynccontextmanager
async def rig(path: Path, **options: Any) -> AsyncIterator[Rig]:  # noqa: ANN401 - of serving_peer
    async with serving_peer(path, **options) as peer:
        coordinator, sources = Coordinator(), {2: Source(), 3: Source()}
        fellows = Fellows(coordinator, Endpoint(NodeId("c" * 32), Role.COORDINATOR, ()))  # type: ignore[arg-type]
        puller = MapPuller(peer.client, fellows, peer.directory, timeout_s=5)
        puller.peers = sources.get  # type: ignore[assignment]
        peer.fetches.puller = puller
        yield Rig(peer, coordinator, sources)


async def test_a_chunk_is_taken_from_the_first_that_gives_it_and_its_receipt_is_as_of_a_put(tmp_path: Path) -> None:
    chunk = sealed(1)
    async with rig(tmp_path) as r:
        r.sources[2].answer, r.sources[3].answer = Unavailable("down"), chunk.data
        receipt = await r.fetch(chunk, 2, 3)
        key = ReceiptKey(r.peer.authority.pool, PeerNumber(1), bytes(32))
        assert receipt == key.sign(VOLUME, chunk.id, chunk.size, receipt.put_seq)
        assert await r.peer.store.has(VOLUME, chunk.id)
        again = await r.fetch(chunk, 3)
        assert again.put_seq > receipt.put_seq


async def test_the_receipt_comes_after_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk, order = sealed(1, 5000), []
    async with rig(tmp_path) as r:
        r.sources[2].answer = chunk.data
        disk, sign = r.peer.directory._files._disk, r.peer.directory._sign
        for name in ("sync", "sync_directory", "rename"):
            done = getattr(disk, name, None)
            if done is not None:
                monkeypatch.setattr(disk, name, _noting(order, name, done))
        r.peer.directory._sign = lambda *words: (order.append("sign"), sign(*words))[1]  # type: ignore[func-returns-value]
        await r.fetch(chunk, 2)
        assert order[-1] == "sign"
        assert len(order) > 1


def _noting(order: list[str], name: str, done: Any) -> Any:  # noqa: ANN401 - any method
    def note(*words: Any, **options: Any) -> Any:  # noqa: ANN401
        answer = done(*words, **options)
        order.append(name)
        return answer

    return note


@pytest.mark.parametrize("lie", [sealed(2, 5000).data, b"", sealed(1, 5000).data[:-1]])
async def test_other_bytes_are_not_kept_and_get_no_receipt(tmp_path: Path, lie: bytes) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.sources[2].answer = lie
        with pytest.raises(NotFound):
            await r.fetch(chunk, 2)
        assert not await r.peer.store.has(VOLUME, chunk.id)
        r.sources[3].answer = chunk.data
        assert await r.fetch(chunk, 2, 3)


async def test_it_needs_the_callers_own_reservation_and_room_in_it(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.sources[2].answer = chunk.data
        tokens = r.peer.tokens
        foreign = tokens.sign(Token(5, NodeId("ab" * 16), VOLUME, PeerNumber(1), MIB, 1 << 40))
        for bad in (foreign, tokens.make(OTHER_VOLUME, PeerNumber(1)), tokens.make(VOLUME, PeerNumber(2))):
            with pytest.raises(Denied):
                await r.fetch(chunk, 2, token=bad)
        with pytest.raises(NoSpace):
            await r.fetch(chunk, 2, token=tokens.make(VOLUME, PeerNumber(1), room=chunk.size - 1))
        async with Client(r.peer.authority.issue(roles=(Role.PEER,)).client(), r.peer.authority.pool) as fellow:
            with pytest.raises(Denied):
                await r.fetch(chunk, 2, client=fellow)
        assert r.sources[2].asked == 0


async def test_a_put_and_a_fetch_count_under_one_token(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.sources[2].answer = chunk.data
        token = r.peer.tokens.make(VOLUME, PeerNumber(1), room=2 * chunk.size)
        await r.fetch(chunk, 2, token=token)
        r.peer.store._tokens = lambda _peer, _size: token
        await r.peer.store.put(VOLUME, chunk.id, [chunk.data])
        with pytest.raises(NoSpace):
            await r.fetch(chunk, 2, token=token)


async def test_room_is_spent_also_where_no_source_gives_the_chunk(tmp_path: Path) -> None:
    """Who has peers send to each other for nothing runs out of reservations."""
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.sources[2].answer = sealed(2, 5000).data
        token = r.peer.tokens.make(VOLUME, PeerNumber(1), room=3 * chunk.size)
        for _ in range(3):
            with pytest.raises(NotFound):
                await r.fetch(chunk, 2, token=token)
        with pytest.raises(NoSpace):
            await r.fetch(chunk, 2, token=token)
        assert r.sources[2].asked == 3


async def test_only_peers_of_the_map_are_asked_and_the_map_not_for_each_stranger(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        for _ in range(5):
            with pytest.raises(NotFound):
                await r.fetch(chunk, 7, 9)
        assert r.coordinator.asked == 1
        r.sources[1] = Source(chunk.data)
        with pytest.raises(NotFound):
            await r.fetch(chunk, 1)  # itself
        assert r.sources[1].asked == 0


async def test_a_map_that_nobody_gives_is_no_failure_of_the_peer(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path) as r:
        r.coordinator.map = None
        r.sources[2].answer = chunk.data
        assert await r.fetch(chunk, 2)


@pytest.mark.parametrize("sources", [[], list(range(2, 3 + MOST_SOURCES))])
async def test_so_many_sources_are_misuse(tmp_path: Path, sources: list[int]) -> None:
    async with rig(tmp_path) as r:
        with pytest.raises(Misuse):
            await r.fetch(sealed(1, 5000), *sources)


@pytest.mark.parametrize("size", [1, 16, MIB + 16 * 16 + 1, 1 << 62])
async def test_sizes_no_chunk_has_are_misuse(tmp_path: Path, size: int) -> None:
    async with rig(tmp_path) as r:
        with pytest.raises(Misuse):
            await r.fetch(sealed(1, 5000), 2, size=size)


async def test_a_full_disk_and_a_peer_that_leaves_say_so(tmp_path: Path) -> None:
    chunk = sealed(1, 5000)
    async with rig(tmp_path, capacity=1000) as r:
        r.sources[2].answer = chunk.data
        with pytest.raises(NoSpace):
            await r.fetch(chunk, 2)
        r.peer.fetches._app.hear("draining")
        with pytest.raises(NoSpace):
            await r.fetch(chunk, 2)
        r.peer.fetches.puller = None
        r.peer.fetches._app.hear("up")
        with pytest.raises(Unavailable):
            await r.fetch(chunk, 2)


async def test_one_client_has_a_few_pulls_at_once_and_others_do_not_wait_for_them(tmp_path: Path) -> None:
    chunks = [sealed(seed, 5000) for seed in range(7)]
    async with rig(tmp_path) as r, trio.open_nursery() as nursery:
        for chunk in chunks[:6]:  # of a source that never answers
            nursery.start_soon(r.fetch, chunk, 2)
        with trio.fail_after(5):
            await r.sources[2].busy.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert r.sources[2].most == 4
        other = r.peer.authority.issue(roles=(Role.CLIENT,))
        token = r.peer.tokens.sign(Token(77, other.node, VOLUME, PeerNumber(1), MIB, 1 << 40))
        r.sources[3].answer = chunks[6].data
        async with Client(other.client(), r.peer.authority.pool) as client:
            assert await r.fetch(chunks[6], 3, token=token, client=client)
        nursery.cancel_scope.cancel()


async def test_who_waits_too_long_for_others_loses_no_room_and_no_source_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "WAIT_S", 0.05)
    chunks = [sealed(seed, 5000) for seed in range(5)]
    async with rig(tmp_path) as r:
        token = r.peer.tokens.make(VOLUME, PeerNumber(1), room=chunks[4].size)
        r.sources[3].answer = chunks[4].data

        async def futile(chunk: Sealed) -> None:
            with pytest.raises(NotFound):
                await r.fetch(chunk, 2)

        async with trio.open_nursery() as nursery:
            for chunk in chunks[:4]:
                nursery.start_soon(futile, chunk)
            with trio.fail_after(5):
                await r.sources[2].busy.wait()
                with pytest.raises(Unavailable):
                    await r.fetch(chunks[4], 3, token=token)
            r.sources[2].over.set()
        assert await r.fetch(chunks[4], 3, token=token)


async def test_a_few_nodes_whose_source_hangs_do_not_take_all_places(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, trio.open_nursery() as nursery, AsyncExitStack() as clients:

        async def fetch(number: int, source: int) -> Receipt:
            other = r.peer.authority.issue(roles=(Role.CLIENT,))
            token = r.peer.tokens.sign(Token(number, other.node, VOLUME, PeerNumber(1), 8 * MIB, 1 << 40))
            client = await clients.enter_async_context(Client(other.client(), r.peer.authority.pool))
            for _ in range(4 if source == 2 else 0):
                nursery.start_soon(partial(r.fetch, chunk, source, token=token, client=client))
            return await r.fetch(chunk, source, token=token, client=client)

        chunk = sealed(1, 5000)
        r.sources[2].crowd, r.sources[3].answer = 13, chunk.data  # 4 and three times 3 at least
        for number in range(4):
            nursery.start_soon(fetch, number, 2)
        with trio.fail_after(5):
            await r.sources[2].busy.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await fetch(9, 3)
        nursery.cancel_scope.cancel()


async def test_a_source_that_hangs_costs_a_fetch_its_time_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "FETCH_S", 0.05)
    async with rig(tmp_path) as r:
        with pytest.raises(NotFound):
            await r.fetch(sealed(1, 5000), 2)
        assert r.sources[2].at_once == 0


async def test_from_another_peer_over_the_network(tmp_path: Path) -> None:
    """No fakes between the two: the second is dialled at its address in the map, and asked as a peer."""
    chunk = sealed(1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        rig(tmp_path / "one") as target,
        serving_peer(tmp_path / "two", authority=target.peer.authority) as source,
    ):
        await source.directory.put(VOLUME, chunk.id, [chunk.data])
        known = pool_map([2])
        known.peers[0] = replace(known.peers[0], node=source.endpoint.node, addresses=list(source.endpoint.addresses))
        target.coordinator.map = known
        async with Client(target.peer.issued.client(), target.peer.authority.pool) as client:
            assert target.peer.fetches.puller is not None
            target.peer.fetches.puller = MapPuller(
                client, target.peer.fetches.puller.fellows, target.peer.directory, timeout_s=5, idle_s=1
            )
            assert await target.fetch(chunk, 2)
        assert await target.peer.store.has(VOLUME, chunk.id)
