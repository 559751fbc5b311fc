"""One absence of the coordinator: whom this peer hears of its fellows, and whom it takes for the elected one.

Greets every fellow of the signed list now and then, which tells both that the other lives, where, and whether the
coordinator answers it. Decides by `p2pfs.placement.election`. Made and ended by `absence`; asked by `election` and
`copies`. Nothing of it outlives the absence.
"""

import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import trio

from p2pfs.chunks.peers import PeerStores
from p2pfs.errors import Denied, Invalid, PoolError
from p2pfs.net.addresses import RELAY, parse_address
from p2pfs.net.client import Client, Endpoint
from p2pfs.placement import election
from p2pfs.placement.candidates import is_staying
from p2pfs.placement.election import Voice
from p2pfs.runtime.clocks import Clock
from p2pfs.types import GONE_STATES, NodeId, PeerNumber, Role
from p2pfs.wire.fellows import Greeting, Roll
from p2pfs.wire.membership import PeerInfo

log = logging.getLogger(__name__)

ROUNDS: Final = 4
"""Greetings of each fellow in `elect_after`."""
MISSED: Final = 3
"""Rounds after which a fellow is not heard any more."""
SELDOM: Final = 4
"""One that was not heard for so many rounds is greeted in every so-manieth: most that are silent stay so for long."""
IDLE: Final = 8
"""Looks that a leader may leave out, each `elect_after` apart, before it is passed over; for ten times as long."""
AT_ONCE: Final = 8
TRANSFER_S: Final = 60.0
IDLE_S: Final = 1.0
"""Without a byte from a source the next one is asked."""
_MOST_ADDRESSES: Final = 16
_MOST_LETTERS: Final = 255
_GREET_S: Final = 5.0
_MOST_ROOM: Final = 1 << 62


@dataclass(slots=True)
class Fellow:
    """A member as this peer hears it; times are monotonic."""

    info: PeerInfo
    seen_s: float  # last heard, or when the absence began for one that was up then
    heard_s: float | None = None  # in this absence
    orphan_s: float | None = None  # how long the coordinator had been silent for it then
    follows: PeerNumber | None = None
    room: int = 0
    unheard: int = 0  # greetings in a row that it did not answer
    looked_s: float = 0.0  # when it last asked what is held here
    passed_until_s: float = 0.0


