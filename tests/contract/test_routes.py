"""Every route × every kind of caller, made from the table in wire.routes: nobody gets past it, members do."""

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from coordination import Live, live
from plugins.checklogs import Claims
from wired import everything

from p2pfs.coordinator import health
from p2pfs.coordinator.authority import new_key
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.coordinator.handlers import Handlers
from p2pfs.coordinator.init import initialise
from p2pfs.errors import Denied, Unavailable
from p2pfs.net.addresses import bound_addresses, open_listeners, parse_address
from p2pfs.net.client import Client, Endpoint, Reply
from p2pfs.net.identity import Credentials, Revocations, client_context, joining_context, server_context
from p2pfs.net.messages import Request, Response
from p2pfs.net.server import Server
from p2pfs.net.tls import TlsStream
from p2pfs.runtime.clocks import SystemClock
from p2pfs.types import KIB, MIB, NodeId, Role
from p2pfs.wire import failures
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.routes import ANYONE, COORDINATOR_ROUTES, PEER_ROUTES, Route, Table

pytestmark = pytest.mark.l1

DAY = 86400.0
FILLED = {
    "{volume}": "0000000000000007",
    "{session}": "ab" * 16,
    "{node}": "cd" * 16,
    "{chunk}": "ef" * 32,
    "{job}": "7",
    "{booking}": "7",
    "{fingerprint}": "A" * 32,
    "{action}": "pause",
    "{generation}": "00" * 8,
    "{number}": "0",
}
ALL = [("coordinator", route) for route in COORDINATOR_ROUTES] + [("peer", route) for route in PEER_ROUTES]
DENIED = 403
RECOVERING = {"backups", "get_backup"}
"""All that the recovery kit opens."""


def path_of(route: Route) -> str:
    path = route.path
    for parameter, value in FILLED.items():
        path = path.replace(parameter, value)
    assert "{" not in path
    return path


def each(*, but: str = "") -> pytest.MarkDecorator:
    """Every route of every server, except those with the attribute `but`."""
    chosen = [(kind, route) for kind, route in ALL if not (but and getattr(route, but))]
    return pytest.mark.parametrize(("kind", "route"), chosen, ids=[route.name for _, route in chosen])


class Servers:
    """A live coordinator, and a server with the peers' table whose handlers tell that they were reached."""

    def __init__(self, pool: Live, peer: Endpoint, revocations: Revocations, server: Server) -> None:
        self.pool = pool
        self.peer = peer
        self.revocations = revocations
        self.server = server

    def endpoint(self, kind: str) -> Endpoint:
        return self.pool.endpoint if kind == "coordinator" else self.peer

    def certify(self, *roles: Role, ends_in_s: float = DAY, node: str = "") -> Credentials:
        """A certificate of this pool, made with the real CA, member or not."""
        record, key = self.pool.running.record, new_key()
        authority, _ = CoordinatorFiles(self.pool.home).load(record.pool)
        now_s = SystemClock().time()
        issued = authority.issue(
            key.public_key(),
            NodeId(node or "ee" * 16),
            roles=roles,
            now_s=now_s - 400 * DAY,
            lifetime_s=400 * DAY + ends_in_s,
        )
        return self.pool.keep(f"made-{len(list(self.pool.directory.iterdir()))}", issued.der, key)

    async def ask(self, kind: str, route: Route, credentials: Credentials) -> Reply:
        async with Client(client_context(credentials), self.pool.running.record.pool) as client:
            return await client.request(
                self.endpoint(kind), route.method, path_of(route), parts=(b"x",), timeout_s=5, raw=True
            )

    async def raw(self, kind: str, route: Route, context: ssl.SSLContext) -> bytes:
        """What comes back to whoever speaks TLS with this context; nothing when the handshake is refused."""
        host, port = parse_address(self.endpoint(kind).addresses[0])
        stream = TlsStream(await trio.open_tcp_stream(host, port), context, server_side=False)
        try:
            await stream.do_handshake()
            head = f"{route.method} {path_of(route)} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"
            await stream.send_all([head.encode()])
            with trio.fail_after(5):
                return await everything(stream)
        except (Denied, Unavailable):
            return b""
        finally:
            await trio.aclose_forcefully(stream)


