"""The TLS stream: bytes arrive whole and in order, cancelling loses nothing, closing ends."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from pki import TestAuthority, make_ca
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from p2pfs.errors import Misuse, Unavailable
from p2pfs.net.inbox import Inbox
from p2pfs.net.tls import TlsStream
from p2pfs.net.wires import Stall
from p2pfs.types import MIB, Role

pytestmark = pytest.mark.l0


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


async def _secured(ca: TestAuthority, ours: trio.abc.Stream, theirs: trio.abc.Stream) -> tuple[TlsStream, TlsStream]:
    client = TlsStream(ours, ca.issue().client(), server_side=False)
    server = TlsStream(theirs, ca.issue(roles=(Role.PEER,)).server(), server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    return client, server


@asynccontextmanager
async def _pair(ca: TestAuthority, kind: str) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Two ends over a loopback socket or over memory."""
    if kind == "memory":
        ours, theirs = memory_stream_pair()
        client, server = await _secured(ca, ours, theirs)
    else:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        dialled = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        client, server = await _secured(ca, dialled, await listener.accept())
        await listener.aclose()
    try:
        yield client, server
    finally:
        await client.aclose()
        await server.aclose()


async def _read(stream: TlsStream, size: int, step: int = 300_000) -> bytes:
    data = bytearray(size)
    at = 0
    while at < size:
        count = await stream.receive_into(memoryview(data)[at : at + step])
        assert count
        at += count
    return bytes(data)


@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_bytes_arrive_whole_and_in_order_both_ways_at_once(ca: TestAuthority, kind: str) -> None:
    chance = random.Random(1)
    data = chance.randbytes(3 * MIB + 17)
    cuts = sorted(chance.randrange(len(data)) for _ in range(40))
    view = memoryview(data)
    parts = [view[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    got: dict[str, bytes] = {}

    async def receive(name: str, stream: TlsStream) -> None:
        got[name] = await _read(stream, len(data), chance.randrange(1, 400_000))

    async with _pair(ca, kind) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(receive, "server", server)
        nursery.start_soon(receive, "client", client)
        nursery.start_soon(client.send_all, parts)
        nursery.start_soon(server.send_all, [data])
    assert got["server"] == got["client"] == data


@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_what_the_kernel_does_not_take_at_once_goes_first_the_next_time(ca: TestAuthority, kind: str) -> None:
    sent = b""
    async with _pair(ca, kind) as (client, server), trio.open_nursery() as nursery:
        for number in range(200):  # more than any socket has room for, and more calls in a row than one may make
            piece = bytes([number]) * 100_000
            sent += piece
            if not client.send_nowait((piece[:10], b"", piece[10:])):
                break
        else:
            pytest.fail("all of it cannot have gone out")
        sent += b"behind" + b"the last"
        assert not client.send_nowait((b"behind",))
        nursery.start_soon(client.send_all, (b"the last",))
        assert await _read(server, len(sent)) == sent


async def test_who_sends_again_and_again_without_waiting_must_let_others_run(ca: TestAuthority) -> None:
    async with _pair(ca, "socket") as (client, server):
        calls = 1
        while client.send_nowait((b"a little",)):
            calls += 1
            assert calls < 100
        await client.send_all(())
        assert await _read(server, 8 * calls) == b"a little" * calls


@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_the_end_is_told(ca: TestAuthority, kind: str) -> None:
    async with _pair(ca, kind) as (client, server):
        await client.send_all((b"last",))
        await client.aclose()
        assert await server.receive_some() == b"last"
        assert await server.receive_some() == b""
        assert await server.receive_into(memoryview(bytearray(1))) == 0
        with pytest.raises(Unavailable):
            await client.receive_some()


@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_who_finishes_can_still_receive(ca: TestAuthority, kind: str) -> None:
    async with _pair(ca, kind) as (client, server):
        await client.send_all((b"question",))
        await client.finish()
        assert await server.receive_some() == b"question"
        assert await server.receive_some() == b""
        await server.send_all((b"answer",))
        assert await client.receive_some() == b"answer"


@pytest.mark.parametrize("kind", ["memory", "socket"])
async def test_a_cancelled_receive_loses_nothing(ca: TestAuthority, kind: str) -> None:
    async with _pair(ca, kind) as (client, server):
        chance = random.Random(2)
        data = chance.randbytes(200_000)
        got = bytearray()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for at in range(0, len(data), 1000):
                    await client.send_all((data[at : at + 1000],))
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(send)
            while len(got) < len(data):
                with trio.CancelScope() as scope:
                    nursery.start_soon(_cancel_soon, scope, chance.randrange(6))
                    got += await server.receive_some()
        assert bytes(got) == data


async def _cancel_soon(scope: trio.CancelScope, checkpoints: int) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_cancelled_send_leaves_a_stream_that_only_closes(ca: TestAuthority) -> None:
    async with _pair(ca, "socket") as (client, server):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, (bytes(64 * MIB),))
                await wait_all_tasks_blocked(0.01)
                scope.cancel()
        with pytest.raises(Misuse):
            await client.send_all((b"more",))
        await client.aclose()
        scratch = memoryview(bytearray(MIB))
        received = 0
        while count := await server.receive_into(scratch):
            received += count
        assert received < 64 * MIB


async def test_two_senders_at_once_are_refused(ca: TestAuthority) -> None:
    async with _pair(ca, "socket") as (client, _server), trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, (bytes(64 * MIB),))
        await wait_all_tasks_blocked(0.01)
        with pytest.raises(Misuse):
            await client.send_all((b"x",))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("position", [0, 5, 100])
