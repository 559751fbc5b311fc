"""One connection at a server: handshake, then request after request until either end has had enough.

    handshake → idle ⇄ busy → lingering → closed
                        ↘ raw ↗

Every state has a deadline; `busy` ends with a response or without one, `lingering` only reads what a refused sender
still sends, so that the refusal is not lost to a reset. `raw` is a connection that has left HTTP by the answer 101:
whoever gave that answer drives it and sets its deadline. Policy (who may connect, what a route does) is the server's.
"""

import logging
import ssl
from collections.abc import Sequence
from typing import Protocol

import trio

from p2pfs.errors import Denied, Misuse, PoolError
from p2pfs.net import heads
from p2pfs.net.gate import NoCertificate
from p2pfs.net.identity import Identity, identity_of
from p2pfs.net.inbox import Inbox
from p2pfs.net.messages import Limits, Request, Response, TooSlow
from p2pfs.net.raw import RawStream, Upgrade
from p2pfs.net.tls import TlsStream
from p2pfs.types import KIB, Buffer
from p2pfs.wire import failures

_log = logging.getLogger(__name__)
_LINGER_BYTES = 4096 * KIB
_AT_ONCE_BYTES = 128 * KIB
"""An answer up to this size is tried without a deadline first: mostly the kernel takes it at once."""
_TIMEOUT_STATUS = 408
_BODILESS = frozenset({heads.SWITCHING, 204, 304})


class Policy(Protocol):
    """What a connection asks its server."""

    limits: Limits

    def greet(self, connection: "Connection", identity: Identity | None) -> None:
        """After the handshake. Raises Denied or Unavailable when this caller must go."""
        ...

    def left(self, connection: "Connection") -> None:
        """The connection becomes a raw stream: it is no longer one that asks."""
        ...

    async def answer(self, head: heads.RequestHead, identity: Identity | None, source: Inbox) -> "Answer":
        """Decide, run the handler, turn errors into responses. Never raises an Exception."""
        ...


class Answer:
    """A response, and whether the connection can go on after it."""

    __slots__ = ("must_close", "request", "response")

    def __init__(self, response: Response, request: Request | None, *, must_close: bool = False) -> None:
        self.response = response
        self.request = request
        self.must_close = must_close


def refusal(error: PoolError) -> Response:
    """The response that tells `error`; a stranger gets a status and nothing else."""
    if isinstance(error, NoCertificate):
        return Response(failures.NO_CERTIFICATE)
    status, body = failures.encode_failure(error)
    if isinstance(error, heads.BadHead):
        status = error.status
    elif isinstance(error, TooSlow):
        status = _TIMEOUT_STATUS
    return Response(status, body)


