"""Deadlines, on trio's own clock: nothing the other end does or leaves undone is waited for without a bound."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from pki import TestAuthority, make_ca
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from wired import HANDLERS, ROUTES, Pair, client_of, connector, everything, memory_server

from p2pfs import errors
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.messages import Patience, TooSlow
from p2pfs.net.server import Limits, Request, Response, Server
from p2pfs.net.tls import TlsStream
from p2pfs.net.watch import Watch
from p2pfs.types import KIB, MIB

pytestmark = pytest.mark.l0


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


@asynccontextmanager
async def _raw(
    ca: TestAuthority, server: Server, pair: Pair = memory_stream_pair
) -> AsyncIterator[tuple[TlsStream, trio.Event]]:
    """A hostile client's connection, and an event that is set when the server is done with it."""
    ours, theirs = pair()
    done = trio.Event()

    async def serve() -> None:
        await server.accept(theirs)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        stream = TlsStream(ours, ca.issue().client(), server_side=False)
        await stream.do_handshake()
        yield stream, done
        await stream.aclose()


async def test_who_connects_and_says_nothing_is_closed(ca: TestAuthority, autojump_clock: MockClock) -> None:
    server, _ = memory_server(ca)
    _ours, theirs = memory_stream_pair()
    began = trio.current_time()
    await server.accept(theirs)
    assert trio.current_time() - began == pytest.approx(Limits().handshake_s, abs=2.1)


async def test_who_is_idle_is_closed(ca: TestAuthority, autojump_clock: MockClock) -> None:
    server, _ = memory_server(ca)
    async with _raw(ca, server) as (stream, done):
        began = trio.current_time()
        assert await everything(stream) == b""
        await done.wait()
        assert trio.current_time() - began == pytest.approx(Limits().idle_s, abs=0.1)


async def test_a_dribbled_head_has_a_deadline(ca: TestAuthority, autojump_clock: MockClock) -> None:
    server, _ = memory_server(ca)
    async with _raw(ca, server) as (stream, done):
        began = trio.current_time()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def dribble() -> None:
                    for byte in b"GET /fetch/1 HTTP/1.1\r\nhost: " + b"x" * 1000:
                        await stream.send_all((bytes([byte]),))
                        await trio.sleep(1)

                nursery.start_soon(dribble)
                answer = await everything(stream)
                scope.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began == pytest.approx(Limits().head_s, abs=2.5)
    await done.wait()


async def test_a_dribbled_body_has_a_deadline(ca: TestAuthority, autojump_clock: MockClock) -> None:
    server, _ = memory_server(ca)
    async with _raw(ca, server) as (stream, done):
        began = trio.current_time()
        await stream.send_all((b"PUT /echo/x HTTP/1.1\r\nhost: x\r\ncontent-length: 655360\r\n\r\n",))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def dribble() -> None:
                    while True:
                        await stream.send_all((b"x" * 1024,))
                        await trio.sleep(1)

                nursery.start_soon(dribble)
                answer = await everything(stream)
                scope.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began == pytest.approx(
            30 + 4, abs=3
        )  # 30 s, and those that 30 KiB at 8 KiB/s earn
    await done.wait()


