"""Peers that nobody can dial: they wait here for whoever dials them, and the coordinator passes the bytes on.

    peer      POST /relay/listen       waits … 101, then the dialler's bytes
    dialler   POST /relay/dial/{node}  101, then the peer's bytes

TLS runs between the two ends inside both connections: what passes is ciphertext here. Not a judge of who may ask a peer
for what; the peer is. Everything is bounded: connections that wait, splices a node and in all, time without a byte.
Called by `handlers`.
"""

import contextlib
import logging
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

import trio

from p2pfs.coordinator.roster import Peer, Roster
from p2pfs.errors import Denied, Misuse, NotFound, Unavailable
from p2pfs.net.identity import Identity
from p2pfs.net.raw import RawStream, Upgrade
from p2pfs.net.splice import splice
from p2pfs.types import NodeId, PeerState

MAX_SPARES: Final = 8
"""Connections of one peer that wait; one more ends the oldest, which may well be dead."""
MAX_SPLICES: Final = 256
MAX_SPLICES_PER_NODE: Final = 64
"""As peer or as dialler."""
MAX_SPLICES_PER_PAIR: Final = 16
"""So that one dialler does not keep all others from a peer; two mounts of one node keep eight connections each."""
LISTEN_S: Final = 25.0
"""Then a waiting peer is answered, and asks again: so both ends and whatever translates addresses see it alive."""
PATIENCE_S: Final = 2.0
"""How long a dialler waits for a connection of the peer: it opens another when one is taken."""
IDLE_S: Final = 90.0
_REACHED_S: Final = 1.0

_log = logging.getLogger(__name__)


class _Call:
    """A dialler's on its way to the peer's end."""

    def __init__(self) -> None:
        self.answered = trio.Event()  # `stream` is set, or the connection proved dead
        self.stream: RawStream | None = None
        self.over = trio.Event()  # the stream is needed no longer


class _Spare:
    """A peer's connection that waits. Woken without a call: nobody came."""

    def __init__(self) -> None:
        self.woken = trio.Event()
        self.call: _Call | None = None