class Connection:
    """Runs in a task of its own. `scope` ends it at once; `is_busy` says whether that would cost somebody an answer."""

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, policy: Policy) -> None:
        self.scope = trio.CancelScope()
        self.is_busy = False
        self.is_counted = False  # by the server, among its node's connections
        self.is_last = False  # the current request is the last one (the server stops)
        self.identity: Identity | None = None
        self._policy = policy
        self._limits = policy.limits
        self._stream = TlsStream(transport, context, server_side=True)
        self._inbox = Inbox(self._stream)

    async def run(self) -> None:
        """Until the connection is over. Raises nothing but Cancelled of an outer scope."""
        try:
            with self.scope:
                await self._converse()
        except PoolError as error:  # the other end went, dribbled or lied; its own log can say more
            _log.debug("connection of %s ended: %s", self.identity.node if self.identity else "a stranger", error)
        finally:
            await self._stream.aclose()

    async def _converse(self) -> None:
        try:
            await self._shake_hands()
        except Denied:
            await self._linger()
            raise
        while True:
            try:
                head = await self._next_head()
            except heads.BadHead as error:
                await self._refuse(error)
                raise
            if head is None:
                return
            self.is_busy = True
            try:
                goes_on = await self._serve(head)
            finally:
                self.is_busy = False
            if not goes_on:
                return

    async def _shake_hands(self) -> None:
        with trio.move_on_after(self._limits.handshake_s) as scope:
            await self._stream.do_handshake()
        if scope.cancelled_caught:
            raise TooSlow("the handshake took too long")
        certificate = self._stream.peer_certificate
        self.identity = identity_of(certificate) if certificate else None
        self._policy.greet(self, self.identity)

    async def _next_head(self) -> heads.RequestHead | None:
        arrived = False
        with trio.move_on_after(self._limits.idle_s):
            arrived = await self._inbox.arrival()
        if not arrived:
            return None
        raw = self._inbox.whole_head()
        if raw is None:
            with trio.move_on_after(self._limits.head_s) as scope:
                raw = await self._inbox.head()
            if scope.cancelled_caught:
                raise heads.BadHead(_TIMEOUT_STATUS, "the head came too slowly")
        return None if raw is None else heads.parse_request(raw)

    async def _refuse(self, error: heads.BadHead) -> None:
        """Answer what is no request; a stranger learns no more than the status."""
        response = refusal(error)
        if self.identity is None:
            response = Response(response.status)
        await self._respond(response, keep_alive=False)
        await self._linger()

    async def _serve(self, head: heads.RequestHead) -> bool:
        """One request; whether another may follow."""
        answer = await self._policy.answer(head, self.identity, self._inbox)
        try:
            if answer.response.upgrade is not None:
                return await self._leave(answer.response, answer.response.upgrade)
            return await self._conclude(head, answer)
        finally:
            if answer.request is not None:
                answer.request.release()

    async def _leave(self, response: Response, upgrade: Upgrade) -> bool:
        """Leave HTTP, for good."""
        if not self.is_last:
            await self._respond(response, keep_alive=True)
            self._policy.left(self)
            await upgrade(RawStream(self._stream, self._inbox))
        return False

    async def _conclude(self, head: heads.RequestHead, answer: Answer) -> bool:
        """Send the answer and deal with what the handler left unread of the body."""
        request = answer.request
        unread = request.remaining if request else head.content_length
        can_drain = unread == 0 or (request is not None and unread <= self._limits.drain_bytes)
        goes_on = head.keep_alive and can_drain and not self.is_last and not answer.must_close
        try:
            await self._respond(answer.response, keep_alive=goes_on, is_head=head.method == "HEAD")
        except Misuse as error:  # before a byte of it was sent
            _log.error("the answer to %s %s cannot be sent: %s", head.method, head.path, error)
            await self._respond(Response(failures.INTERNAL), keep_alive=goes_on)
        if unread and not goes_on:
            await self._linger()
        elif unread and request is not None:
            await request.body()
        return goes_on and not self.is_last

    async def _respond(self, response: Response, *, keep_alive: bool, is_head: bool = False) -> None:
        parts: Sequence[Buffer] = response.parts
        size = sum(map(len, parts))
        length: int | None = response.length if is_head and response.length is not None else size
        headers = response.headers
        if response.status in _BODILESS:
            length, parts = None, ()
        elif size:
            headers = (("content-type", response.content_type), *headers)
        head = heads.response_head(response.status, length=length, headers=headers, keep_alive=keep_alive)
        whole = (head,) if is_head else (head, *parts)
        if size <= _AT_ONCE_BYTES and self._stream.send_nowait(whole):
            return
        with trio.move_on_after(self._limits.transfer_s(size, is_member=self.identity is not None)) as scope:
            await self._stream.send_all(() if size <= _AT_ONCE_BYTES else whole)
        if scope.cancelled_caught:
            raise TooSlow("the answer was taken too slowly")

    async def _linger(self) -> None:
        """Close the sending half and read on for a while: closing with unread bytes would reset the connection, and the
        other end would lose the answer."""
        with trio.move_on_after(self._limits.linger_s):
            await self._stream.finish()
            await self._stream.drain(_LINGER_BYTES)
