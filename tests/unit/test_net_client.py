"""The client's own behaviour: whom it accepts, what it retries, what it keeps, how it ends; httpx and joining."""

import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from pki import Issued, TestAuthority, make_ca, new_id
from trio.testing import wait_all_tasks_blocked
from wired import HANDLERS, client_of, connector, memory_server, serving

from p2pfs import errors
from p2pfs.net import dialled
from p2pfs.net.addresses import bound_addresses, format_address, open_listeners, parse_address
from p2pfs.net.client import Client, Endpoint, joining_client
from p2pfs.net.dialled import connect_by_tcp
from p2pfs.net.identity import Revocations, load_credentials
from p2pfs.net.server import Request, Response
from p2pfs.net.tls import TlsStream
from p2pfs.net.transport import PoolTransport
from p2pfs.net.watch import Watch
from p2pfs.types import NodeId, PoolId, Role
from p2pfs.wire.membership import Revocations as RevocationList

pytestmark = pytest.mark.l0


@pytest.fixture
def ca(tmp_path: Path) -> TestAuthority:
    return make_ca(tmp_path)


async def test_only_the_expected_node_in_the_expected_role_is_accepted(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca) as client:
        good = served.endpoint
        for wrong in (
            Endpoint(NodeId(new_id()), good.role, good.addresses),
            Endpoint(good.node, Role.COORDINATOR, good.addresses),
        ):
            with pytest.raises(errors.Denied):
                await client.request(wrong, "PUT", "/echo/x", parts=(b"secret",), timeout_s=5)
        assert served.server.requests == 0
        await client.request(good, "GET", "/fetch/1", timeout_s=5)
        with pytest.raises(errors.Denied):  # the pooled connection is judged by role too
            await client.request(Endpoint(good.node, Role.ADMIN, good.addresses), "GET", "/fetch/1", timeout_s=5)


async def test_the_two_servers_of_a_node_with_two_roles_are_not_mixed_up(ca: TestAuthority) -> None:
    """The coordinator's machine may keep chunks, too: one node, one certificate, two processes."""
    both = ca.issue(roles=(Role.COORDINATOR, Role.PEER))
    async with serving(ca, issued=both) as one, serving(ca, issued=both) as other, client_of(ca) as client:
        coordinator = Endpoint(both.node, Role.COORDINATOR, other.endpoint.addresses)
        for _ in range(2):
            await client.request(one.endpoint, "GET", "/fetch/1", timeout_s=5)
            await client.request(coordinator, "GET", "/fetch/1", timeout_s=5)
        asked = client.ask(coordinator, "/fetch/1", (), memoryview(bytearray(1)), Watch())
        assert asked is not None
        with trio.fail_after(5):
            await asked.answer()
        assert (one.server.requests, other.server.requests) == (2, 3)


async def test_a_node_of_another_pool_is_refused(ca: TestAuthority, tmp_path: Path) -> None:
    foreign = make_ca(tmp_path)
    async with serving(foreign) as served, client_of(ca) as client:
        with pytest.raises(errors.Denied, match="refused"):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
    async with serving(ca) as served, client_of(foreign) as client:
        with pytest.raises(errors.Denied, match="refused"):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
    # The same CA vouching for another pool.
    async with serving(ca) as served, Client(ca.issue().client(), PoolId(new_id())) as client:
        with pytest.raises(errors.Denied, match="another pool"):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)


async def test_a_revoked_node_is_not_asked(ca: TestAuthority) -> None:
    revocations = Revocations()
    async with serving(ca) as served, client_of(ca, revocations=revocations) as client:
        await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        revocations.update(RevocationList(1, [served.endpoint.node], []))
        with pytest.raises(errors.Denied, match="revoked"):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
        assert served.server.requests == 1


async def test_nobody_there_is_unavailable(ca: TestAuthority) -> None:
    async with client_of(ca) as client:
        listeners = await open_listeners("127.0.0.1:0")
        addresses = tuple(bound_addresses(listeners))
        for listener in listeners:
            await listener.aclose()
        for wrong in (addresses, (), ("127.0.0.1:0",), ("nonsense",)):
            with pytest.raises(errors.Unavailable, match="cannot be reached"):
                await client.request(Endpoint(NodeId("a" * 32), Role.PEER, wrong), "GET", "/x", timeout_s=5)


def test_any_node_of_an_address_is_named_by_the_address_alone() -> None:
    assert str(Endpoint(NodeId(""), Role.PEER, ("192.0.2.10:9471",))) == "peer at 192.0.2.10:9471"


async def test_a_later_address_serves_when_the_first_is_taken_by_another_node(ca: TestAuthority) -> None:
    async with serving(ca) as other, serving(ca) as served, client_of(ca) as client:
        both = Endpoint(served.endpoint.node, Role.PEER, (*other.endpoint.addresses, *served.endpoint.addresses))
        await client.request(both, "GET", "/fetch/1", timeout_s=5)
        assert (other.server.requests, served.server.requests) == (0, 1)


