"""A peer nobody can dial: served through the coordinator, which reads nothing of it, and what may go wrong there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from coordination import live
from plugins.checklogs import Claims
from relayed import Relayed, relayed
from sealed import VOLUME, sealed

from p2pfs.chunks.protocol import Blocks
from p2pfs.coordinator.daemon import open_coordinator
from p2pfs.coordinator.relay import MAX_SPARES, MAX_SPLICES_PER_PAIR
from p2pfs.errors import Denied, NotFound, Unavailable
from p2pfs.net import client as net_client
from p2pfs.net.addresses import RELAY
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.dialled import Dialled
from p2pfs.net.raw import RawStream
from p2pfs.types import MIB, Role
from p2pfs.wire import codec
from p2pfs.wire.membership import Listen, NodeInfo
from p2pfs.wire.routes import relay_path

pytestmark = pytest.mark.l3

CHUNK = sealed(1, MIB)
HEALTH = ("GET", "/health")


async def health(run: Relayed, client: Client) -> None:
    reply = await client.request(run.endpoint, *HEALTH, timeout_s=10)
    assert reply.status == 200


@asynccontextmanager
async def asking(client: Client, endpoint: Endpoint) -> AsyncIterator[Dialled]:
    """A connection of the test's own."""
    connection = await client.open(endpoint)
    try:
        yield connection
    finally:
        await connection.aclose()


async def listen(connection: Dialled, wait_s: float = 20) -> RawStream | None:
    return await connection.upgrade("/relay/listen", codec.encode(Listen(wait_s)))


async def spares(run: Relayed, count: int) -> None:
    """Wait until so many connections of the peer wait at the coordinator."""
    with trio.fail_after(10):
        while run.relay.spares(run.peer) != count:
            await trio.lowlevel.checkpoint()


async def test_chunks_go_through_and_only_ciphertext_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = bytearray()
    original = RawStream.send_all

    async def send_all(self: RawStream, data: bytes | bytearray | memoryview) -> None:
        seen.extend(data)
        await original(self, data)

    monkeypatch.setattr(RawStream, "send_all", send_all)
    async with relayed(tmp_path) as run, run.client() as client:
        store = run.store(client)
        await store.put(VOLUME, CHUNK.id, (CHUNK.data,))
        assert bytes(await store.get(VOLUME, CHUNK.id, CHUNK.size, CHUNK.whole)) == CHUNK.data
        part = await store.get(VOLUME, CHUNK.id, CHUNK.size, Blocks(3, 2))
        assert bytes(part) in CHUNK.data
        assert run.relay.moved_bytes > 2 * CHUNK.size
    assert len(seen) > 2 * CHUNK.size
    for word in (b"HTTP/1.1", b"/volumes/", CHUNK.id.hex().encode(), CHUNK.data[:64], CHUNK.data[-64:]):
        assert word not in seen