async def test_a_body_at_the_slowest_rate_passes(ca: TestAuthority, autojump_clock: MockClock) -> None:
    server, _ = memory_server(ca)
    async with _raw(ca, server) as (stream, _done):
        await stream.send_all((b"PUT /echo/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n",))
        for _ in range(5):
            await trio.sleep(25)
            await stream.send_all((bytes(MIB // 5),))
        await stream.send_all((bytes(MIB % 5),))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_who_does_not_take_the_answer_is_closed(ca: TestAuthority, autojump_clock: MockClock) -> None:
    server, _ = memory_server(ca)
    async with _raw(ca, server, lockstep_stream_pair) as (stream, done):
        await stream.send_all((b"GET /fetch/1048576 HTTP/1.1\r\nhost: x\r\n\r\n",))
        began = trio.current_time()
        await done.wait()
        assert trio.current_time() - began == pytest.approx(Limits().transfer_s(MIB), abs=3)
        assert server.connections == 0


async def test_a_handler_that_never_answers_is_given_up(ca: TestAuthority, autojump_clock: MockClock) -> None:
    async def stuck(_request: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    server, endpoint = memory_server(ca, {**HANDLERS, "fetch": stuck})
    async with trio.open_nursery() as nursery, client_of(ca, connect=connector(server, nursery)) as client:
        began = trio.current_time()
        with pytest.raises(errors.Unavailable, match="fetch took too long"):
            await client.request(endpoint, "GET", "/fetch/1", timeout_s=1000)
        assert trio.current_time() - began == pytest.approx(Limits().handler_s + Limits().transfer_s(0), abs=0.1)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_stopping_ends_at_the_deadline_whatever_handlers_do(
    ca: TestAuthority, autojump_clock: MockClock, stubborn: bool
) -> None:
    release = trio.Event()

    async def stuck(_request: Request) -> Response:
        with trio.CancelScope(shield=stubborn):
            await release.wait()
        raise AssertionError

    server, endpoint = memory_server(ca, {**HANDLERS, "fetch": stuck})
    async with trio.open_nursery() as nursery, client_of(ca, connect=connector(server, nursery)) as client:

        async def ask() -> None:
            with pytest.raises(errors.Unavailable):
                await client.request(endpoint, "GET", "/fetch/1", timeout_s=30, idempotent=False)

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        ended = await server.stop(5)
        assert trio.current_time() - began == pytest.approx(6 if stubborn else 5, abs=0.1)
        assert ended is not stubborn
        await client.aclose()
        if stubborn:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("p2pfs.net.server._log.exception", lambda *_: None)
                release.set()
                await wait_all_tasks_blocked()
        assert server.connections == 0


async def test_stopping_ends_handshakes_and_half_heads_at_once(ca: TestAuthority, autojump_clock: MockClock) -> None:
    server, _ = memory_server(ca)
    async with trio.open_nursery() as nursery, _raw(ca, server) as (stream, done):
        _ours, theirs = memory_stream_pair()
        nursery.start_soon(server.accept, theirs)
        await stream.send_all((b"GET /fe",))
        await wait_all_tasks_blocked()
        assert server.connections == 2
        began = trio.current_time()
        assert await server.stop(5)
        await done.wait()
        assert trio.current_time() - began <= 1.1


async def test_a_byte_at_the_very_last_moment_gains_nothing(autojump_clock: MockClock) -> None:
    """The allowance may be overdrawn by what arrives together with the deadline; the next byte is too late."""

    class AtTheLastMoment:
        async def receive_into(self, view: memoryview, expected: int = 1) -> int:
            with trio.CancelScope(shield=True):
                await trio.sleep(11)
            view[:1] = b"x"
            return 1

        def arrived(self) -> int:
            return 1

        def waiting_bytes(self, size: int) -> None:
            return None

    request = Request(ROUTES[0], {}, content_length=3, source=AtTheLastMoment(), patience=Patience(10, 8 * KIB))
    assert await request.receive_into(memoryview(bytearray(3))) == 1
    with pytest.raises(TooSlow):
        await request.receive_into(memoryview(bytearray(3)))


async def test_what_has_arrived_earns_time_also_before_anybody_is_woken_for_it(autojump_clock: MockClock) -> None:
    """A socket that is to be full enough before its reader is woken: 9 KiB a second are enough, one is not."""

    class Slow:
        def __init__(self, bytes_per_s: int) -> None:
            self.bytes_per_s = bytes_per_s

        def arrived(self) -> int:
            return int(self.bytes_per_s * trio.current_time()) + 12345

        async def receive_into(self, view: memoryview, expected: int = 1) -> int:
            await trio.sleep_until(len(view) / self.bytes_per_s)
            return len(view)

        def waiting_bytes(self, size: int) -> None:
            return None

    def request(kib_per_s: int) -> Request:
        source = Slow(kib_per_s * KIB)
        return Request(ROUTES[0], {}, content_length=MIB, source=source, patience=Patience(30, 8 * KIB))

    with pytest.raises(TooSlow):
        await request(1).fill(memoryview(bytearray(MIB)))
    assert trio.current_time() < 40
    assert await request(9).fill(memoryview(bytearray(MIB))) == MIB


async def test_a_deadline_that_is_over_already_is_no_error_of_its_own(
    ca: TestAuthority, autojump_clock: MockClock
) -> None:
    server, endpoint = memory_server(ca)
    async with trio.open_nursery() as nursery, client_of(ca, connect=connector(server, nursery)) as client:
        with pytest.raises(errors.Unavailable):
            await client.request(endpoint, "GET", "/fetch/1", timeout_s=-1)


# ---- the client's own deadlines ---------------------------------------------------------------------------------


async def test_a_request_has_a_deadline(ca: TestAuthority, autojump_clock: MockClock) -> None:
    async def slow(_request: Request) -> Response:
        await trio.sleep(5)
        return Response(200, b"late")

    server, endpoint = memory_server(ca, {**HANDLERS, "fetch": slow})
    async with trio.open_nursery() as nursery, client_of(ca, connect=connector(server, nursery)) as client:
        began = trio.current_time()
        with pytest.raises(errors.Unavailable, match="within 3 s"):
            await client.request(endpoint, "GET", "/fetch/1", timeout_s=3)
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)
        with pytest.raises(errors.Unavailable, match="nothing moved for 1 s"):
            await client.request(endpoint, "GET", "/fetch/1", timeout_s=30, idle_s=1)
        assert trio.current_time() - began == pytest.approx(4, abs=0.1)
        assert repr(client) == "Client(0 busy, 0 idle)"
        reply = await client.request(endpoint, "GET", "/fetch/1", timeout_s=30, idle_s=6)
        assert bytes(reply.body) == b"late"


async def test_a_stalled_request_is_not_tried_again(ca: TestAuthority, autojump_clock: MockClock) -> None:
    """A pooled connection to a node that stopped costs one wait, not two."""
    calls = 0

    async def first_only(_request: Request) -> Response:
        nonlocal calls
        calls += 1
        if calls > 1:
            await trio.sleep_forever()
        return Response(200, b"ok")

    server, endpoint = memory_server(ca, {**HANDLERS, "fetch": first_only})
    async with trio.open_nursery() as nursery, client_of(ca, connect=connector(server, nursery)) as client:
        await client.request(endpoint, "GET", "/fetch/1", timeout_s=30)
        began = trio.current_time()
        with pytest.raises(errors.Unavailable, match="nothing moved"):
            await client.request(endpoint, "GET", "/fetch/1", timeout_s=30, idle_s=1)
        assert trio.current_time() - began == pytest.approx(1, abs=0.1)
        assert calls == 2
        nursery.cancel_scope.cancel()


async def test_every_address_gets_its_second(ca: TestAuthority, autojump_clock: MockClock) -> None:
    """The first address does not answer, the second hangs in the handshake, the third is the node."""
    server, endpoint = memory_server(ca)
    held: list[trio.abc.Stream] = []
    async with trio.open_nursery() as nursery:
        good = connector(server, nursery)

        async def connect(host: str, port: int) -> trio.abc.Stream:
            if port == 1:
                await trio.sleep_forever()
            if port == 2:
                ours, theirs = memory_stream_pair()
                held.append(theirs)
                return ours
            stream: trio.abc.Stream = await good(host, port)
            return stream

        three = Endpoint(endpoint.node, endpoint.role, ("m:1", "m:2", "m:3"))
        async with client_of(ca, connect=connect) as client:
            began = trio.current_time()
            await client.request(three, "GET", "/fetch/1", timeout_s=30)
            assert trio.current_time() - began == pytest.approx(2, abs=0.1)
            two = Endpoint(endpoint.node, endpoint.role, ("m:1", "m:2"))
            await client.aclose()
        async with client_of(ca, connect=connect) as client:
            with pytest.raises(errors.Unavailable, match="no answer within 1 s"):
                await client.request(two, "GET", "/fetch/1", timeout_s=30)


async def test_waiting_for_a_free_connection_is_bounded(ca: TestAuthority, autojump_clock: MockClock) -> None:
    async def slow(_request: Request) -> Response:
        await trio.sleep(10)
        return Response(200, b"ok")

    server, endpoint = memory_server(ca, {**HANDLERS, "fetch": slow})
    async with (
        trio.open_nursery() as nursery,
        client_of(ca, connect=connector(server, nursery), connections_per_node=1) as client,
    ):
        began = trio.current_time()
        async with trio.open_nursery() as first:

            async def ask(client: Client) -> None:
                await client.request(endpoint, "GET", "/fetch/1", timeout_s=30)

            first.start_soon(ask, client)
            await wait_all_tasks_blocked()
            with pytest.raises(errors.Unavailable):
                await client.request(endpoint, "GET", "/fetch/1", timeout_s=2)
            assert trio.current_time() - began == pytest.approx(2, abs=0.1)
        await client.request(endpoint, "PUT", "/echo/x", timeout_s=2)


async def test_connections_idle_for_long_are_closed(ca: TestAuthority, autojump_clock: MockClock) -> None:
    server, endpoint = memory_server(ca)
    other, elsewhere = memory_server(ca)
    async with trio.open_nursery() as nursery:
        to_server, to_other = connector(server, nursery), connector(other, nursery)

        async def connect(host: str, port: int) -> trio.abc.Stream:
            stream: trio.abc.Stream = await (to_server if port == 1 else to_other)(host, port)
            return stream

        async with client_of(ca, connect=connect) as client:
            await client.request(endpoint, "GET", "/fetch/1", timeout_s=2)
            await trio.sleep(31)
            there = Endpoint(elsewhere.node, elsewhere.role, ("m:2",))
            await client.request(there, "GET", "/fetch/1", timeout_s=2)
            assert repr(client) == "Client(0 busy, 1 idle)"
            await wait_all_tasks_blocked()
            assert server.connections == 0


async def test_how_far_a_request_has_come_can_be_seen(ca: TestAuthority, autojump_clock: MockClock) -> None:
    """What was sent counts only where there is a body: anybody's system acknowledges a head."""
    seen: list[int] = []
    watches = [Watch(), Watch(), Watch()]

    async def look(request: Request) -> Response:
        await request.body()
        seen.append(watches[len(seen)].moved())
        return Response(200, bytes(1000))

    server, endpoint = memory_server(ca, {**HANDLERS, "fetch": look, "echo": look})
    async with trio.open_nursery() as nursery, client_of(ca, connect=connector(server, nursery)) as client:
        await client.request(endpoint, "GET", "/fetch/1", timeout_s=3, watch=watches[0])
        await client.request(endpoint, "PUT", "/echo/x", parts=(bytes(5000),), timeout_s=3, watch=watches[1])
        moved = [watch.moved() for watch in watches]
        await client.request(endpoint, "GET", "/fetch/1", timeout_s=3, raw=True)  # another's bytes
        assert [watch.moved() for watch in watches] == moved  # the third was not handed down
        nursery.cancel_scope.cancel()
    assert seen[0] == 0
    assert 5000 < seen[1] < 6000
    assert 1000 < moved[0] < 2000
    assert 6000 < moved[1] < 7500
