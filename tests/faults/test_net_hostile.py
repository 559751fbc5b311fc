"""Hostile ends over real loopback TLS: whatever they send or withhold, others are served and stopping ends."""

import random
import resource
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from pki import TestAuthority, make_ca
from wired import Served, client_of, everything, raw_tls, serving

from p2pfs.net.identity import joining_context
from p2pfs.net.server import Limits
from p2pfs.net.tls import TlsStream
from p2pfs.types import KIB, MIB

pytestmark = pytest.mark.l3

QUICK = Limits(
    handshake_s=0.3,
    head_s=0.3,
    idle_s=0.5,
    transfer_grace_s=0.3,
    slowest_bytes_per_s=16 * MIB,
    members_slowest_bytes_per_s=16 * MIB,
    body_pause_s=0.3,
    linger_s=0.3,
)
SECONDS = 15.0
"""No test here may take longer to see its connection closed; the limits above make it a fraction."""


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


async def _still_serves(served: Served, ca: TestAuthority) -> None:
    """Others notice nothing."""
    with trio.fail_after(SECONDS):
        async with client_of(ca) as client:
            reply = await client.request(served.endpoint, "PUT", "/echo/x", parts=(b"fine",), timeout_s=SECONDS)
            assert bytes(reply.body) == b"fine"


async def _emptied(served: Served) -> None:
    with trio.fail_after(SECONDS):
        while served.server.connections:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def _says(served: Served, ca: TestAuthority, *pieces: bytes) -> bytes:
    """Everything the server answers to these bytes, and that it then closes."""
    stream = await raw_tls(served, None, ca)
    try:
        with trio.fail_after(SECONDS):
            for piece in pieces:
                await stream.send_all((piece,))
            return await everything(stream)
    finally:
        await stream.aclose()


HEAD = b"PUT /echo/x HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize("begins", [b"y: ", b"content-length: 1000000\r\n\r\n"], ids=["head", "body"])
async def test_a_client_that_dribbles(ca: TestAuthority, begins: bytes) -> None:
    async with serving(ca, limits=QUICK) as served:
        stream = await raw_tls(served, None, ca)
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:

                async def dribble() -> None:
                    while True:
                        await stream.send_all((b"x",))
                        await trio.sleep(0.02)

                await stream.send_all((HEAD + begins,))
                nursery.start_soon(dribble)
                answer = await everything(stream)
                nursery.cancel_scope.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")
        await stream.aclose()
        await _still_serves(served, ca)


async def test_a_reader_that_is_stuck(ca: TestAuthority) -> None:
    async with serving(ca, limits=QUICK) as served:
        stream = await raw_tls(served, None, ca)
        await stream.send_all((b"GET /fetch/30000000 HTTP/1.1\r\nhost: x\r\n\r\n",))
        await _still_serves(served, ca)
        await _emptied(served)  # it never took the answer
        await stream.aclose()


