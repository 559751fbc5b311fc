"""One connection that this end opened: dialling, knowing who answered, one exchange after another.

Pooling and retrying are the client's (`net.client`). It sets no deadlines but the one for dialling.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from p2pfs.errors import Denied, PoolError, Unavailable
from p2pfs.net import heads
from p2pfs.net.addresses import RELAY, parse_address
from p2pfs.net.identity import Identity, identity_of
from p2pfs.net.inbox import Inbox
from p2pfs.net.raw import RawStream
from p2pfs.net.tls import TlsStream
from p2pfs.types import KIB, Buffer, NodeId, Role
from p2pfs.wire import failures

_BODILESS = frozenset({204, 304})
LARGEST_REFUSAL = 64 * KIB
_LAST_WORDS_S = 1.0
"""How long to look for an answer after sending failed: who refuses a body early says why and closes."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to dial: exactly this node in this role, at the first of `addresses` ("host:port" or RELAY) where it is. An
    empty `node` is any: who dials checks the certificate itself."""

    node: NodeId
    role: Role
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        who = f"{self.role} {self.node[:8]}" if self.node else self.role
        return f"{who} at {', '.join(self.addresses) or 'no address'}"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. The body is the caller's; where it was received in place, it is that part of the caller's buffer."""

    status: int
    headers: Mapping[str, str]
    body: memoryview


class Incoming:
    """An answer on its way: how much of it has come."""

    __slots__ = ("has_body", "head", "into", "limit", "total", "view")

    def __init__(self, *, has_body: bool, into: memoryview | None, limit: int) -> None:
        self.has_body = has_body
        self.into = into
        self.limit = limit
        self.head: heads.ResponseHead | None = None
        self.view: memoryview | None = None  # of the body, once the head is there
        self.total = 0  # bytes of it that have come


Check = Callable[[bytes], Identity]
"""Certificate (DER) → identity, or Denied."""


class Dialled:
    """A connection to one node, after the handshake."""

    __slots__ = ("_inbox", "_stream", "address", "identity", "idle_since", "is_open", "saw_answer")

    def __init__(self, stream: TlsStream, identity: Identity, address: str) -> None:
        self._stream = stream
        self._inbox = Inbox(stream)
        self.identity = identity
        self.address = address  # where it answered
        self.idle_since = 0.0
        self.is_open = True  # another exchange may follow
        self.saw_answer = False  # a byte of the present exchange's answer has arrived

    @property
    def stream(self) -> TlsStream:
        return self._stream

    def is_usable(self) -> bool:
        """Whether an idle connection is still good, as far as this end can know."""
        return self.is_open and not self._stream.is_readable()

    async def exchange(
        self,
        head: bytes,
        parts: Sequence[Buffer],
        *,
        has_body: bool,
        into: memoryview | None,
        limit: int,
    ) -> Reply:
        """Send a request and receive its answer. `has_body` is False for HEAD.

        Cancellation: the connection cannot be used any more.

        Raises:
            Unavailable: The connection broke, or what came is no answer or a larger one than `limit` or `into` holds.
            Denied: The other end refused our certificate.
        """
        self.is_open = self.saw_answer = False
        incoming = Incoming(has_body=has_body, into=into, limit=limit)
        try:
            incoming.head = await self._answer_to(head, parts)
        except heads.BadHead as error:
            raise _no_http(error) from None
        return await self.receive(incoming)

    def send_now(self, head: bytes) -> bool:
        """Send a request without a body, whose answer `receive` brings, without waiting; False when that was not
        possible, and the connection is of no use. Only where the stream `sends_now`."""
        self.is_open = self.saw_answer = False
        try:
            return self._stream.send_nowait((head,))
        except Unavailable:
            return False

    async def receive(self, incoming: Incoming) -> Reply:
        """The answer to what was sent. Raises as `exchange`.

        Cancellation: nothing is lost: whoever has `incoming` may go on.
        """
        try:
            answer = incoming.head
            if answer is None:
                answer = incoming.head = await self._head()
        except heads.BadHead as error:
            raise _no_http(error) from None
        view = incoming.view
        if view is None:
            view = incoming.view = _room_for(answer, incoming)
        while incoming.total < len(view):
            count = await self._inbox.receive_into(view[incoming.total :], len(view) - incoming.total)
            if not count:
                raise Unavailable(f"the answer was cut off after {incoming.total} of {len(view)} bytes")
            incoming.total += count
        self.is_open = answer.keep_alive and not self._inbox.waiting
        return Reply(answer.status, answer.headers, view)

    async def upgrade(self, path: str, body: bytes = b"") -> RawStream | None:
        """POST to a route that makes a raw stream of this connection; None when it answers that there is none now
        (204), and may be asked again. Whoever closes the stream closes the connection.

        Raises:
            Unavailable: The connection broke, or what came is no such answer.
            PoolError: What the other end raised.
        """
        self.is_open = self.saw_answer = False
        head = heads.request_head("POST", path, self.identity.node, length=len(body), headers=heads.ASK_RAW)
        try:
            answer = await self._answer_to(head, (body,))
            if answer.status == heads.SWITCHING:
                return RawStream(self._stream, self._inbox)
            if answer.status >= 400:
                refusal = Incoming(has_body=True, into=None, limit=LARGEST_REFUSAL)
                refusal.head = answer
                raise failures.decode_failure(answer.status, (await self.receive(refusal)).body)
        except heads.BadHead as error:
            raise _no_http(error) from None
        if answer.status != 204:
            raise Unavailable(f"the other end answered {answer.status} and no raw stream")
        self.is_open = answer.keep_alive and not self._inbox.waiting
        return None

    async def _answer_to(self, head: bytes, parts: Sequence[Buffer]) -> heads.ResponseHead:
        try:
            await self._stream.send_all((head, *parts))
        except Unavailable:
            with trio.move_on_after(_LAST_WORDS_S):
                return await self._head()
            raise
        return await self._head()

    async def _head(self) -> heads.ResponseHead:
        if not await self._inbox.arrival():
            raise Unavailable("the connection was closed without an answer")
        self.saw_answer = True
        raw = await self._inbox.head()
        if raw is None:
            raise Unavailable("the connection was closed without an answer")
        return heads.parse_response(raw)

    async def aclose(self) -> None:
        """Ends within a second; exchanges under way fail with Unavailable."""
        self.is_open = False
        await self._stream.aclose()


