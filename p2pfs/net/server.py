"""An HTTP/1.1 server over mutual TLS: listens, admits, calls handlers, stops for certain.

Not a framework: a route table (`wire.routes`), a handler for each route, and nothing else. Connections run in
`net.connection`; what a caller may do is decided by `net.gate`; coordinator and peer daemon own one each.
"""

import contextlib
import logging
import resource
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import trio

from p2pfs.errors import Denied, Misuse, NotFound, PoolError, TooLarge, Unavailable
from p2pfs.net.addresses import close_listeners
from p2pfs.net.bodies import BodyBudget, BodyRoom
from p2pfs.net.connection import Answer, Connection, refusal
from p2pfs.net.gate import admit
from p2pfs.net.heads import RequestHead
from p2pfs.net.identity import Identity, Revocations
from p2pfs.net.inbox import Inbox
from p2pfs.net.messages import Handler, Limits, Request, Response, TooSlow
from p2pfs.net.pace import Pace
from p2pfs.net.paced import keep_unread, kept_unread
from p2pfs.runtime.clocks import Clock, SystemClock
from p2pfs.types import NodeId, PoolId
from p2pfs.wire.routes import Route, Table

__all__ = ["Authorise", "Handler", "Limits", "Request", "Response", "Server"]

_log = logging.getLogger(__name__)
_FILES_FOR_OTHERS = 128
"""File descriptors that connections leave to databases, chunk files and clients of this process."""

Authorise = Callable[[Route, Identity, dict[str, str]], Awaitable[None] | None]
"""Raises Denied or NotFound unless the caller's owner is a member of the volume or session in the path."""