async def test_a_taken_connection_is_replaced_so_that_many_may_come_at_once(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.client() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(health, run, client)
        await spares(run, 3)


async def test_diallers_that_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.client() as client:
        silent = [await client.open(run.pool.endpoint) for _ in range(10)]
        for connection in silent:
            assert await connection.upgrade(relay_path(run.peer)) is not None
        await health(run, client)
        for connection in silent:
            await connection.aclose()


async def test_a_relay_that_leads_to_another_node_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with relayed(tmp_path) as run, run.client() as client:
        other, _ = await run.pool.join("carl@nas", Role.PEER)
        monkeypatch.setattr(net_client, "relay_path", lambda _node: relay_path(run.peer))
        with pytest.raises(Denied, match="another node answered"):
            await client.request(Endpoint(other, Role.PEER, (RELAY,)), *HEALTH, timeout_s=5)
        assert run.server.requests == 0


async def test_without_a_relay_such_a_peer_is_out_of_reach(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.pool.client(run.sender_credentials) as client:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await health(run, client)


async def test_direct_addresses_go_first_until_the_relay_proved_to_be_the_way(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run:
        tried = []

        async def connect(host: str, port: int) -> trio.abc.Stream:
            tried.append(port)
            if port == 1:
                raise OSError("nobody there")
            return await trio.open_tcp_stream(host, port)

        endpoint = Endpoint(run.peer, Role.PEER, ("127.0.0.1:1", RELAY))
        async with run.pool.client(run.sender_credentials, relay=run.pool.endpoint, connect=connect) as client:
            await client.request(endpoint, *HEALTH, timeout_s=5)
            await client.reconnect()
            await client.request(endpoint, *HEALTH, timeout_s=5)
        assert tried.count(1) == 1
        assert tried[0] == 1


async def test_only_peers_are_reached_and_only_those_that_listen(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.client() as client:
        deaf, _ = await run.pool.join("carl@nas", Role.PEER)
        for node, expected in ((run.sender, NotFound), ("ab" * 16, NotFound), (deaf, Unavailable)):
            async with asking(client, run.pool.endpoint) as connection:
                with pytest.raises(expected):
                    await connection.upgrade(relay_path(node))


@pytest.mark.parametrize("end", ["peer", "sender"])
async def test_revoking_either_end_closes_what_is_spliced(tmp_path: Path, claim_logs: Claims, end: str) -> None:
    claim_logs("revoked ", count=1)
    async with relayed(tmp_path) as run, run.client() as client, run.pool.client() as admin:
        gone = run.peer if end == "peer" else run.sender
        async with asking(client, run.endpoint) as connection:
            await admin.call(run.pool.endpoint, "POST", f"/nodes/{gone}/revoke", None, NodeInfo)
            with trio.fail_after(5):
                assert await connection.stream.receive_some() == b""
        async with asking(client, run.pool.endpoint) as connection:
            with pytest.raises(NotFound if end == "peer" else Denied):
                await connection.upgrade(relay_path(run.peer))
        await spares(run, 0 if end == "peer" else 3)


async def test_a_dead_connection_is_passed_over_for_the_next(tmp_path: Path) -> None:
    async with relayed(tmp_path, mode="off") as run, run.pool.client(run.peer_credentials) as peer:
        good, dead = await peer.open(run.pool.endpoint), await peer.open(run.pool.endpoint)
        served = trio.Event()

        async def wait(connection: Dialled) -> None:
            stream = await listen(connection)
            assert stream is not None
            served.set()
            await run.server.accept(stream)

        async with trio.open_nursery() as nursery, run.client() as client:
            nursery.start_soon(wait, good)
            await spares(run, 1)
            with trio.move_on_after(5) as scope:
                async with trio.open_nursery() as dying:
                    dying.start_soon(listen, dead)
                    await spares(run, 2)
                    dying.cancel_scope.cancel()
            assert not scope.cancelled_caught
            await dead.aclose()  # the coordinator's handler does not hear of it before it answers
            assert run.relay.spares(run.peer) == 2
            await health(run, client)
            assert served.is_set()
            nursery.cancel_scope.cancel()


async def test_a_peer_that_dies_while_it_is_spliced_ends_the_dialler(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.client() as client, asking(client, run.endpoint) as connection:
        assert await run.server.stop(0)
        with trio.fail_after(5):
            assert await connection.stream.receive_some() == b""


async def test_splices_are_bounded_for_each_node_and_in_all(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.client() as client:
        held = await client.open(run.endpoint)
        for name in ("_most", "_most_per_node", "_most_per_pair"):
            before = getattr(run.relay, name)
            setattr(run.relay, name, 1)
            async with asking(client, run.pool.endpoint) as connection:
                with pytest.raises(Unavailable, match="already"):
                    await connection.upgrade(relay_path(run.peer))
            setattr(run.relay, name, before)
        await held.aclose()
        await health(run, client)


async def test_one_more_waiting_connection_ends_the_oldest(tmp_path: Path) -> None:
    async with relayed(tmp_path, mode="off") as run, run.pool.client(run.peer_credentials) as peer:
        ended = []

        async def wait(number: int) -> None:
            async with asking(peer, run.pool.endpoint) as connection:
                assert await listen(connection) is None
                ended.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(MAX_SPARES):
                nursery.start_soon(wait, number)
                await spares(run, number + 1)
            assert ended == []
            nursery.start_soon(wait, MAX_SPARES)
            with trio.fail_after(5):
                while not ended:
                    await trio.lowlevel.checkpoint()
            assert (ended, run.relay.spares(run.peer)) == ([0], MAX_SPARES)
            nursery.cancel_scope.cancel()


async def test_a_stopping_coordinator_ends_splices_and_waiting_peers_at_once(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.client() as client, asking(client, run.endpoint) as connection:
        await spares(run, 3)
        run.relay.stop()
        with trio.fail_after(1):
            assert await run.pool.running.server.stop(30)
            assert await connection.stream.receive_some() == b""
        assert repr(run.relay) == "Relay(0 spares, 0 splices)"


async def test_a_peer_comes_back_to_a_coordinator_that_was_restarted(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.client() as client:
        await health(run, client)
        home, address = run.pool.home, run.pool.endpoint.addresses[0]
        run.relay.stop()
        assert await run.pool.running.server.stop(1)
        async with open_coordinator(home, home.settings({"listen": address, "stop_timeout": "1s"})) as running:
            run.pool.running = running
            await spares(run, 3)
            await health(run, client)


async def test_a_peer_listens_while_it_is_told_that_nobody_can_dial_it(tmp_path: Path) -> None:
    async with relayed(tmp_path, mode="auto") as run:
        assert run.relay.spares(run.peer) == 0
        run.listener.tell(False)
        with trio.fail_after(10):
            while not run.listener.is_listening:  # the coordinator has answered
                await trio.lowlevel.checkpoint()
        await spares(run, 3)
        run.listener.tell(True)
        with trio.fail_after(5):
            while run.listener.is_listening:
                await trio.lowlevel.checkpoint()


async def test_a_client_does_not_listen(tmp_path: Path) -> None:
    async with live(tmp_path) as pool:
        node, credentials = await pool.join("eve@laptop", Role.CLIENT)
        async with pool.client(credentials) as client, asking(client, pool.endpoint) as connection:
            with pytest.raises(Denied, match="role peer"):
                await listen(connection, 0)
        assert pool.running.services.relay.spares(node) == 0


async def test_one_dialler_does_not_keep_others_from_a_peer(tmp_path: Path) -> None:
    async with relayed(tmp_path) as run, run.client() as client:
        greedy, credentials = await run.pool.join("mallory@laptop", Role.CLIENT)
        assert greedy != run.peer
        async with run.pool.client(credentials) as mallory:
            held = [await mallory.open(run.pool.endpoint) for _ in range(MAX_SPLICES_PER_PAIR + 1)]
            for connection in held[:-1]:
                assert await connection.upgrade(relay_path(run.peer)) is not None
                await spares(run, 3)
            with pytest.raises(Unavailable, match="between these two"):
                await held[-1].upgrade(relay_path(run.peer))
            await health(run, client)
            for connection in held:
                await connection.aclose()
