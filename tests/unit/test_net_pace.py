"""Limits of bandwidth: within 5 % over whatever load, shared by all connections, changed while bytes flow."""

import socket
import ssl
from collections.abc import Iterator, Sequence

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from p2pfs.net.pace import Pace
from p2pfs.net.paced import PacedWire, wire_of
from p2pfs.net.wires import SocketWire, StreamWire, Wire
from p2pfs.runtime.clocks import SimulatedClock
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import KIB, MIB

pytestmark = pytest.mark.l0

MBIT = 125_000
FOR_S = 10.0
LARGE, SMALL = [MIB], [700]
LOADS = {
    "one large": [LARGE],
    "eight large": [LARGE] * 8,
    "one small": [SMALL],
    "many small": [SMALL] * 40,
    "answers of every size": [[300, 65_552, 4_000, 131_104, 20_000]] * 5,
    "small ones beside large ones": [LARGE] * 4 + [SMALL] * 20,
}


_open: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def _pair(pace: Pace) -> tuple[Wire, Wire]:
    """A paced socket and a plain one, whose bytes pass within the call that sends them."""
    pair = socket.socketpair()
    _open.extend(pair)
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in pair)
    return wire_of(pace.over(ours)), wire_of(theirs)


async def _receive(wire: Wire) -> None:
    while await wire.fill(incoming := ssl.MemoryBIO(), 1):
        incoming.read()


async def _send(wire: Wire, sizes: Sequence[int]) -> None:
    """Bodies of these sizes over and over, as TLS sends them: what does not go at once is waited for."""
    while True:
        for size in sizes:
            data = memoryview(bytes(size))
            sent = wire.write_nowait(data) if size < 128 * KIB else 0
            if sent < size:
                await wire.write(data[sent:])
            await trio.lowlevel.checkpoint()


async def _rate(loads: Sequence[Sequence[int]], pace: Pace, limit: RateLimit) -> float:
    """Bytes a second over FOR_S, from when the loads began after a pause, as the sockets count them."""
    await trio.sleep(60)
    wires = list[PacedWire]()
    with trio.move_on_after(FOR_S):
        async with trio.open_nursery() as nursery:
            for sizes in loads:
                paced, plain = _pair(pace)
                assert isinstance(paced, PacedWire)
                wires.append(paced)
                sender, receiver = (paced, plain) if limit is pace.up else (plain, paced)
                nursery.start_soon(_send, sender, sizes)
                nursery.start_soon(_receive, receiver)
    return sum(wire._sent if limit is pace.up else wire._received for wire in wires) / FOR_S


@pytest.mark.parametrize("rate", [MBIT, 20 * MBIT])
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("load", LOADS)
async def test_a_limit_is_kept_within_five_percent(load: str, way: str, rate: int, autojump_clock: MockClock) -> None:
    pace = Pace.unlimited(SimulatedClock())
    limit: RateLimit = getattr(pace, way)
    limit.rate = rate
    assert await _rate(LOADS[load], pace, limit) == pytest.approx(rate, rel=0.05)


async def test_the_limits_of_both_ways_do_not_touch_each_other(autojump_clock: MockClock) -> None:
    pace = Pace.unlimited(SimulatedClock())
    pace.up.rate, pace.down.rate = 8 * MBIT, 40 * MBIT
    both: list[float] = []

    async def measure(limit: RateLimit) -> None:
        both.append(await _rate([LARGE] * 3, pace, limit) / (limit.rate or 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure, pace.up)
        nursery.start_soon(measure, pace.down)
    assert both == [pytest.approx(1, rel=0.05)] * 2


async def test_a_new_limit_counts_for_a_body_under_way(autojump_clock: MockClock) -> None:
    pace = Pace.unlimited(SimulatedClock())
    pace.up.rate = MBIT
    paced, plain = _pair(pace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, paced, LARGE)
        nursery.start_soon(_receive, plain)
        for rate in (MBIT, 16 * MBIT, 2 * MBIT):
            pace.up.rate = rate
            before = pace.up.taken
            await trio.sleep(FOR_S)
            assert (pace.up.taken - before) / FOR_S == pytest.approx(rate, rel=0.05)
        nursery.cancel_scope.cancel()


async def test_what_is_small_does_not_wait_behind_what_is_large(autojump_clock: MockClock) -> None:
    """A heartbeat gets through while forty connections send chunks over a thin uplink."""
    pace = Pace.unlimited(SimulatedClock())
    pace.up.rate = 4 * MBIT
    heartbeat, coordinator = _pair(pace)
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            paced, plain = _pair(pace)
            nursery.start_soon(_send, paced, LARGE)
            nursery.start_soon(_receive, plain)
        nursery.start_soon(_receive, coordinator)
        await trio.sleep(5)
        began_s = trio.current_time()
        for _ in range(10):
            await heartbeat.write(bytes(900))
        assert trio.current_time() - began_s < 0.5
        nursery.cancel_scope.cancel()


async def test_connections_share_a_limit_evenly(autojump_clock: MockClock) -> None:
    pace = Pace.unlimited(SimulatedClock())
    pace.up.rate = pace.down.rate = 8 * MBIT
    async with trio.open_nursery() as nursery:
        pairs = [_pair(pace) for _ in range(10)]
        for at, (paced, plain) in enumerate(pairs):
            ends = (paced, plain) if at % 2 else (plain, paced)
            nursery.start_soon(_send, ends[0], LARGE)
            nursery.start_soon(_receive, ends[1])
        await trio.sleep(FOR_S)
        nursery.cancel_scope.cancel()
    for way in (0, 1):
        moved = [paced._sent + paced._received for paced, _ in pairs[way::2] if isinstance(paced, PacedWire)]
        assert len(moved) == 5
        assert max(moved) < 1.2 * min(moved)


async def test_without_a_limit_bytes_are_only_counted(autojump_clock: MockClock) -> None:
    pace = Pace.unlimited(SimulatedClock())
    paced, plain = _pair(pace)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_receive, plain)
        for size in (100, 3 * MIB, 70_000):
            await paced.write(bytes(size))
        await plain.write(bytes(50_000))
        assert await paced.fill(ssl.MemoryBIO())
        nursery.cancel_scope.cancel()
    assert (pace.up.taken, pace.down.taken) == (100 + 3 * MIB + 70_000, 50_000)
    assert trio.current_time() == began_s


async def test_only_sockets_are_paced(autojump_clock: MockClock) -> None:
    """What is spliced through somebody else goes over a socket that is, and must not count twice."""
    pace = Pace.unlimited(SimulatedClock())
    inside, _ = memory_stream_pair()
    assert pace.over(inside) is inside
    assert isinstance(wire_of(inside), StreamWire)
    ours, theirs = trio.socket.socketpair()
    assert isinstance(wire_of(pace.over(trio.SocketStream(ours))), PacedWire)
    assert type(wire_of(trio.SocketStream(theirs))) is SocketWire
    ours.close()
    theirs.close()