class Server:
    """Serves `routes` by `handlers` (route name → handler) to nodes of `pool`.

    A handler's PoolError becomes its status; any other exception is logged once and becomes 500. Request bodies are
    limited by their route, everything else by `limits`.

    Cancellation: cancelling `serve` closes everything at once.
    """

    def __init__(
        self,
        routes: tuple[Route, ...],
        handlers: Mapping[str, Handler],
        *,
        context: ssl.SSLContext,
        pool: PoolId,
        limits: Limits | None = None,
        revocations: Revocations | None = None,
        clock: Clock | None = None,
        authorise: Authorise | None = None,
        pace: Pace | None = None,
    ) -> None:
        names = {route.name for route in routes}
        if unknown := set(handlers) - names:
            raise Misuse(f"handlers for routes that do not exist: {', '.join(sorted(unknown))}")
        served = [route for route in routes if route.name in handlers]
        if authorise is None and any(route.members for route in served):
            raise Misuse("routes for members need an `authorise`")
        self._routes = Table(served)
        self._handlers = dict(handlers)
        self._context = context
        self._pool = pool
        self.limits = limits or Limits()
        self._revocations = revocations or Revocations()
        self._clock = clock or SystemClock()
        self._authorise = authorise
        self._pace = pace
        self._listening: list[trio.socket.SocketType] = []
        self._bodies = BodyBudget(self.limits.bodies_bytes, self.limits.node_bodies_bytes, self.limits.small_body_bytes)
        self._anonymous = trio.Semaphore(self.limits.anonymous_requests)
        self._connections: dict[Connection, None] = {}  # in order of arrival
        self._per_node: Counter[NodeId] = Counter()
        self._waiting: Counter[NodeId] = Counter()  # connections not among `_per_node` for now
        self._accepting = trio.CancelScope()
        self._is_stopping = False
        self._left = trio.lowlevel.ParkingLot()  # unparked whenever a connection ends
        self.requests = 0
        self.answers: Counter[tuple[str, int]] = Counter()  # by route, or "none", and first digit of the status
        self.failures = 0  # unexpected exceptions

    def __repr__(self) -> str:
        busy = sum(connection.is_busy for connection in self._connections)
        return f"Server({len(self._connections)} connections, {busy} busy{', stopping' if self._is_stopping else ''})"

    @property
    def connections(self) -> int:
        """Open connections, whatever they do."""
        return len(self._connections)

    # ---- life ----------------------------------------------------------------------------------------------------

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `stop`, then until the last connection is over. Closes the listeners."""
        async with trio.open_nursery() as connections:
            self._listening = [listener.socket for listener in listeners]
            self._keep_little()
            connections.start_soon(self._listen, list(listeners), connections)
            task_status.started()  # the sockets listen already; the kernel keeps who comes before the first accept

    async def _listen(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        try:
            with self._accepting:
                await trio.serve_listeners(self.accept, listeners, handler_nursery=connections)
        finally:
            close_listeners(listeners)

    async def stop(self, deadline_s: float) -> bool:
        """Stop accepting, close idle connections, let requests finish for `deadline_s`, then close what is left.

        Returns within `deadline_s` and a second whatever handlers do; False when one does not let itself be cancelled
        (a thread stuck in the kernel): the process should then end itself (`runtime.process.end_within`).
        """
        self._is_stopping = True
        self._accepting.cancel()
        for connection in self._connections:
            connection.is_last = True
            if not connection.is_busy:
                connection.scope.cancel()
        await self._emptied(deadline_s)
        for connection in self._connections:
            connection.scope.cancel()
        await self._emptied(1.0)
        return not self._connections

    async def emptied(self) -> None:
        """Wait until no connection is open, also of those given to `accept` by others. Ends after `stop`."""
        while self._connections:
            await self._left.park()

    async def _emptied(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.emptied()

    def drop_revoked(self) -> int:
        """Close every live connection of a node revoked by now; how many. Their requests end unanswered."""
        dropped = 0
        for connection in self._connections:
            if connection.identity is not None and self._revocations.revoked(connection.identity):
                connection.scope.cancel()
                dropped += 1
        return dropped

    def _keep_little(self) -> None:
        """Whoever connects from now on is told as small a window as the limit of now wants."""
        if self._pace is not None:
            for listening in self._listening:
                keep_unread(listening, kept_unread(self._pace.down))

    # ---- connections ---------------------------------------------------------------------------------------------

    async def accept(self, transport: trio.abc.Stream) -> None:
        """Serve one connection, however its bytes come here, until it is over; closes it."""
        if not self._has_room():
            _log.debug("a connection was refused: all %d are taken", len(self._connections))
            await trio.aclose_forcefully(transport)
            return
        if self._pace is not None:
            self._keep_little()
            transport = self._pace.over(transport)
        connection = Connection(transport, self._context, self)
        self._connections[connection] = None
        try:
            await connection.run()
        except Exception:  # nothing may end the server
            self.failures += 1
            _log.exception("a connection failed unexpectedly")
        finally:
            del self._connections[connection]
            if connection.identity is not None and connection.is_counted:
                self._forget(connection.identity.node)
            self._left.unpark_all()

    def _has_room(self) -> bool:
        """Room for one more, if need be by closing the stranger who came first, whatever it does: whoever holds no
        certificate cannot keep others out for longer than it takes them to knock."""
        if self._is_stopping:
            return False
        strangers = [
            connection
            for connection in self._connections
            if connection.identity is None and not connection.scope.cancel_called  # else it is leaving already
        ]
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(8, min(self.limits.connections, files - _FILES_FOR_OTHERS))
        if len(self._connections) < most and len(strangers) < self.limits.strangers:
            return True
        if not strangers:
            return False
        strangers[0].scope.cancel()
        return True

    def greet(self, connection: Connection, identity: Identity | None) -> None:
        """See `net.connection.Policy`."""
        if identity is None:
            return
        if identity.pool != self._pool:
            raise Denied("this certificate is of another pool")
        if self._per_node[identity.node] >= self.limits.per_node:
            raise Unavailable(f"node {identity.node} has {self.limits.per_node} connections already")
        self._per_node[identity.node] += 1
        connection.is_counted = True

    def left(self, connection: Connection) -> None:
        """See `net.connection.Policy`. Raw streams are bounded by whoever drives them."""
        if connection.identity is not None and connection.is_counted:
            connection.is_counted = False
            self._forget(connection.identity.node)

    def _forget(self, node: NodeId) -> None:
        self._per_node[node] -= 1
        if not self._per_node[node]:
            del self._per_node[node]

    # ---- requests ------------------------------------------------------------------------------------------------

    async def answer(self, head: RequestHead, identity: Identity | None, source: Inbox) -> Answer:
        """See `net.connection.Policy`."""
        self.requests += 1
        answer = await self._answer(head, identity, source)
        route = answer.request.route.name if answer.request is not None else "none"
        self.answers[route, answer.response.status // 100] += 1
        return answer

    async def _answer(self, head: RequestHead, identity: Identity | None, source: Inbox) -> Answer:
        request: Request | None = None
        try:
            request = await self._admit(head, identity, source)
            if request.route.waits:
                with self._apart(request):
                    response = await self._handle(request)
            else:
                response = await self._handle(request)
            return Answer(response, request, must_close=self._is_crowded(identity))
        except PoolError as error:
            must_close = identity is None or isinstance(error, TooSlow) or self._revocations.revoked(identity)
            return Answer(refusal(error), request, must_close=must_close or self._is_crowded(identity))
        except Exception:
            self.failures += 1
            _log.exception("%s failed unexpectedly", request or f"{head.method} {head.path}")
            return Answer(refusal(PoolError("this failed for an unexpected reason; the server's log has it")), request)
        except BaseException:
            if request is not None:
                request.release()
            raise

    @contextlib.contextmanager
    def _apart(self, request: Request) -> Iterator[None]:
        """While a request waits its connection takes no place from its node's others, up to `waiting_per_node`. What
        then is one too many ends with its answer."""
        node = request.identity.node if request.identity is not None else None
        if node is None or self._waiting[node] >= self.limits.waiting_per_node:
            yield
            return
        self._waiting[node] += 1
        self._forget(node)
        try:
            yield
        finally:
            self._per_node[node] += 1
            self._waiting[node] -= 1
            if not self._waiting[node]:
                del self._waiting[node]

    def _is_crowded(self, identity: Identity | None) -> bool:
        return identity is not None and self._per_node[identity.node] > self.limits.per_node

    async def _admit(self, head: RequestHead, identity: Identity | None, source: Inbox) -> Request:
        found = self._routes.match(head.method, head.path)
        now = self._clock.time()
        route = admit(found[0] if found else None, identity, now=now, revocations=self._revocations)
        if found is None:
            raise NotFound("there is no such route")
        parameters = found[1]
        if head.content_length > route.body_limit:
            raise TooLarge(f"the body of {route.name} has at most {route.body_limit} bytes")
        if route.members:
            await self._check_membership(route, identity, parameters)
        return Request(
            route,
            parameters,
            query=head.query,
            headers=head.headers,
            identity=identity,
            content_length=head.content_length,
            source=source,
            patience=self.limits.patience(head.content_length, is_member=identity is not None),
            room=BodyRoom(self._bodies, identity.node if identity else None),
        )

    async def _check_membership(self, route: Route, identity: Identity | None, parameters: dict[str, str]) -> None:
        if identity is None or self._authorise is None:
            raise Denied("this is for members only")
        verdict = self._authorise(route, identity, parameters)
        if verdict is not None:
            await verdict

    async def _handle(self, request: Request) -> Response:
        is_member = request.identity is not None
        allowed_s = self.limits.handler_s + self.limits.transfer_s(request.content_length, is_member=is_member)
        handler = self._handlers[request.route.name]
        with trio.move_on_after(allowed_s) as scope:
            if request.identity is not None:
                return await handler(request)
            await request.prefetch()  # before it takes a place: who dribbles holds up nobody
            async with self._anonymous:
                return await handler(request)
        assert scope.cancelled_caught
        raise Unavailable(f"{request.route.name} took too long")
