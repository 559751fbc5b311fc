"""Reaching a node through others: whoever cannot dial it asks peers it knows, and those ask peers they know.

    dialler ── POST /relay/dial/{target} ──▶ peer ── the same ──▶ … ──▶ target, which serves it like any connection

Every leg is a TLS connection to exactly the node that was meant, and what passes is TLS between the two ends: who
passes it on learns and can forge nothing, and no byte gets to an address that is not a node of the pool. `Forwarding`
is the dialler's memory, used by `client`; `through` is what peers do, too. Who may ask how often is
`p2pfs_peerd.forward`'s to say.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import trio

from p2pfs.errors import Denied, NoSpace, PoolError, Unavailable
from p2pfs.net.addresses import RELAY
from p2pfs.net.dialled import Dialled, Endpoint
from p2pfs.net.raw import RawStream
from p2pfs.runtime.files import write_durably
from p2pfs.types import GONE_STATES, NodeId, Role
from p2pfs.wire import codec
from p2pfs.wire.forwarding import Dial, Neighbour
from p2pfs.wire.membership import PoolMap
from p2pfs.wire.routes import relay_path

MAX_HOPS: Final = 3
FANOUT: Final = 3
"""Neighbours asked one after the other: 3 hops reach far more peers than that, and nobody floods a pool."""
AT_ONCE: Final = 16
"""Neighbours a dialler asks at once whether they reach somebody directly."""
WITHIN_S: Final = 4.0
"""How long one neighbour may take, with all it asks."""
REMEMBERED_S: Final = 60.0
"""A node reached through another is dialled there first for so long."""
FUTILE_S: Final = 15.0
"""A node that nobody reached is dialled only directly for so long: it is down."""
UNCLAIMED_S: Final = 10.0
"""A connection that was to be passed on to this node, and is not by then, is not expected any more."""
_MOST_KEPT: Final = 64
KNOWN_PEERS: Final = "peers.json"
"""The file of `KnownPeers` in a node's home."""

_log = logging.getLogger(__name__)

Open = Callable[[Endpoint], Awaitable[Dialled]]
"""A connection of the caller's own to exactly this node, dialled directly. Raises PoolError."""


async def through(dialling: Open, via: Endpoint, target: NodeId, dial: Dial) -> RawStream:
    """Bytes to and from `target`, passed on by `via` (or served by it, if it is the target).

    Raises:
        PoolError: It cannot be reached there, or does not get it there.
    """
    with trio.move_on_after(dial.within_s):
        outer = await dialling(via)
        try:
            stream = await outer.upgrade(relay_path(target), codec.encode(dial))
            if stream is not None:
                return stream
        except BaseException:
            await outer.aclose()
            raise
        await outer.aclose()
    raise Unavailable(f"{via} did not pass it on")


async def through_some(
    dialling: Open, known: Sequence[Endpoint], target: NodeId, dial: Dial
) -> tuple[RawStream, NodeId]:
    """`through` the first of some neighbours that gets it there, and which one that was. Raises Unavailable."""
    for via in known[:FANOUT]:
        try:
            return await through(dialling, via, target, dial), via.node
        except PoolError as error:
            _log.debug("%s does not pass on what is for %s: %s", via, target, error)
    raise Unavailable(f"none of {len(known[:FANOUT])} neighbours reaches node {target}")