class Watch:
    """`silent_s` tells since when no coordinator answered this peer; `greeting` is what it says of itself."""

    def __init__(
        self,
        own: PeerNumber,
        roll: Roll,
        *,
        client: Client,
        silent_s: Callable[[], float],
        room: Callable[[], int],
        addresses: Callable[[], Sequence[str]],
        clock: Clock,
    ) -> None:
        self.own = own
        self.roll = roll
        self.elect_after_s = roll.elect_after_s
        self._client = client
        self._silent_s = silent_s
        self._room = room
        self._addresses = addresses
        self._clock = clock
        began_s = clock.monotonic() - silent_s()
        self.fellows = {
            PeerNumber(peer.number): Fellow(peer, began_s if peer.state not in ("down", "lost") else -math.inf)
            for peer in roll.map.peers
            if peer.number != own and peer.state not in GONE_STATES
        }
        self._nodes = {NodeId(fellow.info.node): number for number, fellow in self.fellows.items()}
        self.map = roll.map
        self.stores = PeerStores(
            client, lambda: self.map, lambda _peer, _size: None, timeout_s=TRANSFER_S, idle_s=IDLE_S
        )
        self.leader: PeerNumber | None = None
        self._leads_since_s = 0.0
        self._rounds = 0
        self._greeting_at_once = trio.CapacityLimiter(AT_ONCE)

    # ---- who is there -----------------------------------------------------------------------------------------------

    @property
    def interval_s(self) -> float:
        """From one round of greetings to the next."""
        return self.elect_after_s / ROUNDS

    def heard(self) -> list[PeerNumber]:
        """Fellows that are heard."""
        patience_s = MISSED * self.interval_s + _GREET_S
        now_s = self._clock.monotonic()
        return [
            number
            for number, fellow in self.fellows.items()
            if fellow.heard_s is not None and now_s - fellow.heard_s <= patience_s
        ]

    @property
    def is_orphaned(self) -> bool:
        """Whether the coordinator has been silent for this peer for long enough."""
        return self._silent_s() >= self.elect_after_s

    @property
    def leads(self) -> bool:
        return self.leader == self.own

    def follow(self) -> None:
        """Take whoever leads by now for the leader."""
        found = self._elected()
        if found == self.leader:
            return
        self.leader, self._leads_since_s = found, self._clock.monotonic()
        if found == self.own:
            log.info("no coordinator answers: this peer asks for copies of what is short, until one does")
        elif found is not None:
            log.info("no coordinator answers: peer %d asks for copies of what is short", found)

    def _elected(self) -> PeerNumber | None:
        if not self._rounds or not self.is_orphaned or self._clock.time() >= self.roll.expires_s:
            return None
        own, fellows = Voice(self.own, True, self.leader), [self._voice(number) for number in self.heard()]
        if not election.is_open([own, *fellows]):
            return None
        now_s = self._clock.monotonic()
        if self.leader is not None and not self.leads:
            leading = self.fellows[self.leader]
            patience_s = IDLE * self.elect_after_s
            if now_s - max(self._leads_since_s, leading.looked_s) > patience_s:
                log.info("peer %d should ask for copies and does not look for any: it is passed over", self.leader)
                leading.passed_until_s = now_s + 10 * patience_s
        passed = [number for number, fellow in self.fellows.items() if fellow.passed_until_s > now_s]
        return election.leader(own, fellows, passed)

    def _voice(self, number: PeerNumber) -> Voice:
        fellow = self.fellows[number]
        is_orphaned = fellow.orphan_s is not None and fellow.orphan_s >= self.elect_after_s
        return Voice(number, is_orphaned, fellow.follows)

    def expect_leader(self, node: NodeId) -> Fellow:
        """Raises Denied unless this peer takes that node for the elected one."""
        self.follow()
        number = self._nodes.get(node)
        if number is None or number != self.leader:
            raise Denied("this peer does not follow that one")
        return self.fellows[number]

    # ---- greetings --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Greet everybody, again and again, not all peers at once, until cancelled."""
        while True:
            async with trio.open_nursery() as nursery:
                for number in self._due():
                    nursery.start_soon(self._greet, number)
            self._rounds += 1
            self.follow()
            await trio.sleep(self.interval_s * random.uniform(0.8, 1.2))

    def _due(self) -> list[PeerNumber]:
        """Whom to greet in this round. The relay is the coordinator: who has no other address cannot be greeted."""
        return [
            number
            for number, fellow in self.fellows.items()
            if any(address != RELAY for address in fellow.info.addresses)
            and (fellow.unheard < SELDOM or (self._rounds + number) % SELDOM == 0)
        ]

    async def _greet(self, number: PeerNumber) -> None:
        fellow = self.fellows[number]
        info = fellow.info
        endpoint = Endpoint(NodeId(info.node), Role.PEER, tuple(info.addresses))
        timeout_s = min(_GREET_S, self.interval_s)
        async with self._greeting_at_once:
            try:
                call = partial(self._client.call, endpoint, "POST", "/fellows", self.greeting(), Greeting)
                self.hear(NodeId(info.node), await call(timeout_s=timeout_s))
            except PoolError:
                fellow.unheard += 1

    def greeting(self) -> Greeting:
        """What this peer tells its fellows."""
        addresses = [address for address in self._addresses() if address != RELAY][:_MOST_ADDRESSES]
        return Greeting(self._silent_s(), self.leader or 0, max(0, self._room()), addresses)

    def hear(self, node: NodeId, told: Greeting) -> None:
        """A fellow greeted, or answered a greeting. Raises Denied for one that is not on the list."""
        number = self._nodes.get(node)
        if number is None:
            raise Denied("this node is not on the list of members")
        fellow = self.fellows[number]
        fellow.heard_s = fellow.seen_s = self._clock.monotonic()
        fellow.unheard = 0
        fellow.orphan_s = told.silent_s
        fellow.follows = PeerNumber(told.leader) if told.leader else None
        fellow.room = min(max(0, told.room), _MOST_ROOM)
        if told.addresses and told.addresses != fellow.info.addresses and _can_be_dialled(told.addresses):
            self._moved(fellow, told.addresses)

    def _moved(self, fellow: Fellow, addresses: list[str]) -> None:
        """It is elsewhere by now: whoever answers there still has to be that node."""
        before = fellow.info
        fellow.info = msgspec.structs.replace(before, addresses=addresses)
        peers = [fellow.info if peer.number == before.number else peer for peer in self.map.peers]
        self.map = msgspec.structs.replace(self.map, peers=peers)

    # ---- for whoever leads ------------------------------------------------------------------------------------------

    def endpoint(self, number: PeerNumber) -> Endpoint:
        info = self.fellows[number].info
        return Endpoint(NodeId(info.node), Role.PEER, tuple(info.addresses))

    def silent_fellow_s(self, number: PeerNumber) -> float:
        """Since a fellow was last heard, by this peer or, before, by the coordinator."""
        return self._clock.monotonic() - self.fellows[number].seen_s

    def infos(self) -> list[PeerInfo]:
        """All members that hold chunks and are to go on doing so; this peer, too."""
        return [peer for peer in self.map.peers if is_staying(peer)]


def _can_be_dialled(addresses: Sequence[str]) -> bool:
    if len(addresses) > _MOST_ADDRESSES or any(len(address) > _MOST_LETTERS for address in addresses):
        return False
    try:
        return all(all(parse_address(address)) and not any(map(str.isspace, address)) for address in addresses)
    except Invalid:
        return False
