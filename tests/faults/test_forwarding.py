"""Whoever can dial only one peer reaches the coordinator and all peers through it; and how that cannot be misused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from coordination import Live, live

from p2pfs.errors import Denied, NotFound, PoolError, Unavailable
from p2pfs.net.addresses import bound_addresses
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.forwarding import UNCLAIMED_S, WITHIN_S, Accepting, Forwarding, KnownPeers, through
from p2pfs.net.identity import Credentials, server_context
from p2pfs.net.server import Request, Response, Server
from p2pfs.types import NodeId, Role
from p2pfs.wire.forwarding import Dial
from p2pfs.wire.membership import PeerInfo, PoolMap
from p2pfs.wire.routes import PEER_ROUTES
from p2pfs_peerd import forward
from p2pfs_peerd.forward import Forwarder

pytestmark = pytest.mark.l3

NOWHERE = ("127.0.0.1:1",)


@dataclass
class Peer:
    """A peer that does nothing but pass on, and say that it is well."""

    node: NodeId
    endpoint: Endpoint
    forwarder: Forwarder
    client: Client
    asked: list[str] = field(default_factory=list)
    is_open: bool = True


@dataclass
class Town:
    pool: Live
    nursery: trio.Nursery
    credentials: Credentials
    node: NodeId
    peers: list[Peer] = field(default_factory=list)

    async def add(self, name: str, *, coordinator: tuple[str, ...] | None = None) -> Peer:
        """A peer that finds the coordinator at these addresses, or where it is."""
        node, credentials = await self.pool.join(name, Role.PEER)
        client = self.pool.client(credentials)
        told = Endpoint(
            self.pool.endpoint.node,
            Role.COORDINATOR,
            self.pool.endpoint.addresses if coordinator is None else coordinator,
        )

        async def health(request: Request) -> Response:
            peer.asked.append(request.caller.node)
            return Response()

        forwarder = Forwarder(
            client, told, node, Accepting(node, lambda stream: server.accept(stream)), is_open=lambda: peer.is_open
        )
        server = Server(
            PEER_ROUTES,
            {"health": health, **forwarder.handlers()},
            context=server_context(credentials),
            pool=self.pool.running.record.pool,
        )
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        endpoint = Endpoint(node, Role.PEER, tuple(bound_addresses(listeners)))
        peer = Peer(node, endpoint, forwarder, client)
        await self.nursery.start(server.serve, listeners)
        self.nursery.start_soon(forwarder.run)
        self.peers.append(peer)
        return peer

    def acquaint(self, peer: Peer, *others: Endpoint) -> None:
        """What its map says; it is not asked for."""
        infos = [
            PeerInfo(number, one.node, "", "", "", list(one.addresses), 1, 1, "up") for number, one in enumerate(others)
        ]
        peer.forwarder._map = PoolMap("", 1, 1, 2, 2, infos)
        peer.forwarder._asked_s = trio.current_time()

    def client(self, *known: Peer) -> Client:
        neighbours = [one.endpoint for one in known]
        return self.pool.client(self.credentials, forwarding=Forwarding(self.node, lambda: neighbours))

    @property
    def unreachable(self) -> Endpoint:
        """The coordinator, where it cannot be dialled."""
        return Endpoint(self.pool.endpoint.node, Role.COORDINATOR, NOWHERE)


@asynccontextmanager
async def town(path: Path) -> AsyncIterator[Town]:
    async with live(path) as pool, trio.open_nursery() as nursery:
        node, credentials = await pool.join("bob@laptop", Role.CLIENT)
        made = Town(pool, nursery, credentials, node)
        try:
            yield made
        finally:
            for peer in made.peers:
                await peer.client.aclose()
            nursery.cancel_scope.cancel()


async def map_of(client: Client, endpoint: Endpoint) -> PoolMap:
    return await client.call(endpoint, "GET", "/map", None, PoolMap, timeout_s=10)


async def health(client: Client, endpoint: Endpoint) -> None:
    assert (await client.request(endpoint, "GET", "/health", timeout_s=10)).status == 200


async def raw(client: Client, via: Peer, target: str, dial: Dial | None = None) -> trio.abc.Stream:
    dial = dial or Dial(0, [], WITHIN_S)
    return await through(client.open_directly, via.endpoint, NodeId(target), dial)


async def test_one_peer_leads_to_the_coordinator_and_to_all_others(tmp_path: Path) -> None:
    async with town(tmp_path) as at:
        one, two = await at.add("anna@nas"), await at.add("carl@nas")
        at.acquaint(one, two.endpoint)
        async with at.client(one) as client:
            assert (await map_of(client, at.unreachable)).pool == at.pool.running.record.pool
            hidden = Endpoint(two.node, Role.PEER, NOWHERE)
            with pytest.raises(Unavailable):
                await health(client, hidden)  # a peer that fails once may be dead: others have what it has
            await health(client, hidden)
            assert two.asked == [at.node]  # as who it is, not as who passed it on
            assert client.forwarding is not None
            assert client.forwarding.count == 2
        assert one.forwarder.count == 2


async def test_a_peer_that_cannot_dial_it_either_asks_those_it_knows(tmp_path: Path) -> None:
    async with town(tmp_path) as at:
        lost = [await at.add(f"lost{number}@nas", coordinator=NOWHERE) for number in range(2)]
        last = await at.add("anna@nas")
        at.acquaint(lost[0], lost[1].endpoint)
        at.acquaint(lost[1], lost[0].endpoint, last.endpoint)
        at.acquaint(last)
        async with at.client(lost[0]) as client:
            await map_of(client, at.unreachable)
        assert [peer.forwarder.count for peer in (*lost, last)] == [1, 1, 1]
        at.acquaint(lost[1], lost[0].endpoint)  # those two know but each other now: no loop
        async with at.client(lost[0]) as client:
            with trio.fail_after(WITHIN_S / 2), pytest.raises(Unavailable):
                await map_of(client, at.unreachable)


async def test_what_is_reached_directly_goes_no_other_way(tmp_path: Path) -> None:
    async with town(tmp_path) as at:
        one = await at.add("anna@nas")
        async with at.client(one) as client:
            await map_of(client, at.pool.endpoint)
            await health(client, one.endpoint)
        assert one.forwarder.count == 0


async def test_it_leads_to_nodes_of_the_pool_alone_and_gives_no_stranger_a_byte(tmp_path: Path) -> None:
    received = bytearray()

    async def listen(stream: trio.SocketStream) -> None:
        async with stream:
            received.extend(await stream.receive_some())

    async with town(tmp_path) as at:
        one = await at.add("anna@nas")
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        at.nursery.start_soon(partial(trio.serve_listeners, listen, listeners))
        liar = Endpoint(NodeId("ab" * 16), Role.PEER, tuple(bound_addresses(listeners)))
        at.acquaint(one, liar)
        async with at.client(one) as client:
            for unknown in ("cd" * 16, "127.0.0.1:22", ""):
                with pytest.raises(PoolError):
                    await raw(client, one, unknown)
            with pytest.raises(NotFound):
                await raw(client, one, "cd" * 16)
            with pytest.raises(Unavailable):
                await raw(client, one, liar.node)
        assert b"POST" not in received
        assert received[:1] in (b"", b"\x16")  # the greeting of TLS, and nothing of the caller's


async def test_a_connection_counts_from_when_it_is_promised(autojump_clock: trio.testing.MockClock) -> None:
    one, two = NodeId("ab" * 16), NodeId("cd" * 16)
    over = trio.Event()
    accepting = Accepting(NodeId("ef" * 16), lambda _stream: over.wait(), most=4)  # one for each caller
    first, other = accepting.take(one), accepting.take(two)
    with pytest.raises(Unavailable):
        accepting.take(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first, None)
        await trio.sleep(UNCLAIMED_S + 1)
        with pytest.raises(Unavailable):
            accepting.take(one)  # served all the while
        accepting.take(two)  # nobody came for the other, and now it is too late
        await other(None)  # type: ignore[arg-type]
        over.set()
    accepting.take(one)


async def test_how_often_and_how_far_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MOST_PER_CALLER", 2)
    async with town(tmp_path) as at:
        one, two = await at.add("anna@nas"), await at.add("carl@nas")
        at.acquaint(one, two.endpoint)
        async with at.client() as client:
            for dial in (Dial(3, [], 1.0), Dial(-1, [], 1.0), Dial(0, ["x"] * 4, 1.0), Dial(0, [], 1e9)):
                with pytest.raises(Denied):
                    await raw(client, one, two.node, dial)
            taken = [await raw(client, one, two.node) for _ in range(2)]
            with pytest.raises(Unavailable, match="as many connections as it may"):
                await raw(client, one, two.node)
            await taken.pop().aclose()
            with trio.fail_after(10):
                while one.forwarder._callers[at.node] != 1:
                    await trio.lowlevel.checkpoint()
            taken.append(await raw(client, one, two.node))
            for stream in taken:
                await stream.aclose()
            one.is_open = False
            with pytest.raises(Unavailable, match="revoked"):
                await raw(client, one, two.node)


def test_the_peers_known_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    assert KnownPeers(path).load() == []
    known = [Endpoint(NodeId(f"{number:032x}"), Role.PEER, ("192.0.2.1:9471",)) for number in range(100)]
    KnownPeers(path).save(known)
    assert KnownPeers(path).load() == known[:64]
    path.write_text("{")
    assert KnownPeers(path).load() == []