async def test_a_connection_closed_by_the_server_is_replaced_unseen(ca: TestAuthority) -> None:
    peer = ca.issue(roles=(Role.PEER,))
    async with client_of(ca) as client:
        async with serving(ca, issued=peer) as served:
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)
            assert repr(client) == "Client(0 busy, 1 idle)"
        async with serving(ca, issued=peer) as served:
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)


Script = Callable[[TlsStream], Awaitable[None]]
"""What a badly behaved server does on one connection after the handshake."""


async def _scripted(
    ca: TestAuthority, nursery: trio.Nursery, *scripts: Script
) -> tuple[Endpoint, Issued, Callable[[str, int], Awaitable[trio.abc.Stream]], list[int]]:
    """An endpoint whose n-th connection follows the n-th script."""
    issued = ca.issue(roles=(Role.PEER,))
    connections: list[int] = []

    async def connect(_host: str, _port: int) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        script = scripts[len(connections)]
        connections.append(1)

        async def serve() -> None:
            stream = TlsStream(theirs, issued.server(), server_side=True)
            try:
                await stream.do_handshake()
                await script(stream)
            except errors.PoolError:
                pass
            finally:
                await stream.aclose()

        nursery.start_soon(serve)
        return ours

    return Endpoint(issued.node, Role.PEER, ("memory:1",)), issued, connect, connections


def _answers(*answers: bytes) -> Script:
    async def script(stream: TlsStream) -> None:
        for answer in answers:
            await stream.receive_some()
            await stream.send_all((answer,))

    return script


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_a_stale_connection_is_replaced_once_if_nothing_was_answered(ca: TestAuthority) -> None:
    async with trio.open_nursery() as nursery:
        endpoint, _, connect, connections = await _scripted(ca, nursery, _answers(GOOD), _answers(GOOD, b""))
        async with client_of(ca, connect=connect) as client:
            await client.request(endpoint, "GET", "/x", timeout_s=5)
            await client.request(endpoint, "GET", "/x", timeout_s=5)  # the first closed after its answer
            assert len(connections) == 2
            with pytest.raises(IndexError):  # a third would be dialled: the second gave no answer either
                await client.request(endpoint, "GET", "/x", timeout_s=5)


@pytest.mark.parametrize("idempotent", [True, False])
async def test_what_is_not_idempotent_is_not_sent_twice(ca: TestAuthority, idempotent: bool) -> None:
    async with trio.open_nursery() as nursery:
        endpoint, _, connect, connections = await _scripted(ca, nursery, _answers(GOOD), _answers(GOOD))
        async with client_of(ca, connect=connect) as client:
            await client.request(endpoint, "GET", "/x", timeout_s=5)
            if idempotent:
                await client.request(endpoint, "POST", "/x", timeout_s=5)
            else:
                with pytest.raises(errors.Unavailable, match="closed without an answer"):
                    await client.request(endpoint, "POST", "/x", timeout_s=5, idempotent=False)
            assert len(connections) == (2 if idempotent else 1)


async def test_half_an_answer_is_not_asked_for_again(ca: TestAuthority) -> None:
    async with trio.open_nursery() as nursery:
        cut = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok"
        endpoint, _, connect, connections = await _scripted(ca, nursery, _answers(GOOD, cut))
        async with client_of(ca, connect=connect) as client:
            await client.request(endpoint, "GET", "/x", timeout_s=5)
            with pytest.raises(errors.Unavailable, match="cut off after 2 of 20"):
                await client.request(endpoint, "GET", "/x", timeout_s=5)
            assert len(connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000,
        b"\x00" * 20_000,
    ],
)
async def test_nonsense_for_an_answer_is_unavailable(ca: TestAuthority, answer: bytes) -> None:
    async with trio.open_nursery() as nursery:
        endpoint, _, connect, _ = await _scripted(ca, nursery, _answers(answer))
        async with client_of(ca, connect=connect) as client:
            with pytest.raises(errors.Unavailable):
                await client.request(endpoint, "GET", "/x", timeout_s=5)
            assert repr(client) == "Client(0 busy, 0 idle)"


async def test_more_than_one_answer_spoils_the_connection_but_not_the_answer(ca: TestAuthority) -> None:
    async with trio.open_nursery() as nursery:
        endpoint, _, connect, connections = await _scripted(ca, nursery, _answers(GOOD + GOOD), _answers(GOOD))
        async with client_of(ca, connect=connect) as client:
            for _ in range(2):
                assert bytes((await client.request(endpoint, "GET", "/x", timeout_s=5)).body) == b"ok"
            assert len(connections) == 2


