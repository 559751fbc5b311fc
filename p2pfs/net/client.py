"""A pooled HTTP/1.1 client over mutual TLS: chunks and metadata go through it.

It dials exactly the node it is told to and keeps a bounded number of connections to each. It knows nothing of what is
asked; retrying beyond one stale connection, other peers, and sequence numbers are its callers' business.
"""

import contextlib
import dataclasses
import logging
import math
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

import trio

from p2pfs.errors import Denied, Misuse, Unavailable
from p2pfs.net.addresses import RELAY
from p2pfs.net.asked import Asked
from p2pfs.net.dialled import Connect, Dialled, Endpoint, Reply, connect_by_tcp, dial, expecting
from p2pfs.net.forwarding import WITHIN_S, Forwarding
from p2pfs.net.heads import request_head
from p2pfs.net.identity import Revocations, joining_context, verify_leaf
from p2pfs.net.watch import Watch
from p2pfs.net.wires import Stall
from p2pfs.runtime.clocks import Clock, SystemClock
from p2pfs.types import MIB, Buffer, NodeId, PoolId, Role
from p2pfs.wire import codec, failures
from p2pfs.wire.routes import relay_path

__all__ = ["Client", "Endpoint", "Reply", "joining_client"]

T = TypeVar("T")
_CONNECT_S: Final = 1.0
_KEEP_IDLE_S: Final = 30.0  # less than servers keep them, so that stale ones are rare
_MOST_IDLE: Final = 64
_FRESH_S: Final = 0.5
_RELAY_FIRST_S: Final = 60.0
"""How long a node reached through the relay is dialled there first: its own addresses cost a timeout each."""
_LARGEST_ANSWER: Final = 32 * MIB
_FORWARDED: Final = "forwarded:0"
"""The address of whoever is reached through others, in messages."""
_log = logging.getLogger(__name__)
_WITH_BODY: Final = frozenset({"POST", "PUT"})


class _Node:
    """What the client holds of one node in one role."""

    __slots__ = ("idle", "relayed_until_s", "slots")

    def __init__(self, connections: int) -> None:
        self.slots = trio.Semaphore(connections)
        self.relayed_until_s = -math.inf
        self.idle: list[Dialled] = []  # the last one used goes first: its buffers are warm


