"""The network of a simulated pool: hosts, the links between them, and a client that stands in for `net.client.Client`.

A request travels as the bytes of its head and body, through the real parser, the real `Server.answer` (gate, routes,
membership, limits, errors) and the real handler, which runs in a task of the machine that serves it. Only TLS and
sockets are left out. What a link does to a request is decided by the seed.
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from p2pfs.errors import Unavailable
from p2pfs.net import heads
from p2pfs.net.client import Client, Endpoint, Reply
from p2pfs.net.identity import Identity
from p2pfs.net.server import Server
from p2pfs.net.watch import Watch
from p2pfs.types import Buffer, NodeId, PoolId, Role
from p2pfs.wire import failures

from .determinism import HOST

if TYPE_CHECKING:
    from .disk import SimDisk

CONNECT_S = 1.0
_WAITED_FOR = 0.25
"""Share of trips that take time at all: a run's time goes to waiting, and the order of things still changes."""


class PowerCut(BaseException):
    """The machine lost power: nobody catches this, as nobody survives it."""


class SimClock:
    """A machine's clocks: UTC may be wrong, the monotonic one is everybody's."""

    def __init__(self, start_s: float = 1_800_000_000.0) -> None:
        self._start_s = start_s
        self.ahead_s = 0.0

    def time(self) -> float:
        return self._start_s + trio.current_time() + self.ahead_s

    def monotonic(self) -> float:
        return trio.current_time()

    def time_ns(self) -> int:
        return int(self.time() * 1e9)


