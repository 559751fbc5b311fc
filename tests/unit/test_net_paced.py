"""How a thin limit looks to a sender: what it sends goes on moving, a little at a time."""

import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pfs.net.pace import Pace
from p2pfs.net.paced import keep_unread, kept_unread, wire_of
from p2pfs.net.server import Server
from p2pfs.runtime.clocks import SimulatedClock
from p2pfs.types import KIB, PoolId

pytestmark = pytest.mark.l0

MBIT = 125_000
BODY = 160 * KIB


@pytest.fixture
async def pace(autojump_clock: MockClock) -> Pace:
    return Pace.unlimited(SimulatedClock())


@pytest.fixture
async def listening() -> AsyncIterator[trio.SocketListener]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    yield listener
    await listener.aclose()


async def _connected(listener: trio.SocketListener) -> tuple[trio.SocketStream, trio.SocketStream]:
    """A sender whose kernel holds all that it sends, and who receives it."""
    sender = await trio.open_tcp_stream(*listener.socket.getsockname())
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BODY)
    sender.setsockopt(socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, 4 * BODY)
    return sender, await listener.accept()


def _buffer(opened: trio.SocketListener | trio.SocketStream) -> int:
    size = opened.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert isinstance(size, int)
    return size


@pytest.mark.parametrize("mbit", [1, 4])
async def test_a_sender_sees_progress_before_it_takes_a_peer_for_silent(
    mbit: int, pace: Pace, listening: trio.SocketListener
) -> None:
    """Between two arrivals no more is read than eight connections together receive within a second."""
    pace.down.rate = mbit * MBIT
    keep_unread(listening.socket, kept_unread(pace.down))
    sender, receiver = await _connected(listening)
    wire = wire_of(pace.over(receiver))
    assert await sender.socket.send(bytes(BODY)) == BODY
    read = arrived = longest = read_then = 0
    while read < BODY:
        await wire.fill(incoming := ssl.MemoryBIO())
        read += len(incoming.read())
        if wire.arrived() > arrived:
            arrived, read_then = wire.arrived(), read
        longest = max(longest, read - read_then)
    assert longest * 8 < mbit * MBIT
    await sender.aclose()
    await wire.close(b"")


@pytest.mark.parametrize(("rate", "kept"), [(None, None), (MBIT // 4, 8 * KIB), (4 * MBIT, 25_000), (40 * MBIT, None)])
async def test_only_a_thin_limit_keeps_little(rate: float | None, kept: int | None, pace: Pace) -> None:
    pace.down.rate = rate
    assert kept_unread(pace.down) == kept


async def test_a_server_tells_whoever_connects_of_a_limit_from_the_first_byte_on(
    pace: Pace, listening: trio.SocketListener
) -> None:
    pace.down.rate = MBIT
    usual = _buffer(listening)
    server = Server((), {}, context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pool=PoolId("ab" * 16), pace=pace)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [listening])
        assert _buffer(listening) == 2 * kept_unread(pace.down)  # type: ignore[operator]  # the kernel doubles it
        pace.down.rate = None
        one = await trio.open_tcp_stream(*listening.socket.getsockname())
        await wait_all_tasks_blocked()
        assert _buffer(listening) >= usual
        await one.aclose()
        await server.stop(1)


async def test_a_limit_that_is_set_or_lifted_counts_for_open_connections(
    pace: Pace, listening: trio.SocketListener
) -> None:
    sender, receiver = await _connected(listening)
    usual = _buffer(receiver)
    wire = wire_of(pace.over(receiver))
    for rate, most in ((MBIT, 2 * 8 * KIB), (None, usual)):
        pace.down.rate = rate
        await sender.send_all(b"x")
        assert await wire.fill(ssl.MemoryBIO())
        assert most / 2 < _buffer(receiver) <= 2 * most
    await sender.aclose()
    await wire.close(b"")