class Client:
    """Connections to the nodes of one pool, for all tasks of a process. Nodes that nobody can dial are reached through
    `relay`, the coordinator; without it they are not. Whoever cannot be dialled from here is reached through others if
    there is `forwarding`.

    Cancellation: a cancelled request closes its connection; whether the other end acted on it is unknown.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        pool: PoolId,
        *,
        clock: Clock | None = None,
        connections_per_node: int = 8,
        revocations: Revocations | None = None,
        connect_s: float = _CONNECT_S,
        verify: Callable[[bytes], None] | None = None,
        connect: Connect = connect_by_tcp,
        relay: Endpoint | None = None,
        forwarding: Forwarding | None = None,
    ) -> None:
        self._context = context
        self._pool = pool
        self._clock = clock or SystemClock()
        self._per_node = connections_per_node
        self._revocations = revocations or Revocations()
        self._connect_s = connect_s
        self._verify = verify
        self._connect = connect
        self._relay = relay
        self.forwarding = forwarding
        self._nodes: dict[tuple[NodeId, Role], _Node] = {}  # a node with two roles is two servers
        self._idle: OrderedDict[Dialled, _Node] = OrderedDict()  # longest idle first
        self._busy: set[Dialled] = set()
        self._retired: set[Dialled] = set()  # of the busy ones: to be closed, not kept
        self._is_closed = False

    def __repr__(self) -> str:
        return f"Client({len(self._busy)} busy, {len(self._idle)} idle)"

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; requests under way fail with Unavailable. Ends."""
        self._is_closed = True
        idle, self._idle = list(self._idle), OrderedDict()
        self._nodes.clear()
        for connection in (*idle, *self._busy):
            await connection.aclose()

    async def reconnect(self) -> None:
        """Use only new connections from now on: after `identity.load_credentials`, servers see the renewed
        certificate. Requests under way end on the old ones."""
        self._retired.update(self._busy)
        idle, self._idle = list(self._idle), OrderedDict()
        for node in self._nodes.values():
            node.idle.clear()
        for connection in idle:
            await connection.aclose()

    async def call(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        message: Any,  # noqa: ANN401 - any wire struct, or None for no body
        kind: type[T],
        *,
        timeout_s: float = 30.0,
        idle_s: float | None = None,
        idempotent: bool = True,
    ) -> T:
        """Send a message, receive one of `kind` (`type(None)`: an empty answer). Raises as `request`, and Misuse when
        the answer is no `kind`."""
        parts = () if message is None else (codec.encode(message),)
        reply = await self.request(
            endpoint, method, path, parts=parts, timeout_s=timeout_s, idle_s=idle_s, idempotent=idempotent
        )
        if kind is type(None) and not reply.body:
            return None
        return codec.decode(reply.body, kind)

    async def request(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        *,
        parts: Sequence[Buffer] = (),
        headers: Iterable[tuple[str, str]] = (),
        into: memoryview | None = None,
        timeout_s: float,
        idle_s: float | None = None,
        idempotent: bool = True,
        raw: bool = False,
        limit: int = _LARGEST_ANSWER,
        watch: Watch | None = None,
    ) -> Reply:
        """One request. Its body is the concatenation of `parts`, which nobody may change meanwhile; the answer's body
        is received into `into` where given. `timeout_s` bounds everything, `idle_s` the time without a byte moving;
        `watch` sees what moves.

        A connection that turns out to be stale is replaced once, if no byte of an answer was seen and the request is
        `idempotent`.

        Raises:
            Unavailable: Nobody answered in time, the connection broke, or the answer is none.
            Denied: Another node answered, or it refused our certificate.
            PoolError: What the other end raised, unless `raw`.
        """
        head = request_head(
            method,
            path,
            endpoint.node,
            length=sum(map(len, parts)) if parts or method in _WITH_BODY else None,
            headers=headers,
        )
        exchange = _Exchange(head, parts, has_body=method != "HEAD", into=into, limit=limit, idle_s=idle_s, watch=watch)
        with trio.move_on_after(max(0.0, timeout_s)) as scope:
            reply = await self._exchange(endpoint, exchange, idempotent)
        if scope.cancelled_caught:
            raise Unavailable(f"{endpoint} did not answer within {timeout_s:g} s")
        if reply.status >= 400 and not raw:
            raise failures.decode_failure(reply.status, reply.body)
        return reply

    def ask(
        self, endpoint: Endpoint, path: str, headers: Iterable[tuple[str, str]], into: memoryview, watch: Watch
    ) -> Asked | None:
        """GET over an idle connection: sent when this returns. The answer's body is received into `into`. None when
        that takes waiting, or looking after connections: then `request` it."""
        node = self._nodes.get((endpoint.node, endpoint.role))
        if self._is_closed or node is None or not node.idle or self._oldest() is not None:
            return None
        connection = node.idle[-1]
        if not connection.stream.sends_now or not self._is_good(connection, endpoint, is_checked=False):
            return None
        head = request_head("GET", path, endpoint.node, headers=headers)
        try:
            node.slots.acquire_nowait()
        except trio.WouldBlock:
            return None
        node.idle.pop()
        del self._idle[connection]
        self._busy.add(connection)

        async def done(connection: Dialled) -> None:
            node.slots.release()
            await self._done(connection, node)

        return Asked(connection, head, into, watch, done)

    async def _exchange(self, endpoint: Endpoint, exchange: "_Exchange", idempotent: bool) -> Reply:
        if self._is_closed:
            raise Unavailable("this client is closed")
        node = self._nodes.get((endpoint.node, endpoint.role))
        if node is None:
            node = self._nodes[endpoint.node, endpoint.role] = _Node(self._per_node)
        try:
            node.slots.acquire_nowait()
        except trio.WouldBlock:
            await node.slots.acquire()
        try:
            pooled = await self._pooled(node, endpoint, is_checked=not idempotent)
            if pooled is not None:
                try:
                    return await self._run(pooled, node, exchange)
                except Unavailable:
                    if pooled.saw_answer or not idempotent or self._is_closed or exchange.is_stalled:
                        raise
            return await self._run(await self._dial(endpoint, node), node, exchange)
        finally:
            node.slots.release()

    async def _run(self, connection: Dialled, node: _Node, exchange: "_Exchange") -> Reply:
        self._busy.add(connection)
        try:
            return await exchange.over(connection)
        finally:
            await self._done(connection, node)

    async def _done(self, connection: Dialled, node: _Node) -> None:
        """The connection is busy no longer. Takes no checkpoint where it is kept."""
        is_kept = connection.is_open and not self._is_closed and connection not in self._retired
        self._busy.discard(connection)
        self._retired.discard(connection)
        if is_kept:
            self._keep(connection, node)
        else:
            await connection.aclose()

    async def open(self, endpoint: Endpoint) -> Dialled:
        """A connection of the caller's own, who closes it; through others where it must be. Raises as `request`."""
        if self.forwarding is None:
            return await self.open_directly(endpoint)
        if self.forwarding.is_first(endpoint.node):
            with contextlib.suppress(Unavailable):
                return await self._open_through(self.forwarding, endpoint)
        try:
            return await self.open_directly(endpoint)
        except Unavailable:
            if not self.forwarding.is_worth(endpoint):
                raise
            try:
                return await self._open_through(self.forwarding, endpoint)
            except Unavailable as error:
                _log.debug("%s is not reached through others either: %s", endpoint, error)
            raise

    async def _open_through(self, forwarding: Forwarding, endpoint: Endpoint) -> Dialled:
        async def connect(_host: str, _port: int) -> trio.abc.Stream:
            return await forwarding.stream(self.open_directly, endpoint.node)

        return await self._dial_by(dataclasses.replace(endpoint, addresses=(_FORWARDED,)), connect, 2 * WITHIN_S)

    async def open_directly(self, endpoint: Endpoint) -> Dialled:
        """As `open`, but never through others than the relay."""
        return await self._dial_by(endpoint, self._connect, self._connect_s)

    async def _dial_by(self, endpoint: Endpoint, connect: Connect, connect_s: float) -> Dialled:
        self._require_open()
        check = expecting(endpoint, self._pool, now=self._clock.time, verify=self._verify)
        connection = await dial(
            endpoint,
            self._context,
            check,
            connect_s=connect_s,
            connect=connect,
            relayed=self._through_relay if self._relay is not None else None,
        )
        if self._is_closed or self._revocations.revoked(connection.identity):
            await connection.aclose()
            self._require_open()
            raise Denied(f"{endpoint} was revoked")
        return connection

    async def _dial(self, endpoint: Endpoint, node: _Node) -> Dialled:
        """A new connection for the pool."""
        now_s = trio.current_time()
        if RELAY in endpoint.addresses and now_s < node.relayed_until_s:
            addresses = (RELAY, *(address for address in endpoint.addresses if address != RELAY))
            endpoint = dataclasses.replace(endpoint, addresses=addresses)
        connection = await self.open(endpoint)
        if connection.address == RELAY and now_s >= node.relayed_until_s:
            node.relayed_until_s = now_s + _RELAY_FIRST_S  # then it is looked for at its own addresses again
        return connection

    async def _through_relay(self, node: NodeId) -> trio.abc.Stream:
        """Bytes to and from `node`, passed on by the coordinator. Raises as `Dialled.upgrade`."""
        assert self._relay is not None
        outer = await self.open(self._relay)
        try:
            stream = await outer.upgrade(relay_path(node))
            if stream is None:
                raise Unavailable(f"the relay has no connection of node {node}")
        except BaseException:
            await outer.aclose()
            raise
        return stream

    def _require_open(self) -> None:
        if self._is_closed:
            raise Unavailable("this client is closed")

    async def _pooled(self, node: _Node, endpoint: Endpoint, *, is_checked: bool) -> Dialled | None:
        """An idle connection that still seems good; those that do not are closed on the way."""
        await self._sweep()
        while node.idle:
            connection = node.idle.pop()
            del self._idle[connection]
            if self._is_good(connection, endpoint, is_checked=is_checked):
                return connection
            await connection.aclose()
        return None

    def _is_good(self, connection: Dialled, endpoint: Endpoint, *, is_checked: bool) -> bool:
        """Whether an idle connection may be used. One that was used just now is looked at only if it is to be
        `is_checked`: that it ended meanwhile is rare, and is met by the request then."""
        identity = connection.identity
        is_fresh = not is_checked and trio.current_time() < connection.idle_since + _FRESH_S
        return (
            (is_fresh or connection.is_usable())
            and endpoint.role in identity.roles
            and not self._revocations.revoked(identity)
            and not identity.is_expired(self._clock.time())
        )

    def _keep(self, connection: Dialled, node: _Node) -> None:
        connection.idle_since = trio.current_time()
        node.idle.append(connection)
        self._idle[connection] = node

    async def _sweep(self) -> None:
        """Close what was idle for long, and the longest idle beyond the most there may be."""
        while (connection := self._oldest()) is not None:
            self._idle.pop(connection).idle.remove(connection)
            await connection.aclose()

    def _oldest(self) -> Dialled | None:
        """The longest idle connection, if it is to be closed."""
        connection = next(iter(self._idle), None)
        if connection is None or (
            len(self._idle) <= _MOST_IDLE and trio.current_time() - connection.idle_since < _KEEP_IDLE_S
        ):
            return None
        return connection


