"""Servers and clients for tests: over loopback sockets, over memory, and hostile ends that speak TLS by hand."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from pki import Issued, TestAuthority

from p2pfs.net.addresses import bound_addresses, open_listeners
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.server import Handler, Request, Response, Server
from p2pfs.net.tls import TlsStream
from p2pfs.types import Role
from p2pfs.wire.routes import Route

EVERYONE = frozenset({Role.CLIENT, Role.PEER})
ROUTES = (
    Route("echo", "PUT", "/echo/{name}", EVERYONE, body_limit=1 << 20),
    Route("fetch", "GET", "/fetch/{size}", EVERYONE),
    Route("look", "HEAD", "/fetch/{size}", EVERYONE),
    Route("admin", "GET", "/admin", frozenset({Role.ADMIN})),
    Route("open", "POST", "/open", frozenset(), anonymous=True),
    Route("renew", "POST", "/renew", EVERYONE, lapsed=True),
)


async def echo(request: Request) -> Response:
    return Response(200, await request.body(), content_type="application/octet-stream")


async def fetch(request: Request) -> Response:
    return Response(200, bytes(int(request.parameters["size"])), content_type="application/octet-stream")


async def look(request: Request) -> Response:
    return Response(200, length=int(request.parameters["size"]))


async def nothing(_request: Request) -> Response:
    return Response(200, b"ok")


HANDLERS: Mapping[str, Handler] = {
    "echo": echo,
    "fetch": fetch,
    "look": look,
    "admin": nothing,
    "open": nothing,
    "renew": nothing,
}


@dataclass(frozen=True)
class Served:
    """A running server and how to reach it."""

    server: Server
    endpoint: Endpoint
    issued: Issued

    @property
    def port(self) -> int:
        return int(self.endpoint.addresses[0].rpartition(":")[2])


@asynccontextmanager
async def serving(
    ca: TestAuthority,
    handlers: Mapping[str, Handler] = HANDLERS,
    *,
    routes: tuple[Route, ...] = ROUTES,
    client_certificate: str = "required",
    issued: Issued | None = None,
    **options: Any,  # noqa: ANN401 - passed to Server
) -> AsyncIterator[Served]:
    """A server on a loopback socket while the block runs."""
    issued = issued or ca.issue(roles=(Role.PEER,))
    server = Server(
        routes, handlers, context=issued.server(client_certificate=client_certificate), pool=ca.pool, **options
    )
    listeners = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listeners)
        yield Served(server, Endpoint(issued.node, Role.PEER, tuple(bound_addresses(listeners))), issued)
        nursery.cancel_scope.cancel()


def memory_server(
    ca: TestAuthority,
    handlers: Mapping[str, Handler] = HANDLERS,
    **options: Any,  # noqa: ANN401 - passed to Server
) -> tuple[Server, Endpoint]:
    """A server that only `connector` reaches."""
    issued = ca.issue(roles=(Role.PEER,))
    server = Server(ROUTES, handlers, context=issued.server(), pool=ca.pool, **options)
    return server, Endpoint(issued.node, Role.PEER, ("memory:1",))


Pair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


def connector(server: Server, nursery: trio.Nursery, pair: Pair = trio.testing.memory_stream_pair) -> Any:  # noqa: ANN401
    """A `connect` for Client whose every connection goes to `server` through memory."""

    async def connect(_host: str, _port: int) -> trio.abc.Stream:
        ours, theirs = pair()
        nursery.start_soon(server.accept, theirs)
        return ours

    return connect


async def raw_tls(served: Served, issued: Issued | None, ca: TestAuthority) -> TlsStream:
    """A connection that says whatever a test wants."""
    context = (issued or ca.issue(roles=(Role.CLIENT,))).client()
    stream = TlsStream(await trio.open_tcp_stream("127.0.0.1", served.port), context, server_side=False)
    await stream.do_handshake()
    return stream


async def everything(stream: TlsStream) -> bytes:
    """What the other end sends until it closes."""
    answer = b""
    while piece := await stream.receive_some():
        answer += piece
    return answer


def client_of(ca: TestAuthority, *roles: Role, **options: Any) -> Client:  # noqa: ANN401 - passed to Client
    """A client with a certificate of its own."""
    return Client(ca.issue(roles=roles or (Role.CLIENT,)).client(), ca.pool, **options)
