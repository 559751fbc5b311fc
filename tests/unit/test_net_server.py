"""Server and client together over loopback TLS: requests, errors, roles, keep-alive, stopping."""

import logging
from pathlib import Path

import pytest
import trio
from pki import TestAuthority, make_ca
from plugins.checklogs import Claims
from trio.testing import wait_all_tasks_blocked
from wired import EVERYONE, HANDLERS, ROUTES, client_of, everything, raw_tls, serving

from p2pfs import errors
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.identity import Identity, Revocations, joining_context
from p2pfs.net.server import Limits, Request, Response, Server
from p2pfs.net.tls import TlsStream
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import MIB, Role
from p2pfs.wire import codec
from p2pfs.wire.membership import Revocations as RevocationList
from p2pfs.wire.routes import Route

pytestmark = pytest.mark.l0


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


async def test_bodies_go_both_ways_whole(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca) as client:
        for size in (0, 1, 16384, 16385, 262144, MIB):
            body = bytes(range(256)) * (size // 256 + 1)
            parts = (body[: size // 3], body[size // 3 : size])
            reply = await client.request(served.endpoint, "PUT", "/echo/x", parts=parts, timeout_s=10)
            assert (reply.status, bytes(reply.body)) == (200, body[:size])


async def test_a_body_is_received_in_place(ca: TestAuthority) -> None:
    buffer = bytearray(b"\xff" * 200)
    async with serving(ca) as served, client_of(ca) as client:
        reply = await client.request(served.endpoint, "GET", "/fetch/150", into=memoryview(buffer), timeout_s=10)
        assert len(reply.body) == 150
        assert reply.body.obj is buffer
        assert buffer == bytes(150) + b"\xff" * 50
        with pytest.raises(errors.Unavailable, match="more than was asked for"):
            await client.request(served.endpoint, "GET", "/fetch/201", into=memoryview(buffer), timeout_s=10)


async def test_a_head_answer_tells_the_length_and_has_no_body(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca) as client:
        for _ in range(2):  # the connection stays usable
            reply = await client.request(served.endpoint, "HEAD", "/fetch/1234", timeout_s=10)
            assert (reply.status, reply.headers["content-length"], len(reply.body)) == (200, "1234", 0)
        assert repr(client) == "Client(0 busy, 1 idle)"


async def test_messages_are_called_and_answered(ca: TestAuthority) -> None:
    async def echo(request: Request) -> Response:
        return Response.of(await request.message(list[int]))

    async with serving(ca, {"echo": echo}) as served, client_of(ca) as client:
        assert await client.call(served.endpoint, "PUT", "/echo/x", [1, 2], list[int]) == [1, 2]
        with pytest.raises(errors.Misuse):
            await client.call(served.endpoint, "PUT", "/echo/x", "text", list[int])
        with pytest.raises(errors.Misuse):
            await client.call(served.endpoint, "PUT", "/echo/x", [1], dict[str, str])


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("no such chunk"),
        errors.NoSpace("full"),
        errors.Gone("being purged"),
        errors.Fenced("old session"),
        errors.Corrupt("damaged"),
        errors.Unavailable("later"),
        errors.Denied("not yours"),
    ],
)
async def test_what_a_handler_raises_the_caller_raises(ca: TestAuthority, error: errors.PoolError) -> None:
    async def fail(_request: Request) -> Response:
        raise error

    async with serving(ca, {"fetch": fail}) as served, client_of(ca) as client:
        with pytest.raises(type(error), match=str(error)):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)
        assert repr(client) == "Client(0 busy, 1 idle)"


async def test_an_unexpected_exception_is_logged_once_and_the_server_lives(
    ca: TestAuthority, claim_logs: Claims
) -> None:
    claim_logs(r"Request\(fetch.*failed unexpectedly", count=1)

    async def fail(_request: Request) -> Response:
        raise KeyError("secret detail")

    async with serving(ca, {"fetch": fail, "echo": HANDLERS["echo"]}) as served, client_of(ca) as client:
        reply = await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10, raw=True)
        assert reply.status == 500
        assert b"secret" not in bytes(reply.body)
        reply = await client.request(served.endpoint, "PUT", "/echo/x", parts=(b"1",), timeout_s=10)
        assert bytes(reply.body) == b"1"
        assert (served.server.requests, served.server.failures) == (2, 1)