class _Exchange:
    """One request, ready to be sent over whichever connection there is."""

    __slots__ = ("_has_body", "_head", "_idle_s", "_into", "_limit", "_parts", "_watch", "is_stalled")

    def __init__(
        self,
        head: bytes,
        parts: Sequence[Buffer],
        *,
        has_body: bool,
        into: memoryview | None,
        limit: int,
        idle_s: float | None,
        watch: Watch | None = None,
    ) -> None:
        self._head = head
        self._parts = parts
        self._has_body = has_body
        self._into = into
        self._limit = limit
        self._idle_s = idle_s
        self._watch = watch
        self.is_stalled = False

    async def over(self, connection: Dialled) -> Reply:
        """Raises Unavailable after `idle_s` without progress, and as `Dialled.exchange`."""
        if self._watch is None:
            return await self._unless_stalled(connection)
        # That a request without a body was acknowledged says nothing: a stopped process's system does that too.
        self._watch.follow(connection.stream.moved if self._parts else connection.stream.arrived)
        try:
            return await self._unless_stalled(connection)
        finally:
            self._watch.leave()

    async def _unless_stalled(self, connection: Dialled) -> Reply:
        if self._idle_s is None:
            return await self._over(connection)
        with trio.CancelScope() as scope:
            connection.stream.stall = Stall(scope, self._idle_s)
            try:
                return await self._over(connection)
            finally:
                connection.stream.stall = None
        self.is_stalled = True
        raise Unavailable(f"nothing moved for {self._idle_s:g} s")

    async def _over(self, connection: Dialled) -> Reply:
        return await connection.exchange(
            self._head, self._parts, has_body=self._has_body, into=self._into, limit=self._limit
        )


def joining_client(ca_key: bytes, pool: PoolId, *, clock: Clock | None = None, connect_s: float = 5.0) -> Client:
    """A client without a certificate: it sends only to the coordinator that an invite names, recognised by its node id,
    its role, and a certificate signed by the invite's CA key (33 bytes). Raises Invalid on an impossible key.

    The endpoint given to `call` names that node and `Role.COORDINATOR`.
    """
    if len(ca_key) != 33:
        raise Misuse("a compressed P-256 key has 33 bytes")
    return Client(joining_context(), pool, clock=clock, connect_s=connect_s, verify=verify_leaf(ca_key))
