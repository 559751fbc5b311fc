"""What a handler gets and gives: requests, responses, and the limits a server sets to both."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import trio

from p2pfs.errors import Misuse, Unavailable
from p2pfs.net.bodies import SLOWEST_BYTES_PER_S, SMALL_BYTES, STEP_BYTES, BodyRoom
from p2pfs.net.heads import ASK_RAW, RAW_PROTOCOL, SWITCHING
from p2pfs.net.identity import Identity
from p2pfs.net.raw import Upgrade
from p2pfs.types import KIB, MIB, Buffer
from p2pfs.wire import codec
from p2pfs.wire.routes import Route

T = TypeVar("T")
_LEAST_SHARE = 1 / 30
"""Of the time given at first; less is none: a trickle would earn ever shorter waits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much a server lets others make it wait and hold. Nothing is unlimited."""

    connections: int = 2048  # in all
    strangers: int = 256  # of them without a certificate, or before it is checked
    per_node: int = 64
    waiting_per_node: int = 0  # beside these, while their request is one that waits (Route.waits)
    handshake_s: float = 10.0
    head_s: float = 10.0  # from a head's first byte to its last
    idle_s: float = 90.0  # between two requests
    transfer_grace_s: float = 10.0  # a body may take this long, plus its size at the slowest rate
    slowest_bytes_per_s: int = 64 * KIB  # of those without a certificate
    members_slowest_bytes_per_s: int = SLOWEST_BYTES_PER_S
    body_pause_s: float = 30.0  # a member's body may pause so long, and comes at the slowest rate on average over it
    handler_s: float = 120.0
    linger_s: float = 2.0  # reading what a refused sender still sends, so that it sees the answer
    drain_bytes: int = 64 * KIB  # unread body worth reading to keep the connection
    bodies_bytes: int = 256 * MIB  # request bodies held in memory at once, all connections together
    node_bodies_bytes: int = 32 * MIB  # announced at once by one node
    small_body_bytes: int = SMALL_BYTES  # not counted in either
    anonymous_requests: int = 8  # answered at once
    anonymous_body_s: float = 5.0  # to send the body of one

    def transfer_s(self, size: int, *, is_member: bool = True) -> float:
        """The longest that sending or receiving `size` bytes may take."""
        rate = self.members_slowest_bytes_per_s if is_member else self.slowest_bytes_per_s
        return self.transfer_grace_s + size / rate

    def patience(self, size: int, *, is_member: bool) -> "Patience":
        """What the sender of a body of `size` bytes is given."""
        if is_member:
            return Patience(self.body_pause_s, self.members_slowest_bytes_per_s)
        return Patience(min(self.transfer_s(size, is_member=False), self.anonymous_body_s))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for the bytes of a body, all waits together; again at most so long for what came meanwhile
    at `bytes_per_s`, if that is not 0. Looked at only when time is up: who sends as fast as expected costs nothing."""

    seconds: float
    bytes_per_s: float = 0.0

    def more_s(self, came: int) -> float:
        """What `came` bytes earn; 0 if they are too few to go on."""
        if not self.bytes_per_s:
            return 0.0
        earned_s = min(self.seconds, came / self.bytes_per_s)
        return earned_s if earned_s >= _LEAST_SHARE * self.seconds else 0.0


class TooSlow(Unavailable):
    """The other end sent or took less than the slowest rate."""


class Source(Protocol):
    """Where body bytes come from (`net.inbox.Inbox`)."""

    async def receive_into(self, view: memoryview, expected: int = 1) -> int: ...

    def arrived(self) -> int: ...

    def waiting_bytes(self, size: int) -> bytearray | None: ...