class Forwarding:
    """What a client knows of others that may pass its connections on, and how that went."""

    def __init__(self, own: NodeId, neighbours: Callable[[], Sequence[Endpoint]]) -> None:
        self._own = own
        self._neighbours = neighbours
        self._last: NodeId | None = None  # through whom it last went
        self._first_until_s: dict[NodeId, float] = {}
        self._futile_until_s: dict[NodeId, float] = {}
        self._failed_s: dict[NodeId, float] = {}  # when it could not be dialled directly
        self.count = 0
        """Connections that went through others."""

    def is_first(self, node: NodeId) -> bool:
        """Whether `node` is to be dialled through others before directly."""
        return trio.current_time() < self._first_until_s.get(node, 0.0)

    def is_worth(self, endpoint: Endpoint) -> bool:
        """Whether to try others, now that dialling failed. A peer only when it fails again within a minute: others have
        what it has, and one that died must not delay whoever reads from those."""
        now_s, node = trio.current_time(), endpoint.node
        failed_s = self._failed_s.get(node)
        if failed_s is None or now_s > failed_s + REMEMBERED_S:
            _bounded(self._failed_s)[node] = now_s
            failed_s = None
        return (failed_s is not None or endpoint.role is Role.COORDINATOR) and now_s >= self._futile_until_s.get(
            node, 0.0
        )

    async def stream(self, dialling: Open, target: NodeId) -> RawStream:
        """Bytes to and from `target` through whoever gets there. Raises Unavailable."""
        known = [
            replace(one, addresses=direct)  # none through the coordinator, which may be what cannot be reached
            for one in self._neighbours()
            if one.node not in (target, self._own) and (direct := tuple(a for a in one.addresses if a != RELAY))
        ]
        random.shuffle(known)
        known.sort(key=lambda one: one.node != self._last)
        now_s = trio.current_time()
        try:
            stream, self._last = await self._search(dialling, known[:AT_ONCE], target)
        except Unavailable:
            _bounded(self._futile_until_s)[target] = now_s + FUTILE_S
            self._first_until_s.pop(target, None)
            raise
        if not self.is_first(target):  # else it is not looked for directly until that is over
            _bounded(self._first_until_s)[target] = now_s + REMEMBERED_S
        self.count += 1
        return stream

    async def _search(self, dialling: Open, known: Sequence[Endpoint], target: NodeId) -> tuple[RawStream, NodeId]:
        """First whoever gets there directly, all at once, for most may be as far from here as the target; then through
        some that can be dialled, and their neighbours."""
        found: list[tuple[RawStream, NodeId]] = []
        answering: list[Endpoint] = []

        async def ask(via: Endpoint) -> None:
            async def opened(endpoint: Endpoint) -> Dialled:
                connection = await dialling(endpoint)
                answering.append(endpoint)
                return connection

            try:
                stream = await through(opened, via, target, Dial(0, [self._own], WITHIN_S / 2))
            except PoolError as error:
                _log.debug("%s does not pass on what is for %s: %s", via, target, error)
                return
            if found:
                await trio.aclose_forcefully(stream)
                return
            found.append((stream, via.node))
            asking.cancel_scope.cancel()

        async with trio.open_nursery() as asking:
            for via in known:
                asking.start_soon(ask, via)
        if found:
            return found[0]
        with trio.move_on_after(WITHIN_S):
            return await through_some(dialling, answering, target, Dial(MAX_HOPS - 1, [self._own], WITHIN_S))
        raise Unavailable(f"no neighbour reaches node {target} in time")


def _bounded(times: dict[NodeId, float]) -> dict[NodeId, float]:
    if len(times) >= 4096:
        times.clear()
    return times


def endpoints(pool_map: PoolMap) -> list[Endpoint]:
    """The peers of a map that may be dialled."""
    return [
        Endpoint(NodeId(peer.node), Role.PEER, tuple(peer.addresses))
        for peer in pool_map.peers
        if peer.addresses and peer.state not in GONE_STATES
    ]


class KnownPeers:
    """The last map's peers in a file, for a start at which the coordinator cannot be dialled. Blocking."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: list[Neighbour] | None = None

    def load(self) -> list[Endpoint]:
        """None at all if the file is missing or damaged: it only helps."""
        try:
            self._kept = msgspec.json.decode(self._path.read_bytes(), type=list[Neighbour])
        except (OSError, msgspec.MsgspecError):
            return []
        return [Endpoint(NodeId(one.node), Role.PEER, tuple(one.addresses)) for one in self._kept]

    def save(self, known: Sequence[Endpoint]) -> None:
        """Keep some of these, if they are others than are kept."""
        kept = [Neighbour(one.node, list(one.addresses)) for one in known[:_MOST_KEPT]]
        if kept == self._kept:
            return
        try:
            write_durably(self._path, msgspec.json.encode(kept), 0o600, sync=False)
            self._kept = kept
        except (NoSpace, Unavailable) as error:
            _log.info("the peers known are not kept: %s", error)


@dataclass(eq=False, slots=True)
class _Taken:
    """A connection that this node said it would serve."""

    caller: NodeId
    until_s: float  # for ever once it is served


class Accepting:
    """A node's own end: takes a connection that others passed on, and serves it like one that was dialled."""

    def __init__(self, own: NodeId, accept: Callable[[trio.abc.Stream], Awaitable[None]], *, most: int = 256) -> None:
        self._own = own
        self._accept = accept
        self._most = most
        self._taken: set[_Taken] = set()

    def is_for(self, target: str) -> bool:
        return target == self._own

    def take(self, caller: NodeId) -> Callable[[RawStream], Awaitable[None]]:
        """What becomes of the caller's connection, which counts from now on. Raises Unavailable."""
        now_s = trio.current_time()
        self._taken = {taken for taken in self._taken if taken.until_s > now_s}
        if len(self._taken) >= self._most or sum(taken.caller == caller for taken in self._taken) >= self._most // 4:
            raise Unavailable("too many connections come here through others already")
        taken = _Taken(caller, now_s + UNCLAIMED_S)
        self._taken.add(taken)

        async def serve(stream: RawStream) -> None:
            if taken not in self._taken:
                return  # too late: it has been given up
            taken.until_s = math.inf
            try:
                await self._accept(stream)
            finally:
                self._taken.discard(taken)

        return serve


def expect_sound(dial: Dial) -> None:
    """Raises Denied: nobody who means well asks so."""
    if not (0 <= dial.hops < MAX_HOPS and len(dial.seen) <= MAX_HOPS and 0 < dial.within_s <= WITHIN_S):
        raise Denied("a dial is passed on three times at most")