async def test_altered_bytes_break_the_connection(ca: TestAuthority, position: int) -> None:
    ours, theirs = memory_stream_pair()
    client, server = await _secured(ca, ours, theirs)
    await client.send_all((b"x" * 200,))
    pending = bytearray(await theirs.receive_some())
    pending[position] ^= 1
    theirs.receive_stream.put_data(pending)
    with pytest.raises(Unavailable):
        await server.receive_some()
    await client.aclose()
    await server.aclose()


async def test_what_is_no_tls_is_refused(ca: TestAuthority) -> None:
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"a" * 65535):
        ours, theirs = memory_stream_pair()
        server = TlsStream(theirs, ca.issue(roles=(Role.PEER,)).server(), server_side=True)
        await ours.send_all(rubbish)
        await ours.send_stream.aclose()
        with pytest.raises(Unavailable):
            await server.do_handshake()
        await server.aclose()
        await ours.aclose()


async def test_closing_ends_although_nobody_reads(ca: TestAuthority, autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()
    client, server = await _secured(ca, ours, theirs)
    began = trio.current_time()
    await client.aclose()
    assert trio.current_time() - began <= 1
    with trio.CancelScope() as scope:  # and although the closer is cancelled
        scope.cancel()
        await server.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await theirs.send_all(b"x")


async def test_who_expects_much_is_woken_when_it_is_there_and_loses_nothing(ca: TestAuthority) -> None:
    """A receiver that can do nothing with less sleeps while little has arrived; cancelled then, it has all of it still.
    What waits in part inside TLS, or in memory, never keeps it asleep."""
    data = random.Random(2).randbytes(300_000)
    async with _pair(ca, "socket") as (client, server):
        got = bytearray(len(data))
        view = memoryview(got)
        woken = False

        async def receive(scope: trio.CancelScope) -> None:
            nonlocal woken
            with scope:
                await server.receive_into(view, len(data))
                woken = True

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(receive, scope)
            await wait_all_tasks_blocked()
            await client.send_all((data[:20_000],))
            await wait_all_tasks_blocked()
            assert not woken
            scope.cancel()
        at = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, (data[20_000:],))
            while at < len(data):
                at += await server.receive_into(view[at:], len(data) - at)
        assert got == data