async def reached(request: Request) -> Response:
    """A handler of the peer: the table let the caller through."""
    return Response(200, length=0) if request.route.method == "HEAD" else Response()


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Servers]:
    async with live(path) as pool:
        revocations = Revocations()
        handlers = {route.name: reached for route in PEER_ROUTES}
        node, credentials = await pool.join("anna@nas", Role.PEER)
        record = pool.running.record
        server = Server(
            PEER_ROUTES, handlers, context=server_context(credentials), pool=record.pool, revocations=revocations
        )
        listeners = await open_listeners("127.0.0.1:0")
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listeners)
            peer = Endpoint(node, Role.PEER, tuple(bound_addresses(listeners)))
            yield Servers(pool, peer, revocations, server)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with running(tmp_path) as started:
        yield started


def failure(reply: Reply) -> Exception:
    return failures.decode_failure(reply.status, reply.body)


# ---- callers that get nothing ---------------------------------------------------------------------------------------


@each(but="anonymous")
async def test_without_a_certificate_nobody_learns_anything(servers: Servers, kind: str, route: Route) -> None:
    answer = await servers.raw(kind, route, joining_context())
    if kind == "peer":  # which demands a certificate in the handshake
        assert answer == b""
    else:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 ")
        assert body == b""


@each()
async def test_a_foreign_certificate_fails_in_the_handshake(
    servers: Servers, tmp_path: Path, kind: str, route: Route
) -> None:
    foreign = initialise(tmp_path / "foreign", pool_name="foreign", name="eve@host")
    context = joining_context()  # it would accept any server
    context.load_cert_chain(foreign.certificate_path, foreign.key_path)
    assert await servers.raw(kind, route, context) == b""


@each(but="anonymous")
async def test_an_expired_certificate_is_refused(servers: Servers, kind: str, route: Route) -> None:
    own = next(iter(servers.pool.running.services.roster.nodes))
    credentials = servers.certify(*Role, ends_in_s=-60, node=own)
    reply = await servers.ask(kind, route, credentials)
    if route.lapsed:
        assert "expired" not in str(failure(reply))  # it reached the handler, which found the request to be nonsense
        assert reply.status == 400
        credentials = servers.certify(*Role, ends_in_s=-91 * DAY, node=own)
        reply = await servers.ask(kind, route, credentials)
    assert reply.status == DENIED
    assert "expired" in str(failure(reply)) or reply.body == b""  # HEAD has no body


@each()
async def test_a_revoked_node_is_refused(servers: Servers, claim_logs: Claims, kind: str, route: Route) -> None:
    claim_logs("revoked bob@laptop", count=1)
    node, credentials = await servers.pool.join("bob@laptop", Role.CLIENT, Role.PEER, Role.ADMIN)
    async with servers.pool.client() as client:
        await client.call(servers.pool.endpoint, "POST", f"/nodes/{node}/revoke", None, NodeInfo)
    servers.revocations.update(servers.pool.running.services.roster.revocations)
    answer = await servers.raw(kind, route, client_context(credentials))
    assert answer.startswith(b"HTTP/1.1 403 ")


@each(but="anonymous")
async def test_a_wrong_role_is_refused(servers: Servers, kind: str, route: Route) -> None:
    own = next(iter(servers.pool.running.services.roster.nodes))
    for role in set(Role) - route.roles:
        reply = await servers.ask(kind, route, servers.certify(role, node=own))
        assert reply.status == DENIED, role
    reply = await servers.ask(kind, route, servers.certify(node=own))  # no role at all
    assert reply.status == DENIED


# ---- callers that get through ---------------------------------------------------------------------------------------


@each(but="anonymous")
async def test_each_of_its_roles_gets_past_the_table(servers: Servers, kind: str, route: Route) -> None:
    own = next(iter(servers.pool.running.services.roster.nodes))
    for role in route.roles:
        reply = await servers.ask(kind, route, servers.certify(role, node=own))
        assert reply.status not in (401, DENIED), role


