"""Who announces much, sends little and holds what it can: it takes from itself, and from nobody else."""

import contextlib
from pathlib import Path

import pytest
import trio
from pki import Issued, TestAuthority, make_ca
from trio.testing import MockClock, wait_all_tasks_blocked
from wired import Served, client_of, everything, raw_tls, serving

from p2pfs.errors import Unavailable
from p2pfs.net.bodies import BodyBudget, BodyRoom
from p2pfs.net.client import Client
from p2pfs.net.identity import joining_context
from p2pfs.net.messages import Request, Response
from p2pfs.net.server import Limits
from p2pfs.net.tls import TlsStream
from p2pfs.types import KIB, MIB, NodeId

pytestmark = pytest.mark.l3

SECONDS = 15.0
BEGUN = 100 * KIB
ANNOUNCED = b"PUT /echo/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n"
JOINING = b"POST /open HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


async def _put(served: Served, client: Client, size: int) -> None:
    with trio.fail_after(SECONDS):
        reply = await client.request(served.endpoint, "PUT", "/echo/x", parts=(bytes(size),), timeout_s=SECONDS)
        assert len(reply.body) == size


async def _hoard(served: Served, ca: TestAuthority, node: Issued, count: int, begun: bytes = b"") -> list[TlsStream]:
    streams = [await raw_tls(served, node, ca) for _ in range(count)]
    for stream in streams:
        await stream.send_all((ANNOUNCED, begun))
    await wait_all_tasks_blocked(0.02)
    return streams


async def _close(streams: list[TlsStream]) -> None:
    for stream in streams:
        await stream.aclose()


async def test_bodies_that_are_only_announced_take_no_memory(ca: TestAuthority) -> None:
    greedy = ca.issue()
    limits = Limits(bodies_bytes=2 * MIB, node_bodies_bytes=20 * MIB)
    async with serving(ca, limits=limits) as served, client_of(ca) as client:
        streams = await _hoard(served, ca, greedy, 17)
        assert served.server._bodies.all.taken == 0
        await _put(served, client, MIB)
        await _close(streams)


async def test_a_node_takes_no_more_than_its_share(ca: TestAuthority) -> None:
    greedy = ca.issue()
    limits = Limits(bodies_bytes=3 * MIB, node_bodies_bytes=2 * MIB)
    async with serving(ca, limits=limits) as served, client_of(ca) as client:
        streams = await _hoard(served, ca, greedy, 10, bytes(BEGUN))
        await _put(served, client, MIB)
        async with Client(greedy.client(), ca.pool) as same:
            await _put(served, same, 64 * KIB)  # such as a heartbeat
        await _close(streams)


async def test_bodies_that_wait_for_each_other_give_up(autojump_clock: MockClock) -> None:
    budget = BodyBudget(2 * MIB, 2 * MIB)
    rooms = [BodyRoom(budget, NodeId(f"{number:032x}")) for number in range(2)]
    for room in rooms:
        assert await room.announce(2 * MIB) == 64 * KIB
        await room.grow(MIB)
    with trio.fail_after(20), pytest.raises(Unavailable):
        await rooms[0].grow(MIB)
    rooms[0].release()
    await rooms[1].grow(MIB)
    rooms[1].release()
    rooms[1].release()
    assert (budget.all.taken, budget._nodes) == (0, {})


async def test_who_gives_up_waiting_for_its_share_leaves_nothing(autojump_clock: MockClock) -> None:
    budget, node = BodyBudget(4 * MIB, MIB), NodeId("ab" * 16)
    first = BodyRoom(budget, node)
    await first.announce(MIB)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(BodyRoom(budget, node).announce, MIB)
            await wait_all_tasks_blocked()
            first.release()
            scope.cancel()
    assert all(share.waiting == 0 for share in budget._nodes.values())


async def _stranger(served: Served, *said: bytes) -> TlsStream:
    stream = TlsStream(await trio.open_tcp_stream("127.0.0.1", served.port), joining_context(), server_side=False)
    await stream.do_handshake()
    await stream.send_all(said)
    return stream


async def test_strangers_in_the_middle_of_a_request_do_not_keep_members_out(ca: TestAuthority) -> None:
    async with serving(ca, limits=Limits(strangers=10), client_certificate="optional") as served:
        streams = []
        for _ in range(30):
            streams.append(await _stranger(served, JOINING + b"x"))
            await wait_all_tasks_blocked(0.002)
        async with client_of(ca) as client:
            await _put(served, client, 100)
        with trio.fail_after(SECONDS):
            with contextlib.suppress(Unavailable):  # reset
                assert await everything(streams[0]) == b""
            while served.server.connections > 12:
                await wait_all_tasks_blocked(0.01)
        await _close(streams)


async def test_a_stranger_has_little_time_for_its_body(ca: TestAuthority) -> None:
    limits = Limits(anonymous_body_s=0.2, linger_s=0.1)
    async with serving(ca, limits=limits, client_certificate="optional") as served:
        stream = await _stranger(served, JOINING + b"x")
        with trio.fail_after(5):
            assert (await everything(stream)).startswith(b"HTTP/1.1 408 ")
        await stream.aclose()


async def test_only_so_many_strangers_are_answered_at_once_and_who_dribbles_takes_no_turn(ca: TestAuthority) -> None:
    gate, inside = trio.Event(), 0

    async def slow(request: Request) -> Response:
        nonlocal inside
        inside += 1
        assert len(await request.body()) == 100
        await gate.wait()
        return Response(200, b"joined")

    limits = Limits(anonymous_requests=2)
    async with serving(ca, {"open": slow}, limits=limits, client_certificate="optional") as served:
        streams = [await _stranger(served, JOINING + b"x") for _ in range(5)]
        whole = [await _stranger(served, JOINING + bytes(100)) for _ in range(4)]
        with trio.fail_after(SECONDS):
            while inside < 2:
                await wait_all_tasks_blocked(0.01)
            await wait_all_tasks_blocked(0.05)
            assert inside == 2
            gate.set()
            for stream in whole:
                assert b"joined" in await stream.receive_some()
        await _close([*streams, *whole])