async def test_connections_to_a_node_are_bounded_and_used_again(ca: TestAuthority) -> None:
    present = peak = 0
    gate = trio.Event()

    async def count(_request: Request) -> Response:
        nonlocal present, peak
        present += 1
        peak = max(peak, present)
        await gate.wait()
        present -= 1
        return Response(200, b"ok")

    async with serving(ca, {**HANDLERS, "fetch": count}) as served, client_of(ca, connections_per_node=3) as client:

        async def ask() -> None:
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
            with trio.fail_after(5):
                while present < 3:
                    await wait_all_tasks_blocked(0.01)
            gate.set()
        assert peak == 3
        assert served.server.connections == 3
        assert repr(client) == "Client(0 busy, 3 idle)"


async def test_after_a_renewal_only_new_connections_are_used(ca: TestAuthority) -> None:
    started, go_on = trio.Event(), trio.Event()
    seen: list[str] = []

    async def wait(request: Request) -> Response:
        seen.append(request.caller.serial)
        started.set()
        await go_on.wait()
        return Response(200, b"ok")

    old = ca.issue()
    new = ca.issue(old.node)
    context = old.client()
    async with serving(ca, {**HANDLERS, "fetch": wait}) as served, Client(context, ca.pool) as client:
        await client.request(served.endpoint, "PUT", "/echo/x", timeout_s=5)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=5)

            nursery.start_soon(ask)
            await started.wait()
            load_credentials(context, new.credentials)
            await client.reconnect()
            nursery.start_soon(ask)
            go_on.set()
        assert seen == [old.serial, new.serial]
        assert repr(client) == "Client(0 busy, 1 idle)"


async def test_closing_ends_what_is_under_way(ca: TestAuthority) -> None:
    started = trio.Event()

    async def wait(_request: Request) -> Response:
        started.set()
        await trio.sleep_forever()
        raise AssertionError

    async with serving(ca, {"fetch": wait}) as served, trio.open_nursery() as nursery:
        client = client_of(ca)

        async def ask() -> None:
            with pytest.raises(errors.Unavailable):
                await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=60)

        nursery.start_soon(ask)
        await started.wait()
        with trio.fail_after(2):
            await client.aclose()
        with pytest.raises(errors.Unavailable, match="closed"):
            await client.request(served.endpoint, "GET", "/fetch/1", timeout_s=60)


async def test_cancelled_anywhere_a_request_leaves_the_client_usable(ca: TestAuthority) -> None:
    """Cancels one request at its 1st, 2nd, … checkpoint until one gets through, each time checking what is left."""
    server, endpoint = memory_server(ca)
    async with trio.open_nursery() as nursery:
        connect = connector(server, nursery)
        async with client_of(ca, connect=connect, connections_per_node=1) as client:
            for fresh in (True, False):
                for checkpoints in range(1, 1000):
                    with trio.CancelScope() as scope:
                        trio.lowlevel.add_instrument(instrument := _CancelAfter(scope, checkpoints))
                        try:
                            await client.request(endpoint, "PUT", "/echo/x", parts=(bytes(100_000),), timeout_s=5)
                        finally:
                            trio.lowlevel.remove_instrument(instrument)
                    assert not client._busy
                    if not scope.cancelled_caught:
                        break
                    if fresh:
                        assert repr(client) == "Client(0 busy, 0 idle)"
                    else:  # so that the next one is pooled
                        await client.request(endpoint, "GET", "/fetch/1", timeout_s=5)
                assert 3 < checkpoints < 999
                reply = await client.request(endpoint, "PUT", "/echo/x", parts=(b"fine",), timeout_s=5)
                assert bytes(reply.body) == b"fine"
            assert repr(client) == "Client(0 busy, 1 idle)"


class _CancelAfter(trio.abc.Instrument):
    """Cancels `scope` when the present task has been scheduled `count` times."""

    def __init__(self, scope: trio.CancelScope, count: int) -> None:
        self.scope = scope
        self.left = count
        self.task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


# ---- httpx and joining ------------------------------------------------------------------------------------------


async def test_httpx_talks_to_exactly_one_node(ca: TestAuthority) -> None:
    async with serving(ca) as served, client_of(ca) as client:
        async with httpx.AsyncClient(
            transport=PoolTransport(client, served.endpoint), base_url="https://pool", trust_env=False
        ) as web:
            answer = await web.put("/echo/x", content=b"hello")
            assert (answer.status_code, answer.content) == (200, b"hello")
            assert (await web.get("/admin")).status_code == 403
            assert (await web.head("/fetch/77")).headers["content-length"] == "77"
        wrong = Endpoint(NodeId(new_id()), Role.PEER, served.endpoint.addresses)
        async with httpx.AsyncClient(
            transport=PoolTransport(client, wrong), base_url="https://pool", trust_env=False
        ) as web:
            with pytest.raises(httpx.HTTPError):
                await web.get("/fetch/1")
        nobody = Endpoint(NodeId(new_id()), Role.PEER, ())
        async with httpx.AsyncClient(
            transport=PoolTransport(client, nobody), base_url="https://pool", trust_env=False
        ) as web:
            with pytest.raises(httpx.ConnectError, match="cannot be reached"):
                await web.get("/fetch/1")


