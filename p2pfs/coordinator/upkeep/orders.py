"""Hands out work to peers and takes back what became of it: `POST /orders`.

Each kind of work has a desk that knows what is to be done; here is only who was given what, so that an order is told
once, and comes back to its desk when its peer has done it, failed, forgotten it (a restart, a lost answer) or fallen
silent. A peer that is told of orders and does not come for them is deaf: `care` turns to others. In memory: what must
not be forgotten is in the database, where the desks find it again.

    desk.take ──▶ in hand of a peer ──result──▶ desk.settle
                        └──not `working` on it, silent, too long──▶ desk.lost

An order to delete is lost only when its peer says that it is not working on it. Silence says nothing: a peer whose disk
hangs may delete much later, and a copy that was counted again meanwhile would go.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from p2pfs.coordinator.roster import Roster
from p2pfs.errors import Denied, Misuse
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.types import PeerNumber
from p2pfs.wire.orders import MOST_RESULTS, MOST_ROOM, Delete, Order, Orders, Report, Result, Transfer

LONGEST_S: Final = 600.0
"""After so long an order counts as lost, whatever its peer says; but not one to delete."""
MOST_IN_HAND: Final = 500
"""A peer with so many orders gets no more before it has told of some."""
DEAF_S: Final = 60.0
"""A peer that was told of orders for so long, and did not come, is not waited for: its version may know none."""

_log = logging.getLogger(__name__)


class Desk(Protocol):
    """One kind of work."""

    def waits(self, peer: PeerNumber) -> bool:
        """Whether there is something for this peer to do."""
        ...

    def take(self, peer: PeerNumber, room: int, numbers: Iterator[int]) -> Sequence[Order]:
        """Orders for this peer, with these numbers; `room`: how many more transfers it takes."""
        ...

    async def settle(self, peer: PeerNumber, ended: Sequence[tuple[Order, Result]]) -> None:
        """Take results over. Durability: on return what follows from them is committed."""
        ...

    def lost(self, peer: PeerNumber, orders: Sequence[Order]) -> None:
        """Nobody will ever tell what became of these; a peer that is gone may still do them."""
        ...


@dataclass(frozen=True, slots=True)
class _Given:
    order: Order
    desk: Desk
    given_s: float  # monotonic

    @property
    def may_be_late(self) -> bool:
        """Whether it matters if it is done after it was given up."""
        return isinstance(self.order, Delete)


class OrderBook:
    """What every peer has in hand."""

    def __init__(self, roster: Roster, clock: Clock, *, first_number: int) -> None:
        self._roster = roster
        self._clock = clock
        self._numbers = itertools.count(first_number)
        self._desks: list[Desk] = []
        self._in_hand: dict[PeerNumber, dict[int, _Given]] = {}
        self._called_s: dict[PeerNumber, float] = {}  # monotonic; since when a peer is told and does not come
        self._known: set[PeerNumber] = set()  # peers that do nothing any more which an earlier run ordered

    def add(self, desk: Desk) -> None:
        """Hand out this kind of work too, after those added before."""
        self._desks.append(desk)

    def waits(self, peer: PeerNumber) -> bool:
        """Whether there is something for this peer to do."""
        return any(desk.waits(peer) for desk in self._desks)

    def call(self, peer: PeerNumber) -> bool:
        """Whether a peer that is heard now is to be told to come."""
        known = self._roster.peers[peer]
        if not self.waits(peer):
            if not known.is_deaf:
                self._called_s.pop(peer, None)
            return False
        now_s = self._clock.monotonic()
        if now_s - self._called_s.setdefault(peer, now_s) > DEAF_S and not known.is_deaf:
            _log.info("peer %s does not come for its orders: others are given them", known.node.name)
            self._roster.heed(known, is_deaf=True)
        return True

    def is_known(self, peer: PeerNumber) -> bool:
        """Whether all that the peer may be doing was ordered by this run of the coordinator."""
        return peer in self._known

    async def exchange(self, identity: Identity, report: Report) -> Orders:
        """Take results over and give new orders.

        Raises:
            Denied: The node is no peer that orders are given to.
            Misuse: The report breaks the protocol.
        """
        peer = self._peer(identity)
        self._called_s.pop(peer, None)
        self._roster.heed(self._roster.peers[peer], is_deaf=False)
        if len(report.results) > MOST_RESULTS or not 0 <= report.room <= MOST_ROOM:
            raise Misuse("a report has more in it than there can be")
        held = self._in_hand.setdefault(peer, {})
        ended: dict[Desk, list[tuple[Order, Result]]] = {}
        told, working = {result.order: result for result in report.results}, set(report.working)
        for number, result in told.items():
            given = held.get(number)
            if given is not None:  # otherwise it was told before, or given by an earlier run
                ended.setdefault(given.desk, []).append((given.order, result))
        if working <= held.keys():
            self._known.add(peer)
        self._forget(peer, [number for number in held if number not in working and number not in told])
        for desk, some in ended.items():
            await self._settle(peer, desk, some)
        # Who was not heard since the coordinator started comes first with a heartbeat: until then nothing that it shows
        # proves anything, and it would be asked to show it again and again.
        return Orders(self._give(peer, report.room) if self._roster.peers[peer].is_heard else [])

    async def _settle(self, peer: PeerNumber, desk: Desk, ended: Sequence[tuple[Order, Result]]) -> None:
        """Let a desk take results over, each once: they are in nobody's hand meanwhile, for a peer that heard no answer
        in time tells them again."""
        held = self._in_hand[peer]
        taken = {order.order: held.pop(order.order) for order, _ in ended if order.order in held}
        try:
            await desk.settle(peer, [(order, result) for order, result in ended if order.order in taken])
        except Misuse:
            desk.lost(peer, [given.order for given in taken.values()])  # told again, it would break the protocol again
            raise
        except BaseException:
            held |= taken
            raise

    def silence(self) -> None:
        """What peers that are down, or gone, were doing comes back to the desks."""
        for peer in self._in_hand.keys() | self._called_s.keys():
            known, held = self._roster.peers[peer], self._in_hand.get(peer, {})
            if not known.is_reachable:
                self._called_s.pop(peer, None)
                self._forget(peer, [n for n, given in held.items() if not (known.is_member and given.may_be_late)])

    def _peer(self, identity: Identity) -> PeerNumber:
        node = self._roster.member(identity.node)
        peer = self._roster.peer_of(node.id)
        if peer is None or not peer.is_member:
            raise Denied(f"{node.name} is no peer that is given work")
        return peer.number

    def _give(self, peer: PeerNumber, room: int) -> list[Order]:
        now_s, held = self._clock.monotonic(), self._in_hand.setdefault(peer, {})
        overdue = [n for n, given in held.items() if now_s - given.given_s > LONGEST_S and not given.may_be_late]
        self._forget(peer, overdue)
        room = max(0, min(room, MOST_ROOM - sum(isinstance(given.order, Transfer) for given in held.values())))
        orders: list[Order] = []
        for desk in self._desks:
            if len(held) >= MOST_IN_HAND:
                break
            given = desk.take(peer, room, self._numbers)
            orders += given
            held |= {order.order: _Given(order, desk, now_s) for order in given}
        return orders

    def _forget(self, peer: PeerNumber, numbers: Sequence[int]) -> None:
        held = self._in_hand.get(peer, {})
        lost: dict[Desk, list[Order]] = {}
        for number in numbers:
            given = held.pop(number, None)
            if given is not None:
                lost.setdefault(given.desk, []).append(given.order)
        for desk, orders in lost.items():
            _log.debug("peer %d has lost %d orders", peer, len(orders))
            desk.lost(peer, orders)
