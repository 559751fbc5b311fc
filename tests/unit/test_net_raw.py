"""A connection leaves HTTP: 101, then bytes of no meaning, and who may ask for it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from pki import TestAuthority, make_ca
from wired import EVERYONE, HANDLERS, ROUTES, client_of, everything, raw_tls, serving

from p2pfs.errors import Misuse, NotFound, Unavailable
from p2pfs.net.raw import RawStream
from p2pfs.net.server import Handler, Limits, Request, Response
from p2pfs.wire.routes import Route

pytestmark = pytest.mark.l0

RAW_ROUTES = (*ROUTES, Route("raw", "POST", "/raw/{what}", EVERYONE))
HEAD = b"POST /raw/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: upgrade\r\nupgrade: p2pfs-raw\r\n\r\n"


async def shout(stream: RawStream) -> None:
    """Give back what comes, in capitals, until its end."""
    while data := await stream.receive_some():
        await stream.send_all(data.upper())


async def raw(request: Request) -> Response:
    request.expect_upgrade()
    await request.body()
    if request.parameters["what"] == "nothing":
        return Response(204)
    if request.parameters["what"] == "refused":
        raise NotFound("nobody here")
    if request.parameters["what"] == "plain":
        return Response(200, b"plain")
    return Response.switching(shout)


RAW: Mapping[str, Handler] = {**HANDLERS, "raw": raw}


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


async def test_bytes_go_both_ways_after_the_answer(ca: TestAuthority) -> None:
    async with serving(ca, RAW, routes=RAW_ROUTES) as served, client_of(ca) as client:
        stream = await (await client.open(served.endpoint)).upgrade("/raw/echo", b"body")
        assert stream is not None
        size, received = 1 << 20, bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b"a" * size)
            while len(received) < size:
                received += await stream.receive_some()
        assert received == b"A" * size
        assert not stream.is_readable()
        await stream.send_eof()
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_bytes_that_came_with_the_head_are_not_lost(ca: TestAuthority) -> None:
    async with serving(ca, RAW, routes=RAW_ROUTES) as served:
        stream = await raw_tls(served, None, ca)
        await stream.send_all((HEAD + b"early",))
        await stream.finish()
        answer = await everything(stream)
        assert answer == (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: p2pfs-raw\r\n\r\nEARLY")
        await stream.aclose()


async def test_an_answer_without_a_stream_leaves_the_connection_usable(ca: TestAuthority) -> None:
    async with serving(ca, RAW, routes=RAW_ROUTES) as served, client_of(ca) as client:
        connection = await client.open(served.endpoint)
        assert await connection.upgrade("/raw/nothing") is None
        assert connection.is_usable()
        stream = await connection.upgrade("/raw/echo")
        assert stream is not None
        await stream.aclose()


async def test_a_refusal_is_raised_and_a_plain_answer_is_none(ca: TestAuthority) -> None:
    async with serving(ca, RAW, routes=RAW_ROUTES) as served, client_of(ca) as client:
        connection = await client.open(served.endpoint)
        with pytest.raises(NotFound, match="nobody here"):
            await connection.upgrade("/raw/refused")
        await connection.aclose()
        connection = await client.open(served.endpoint)
        with pytest.raises(Unavailable, match="no raw stream"):
            await connection.upgrade("/raw/plain")
        await connection.aclose()


async def test_who_does_not_ask_for_it_does_not_get_it(ca: TestAuthority) -> None:
    async with serving(ca, RAW, routes=RAW_ROUTES) as served, client_of(ca) as client:
        with pytest.raises(Misuse, match="Upgrade"):
            await client.request(served.endpoint, "POST", "/raw/echo", timeout_s=5)


async def test_no_other_protocol_is_spoken(ca: TestAuthority) -> None:
    async with serving(ca, RAW, routes=RAW_ROUTES) as served:
        stream = await raw_tls(served, None, ca)
        await stream.send_all((HEAD.replace(b"p2pfs-raw", b"websocket"),))
        assert (await everything(stream)).startswith(b"HTTP/1.1 400 ")
        await stream.aclose()


async def test_a_raw_stream_takes_no_place_from_its_nodes_requests(ca: TestAuthority) -> None:
    async with (
        serving(ca, RAW, routes=RAW_ROUTES, limits=Limits(per_node=2)) as served,
        client_of(ca) as client,
    ):
        streams = [await (await client.open(served.endpoint)).upgrade("/raw/echo") for _ in range(5)]
        reply = await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        assert reply.status == 200
        for stream in streams:
            assert stream is not None
            await stream.aclose()


async def test_stopping_ends_raw_streams_within_the_deadline(ca: TestAuthority) -> None:
    async with serving(ca, RAW, routes=RAW_ROUTES) as served, client_of(ca) as client:
        stream = await (await client.open(served.endpoint)).upgrade("/raw/echo")
        assert stream is not None
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"X"
        with trio.fail_after(3):
            assert await served.server.stop(0.1)
            assert await stream.receive_some() == b""
        await stream.aclose()