@dataclass(eq=False)
class Host:
    """A machine. Its processes run below `live`; `stop` ends them all at once, as kill -9 or a power cut does."""

    name: str
    identity: Identity
    clock: SimClock
    disk: "SimDisk | None" = None
    server: Server | None = None
    is_up: bool = False
    load: float = 0.1
    resumed: trio.Event | None = None  # set: it runs; None: it was never stopped
    nursery: trio.Nursery | None = field(default=None, repr=False)
    ended: trio.Event = field(default_factory=trio.Event, repr=False)
    awaited: dict[trio.Event, None] = field(default_factory=dict, repr=False)  # by those whose requests are served here

    async def live(
        self, body: Callable[[], Awaitable[None]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run `body`, which says `started` by setting `is_up`, until it ends or the machine stops."""
        HOST.set(self)
        self.ended, self.is_up = trio.Event(), True
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                task_status.started()
                await body()
        except* PowerCut:
            pass
        finally:
            self.is_up, self.server, self.nursery = False, None, None
            self.resume()
            for event in list(self.awaited):
                event.set()
            self.ended.set()

    def spawn(self, work: Callable[..., Awaitable[Any]], *arguments: object) -> None:
        """A task of this machine; nothing if it is off."""
        if self.nursery is not None and self.is_up:
            self.nursery.start_soon(self._run, work, arguments)

    async def _run(self, work: Callable[..., Awaitable[Any]], arguments: Sequence[object]) -> None:
        HOST.set(self)
        try:
            await work(*arguments)
        except PowerCut:
            self.stop()

    def stop(self) -> None:
        """From here on nothing of it runs, and what was under way is lost."""
        self.is_up = False
        for event in list(self.awaited):
            event.set()
        if self.disk is not None:
            self.disk.is_dead = True
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    def hang(self) -> None:
        """SIGSTOP: requests are accepted by the kernel and wait."""
        if self.resumed is None or self.resumed.is_set():
            self.resumed = trio.Event()

    def resume(self) -> None:
        if self.resumed is not None:
            self.resumed.set()

    @property
    def is_hung(self) -> bool:
        return self.resumed is not None and not self.resumed.is_set()

    async def awake(self) -> None:
        """Until it runs."""
        while self.resumed is not None and not self.resumed.is_set():
            await self.resumed.wait()


@dataclass
class Weather:
    """What links do; shares of requests, and seconds."""

    lost: float = 0.0  # requests that never arrive
    unanswered: float = 0.0  # requests that are served and whose answer is lost
    again: float = 0.5  # of those lost on the way: the client tries once more by itself on a new connection
    latency_s: float = 0.002
    slow: dict[str, float] = field(default_factory=dict)  # host name → factor


class Network:
    """All hosts and links. Whoever looks at `served` sees every request that reached a handler."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.hosts: dict[NodeId, Host] = {}
        self.weather = Weather()
        self.cut: set[frozenset[str]] = set()  # pairs of host names
        self.requests = 0

    def add(self, host: Host) -> Host:
        self.hosts[host.identity.node] = host
        return host

    def is_cut(self, one: Host, other: Host) -> bool:
        return frozenset((one.name, other.name)) in self.cut

    async def carry(self, sender: Host, endpoint: Endpoint, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """One request there and its answer back, as bytes. Raises Unavailable; hangs where a real one would."""
        target = self.hosts.get(endpoint.node)
        await sender.awake()
        await self._travel(sender, target)
        if target is None or not target.is_up or target.server is None:
            raise Unavailable(f"{endpoint} cannot be reached: connection refused")
        if self.chance.random() < self.weather.lost:
            await self._broken()
        await target.awake()
        if not target.is_up or target.server is None:
            raise Unavailable("the connection was reset")
        answer = await self._serve(sender, target, head, body)
        await sender.awake()
        await self._travel(target, sender)
        if self.chance.random() < self.weather.unanswered:
            await self._broken()
        return answer

    async def _travel(self, one: Host, other: Host | None) -> None:
        weather = self.weather
        names = (one.name, other.name if other is not None else "")
        factor = max(weather.slow.get(name, 1.0) for name in names)
        if factor > 1.0 or self.chance.random() < _WAITED_FOR:
            await trio.sleep(weather.latency_s * factor * (0.5 + self.chance.random()))
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        if other is not None and self.is_cut(one, other):
            await self._broken()

    async def _broken(self) -> None:
        """Either the connection is reset, or nothing is ever heard again."""
        if self.chance.random() < 0.5:
            await trio.sleep(CONNECT_S)
            raise Unavailable("the connection broke")
        await trio.sleep_forever()

    async def _serve(self, sender: Host, target: Host, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """In a task of the server, which goes on when the sender gives up."""
        answered: list[tuple[bytes, bytes]] = []
        done = trio.Event()
        server = target.server
        assert server is not None

        async def handle() -> None:
            answered.append(await answer(server, head, sender.identity, body))
            done.set()

        target.spawn(handle)
        self.requests += 1
        target.awaited[done] = None
        try:
            await done.wait()
        finally:
            target.awaited.pop(done, None)
        if not answered:
            raise Unavailable("the connection was reset before an answer came")
        return answered[0]


class _Body:
    """The bytes of one request's body, given in pieces as a connection does."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)
        self._size = len(data)

    def arrived(self) -> int:
        return self._size - len(self._left)

    async def receive_into(self, view: memoryview, expected: int = 1) -> int:
        await trio.lowlevel.checkpoint()
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def waiting_bytes(self, size: int) -> None:
        return None


async def answer(server: Server, raw: bytes, identity: Identity, body: bytes) -> tuple[bytes, bytes]:
    """What the server says to a request: (head, body)."""
    head = heads.parse_request(raw)
    given = await server.answer(head, identity, _Body(body))  # type: ignore[arg-type]
    try:
        response = given.response
        data = b"".join(bytes(part) for part in response.parts)
        is_head = head.method == "HEAD"
        length = response.length if is_head and response.length is not None else len(data)
        reply = heads.response_head(response.status, length=length, headers=response.headers)
        return reply, b"" if is_head else data
    finally:
        if given.request is not None:
            given.request.release()


class SimClient(Client):
    """`net.client.Client` over the simulated network: `call` is the real one, `request` is carried."""

    def __init__(self, network: Network, host: Host) -> None:
        self._network = network
        self._host = host

    def __repr__(self) -> str:
        return f"SimClient({self._host.name})"

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def reconnect(self) -> None:
        await trio.lowlevel.checkpoint()

    def ask(
        self, endpoint: Endpoint, path: str, headers: Iterable[tuple[str, str]], into: memoryview, watch: Watch
    ) -> None:
        """No connection is ever idle: everything is a `request`."""

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
        limit: int = 1 << 30,
        watch: Watch | None = None,  # everything comes at once: until then a peer is silent
    ) -> Reply:
        body = b"".join(bytes(part) for part in parts)
        length = len(body) if parts or method in ("POST", "PUT") else None
        head = heads.request_head(method, path, endpoint.node, length=length, headers=headers)
        with trio.move_on_after(max(0.0, min(timeout_s, idle_s or timeout_s))) as scope:
            try:
                answered = await self._network.carry(self._host, endpoint, head, body)
            except Unavailable:
                if not idempotent or self._network.chance.random() >= self._network.weather.again:
                    raise
                answered = await self._network.carry(self._host, endpoint, head, body)
        if scope.cancelled_caught:
            raise Unavailable(f"{endpoint} did not answer within {timeout_s:g} s")
        parsed, data = heads.parse_response(answered[0]), answered[1]
        if parsed.status >= 400 and not raw:
            raise failures.decode_failure(parsed.status, data)
        if into is not None:
            into[: len(data)] = data
            return Reply(parsed.status, parsed.headers, into[: len(data)])
        return Reply(parsed.status, parsed.headers, memoryview(bytearray(data)))


def identity(pool: PoolId, number: int, *roles: Role) -> Identity:
    """A node's certificate as servers see it."""
    return Identity(pool, NodeId(f"{number:032x}"), frozenset(roles), f"{number:x}", 1e12)