class Request:
    """One request that was let in. The body is read by the handler, once, in whichever way suits it."""

    __slots__ = (
        "_allowance_s",
        "_arrived",
        "_early",
        "_patience",
        "_room",
        "_source",
        "content_length",
        "headers",
        "identity",
        "parameters",
        "query",
        "remaining",
        "route",
    )

    def __init__(
        self,
        route: Route,
        parameters: dict[str, str],
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        content_length: int = 0,
        source: Source | None = None,
        patience: Patience | None = None,
        room: BodyRoom | None = None,
    ) -> None:
        self.route = route
        self.parameters = parameters
        self.query = query  # undecoded, without the question mark
        self.headers = headers if headers is not None else {}  # lower-case names
        self.identity = identity
        self.content_length = content_length
        self.remaining = content_length  # body bytes not yet read
        self._source = source
        self._patience = patience or Patience(60.0)
        self._allowance_s = self._patience.seconds  # of time waiting for the sender
        self._arrived: int | None = None  # at the source when the allowance was last looked at
        self._room = room
        self._early: bytearray | None = None  # the body, if `prefetch` has read it

    def __repr__(self) -> str:
        return f"Request({self.route.name}, {self.parameters}, {self.content_length} bytes)"

    @property
    def caller(self) -> Identity:
        """Who asks. Only anonymous routes are ever called by nobody; use `identity` there."""
        if self.identity is None:
            raise Unavailable("this request has no sender")  # unreachable: the server refuses it before
        return self.identity

    def expect_upgrade(self) -> None:
        """Raises Misuse unless the caller asks that the connection becomes a raw stream."""
        if self.headers.get("upgrade") != RAW_PROTOCOL:
            raise Misuse(f"ask for this with the header Upgrade: {RAW_PROTOCOL}")

    async def receive_into(self, view: memoryview, expected: int = 1) -> int:
        """The next body bytes, at most `len(view)`; 0 when all were read. Who can do nothing before `expected` of them
        are there says so, and is woken less often.

        Raises:
            TooSlow: The sender is slower than the slowest rate allowed.
            Unavailable: The connection ended within the body.
        """
        return await self._receive(view, expected, least=1)

    async def fill(self, view: memoryview) -> int:
        """Body bytes until `view` is full or the body ends; how many. Raises as `receive_into`."""
        return await self._receive(view, len(view), least=len(view))

    async def _receive(self, view: memoryview, expected: int, *, least: int) -> int:
        if not self.remaining or self._source is None:
            return 0
        if self._arrived is None:
            self._arrived = self._source.arrived()
        view = view[: self.remaining]
        total, count = 0, 1
        while True:
            if self._allowance_s <= 0:  # perhaps used up by bytes that came at the last moment
                self._ask_for_time(self._source)
            began = trio.current_time()
            with trio.move_on_after(self._allowance_s) as scope:
                while count and total < min(least, len(view)):
                    rest = view[total:]
                    count = await self._source.receive_into(rest, min(expected - total, len(rest)))
                    total += count
                    self.remaining -= count
            self._allowance_s -= trio.current_time() - began
            if not count:
                raise Unavailable("the body was cut off")
            if not scope.cancelled_caught:
                return total
            self._allowance_s = 0.0

    def _ask_for_time(self, source: Source) -> None:
        """The allowance is used up. What has arrived counts also where it waits for more before anybody is woken."""
        arrived = source.arrived()
        came, self._arrived = arrived - (self._arrived or 0), arrived
        self._allowance_s = self._patience.more_s(came)
        if not self._allowance_s:
            raise TooSlow("the body came too slowly")

    async def body(self) -> bytearray:
        """All of the body; its size is bounded by the route, and it waits until the server's other bodies leave room.
        Memory is taken as the bytes come. Raises as `receive_into`."""
        if self._early is not None:
            body, self._early = self._early, None
            return body
        size, body = self.remaining, bytearray()
        free = await self._room.announce(size) if self._room is not None else size
        if free >= size and self._source is not None and (whole := self._source.waiting_bytes(size)) is not None:
            self.remaining = 0
            return whole
        while len(body) < size:
            at, step = len(body), min(size - len(body), STEP_BYTES)
            if at < free:
                step = min(step, free - at)
            elif self._room is not None:
                await self._room.grow(step)
            body.extend(bytes(step))
            with memoryview(body) as view, view[at:] as fresh:
                await self.fill(fresh)
        return body

    async def prefetch(self) -> None:
        """Read the body now; `body` gives it later. Raises as `receive_into`."""
        self._early = await self.body()

    def release(self) -> None:
        """The server is done with the request: its memory counts no longer."""
        if self._room is not None:
            self._room.release()

    async def message(self, kind: type[T]) -> T:
        """The body as a wire message. Raises Misuse when it is none, and as `receive_into`."""
        return codec.decode(await self.body(), kind)


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers. Body parts are sent as they are and must not change until they are."""

    status: int = 200
    body: Buffer | Sequence[Buffer] = b""
    content_type: str = codec.MSGPACK
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = field(default=None, kw_only=True)
    """What a HEAD answer says the body would measure; otherwise unused."""
    upgrade: Upgrade | None = field(default=None, kw_only=True)
    """Gets the connection after this answer; then it is closed."""

    @classmethod
    def of(cls, message: Any, status: int = 200) -> "Response":  # noqa: ANN401 - any wire struct
        """A message in msgpack."""
        return cls(status, codec.encode(message))

    @classmethod
    def switching(cls, upgrade: Upgrade) -> "Response":
        """The connection leaves HTTP. Only for a request that asked for it (`Request.expect_upgrade`)."""
        return cls(SWITCHING, headers=ASK_RAW, upgrade=upgrade)

    @property
    def parts(self) -> Sequence[Buffer]:
        return (self.body,) if isinstance(self.body, bytes | bytearray | memoryview) else self.body


Handler = Callable[[Request], Awaitable[Response]]