async def test_a_reader_that_is_stuck_does_not_hold_up_stopping(ca: TestAuthority) -> None:
    async with serving(ca) as served:
        stream = await raw_tls(served, None, ca)
        await stream.send_all((b"GET /fetch/100000000 HTTP/1.1\r\nhost: x\r\n\r\n",))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        with trio.fail_after(SECONDS):
            assert await served.server.stop(0.2)
        await stream.aclose()


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        pytest.param((HEAD + b"y: " + b"z" * 20_000 + b"\r\n\r\n",), 431, id="an oversized head"),
        pytest.param((HEAD, *[b"y: z\r\n" * 1000] * 3), 431, id="endless headers"),
        pytest.param((b"\x00" * 17_000,), 431, id="zeros"),
        pytest.param((b"\r\n\r\n",), 400, id="an empty head"),
        pytest.param((b"SSH-2.0-OpenSSH_9.2\r\n\r\n",), 400, id="another protocol"),
        pytest.param((random.Random(5).randbytes(3000) + b"\r\n\r\n",), 400, id="noise"),
        pytest.param((HEAD + b"content-length: -1\r\n\r\n",), 400, id="a negative length"),
        pytest.param((HEAD + b"content-length: 99999999\r\n\r\n",), 413, id="a length beyond the limit"),
        pytest.param(
            (HEAD + b"content-length: 4\r\ncontent-length: 40\r\n\r\nGET /admin HTTP/1.1\r\nhost: x\r\n\r\n",),
            400,
            id="smuggling by two lengths",
        ),
        pytest.param(
            (HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n",),
            400,
            id="smuggling by length and chunks",
        ),
        pytest.param(
            (HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n",),
            501,
            id="smuggling by chunks",
        ),
        pytest.param(
            (HEAD + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",),
            400,
            id="smuggling by a vertical tab",
        ),
        pytest.param(
            (HEAD + b"content-length: 4\n\r\n\r\nabcdGET /admin HTTP/1.1\r\n\r\n",),
            400,
            id="smuggling by a bare line feed",
        ),
    ],
)
async def test_what_is_no_request_is_refused_once_and_closed(
    ca: TestAuthority, pieces: tuple[bytes, ...], status: int
) -> None:
    async with serving(ca, limits=QUICK) as served:
        answer = await _says(served, ca, *pieces)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1 ") == 1  # nothing behind it was taken for a request
        await _still_serves(served, ca)


async def test_a_body_shorter_than_it_says(ca: TestAuthority) -> None:
    async with serving(ca, limits=QUICK) as served:
        stream = await raw_tls(served, None, ca)
        await stream.send_all((HEAD + b"content-length: 10\r\n\r\nabc",))
        await stream.finish()
        with trio.fail_after(SECONDS):
            answer = await everything(stream)
        assert not answer.startswith(b"HTTP/1.1 200")
        await stream.aclose()
        await _still_serves(served, ca)


async def test_a_body_longer_than_it_says(ca: TestAuthority) -> None:
    async with serving(ca, limits=QUICK) as served:
        answer = await _says(served, ca, HEAD + b"content-length: 3\r\n\r\nabcdef\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\n\r\nabcHTTP/1.1 400 " in answer  # what follows is a request of its own, and none


async def test_a_half_closed_connection_gets_its_answer_and_its_end(ca: TestAuthority) -> None:
    async with serving(ca, limits=QUICK) as served:
        stream = await raw_tls(served, None, ca)
        await stream.send_all((HEAD + b"content-length: 3\r\n\r\nabc",))
        await stream.finish()
        with trio.fail_after(SECONDS):
            assert (await everything(stream)).endswith(b"abc")
        await _emptied(served)
        await stream.aclose()


async def test_connections_that_are_reset(ca: TestAuthority) -> None:
    """At the start, in a handshake, in a head, in a body, in an answer."""
    async with serving(ca, limits=QUICK) as served:
        for begin in (b"", b"GET /fe", HEAD + b"content-length: 100\r\n\r\nabc", b"GET /fetch/9999999 HTTP/1.1\r\n"):
            socket = await trio.open_tcp_stream("127.0.0.1", served.port)
            stream = TlsStream(socket, ca.issue().client(), server_side=False)
            await stream.do_handshake()
            await stream.send_all((begin + (b"host: x\r\n\r\n" if b"9999999" in begin else b""),))
            _reset(socket)
        socket = await trio.open_tcp_stream("127.0.0.1", served.port)
        await socket.send_all(b"\x16\x03\x01\x02")
        _reset(socket)
        _reset(await trio.open_tcp_stream("127.0.0.1", served.port))
        await _emptied(served)
        await _still_serves(served, ca)
        assert served.server.failures == 0


def _reset(stream: trio.SocketStream) -> None:
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, for 0 s: closing sends RST
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
    stream.socket.close()


async def test_strangers_below_and_beside_tls(ca: TestAuthority) -> None:
    async with serving(ca, limits=QUICK) as served:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b"", random.Random(6).randbytes(5000)):
            socket = await trio.open_tcp_stream("127.0.0.1", served.port)
            await socket.send_all(words)
            with trio.fail_after(SECONDS):
                answer = b""
                while piece := await _receive(socket):
                    answer += piece
            assert len(answer) < 100  # an alert at most
            await socket.aclose()
        nobody = TlsStream(await trio.open_tcp_stream("127.0.0.1", served.port), joining_context(), server_side=False)
        await nobody.do_handshake()  # its refusal comes with the first receive
        with pytest.raises(Exception, match="certificate required"), trio.fail_after(SECONDS):
            await nobody.receive_some()
        await nobody.aclose()
        await _emptied(served)
        await _still_serves(served, ca)


async def _receive(socket: trio.SocketStream) -> bytes:
    try:
        return bytes(await socket.receive_some(4096))
    except trio.BrokenResourceError:
        return b""


async def test_noise_between_good_requests_never_harms(ca: TestAuthority) -> None:
    """A seeded fuzz of the live server: heads cut, mixed and mutated; it answers or closes, and goes on."""
    chance = random.Random(7)
    good = HEAD + b"content-length: 5\r\n\r\nhello"
    words = [
        HEAD,
        good,
        b"\r\n",
        b"\r\n\r\n",
        b"content-length: 5\r\n",
        b"GET /fetch/9 HTTP/1.1\r\nhost: y\r\n\r\n",
        b"\x00",
    ]
    async with serving(ca, limits=QUICK) as served:
        mount = ca.issue()
        for _ in range(60):
            data = bytearray(b"".join(chance.choices(words, k=chance.randrange(1, 6))))
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            stream = await raw_tls(served, mount, ca)
            with trio.fail_after(SECONDS):
                await stream.send_all((data,))
                await stream.finish()
                answer = await everything(stream)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
            await stream.aclose()
        await _emptied(served)
        await _still_serves(served, ca)
        assert served.server.failures == 0


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_idle_connections(ca: TestAuthority) -> None:
    """They cost little, take nothing from others, and end with the server."""
    mount = ca.issue()
    context: ssl.SSLContext = mount.client()
    streams: list[TlsStream] = []
    before = _resident_bytes()
    async with serving(ca, limits=Limits(per_node=2000)) as served:

        async def dial() -> None:
            for _ in range(50):
                socket = await trio.open_tcp_stream("127.0.0.1", served.port)
                stream = TlsStream(socket, context, server_side=False)
                await stream.do_handshake()
                streams.append(stream)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(dial)
            assert len(streams) == 1000
            await _still_serves(served, ca)
            while served.server.connections < 1000:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert (_resident_bytes() - before) / 1000 < 200 * KIB  # for both ends
            await streams[500].send_all((HEAD + b"content-length: 2\r\n\r\nhi",))
            assert (await streams[500].receive_some()).startswith(b"HTTP/1.1 200 ")
            assert await served.server.stop(1)
            for stream in streams:
                assert await stream.receive_some() == b""
                await stream.aclose()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_flood_of_silent_strangers_does_not_keep_members_out(ca: TestAuthority) -> None:
    async with serving(ca, limits=Limits(strangers=20)) as served:
        sockets = [await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(100)]
        await _still_serves(served, ca)
        assert served.server.connections <= 25
        for socket in sockets:
            await socket.aclose()