async def test_an_idle_socket_is_seen_to_have_little_to_say_after_much_was_expected(ca: TestAuthority) -> None:
    async with _pair(ca, "socket") as (client, server):
        view = memoryview(bytearray(200_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_receive_all, server, view)
            await wait_all_tasks_blocked()
            await client.send_all((bytes(len(view)),))
        await client.send_all((b"x",))
        with trio.fail_after(5):
            while not server.is_readable():
                await trio.lowlevel.checkpoint()


async def _receive_all(stream: TlsStream, view: memoryview) -> None:
    at = 0
    while at < len(view):
        at += await stream.receive_into(view[at:], len(view) - at)


async def test_a_busy_connection_lets_other_tasks_run(ca: TestAuthority) -> None:
    """A receiver whose bytes are always there already still takes turns."""
    async with _pair(ca, "socket") as (client, server):
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async def ping_pong() -> None:
            buffer = memoryview(bytearray(10))
            for _ in range(320):  # each message is there when it is received: nothing ever waits
                await client.send_all((b"ping",))
                await server.receive_into(buffer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await ping_pong()
            nursery.cancel_scope.cancel()
        assert turns >= 20


async def test_a_stall_ends_a_scope_only_when_nothing_moves(ca: TestAuthority, autojump_clock: MockClock) -> None:
    async with _pair(ca, "memory") as (client, server):
        got = bytearray()

        async def dribble() -> None:
            for _ in range(20):
                await trio.sleep(0.9)
                await client.send_all((b"x",))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            with trio.CancelScope() as scope:
                server.stall = Stall(scope, 1.0)
                while True:
                    got += await server.receive_some()
        assert len(got) == 20
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(20 * 0.9 + 1.0, abs=0.2)


@pytest.mark.parametrize("kind", ["socket", "memory"])
async def test_bytes_that_travel_are_counted_before_anybody_takes_them(ca: TestAuthority, kind: str) -> None:
    async with _pair(ca, kind) as (client, server):
        arrived, moved = server.arrived(), client.moved()
        view = memoryview(bytearray(200_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_receive_all, server, view)  # on a socket it is woken for far more than what comes now
            await wait_all_tasks_blocked()
            await client.send_all((bytes(50_000),))
            with trio.fail_after(5):
                while server.arrived() - arrived < 50_000 or client.moved() - moved < 50_000:
                    await trio.lowlevel.checkpoint()
            await client.send_all((bytes(150_000),))
        assert server.arrived() - arrived < 202_000
    assert server.arrived() - arrived >= 200_000  # closed, it still knows


async def test_bytes_that_the_other_end_has_no_room_for_do_not_count_as_moved(ca: TestAuthority) -> None:
    async with _pair(ca, "socket") as (client, _server):
        moved = client.moved()
        with trio.move_on_after(0.05):  # nobody receives: it fills every buffer on the way
            await client.send_all((bytes(64 * MIB),))
        assert 0 < client.moved() - moved < client._wire._sent  # type: ignore[attr-defined]


async def test_an_idle_socket_that_has_something_to_say_is_seen(ca: TestAuthority) -> None:
    async with _pair(ca, "socket") as (client, server):
        assert not client.is_readable()
        await server.aclose()
        assert client.is_readable()
        await client.aclose()
        assert client.is_readable()


@pytest.mark.parametrize(("step", "size"), [(1, 500), (7, 3000), (1000, 40_000), (20_000, 400_000)])
async def test_heads_and_bodies_are_told_apart_however_they_arrive(ca: TestAuthority, step: int, size: int) -> None:
    async with _pair(ca, "memory") as (client, server):
        body = random.Random(3).randbytes(size)
        message = f"PUT / HTTP/1.1\r\ncontent-length: {size}\r\n\r\n".encode()
        stream = (message + body) * 2 + message

        async def send() -> None:
            for at in range(0, len(stream), step):
                await client.send_all((stream[at : at + step],))
            await client.finish()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            inbox = Inbox(server)
            for _ in range(2):
                assert await inbox.head() == message
                got = bytearray(len(body))
                at = 0
                while at < len(body):
                    at += await inbox.receive_into(memoryview(got)[at : at + 9999])
                assert got == body
            assert await inbox.arrival()
            assert await inbox.head() == message
            assert not await inbox.arrival()
            assert await inbox.head() is None
