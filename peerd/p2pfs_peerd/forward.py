"""Passing dials on: a client that reaches this peer reaches the coordinator and all peers this one knows.

    POST /relay/dial/{node}   for this peer: served; for another node of the pool: its connection, spliced

Only to nodes of the pool, in TLS connections to exactly those, so nobody is led to an address that is none of theirs;
what passes is TLS of the two ends. Bounded: splices a caller and in all, hops, neighbours asked, time to get there,
time without a byte. Part of `composition`.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio

from p2pfs.errors import NotFound, PoolError, Unavailable
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.forwarding import MAX_HOPS, Accepting, endpoints, expect_sound, through, through_some
from p2pfs.net.identity import Identity
from p2pfs.net.raw import RawStream, Upgrade
from p2pfs.net.server import Handler, Request, Response
from p2pfs.net.splice import splice
from p2pfs.types import NodeId
from p2pfs.wire.forwarding import Dial
from p2pfs.wire.membership import PoolMap

MOST: Final = 256
MOST_PER_CALLER: Final = 64
"""A mount keeps eight connections to each node."""
IDLE_S: Final = 90.0
_DIRECT_SHARE: Final = 0.4
"""Of the time there is, for the target itself; the rest for neighbours."""
_MAP_EVERY_S: Final = 5.0
_MAP_S: Final = 60.0
_ASK_S: Final = 1.0
_UNCLAIMED_S: Final = 10.0


class Forwarder:
    """Who is passed on where."""

    def __init__(
        self, client: Client, coordinator: Endpoint, own: NodeId, accepting: Accepting, is_open: Callable[[], bool]
    ) -> None:
        self._client = client
        self._coordinator = coordinator
        self._own = own
        self._accepting = accepting
        self._is_open = is_open
        self._map: PoolMap | None = None
        self._asked_s = -_MAP_S
        self._asking = trio.Lock()
        self._callers: Counter[NodeId] = Counter()
        self.count = 0
        """Connections passed on since the start."""

    def handlers(self) -> dict[str, Handler]:
        """By route name."""
        return {"forward_dial": self._handle}

    async def _handle(self, request: Request) -> Response:
        request.expect_upgrade()
        dial = await request.message(Dial) if request.content_length else Dial()
        target = request.parameters["node"]
        if self._accepting.is_for(target):
            return Response.switching(self._accepting.take(request.caller.node))
        return Response.switching(await self._pass_on(request.caller, target, dial))

    async def _pass_on(self, caller: Identity, target: str, dial: Dial) -> Upgrade:
        """What is to become of the connection of somebody who dials `target` here.

        Raises:
            Denied: So no dial is passed on.
            NotFound: It is no node that this peer may pass anything on to.
            Unavailable: It is not reached, or too many are passed on.
        """
        expect_sound(dial)
        if not self._is_open():
            raise Unavailable("this peer has yet to hear who was revoked")
        self._expect_room(caller.node)
        self._callers[caller.node] += 1
        claim = _Claim(self._callers, caller.node)
        try:
            with trio.fail_after(dial.within_s):
                claim.stream = await self._reach(NodeId(target), dial)
        except trio.TooSlowError:
            claim.release()
            raise Unavailable(f"node {target} is not reached within {dial.within_s:g} s") from None
        except BaseException:
            claim.release()
            raise
        self.count += 1
        self._unclaimed.start_soon(claim.expire)
        return claim.join

    def _expect_room(self, caller: NodeId) -> None:
        if self._callers.total() >= MOST or self._callers[caller] >= MOST_PER_CALLER:
            raise Unavailable("this peer passes on as many connections as it may")

    async def _reach(self, target: NodeId, dial: Dial) -> RawStream:
        """The target itself, else through neighbours that have not had it. Raises NotFound, Unavailable."""
        known = await self._known(target)
        direct = next((one for one in (self._coordinator, *known) if one.node == target), None)
        if direct is None:
            raise NotFound(f"no node {target} of this pool is known here")
        seen = [*dial.seen, self._own]
        try:
            return await through(
                self._client.open_directly, direct, target, Dial(0, seen[-MAX_HOPS:], dial.within_s * _DIRECT_SHARE)
            )
        except PoolError:
            if not dial.hops:
                raise
        others = [one for one in known if one.node not in (*seen, target)]
        random.shuffle(others)
        left = Dial(dial.hops - 1, seen, dial.within_s * (1 - _DIRECT_SHARE) / 2)
        stream, _ = await through_some(self._client.open_directly, others, target, left)
        return stream

    async def _known(self, target: NodeId) -> list[Endpoint]:
        """Peers of the map, which is fetched anew when it is old or lacks the target, but not all the time."""
        known = endpoints(self._map) if self._map is not None else []
        age_s = trio.current_time() - self._asked_s
        lacks = target != self._coordinator.node and all(one.node != target for one in known)
        if not self._asking.locked() and (age_s > _MAP_S or (lacks and age_s > _MAP_EVERY_S)):
            async with self._asking:
                self._asked_s = trio.current_time()
                try:
                    self._map = await self._client.call(
                        self._coordinator, "GET", "/map", None, PoolMap, timeout_s=_ASK_S
                    )
                    known = endpoints(self._map)
                except PoolError:
                    pass  # what was known before must do
        return known

    async def run(self) -> None:
        """Close what was reached and then nobody wanted. Until cancelled."""
        async with trio.open_nursery() as self._unclaimed:
            await trio.sleep_forever()


class _Claim:
    """A stream that was reached, until the caller's end is there to be joined with it."""

    def __init__(self, callers: Counter[NodeId], caller: NodeId) -> None:
        self._callers = callers
        self._caller = caller
        self._joined = trio.Event()
        self.stream: RawStream | None = None

    async def join(self, caller_end: RawStream) -> None:
        """Pass bytes on until one of them has had enough."""
        self._joined.set()
        assert self.stream is not None
        try:
            await splice(caller_end, self.stream, idle_s=IDLE_S, moved=lambda _size: None)
        finally:
            self.release()
            with trio.CancelScope(shield=True):
                await self.stream.aclose()  # within a second

    async def expire(self) -> None:
        with trio.move_on_after(_UNCLAIMED_S):
            await self._joined.wait()
        if not self._joined.is_set() and self.stream is not None:
            self.release()
            await self.stream.aclose()

    def release(self) -> None:
        """It counts no longer."""
        self._callers[self._caller] -= 1
        if not self._callers[self._caller]:
            del self._callers[self._caller]