async def test_roles_are_those_of_the_table(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca, Role.CLIENT) as client, client_of(ca, Role.ADMIN) as admin:
        with pytest.raises(errors.Denied, match="role admin"):
            await client.request(served.endpoint, "GET", "/admin", timeout_s=10)
        with pytest.raises(errors.Denied, match="role client or peer"):
            await admin.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)
        await admin.request(served.endpoint, "GET", "/admin", timeout_s=10)
        with pytest.raises(errors.NotFound):
            await admin.request(served.endpoint, "GET", "/nowhere", timeout_s=10)
        with pytest.raises(errors.NotFound):
            await admin.request(served.endpoint, "DELETE", "/admin", timeout_s=10)


async def test_strangers_get_only_what_is_for_anybody(ca: TestAuthority) -> None:
    async with serving(ca, client_certificate="optional") as served:

        async def ask(request: bytes) -> bytes:
            context = joining_context()
            stream = TlsStream(await trio.open_tcp_stream("127.0.0.1", served.port), context, server_side=False)
            await stream.do_handshake()
            await stream.send_all((request,))
            answer = await everything(stream)
            await stream.aclose()
            return answer

        for line in (b"GET /fetch/1", b"GET /nowhere", b"HEAD /fetch/1", b"PUT /echo/x"):
            answer = await ask(line + b" HTTP/1.1\r\nhost: x\r\n\r\n")
            assert answer == b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        answer = await ask(b"nonsense\r\n\r\n")
        assert answer == b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        answer = await ask(b"POST /open HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok")


async def test_an_expired_certificate_may_only_renew(ca: TestAuthority) -> None:
    clock = FakeClock(1_800_000_000)
    async with serving(ca, clock=clock) as served:
        old = ca.issue(not_after=clock.time() + 10)
        async with Client(old.client(), ca.pool, clock=clock) as client:
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)
            clock.advance(10)  # the live connection is judged anew too
            with pytest.raises(errors.Denied, match="expired"):
                await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)
            with pytest.raises(errors.Denied, match="expired"):
                await client.request(served.endpoint, "GET", "/nowhere", timeout_s=10)
            await client.request(served.endpoint, "POST", "/renew", timeout_s=10)
            clock.advance(90 * 86400)
            with pytest.raises(errors.Denied, match="expired"):
                await client.request(served.endpoint, "POST", "/renew", timeout_s=10)


async def test_an_expired_server_is_refused(ca: TestAuthority) -> None:
    clock = FakeClock(1_800_000_000)
    old = ca.issue(roles=(Role.PEER,), not_after=clock.time() - 1)
    async with serving(ca, issued=old) as served, client_of(ca, clock=clock) as client:
        with pytest.raises(errors.Denied, match="expired"):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)


async def test_revoking_closes_live_connections_and_refuses_new_ones(ca: TestAuthority) -> None:
    revocations = Revocations()
    mount = ca.issue()
    started = trio.Event()

    async def wait(_request: Request) -> Response:
        started.set()
        await trio.sleep_forever()
        raise AssertionError

    handlers = {**HANDLERS, "fetch": wait}
    async with (
        serving(ca, handlers, revocations=revocations) as served,
        Client(mount.client(), ca.pool) as client,
        client_of(ca) as other,
    ):
        await other.request(served.endpoint, "PUT", "/echo/x", timeout_s=10)
        await client.request(served.endpoint, "PUT", "/echo/x", timeout_s=10)

        async def waits() -> None:
            with pytest.raises(errors.Denied, match="revoked"):  # asked again on a new connection, which is told
                await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
            await started.wait()
            revocations.update(RevocationList(1, [mount.node], []))
            assert served.server.drop_revoked() == 1
        await other.request(served.endpoint, "PUT", "/echo/x", timeout_s=10)
        assert served.server.connections == 1


async def test_a_serial_is_revoked_alone(ca: TestAuthority) -> None:
    revocations = Revocations()
    old = ca.issue()
    new = ca.issue(old.node)
    revocations.update(RevocationList(1, [], [old.serial.upper()]))
    async with serving(ca, revocations=revocations) as served:
        async with Client(old.client(), ca.pool) as client:
            with pytest.raises(errors.Denied, match="revoked"):
                await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)
        async with Client(new.client(), ca.pool) as client:
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)