@pytest.mark.parametrize("route", [route for route in COORDINATOR_ROUTES if not route.anonymous], ids=lambda r: r.name)
async def test_a_certificate_of_a_node_that_never_joined_gets_nothing_of_the_coordinator(
    servers: Servers, route: Route
) -> None:
    """As a thief of the CA's key would make it. A peer cannot tell: it knows who was revoked, not who joined."""
    reply = await servers.ask("coordinator", route, servers.certify(*route.roles, node="ee" * 16))
    assert reply.status in (DENIED, 400), failure(reply)


async def test_an_anonymous_route_answers_strangers(servers: Servers) -> None:
    for kind, route in ALL:
        if route.anonymous:
            answer = await servers.raw(kind, route, joining_context())
            assert answer.startswith(b"HTTP/1.1 400 ")


# ---- the table itself -----------------------------------------------------------------------------------------------


def test_every_route_has_a_name_and_an_address_of_its_own() -> None:
    for table in (COORDINATOR_ROUTES, PEER_ROUTES):
        assert len({route.name for route in table}) == len(table)
        assert len({(route.method, route.path) for route in table}) == len(table)


def test_a_table_finds_every_route_and_nothing_else() -> None:
    for routes in (COORDINATOR_ROUTES, PEER_ROUTES):
        table = Table(routes)
        for route in routes:
            path = route.path.replace("{", "a-").replace("}", "")
            names = [segment[1:-1] for segment in route.path.split("/") if segment.startswith("{")]
            assert table.match(route.method, path) == (route, {name: f"a-{name}" for name in names})
            assert table.match("PATCH", path) is None
            assert table.match(route.method, f"{path}/more") is None
            assert table.match(route.method, f"/no{path}") is None


def test_only_join_is_anonymous_only_renew_forgives_and_only_members_see_volumes() -> None:
    assert [route.name for _, route in ALL if route.anonymous] == ["join"]
    assert [route.name for _, route in ALL if route.lapsed] == ["renew"]
    for route in COORDINATOR_ROUTES:
        assert route.members == ("{volume}" in route.path or "{session}" in route.path), route.name
    for _, route in ALL:
        assert route.roles or route.anonymous, route.name
        assert route.roles <= ANYONE or route.name in RECOVERING
        assert (Role.RECOVERY in route.roles) == (route.name in RECOVERING), route.name


async def test_the_coordinator_handles_every_route(servers: Servers) -> None:
    handled = Handlers(servers.pool.running.services).table()
    assert set(handled) == {route.name for route in COORDINATOR_ROUTES}


# ---- the document ---------------------------------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


def section(name: str) -> str:
    """What stands between the document's markers of this name."""
    _, _, after = DOCUMENT.read_text(encoding="utf-8").partition(f"<!-- {name}:")
    return after.partition("-->\n")[2].partition(f"<!-- /{name} -->")[0].strip()


def route_table() -> str:
    lines = ["| server | route | method and path | roles | body up to | |", "|---|---|---|---|---|---|"]
    for kind, route in ALL:
        roles = "everyone" if route.roles == ANYONE else ", ".join(sorted(route.roles)) or "—"
        limit = f"{route.body_limit >> 20} MiB" if route.body_limit % MIB == 0 else f"{route.body_limit / KIB:g} KiB"
        notes = ", ".join(word for word in ("members", "owned", "anonymous", "lapsed") if getattr(route, word))
        lines.append(f"| {kind} | {route.name} | `{route.method} {route.path}` | {roles} | {limit} | {notes} |")
    return "\n".join(lines)


def failure_table() -> str:
    lines = ["| code | status | meaning |", "|---|---|---|"]
    for kind, status in failures._STATUS.items():
        meaning = " ".join((kind.__doc__ or "").split())
        lines.append(f"| `{kind.__name__}` | {status} | {meaning} |")
    return "\n".join(lines)


def test_the_document_has_the_routes_as_they_are() -> None:
    assert section("routes") == route_table()


def test_the_document_has_the_failures_as_they_are() -> None:
    assert section("failures") == failure_table()


def test_the_document_has_every_reason_that_status_gives() -> None:
    source = Path(health.__file__).read_text(encoding="utf-8")
    given = set(re.findall(r'_(?:error|warning|note)\(\s*"([A-Z_]+)"', source))
    assert len(given) > 5
    assert set(re.findall(r"`([A-Z_]+)`", section("reasons"))) == given