class Relay:
    """Who waits, and what is spliced."""

    def __init__(
        self,
        roster: Roster,
        *,
        listen_s: float = LISTEN_S,
        patience_s: float = PATIENCE_S,
        idle_s: float = IDLE_S,
        most: int = MAX_SPLICES,
        most_per_node: int = MAX_SPLICES_PER_NODE,
        most_per_pair: int = MAX_SPLICES_PER_PAIR,
    ) -> None:
        self._roster = roster
        self._listen_s = listen_s
        self._patience_s = patience_s
        self._idle_s = idle_s
        self._most = most
        self._most_per_node = most_per_node
        self._most_per_pair = most_per_pair
        self._spares: dict[NodeId, list[_Spare]] = {}  # the newest last, which is the likeliest to live
        self._diallers: dict[NodeId, trio.lowlevel.ParkingLot] = {}  # those who wait for a spare of this node
        self._splices: dict[trio.CancelScope, None] = {}
        self._per_node: Counter[NodeId] = Counter()
        self._per_pair: Counter[tuple[NodeId, NodeId]] = Counter()  # (dialler, peer)
        self._is_stopping = False
        self.moved_bytes = 0  # since the start, both ways

    def __repr__(self) -> str:
        return f"Relay({sum(map(len, self._spares.values()))} spares, {len(self._splices)} splices)"

    def spares(self, node: NodeId) -> int:
        """Connections of this peer that wait."""
        return len(self._spares.get(node, ()))

    def stop(self) -> None:
        """End everything at once, and begin nothing any more."""
        self._is_stopping = True
        for spares in self._spares.values():
            for spare in spares:
                spare.woken.set()
        for scope in self._splices:
            scope.cancel()

    # ---- the peer's end ---------------------------------------------------------------------------------------------

    async def listen(self, identity: Identity, wait_s: float) -> Upgrade | None:
        """Wait for a dialler: what is to become of the connection, or None if nobody came.

        Raises:
            Denied: The caller is no peer of this pool.
            Misuse: No such time.
            Unavailable: The coordinator stops.
        """
        node = self._roster.member(identity.node)
        if self._roster.peer_of(node.id) is None:
            raise Denied(f"{node.name} is no peer")
        if not math.isfinite(wait_s) or wait_s < 0:
            raise Misuse("a peer waits for 0 s or more")
        self._expect_work()
        spare = _Spare()
        with self._waiting(node.id, spare):
            with trio.move_on_after(min(wait_s, self._listen_s)):
                await spare.woken.wait()
        return None if spare.call is None else partial(_lend, spare.call)

    @contextlib.contextmanager
    def _waiting(self, node: NodeId, spare: _Spare) -> Iterator[None]:
        spares = self._spares.setdefault(node, [])
        if len(spares) >= MAX_SPARES:
            spares.pop(0).woken.set()
        spares.append(spare)
        self._lot(node).unpark_all()
        try:
            yield
        except BaseException:
            if spare.call is not None:
                spare.call.answered.set()  # without a stream: the dialler takes the next
            raise
        finally:
            if spare in spares:
                spares.remove(spare)

    # ---- the dialler's end ------------------------------------------------------------------------------------------

    async def dial(self, identity: Identity, target: str) -> Upgrade:
        """What is to become of the connection of somebody who dials the peer `target`.

        Raises:
            Denied: The caller is no member (any more).
            NotFound: There is no such peer.
            Unavailable: The peer keeps no connection here, or too many are spliced.
        """
        caller, peer = self._roster.member(identity.node), self._peer(target)
        self._expect_work()
        self._expect_room(caller.id, peer.node.id)
        with trio.move_on_after(self._patience_s):
            await self._some_spare(peer.node.id)
            return partial(self._join, caller.id, peer.node.id)
        raise Unavailable(f"peer {peer.number} cannot be dialled, and keeps no connection to the coordinator")

    def _peer(self, target: str) -> Peer:
        peer = self._roster.peer_of(NodeId(target))
        if peer is None or peer.state is PeerState.REVOKED:
            raise NotFound(f"no peer {target} belongs to this pool")
        return peer

    async def _join(self, caller: NodeId, target: NodeId, stream: RawStream) -> None:
        """Pass bytes on between `stream` and a connection of `target`. Raises Unavailable when there is none."""
        with self._counted(caller, target):
            call = await self._reach(target)
            try:
                assert call.stream is not None
                await splice(stream, call.stream, idle_s=self._idle_s, moved=self._count)
            finally:
                call.over.set()

    async def _reach(self, target: NodeId) -> _Call:
        """A call that was answered: its stream lives. The caller ends it."""
        with trio.move_on_after(self._patience_s):
            while True:
                await self._some_spare(target)
                spare, call = self._spares[target].pop(), _Call()
                spare.call = call
                spare.woken.set()
                try:
                    with trio.move_on_after(_REACHED_S):
                        await call.answered.wait()
                    if call.stream is not None:
                        return call
                except BaseException:
                    call.over.set()
                    raise
                call.over.set()
        raise Unavailable(f"no connection of node {target} answers")

    async def _some_spare(self, node: NodeId) -> None:
        while not self._spares.get(node):
            await self._lot(node).park()

    def _lot(self, node: NodeId) -> trio.lowlevel.ParkingLot:
        return self._diallers.setdefault(node, trio.lowlevel.ParkingLot())

    # ---- bounds -----------------------------------------------------------------------------------------------------

    def _expect_work(self) -> None:
        if self._is_stopping:
            raise Unavailable("the coordinator stops")

    def _expect_room(self, caller: NodeId, target: NodeId) -> None:
        if len(self._splices) >= self._most:
            raise Unavailable(f"the coordinator relays {self._most} connections already")
        if self._per_pair[caller, target] >= self._most_per_pair:
            raise Unavailable(f"{self._most_per_pair} connections between these two nodes are relayed already")
        for node in (caller, target):
            if self._per_node[node] >= self._most_per_node:
                raise Unavailable(f"{self._most_per_node} connections of node {node} are relayed already")

    @contextlib.contextmanager
    def _counted(self, caller: NodeId, target: NodeId) -> Iterator[None]:
        """While the block runs it is one of the splices, which `stop` ends."""
        self._expect_work()
        self._expect_room(caller, target)
        self._per_node.update((caller, target))
        self._per_pair[caller, target] += 1
        with trio.CancelScope() as scope:
            self._splices[scope] = None
            try:
                yield
            finally:
                del self._splices[scope]
                self._per_node.subtract((caller, target))
                self._per_node += Counter()  # forgets zeros
                self._per_pair[caller, target] -= 1
                self._per_pair += Counter()

    def _count(self, size: int) -> None:
        self.moved_bytes += size


async def _lend(call: _Call, stream: RawStream) -> None:
    """Give the peer's end to a dialler until that is done with it."""
    if stream.is_readable():  # nobody has spoken to the peer yet: this is the connection's end
        call.answered.set()
        return
    call.stream = stream
    call.answered.set()
    await call.over.wait()