def _room_for(answer: heads.ResponseHead, incoming: Incoming) -> memoryview:
    """Where the body goes. Raises Unavailable when there is no room for it."""
    size = 0 if not incoming.has_body or answer.status in _BODILESS else answer.content_length
    if size is None:
        raise Unavailable("the answer does not say how long it is")
    into = incoming.into if answer.status < 400 else None
    if size > (incoming.limit if into is None else len(into)):
        raise Unavailable(f"the answer has {size} bytes, more than was asked for")
    return memoryview(bytearray(size)) if into is None else into[:size]


def _no_http(error: heads.BadHead) -> Unavailable:
    return Unavailable(f"the other end did not answer in HTTP: {error}")


Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""How bytes get to (host, port). Raises OSError or Unavailable."""


Relayed = Callable[[NodeId], Awaitable[trio.abc.Stream]]
"""How bytes get to a node that nobody can dial. Raises PoolError or OSError."""

_RELAY_FACTOR = 3
"""To be relayed takes a connection to the coordinator first, and the peer's end of it."""


_NAMES_AT_ONCE = 16
_asks_for_names: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("asks for names", default=False)


class _Names(trio.abc.HostnameResolver):
    """Asks for names in threads of its own: whoever tells addresses may run a name server that does not answer, and a
    thread that waits for it cannot be ended."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(_NAMES_AT_ONCE)

    async def getaddrinfo(self, *args: Any) -> Any:  # noqa: ANN401 - as socket.getaddrinfo
        return await trio.to_thread.run_sync(socket.getaddrinfo, *args, abandon_on_cancel=True, limiter=self._threads)

    async def getnameinfo(self, *args: Any) -> Any:  # noqa: ANN401 - as socket.getnameinfo
        return await trio.to_thread.run_sync(socket.getnameinfo, *args, abandon_on_cancel=True, limiter=self._threads)


async def connect_by_tcp(host: str, port: int) -> trio.abc.Stream:
    """The network as it is."""
    if not _asks_for_names.get():
        trio.socket.set_custom_hostname_resolver(_Names())
        _asks_for_names.set(True)
    return await trio.open_tcp_stream(host, port)


async def dial(
    endpoint: Endpoint,
    context: ssl.SSLContext,
    check: Check,
    *,
    connect_s: float,
    connect: Connect = connect_by_tcp,
    relayed: Relayed | None = None,
) -> Dialled:
    """A connection to `endpoint`, trying its addresses in order for `connect_s` each, or three times that through the
    relay. Without `relayed` that is passed over.

    Raises:
        Unavailable: Nobody answered.
        Denied: Only others answered, or the node does not accept us.
    """
    denied: Denied | None = None
    reason = "no address is known"
    for address in endpoint.addresses:
        limit_s = connect_s
        if address == RELAY:
            if relayed is None:
                continue
            limit_s *= _RELAY_FACTOR
        with trio.move_on_after(limit_s):
            try:
                if address == RELAY and relayed is not None:
                    transport = await relayed(endpoint.node)
                else:
                    transport = await connect(*parse_address(address))
                return await _greet(transport, address, context, check)
            except Denied as error:
                denied = error
            except PoolError as error:
                reason = str(error)
            except OSError as error:
                reason = _reason(error)
            except UnicodeError:  # of a name the resolver cannot even ask for
                reason = f"{address} is no host name"
            continue
        reason = f"no answer within {limit_s:g} s"
    if denied is not None:
        raise Denied(f"{endpoint}: {denied}")
    raise Unavailable(f"{endpoint} cannot be reached: {reason}")


async def _greet(transport: trio.abc.Stream, address: str, context: ssl.SSLContext, check: Check) -> Dialled:
    stream = TlsStream(transport, context, server_side=False)
    try:
        await stream.do_handshake()
        certificate = stream.peer_certificate
        if certificate is None:
            raise Denied("the other end shows no certificate")
        return Dialled(stream, check(certificate), address)
    except BaseException:
        await stream.aclose()
        raise


def _reason(error: OSError) -> str:
    cause = error.__cause__  # trio groups what each address of a name said
    if isinstance(cause, ExceptionGroup) and isinstance(cause.exceptions[0], OSError):
        error = cause.exceptions[0]
    said = (error.strerror or str(error)).lower()
    return said.rpartition("error connecting to ")[2].partition("): ")[2] or said  # trio names the address as a tuple


def expecting(
    endpoint: Endpoint, pool: str, *, now: Callable[[], float], verify: Callable[[bytes], None] | None = None
) -> Check:
    """A check that the certificate is that of `endpoint` in `pool` and has not expired; `verify` goes first."""

    def check(certificate: bytes) -> Identity:
        if verify is not None:
            verify(certificate)
        identity = identity_of(certificate)
        if identity.pool != pool:
            raise Denied("a node of another pool answered")
        if identity.node != endpoint.node:
            raise Denied(f"another node answered: {identity.node[:8]}")
        if endpoint.role not in identity.roles:
            raise Denied(f"this node has no role {endpoint.role}")
        if identity.is_expired(now()):
            raise Denied("the certificate of this node has expired")
        return identity

    return check
