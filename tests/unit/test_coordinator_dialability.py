"""Whether peers can be dialled where they say they are: when the coordinator looks, and what it tells them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from coordination import ROOMY, Pool, live, pool
from pki import TestAuthority, make_ca
from trio.testing import wait_all_tasks_blocked
from wired import serving

from p2pfs.coordinator.dialability import AGAIN_REFUSED_S, AGAIN_S, Dialability, prober
from p2pfs.net.addresses import RELAY
from p2pfs.net.messages import Request, Response
from p2pfs.runtime import worker
from p2pfs.runtime.clocks import SystemClock
from p2pfs.types import NodeId, Role
from p2pfs.wire.membership import Heartbeat, HeartbeatAnswer, PoolMap
from p2pfs.wire.routes import PEER_ROUTES

pytestmark = pytest.mark.l1


class Probes:
    """Answers for the network."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.is_dialable = False

    async def probe(self, _node: NodeId, addresses: tuple[str, ...]) -> bool:
        self.asked.append(addresses)
        return self.is_dialable


@asynccontextmanager
async def looking(path: Path) -> AsyncIterator[tuple[Pool, Dialability, Probes]]:
    probes = Probes()
    async with pool(path) as services, trio.open_nursery() as nursery:
        dialability = Dialability(probes.probe, services.clock)
        services.services.pulse._dialability = dialability
        nursery.start_soon(worker.run, dialability)
        yield services, dialability, probes
        nursery.cancel_scope.cancel()


async def test_new_addresses_are_tried_and_the_next_answer_says_what_was_found(tmp_path: Path) -> None:
    async with looking(tmp_path) as (services, _, probes):
        peer = await services.join("anna@nas", Role.PEER)
        assert (await services.beat(peer.node, addresses=["192.0.2.1:1"])).is_dialable  # nobody has looked yet
        await wait_all_tasks_blocked()
        assert not (await services.beat(peer.node, addresses=["192.0.2.1:1", RELAY])).is_dialable
        await wait_all_tasks_blocked()
        assert probes.asked == [("192.0.2.1:1",)]  # that it listens at the relay is no new address
        probes.is_dialable = True
        services.clock.advance(5)
        await services.beat(peer.node, addresses=["192.0.2.2:1", RELAY])
        await wait_all_tasks_blocked()
        assert (await services.beat(peer.node, addresses=["192.0.2.2:1"])).is_dialable
        assert probes.asked == [("192.0.2.1:1",), ("192.0.2.2:1",)]


async def test_it_looks_again_now_and_then_and_sooner_at_who_could_not_be_dialled(tmp_path: Path) -> None:
    async with looking(tmp_path) as (services, _, probes):
        peer = await services.join("anna@nas", Role.PEER)

        async def beats(after_s: float) -> int:
            services.clock.advance(after_s)
            await services.beat(peer.node)
            await wait_all_tasks_blocked()
            return len(probes.asked)

        assert await beats(0) == 1
        assert await beats(AGAIN_REFUSED_S - 1) == 1
        probes.is_dialable = True
        assert await beats(1) == 2
        assert await beats(AGAIN_S - 1) == 2
        assert await beats(1) == 3


async def test_a_peer_that_moves_with_every_beat_is_not_dialled_with_every_beat(tmp_path: Path) -> None:
    async with looking(tmp_path) as (services, _, probes):
        peer = await services.join("anna@nas", Role.PEER)
        for port in range(1, 20):
            await services.beat(peer.node, addresses=[f"192.0.2.1:{port}"])
            await wait_all_tasks_blocked()
        assert len(probes.asked) == 1


async def test_the_relay_is_an_address_of_the_map_and_survives_a_restart(tmp_path: Path) -> None:
    def addresses(map: PoolMap) -> list[list[str]]:
        return [peer.addresses for peer in map.peers]

    async with pool(tmp_path) as services:
        peer = await services.join("anna@nas", Role.PEER)
        await services.beat(peer.node, addresses=["192.0.2.1:1"])
        before = services.services.pool_map()
        await services.beat(peer.node, addresses=["192.0.2.1:1", RELAY])
        after = services.services.pool_map()
        assert addresses(after) == [["192.0.2.1:1", "relay"]]
        assert after.version > before.version
    async with pool(tmp_path) as services:
        assert addresses(services.services.pool_map()) == [["192.0.2.1:1", "relay"]]


# ---- the probe itself -----------------------------------------------------------------------------------------------


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


async def health(_request: Request) -> Response:
    return Response(200, b"well")


async def test_only_the_node_itself_counts_as_an_answer(ca: TestAuthority) -> None:
    probe = prober(ca.issue(roles=(Role.COORDINATOR,)).client(), ca.pool, SystemClock())
    async with serving(ca, {"health": health}, routes=PEER_ROUTES) as served:
        addresses = served.endpoint.addresses
        assert await probe(served.endpoint.node, addresses)
        assert await probe(served.endpoint.node, ("127.0.0.1:1", *addresses))
        assert not await probe(NodeId("ab" * 16), addresses)
        assert not await probe(served.endpoint.node, ("127.0.0.1:1",))
        assert served.server.requests == 2


async def test_who_accepts_and_says_nothing_cannot_be_dialled(ca: TestAuthority, autojump_clock: object) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    probe = prober(ca.issue(roles=(Role.COORDINATOR,)).client(), ca.pool, SystemClock())
    assert not await probe(NodeId("ab" * 16), (f"127.0.0.1:{port}",))
    await listeners[0].aclose()


async def test_a_coordinator_at_work_looks_by_itself(tmp_path: Path) -> None:
    async with live(tmp_path) as running:
        _, credentials = await running.join("anna@nas", Role.PEER)
        async with running.client(credentials) as client:
            beat = Heartbeat(["127.0.0.1:1"], 1 << 40, 0, 0, 0, 0.0, ROOMY, 0, 0)
            is_dialable = True
            with trio.fail_after(10):
                while is_dialable:
                    answer = await client.call(running.endpoint, "POST", "/heartbeat", beat, HeartbeatAnswer)
                    is_dialable = answer.is_dialable