async def test_joining_sends_only_to_the_coordinator_of_the_invite(ca: TestAuthority, tmp_path: Path) -> None:
    got: list[bytes] = []

    async def join(request: Request) -> Response:
        assert request.identity is None
        got.append(bytes(await request.body()))
        return Response.of("welcome")

    foreign = make_ca(tmp_path, ca.pool)
    node = new_id()
    coordinator = ca.issue(node, (Role.COORDINATOR,))
    impostors = {
        "another CA": foreign.issue(node, (Role.COORDINATOR,)),
        "another role": ca.issue(node, (Role.PEER,)),
        "another node": ca.issue(roles=(Role.COORDINATOR,)),
        "expired": ca.issue(node, (Role.COORDINATOR,), not_after=1_600_000_000),
    }

    async def call(issued: Issued, ca: TestAuthority) -> str:
        async with (
            serving(ca, {"open": join}, issued=issued, client_certificate="optional") as served,
            joining_client(key, ca.pool) as client,
        ):
            endpoint = Endpoint(NodeId(node), Role.COORDINATOR, served.endpoint.addresses)
            try:
                return await client.call(endpoint, "POST", "/open", b"secret", str)
            except errors.Denied:
                return "denied"

    key = ca.ca_key
    assert await call(coordinator, ca) == "welcome"
    assert len(got) == 1
    for impostor in impostors.values():
        assert await call(impostor, foreign if impostor is impostors["another CA"] else ca) == "denied"
    assert len(got) == 1
    with pytest.raises(errors.Misuse):
        joining_client(b"short", ca.pool)


# ---- addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.7:9470", "192.0.2.7", 9470),
        ("[2001:db8::7]:1", "2001:db8::7", 1),
        ("host.example:65535", "host.example", 65535),
        (":0", "", 0),
    ],
)
def test_addresses_are_read_and_written(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)
    assert format_address(host, port) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "::1:80",
        "[::1]",
        "a b:1",
        "h:1:2",
        " h:1",
        "h:1\n",
        "a" * 254 + ":1",
        "a..b:80",
        ".a:80",
        "a" * 64 + ".example:80",
        "[....]:9",
        "[1.2.3.4]:9",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(errors.Invalid, match="is no address"):
        parse_address(text)


def test_an_address_refused_is_shown_harmlessly() -> None:
    with pytest.raises(errors.Invalid) as raised:
        parse_address("\x1b[2J\nhost" + "x" * 10_000)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 200


async def test_a_port_in_use_or_an_address_of_elsewhere_is_a_users_mistake() -> None:
    listeners = await open_listeners("127.0.0.1:0,127.0.0.1:0")
    taken = bound_addresses(listeners)[1]
    with pytest.raises(errors.UserError, match="another process already uses that port"):
        await open_listeners(f"127.0.0.1:0,{taken}")
    with pytest.raises(errors.UserError, match="cannot listen on"):
        await open_listeners("192.0.2.1:0")
    for listener in listeners:
        await listener.aclose()


async def test_names_that_nobody_answers_for_keep_no_threads_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any) -> Any:  # noqa: ANN401
        if isinstance(host, bytes):  # not what trio tries first, in case it is written in digits
            answers.wait(30)
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return real(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(connect_by_tcp, f"h{number}.evil.example", 1)
            await wait_all_tasks_blocked()
            with trio.fail_after(5):
                assert await trio.to_thread.run_sync(lambda: 1) == 1
            nursery.cancel_scope.cancel()
    finally:
        answers.set()


async def test_a_name_that_cannot_be_looked_up_is_a_peer_that_cannot_be_reached(ca: TestAuthority) -> None:
    async def connect(_host: str, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise UnicodeError("label too long")  # as getaddrinfo's codec does

    endpoint = Endpoint(NodeId("a" * 32), Role.PEER, ("h:1",))
    async with Client(ca.issue().client(), ca.pool, connect=connect) as client:
        with pytest.raises(errors.Unavailable, match="no host name"):
            await client.request(endpoint, "GET", "/health", timeout_s=5)


def test_why_nobody_was_reached_is_a_reason_and_no_tuple() -> None:
    error = OSError(111, "Error connecting to ('127.0.0.1', 20532): Connection refused")
    assert dialled._reason(error) == "connection refused"
    assert dialled._reason(OSError(113, "No route to host")) == "no route to host"