async def test_membership_is_asked_for_routes_that_want_it(ca: TestAuthority) -> None:
    routes = (
        Route("mine", "GET", "/volumes/{volume}", frozenset({Role.CLIENT}), members=True),
        Route("all", "GET", "/all", frozenset({Role.CLIENT})),
    )
    asked: list[tuple[str, dict[str, str]]] = []

    async def authorise(route: Route, identity: Identity, parameters: dict[str, str]) -> None:
        asked.append((route.name, parameters))
        if parameters["volume"] != "1":
            raise errors.Denied("not your volume")

    handlers = {"mine": HANDLERS["admin"], "all": HANDLERS["admin"]}
    async with serving(ca, handlers, routes=routes, authorise=authorise) as served, client_of(ca) as client:
        await client.request(served.endpoint, "GET", "/volumes/1", timeout_s=10)
        await client.request(served.endpoint, "GET", "/all", timeout_s=10)
        with pytest.raises(errors.Denied, match="not your volume"):
            await client.request(served.endpoint, "GET", "/volumes/2", timeout_s=10)
    assert asked == [("mine", {"volume": "1"}), ("mine", {"volume": "2"})]
    with pytest.raises(errors.Misuse, match="authorise"):
        Server(routes, handlers, context=ca.issue().server(), pool=ca.pool)
    with pytest.raises(errors.Misuse, match="do not exist"):
        Server(routes, {"other": HANDLERS["admin"]}, context=ca.issue().server(), pool=ca.pool)


async def test_a_body_beyond_the_routes_limit_is_refused_and_the_sender_sees_why(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca) as client:
        with pytest.raises(errors.TooLarge, match="at most 1048576 bytes"):
            await client.request(served.endpoint, "PUT", "/echo/x", parts=(bytes(3 * MIB),), timeout_s=10)


async def test_a_handler_that_does_not_read_the_body_costs_no_answer(ca: TestAuthority) -> None:
    async with serving(ca, {"echo": HANDLERS["admin"]}) as served, client_of(ca) as client:
        for size, kept in ((1000, 1), (MIB, 0)):
            reply = await client.request(served.endpoint, "PUT", "/echo/x", parts=(bytes(size),), timeout_s=10)
            assert bytes(reply.body) == b"ok"
            assert repr(client) == f"Client(0 busy, {kept} idle)"


async def test_pipelined_requests_are_answered_in_order(ca: TestAuthority) -> None:
    async with serving(ca) as served:
        stream = await raw_tls(served, None, ca)
        one = b"PUT /echo/x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
        two = b"PUT /echo/x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nde"
        await stream.send_all((one + one + two,))
        answer = await everything(stream)
        assert [part[-3:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"abc", b"abc", b"\nde"]
        await stream.aclose()


async def test_stopping_lets_requests_finish_and_closes_idle_connections(ca: TestAuthority) -> None:
    go_on, started = trio.Event(), trio.Event()

    async def wait(_request: Request) -> Response:
        started.set()
        await go_on.wait()
        return Response(200, b"done")

    answers: list[bytes] = []
    async with serving(ca, {**HANDLERS, "fetch": wait}) as served, client_of(ca) as client:
        idle = await raw_tls(served, None, ca)

        async def ask() -> None:
            answers.append(bytes((await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)).body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await started.wait()

            async def stop() -> None:
                with trio.fail_after(5):  # it ends with the last request, not with the deadline
                    assert await served.server.stop(60)

            nursery.start_soon(stop)
            assert await everything(idle) == b""
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream("127.0.0.1", served.port)
            go_on.set()
        await idle.aclose()
        assert answers == [b"done"]
        assert repr(served.server) == "Server(0 connections, 0 busy, stopping)"
        with pytest.raises(errors.Unavailable):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10)


async def test_a_node_has_only_so_many_connections(ca: TestAuthority) -> None:
    greedy = ca.issue()
    async with serving(ca, limits=Limits(per_node=2)) as served:
        streams = [await raw_tls(served, greedy, ca) for _ in range(3)]
        assert await everything(streams[2]) == b""
        other = await raw_tls(served, None, ca)
        await other.send_all((b"GET /fetch/1 HTTP/1.1\r\nhost: x\r\n\r\n",))
        assert (await other.receive_some()).startswith(b"HTTP/1.1 200")
        for stream in (*streams, other):
            await stream.aclose()


async def test_connections_whose_request_waits_are_counted_apart(ca: TestAuthority) -> None:
    """One that waits and one for everything else: the second that waits takes the place of the latter."""
    node, news, began = ca.issue(), trio.Event(), 0

    async def wait(_request: Request) -> Response:
        nonlocal began
        began += 1
        await news.wait()
        return Response(200, b"news")

    def ask(path: str) -> tuple[bytes]:
        return (b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode(),)

    routes = (*ROUTES, Route("wait", "GET", "/wait", EVERYONE, waits=True))
    limits = Limits(per_node=1, waiting_per_node=1)
    async with serving(ca, {**HANDLERS, "wait": wait}, routes=routes, limits=limits) as served:
        first = await raw_tls(served, node, ca)
        await first.send_all(ask("/wait"))
        while began < 1:
            await trio.lowlevel.checkpoint()
        second = await raw_tls(served, node, ca)
        await second.send_all(ask("/fetch/1"))
        assert (await second.receive_some()).startswith(b"HTTP/1.1 200")
        await second.send_all(ask("/wait"))
        while began < 2:
            await trio.lowlevel.checkpoint()
        third = await raw_tls(served, node, ca)
        assert await everything(third) == b""
        news.set()
        told = await everything(first)  # one too many now that it does not wait
        assert told.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in told.lower()
        assert (await second.receive_some()).startswith(b"HTTP/1.1 200")
        await second.send_all(ask("/fetch/1"))
        assert (await second.receive_some()).startswith(b"HTTP/1.1 200")
        for stream in (first, second, third):
            await stream.aclose()
    assert (served.server._per_node, served.server._waiting) == ({}, {})


async def test_the_idle_stranger_who_came_first_makes_room(ca: TestAuthority) -> None:
    async with serving(ca, limits=Limits(strangers=3)) as served:
        sockets = [await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(3)]
        await wait_all_tasks_blocked(0.01)
        member = await raw_tls(served, None, ca)
        assert await sockets[0].receive_some(10) == b""
        await member.send_all((b"GET /fetch/1 HTTP/1.1\r\nhost: x\r\n\r\n",))
        assert (await member.receive_some()).startswith(b"HTTP/1.1 200")
        assert served.server.connections == 3
        await member.aclose()
        for socket in sockets:
            await socket.aclose()


async def test_bodies_in_memory_are_bounded_and_given_back(ca: TestAuthority) -> None:
    """Two bodies fit: the third waits until one is answered; those cancelled give their memory back too."""
    gate, inside = trio.Event(), 0

    async def hold(request: Request) -> Response:
        nonlocal inside
        await request.body()
        inside += 1
        await gate.wait()
        return Response(200, b"ok")

    async with (
        serving(ca, {"echo": hold}, limits=Limits(bodies_bytes=2000, small_body_bytes=0)) as served,
        client_of(ca) as client,
    ):

        async def put() -> None:
            await client.request(served.endpoint, "PUT", "/echo/x", parts=(bytes(1000),), timeout_s=10)

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(put)
                with trio.fail_after(5):
                    while inside < 2:
                        await wait_all_tasks_blocked(0.01)
                await wait_all_tasks_blocked(0.01)
                assert inside == 2
                scope.cancel()
        await client.reconnect()
        assert await served.server.stop(0.1)
        assert served.server._bodies.all.taken == 0
        assert served.server._bodies._nodes == {}


async def test_refusals_are_not_logged_loudly(ca: TestAuthority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(ca) as served:
        stream = await raw_tls(served, None, ca)
        await stream.send_all((b"garbage\r\n\r\n",))
        assert b" 400 " in await everything(stream)
        await stream.aclose()
    assert [record for record in caplog.records if record.name.startswith("p2pfs")] == []


async def test_an_answer_that_cannot_be_sent_is_a_bug_that_is_told(ca: TestAuthority, claim_logs: Claims) -> None:
    claim_logs("the answer to GET /fetch/1 cannot be sent", count=1)

    async def split(_request: Request) -> Response:
        return Response(200, headers=(("x", "a\r\nb: c"),))

    async with serving(ca, {"fetch": split}) as served, client_of(ca) as client:
        reply = await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=10, raw=True)
        assert (reply.status, "b" in reply.headers) == (500, False)


def test_the_routes_used_here_are_sane() -> None:
    assert {route.name for route in ROUTES} == set(HANDLERS)
    assert codec.decode(codec.encode([1]), list[int]) == [1]
    assert str(Endpoint("a" * 32, Role.PEER, ())) == "peer aaaaaaaa at no address"  # type: ignore[arg-type]
