"""What each owner gets for what it gives: allowances under policy `fair`, and what everybody may see of them.

    traffic (windows) ─▶ coefficient ┐
    placed rows ─▶ stock ────────────┴─▶ allowance ─▶ copies (pool map, commits) · bytes (reservations, statfs)
                                                      · priority (care)

Copies and priority are worked out anew every TICK_S, bytes whenever somebody asks for room. A low value bounds what is
written from now on and nothing else. The worker also keeps the account in the database.
"""

import math
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.coordinator.growth import RAISE, Growth, Promised
from p2pfs.coordinator.ledger import Ledger
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.traffic import Traffic
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.errors import OverQuota
from p2pfs.meta import sessions, volumes
from p2pfs.meta import usefulness as rows
from p2pfs.meta.database import Database
from p2pfs.meta.members import Node
from p2pfs.placement.usefulness import (
    HALF_LIFE_DAYS,
    WINDOWS,
    Allowance,
    Counts,
    Stock,
    Terms,
    allowance,
    coefficient,
    hints,
    weight_of,
)
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.sizes import format_size
from p2pfs.runtime.worker import Progress
from p2pfs.types import NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.usefulness import (
    Advice,
    Day,
    Gave,
    NodeUsefulness,
    OwnerUsefulness,
    Rules,
    UsefulnessDetail,
    UsefulnessReport,
)

FAIR: Final = "fair"
TICK_S: Final = 30.0
RELEASED: Final = 1000
"""Chunks that get the pool's copies after all, of an owner and at a tick: what that costs counts before the next."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A peer took a chunk in for the first time. `out`: whose copies count no more, if it was to replace one."""

    volume: VolumeId
    peer: PeerNumber
    size: int
    out: tuple[PeerNumber, ...] = ()


class Usefulness:
    """Judges owners; a worker."""

    name = "usefulness"

    def __init__(
        self,
        *,
        policy: str,
        terms: Terms,
        database: Database,
        roster: Roster,
        ledger: Ledger,
        traffic: Traffic,
        pool_clock: PoolClock,
        noticed: Noticed,
        clock: Clock,
    ) -> None:
        self.is_fair = policy == FAIR
        self.traffic = traffic
        self._terms = terms
        self._database = database
        self._roster = roster
        self._ledger = ledger
        self._pool_clock = pool_clock
        self._noticed = noticed
        self._owners: dict[VolumeId, str] = {}
        mounts = database.read(sessions.sessions)
        self._promised = Promised(clock, Counter(roster.node(one.node).owner for one in mounts))
        self._shares: dict[str, int | None] = {}  # as of the last tick
        self._excused: Counter[str] = Counter()
        self._given: dict[str, Allowance] = {}  # as of the last tick; `bytes` without stock, of no use
        self._judge()

    # ---- what is counted --------------------------------------------------------------------------------------------

    def arrived(self, arrivals: Collection[Arrival], node: NodeId) -> None:
        """They were committed: stored by a node."""
        for one in arrivals:
            self.traffic.placed(self._owner_of(one.volume), node, one.peer, one.size)

    def ordered(self, arrivals: Collection[Arrival]) -> None:
        """They were committed: made by order of the coordinator. Against the chunk's owner they count as if it had
        placed them, unless each stands in for one that lay with others before: nobody need lay out twice for what
        others lose, and nobody gets copies for nothing by placing too few, or on peers of its own that then go."""
        for one in arrivals:
            owner = self._owner_of(one.volume)
            if self._roster.peers[one.peer].node.owner != owner:
                self.traffic.placed(owner, self._debtor(owner, one), one.peer, one.size)

    def _debtor(self, owner: str, one: Arrival) -> NodeId | None:
        """Whose `u_special` an ordered copy is; None: nobody's."""
        out = [self._roster.peers[peer].node for peer in one.out if peer in self._roster.peers]
        own = next((node.id for node in out if node.owner == owner), None)
        if own is not None or out:
            return own
        if self._excused[owner] >= one.size:
            self._excused[owner] -= one.size
            return None
        return min((node.id for node in self._roster.nodes.values() if node.owner == owner), default=None)

    def gone(self, dropped: Mapping[str, int]) -> None:
        """So many bytes of these owners' copies were on others' peers that are gone for good, and are forgotten."""
        self._excused.update(dropped)

    # ---- what is given ----------------------------------------------------------------------------------------------

    def copies(self, owner: str) -> int:
        """Of each chunk that the owner writes from now on, before the number of members caps it."""
        given = self._given.get(owner)
        return self._terms.replicas if given is None or not self.is_fair else given.copies

    def frugal(self, owner: str) -> int:
        """The same if it is fewer than the pool's; otherwise 0."""
        copies = self.copies(owner)
        return copies if copies < self._terms.replicas else 0

    def frugal_of(self, volume: VolumeId) -> int:
        """The same in a volume of the owner's."""
        return self.frugal(self._owner_of(volume)) if self.is_fair else 0

    def precedence(self, volume: VolumeId) -> int:
        """Whose chunks are copied first among equally urgent ones: lower is sooner."""
        given = self._given.get(self._owner_of(volume)) if self.is_fair else None
        return given.priority if given is not None else 0

    def require(self, session: SessionId, volume: VolumeId, room_bytes: int) -> None:
        """Whether a session may be promised room for so much, instead of what it was promised. What is stored counts
        on the volume's owner, whoever it is shared with.

        Raises:
            OverQuota: With it the owner would have more on others' peers than it is allowed.
        """
        if not self.is_fair or not room_bytes:
            return
        owner = self._owner_of(volume)
        copies = self._foreign_copies(owner)
        if not copies:
            return
        # What the session holds is given back for this, most of it stored and not committed; it counts from then on,
        # until its peers know.
        left, needed = self._left(owner), (room_bytes + self._outstanding(owner, but=session)) * copies
        if needed > left:
            raise OverQuota(
                f"{owner} may place {format_size(max(0, left))} more on others' peers, in {copies} copies: {RAISE}"
            )
        self._promised.add(owner, session, needed)

    def require_booked(self, owner: str, room_bytes: int, booked_bytes: int) -> None:
        """Whether an owner may book so much room, of one copy, beside what it has booked.

        Raises:
            OverQuota: With it the owner would have more on others' peers than it is allowed.
        """
        copies = self._foreign_copies(owner) if self.is_fair else 0
        if not copies:
            return
        most = self._left(owner) // copies - booked_bytes - self._outstanding(owner)
        if room_bytes > most:
            raise OverQuota(
                f"{owner} can reserve {format_size(max(0, most))} at most, by what it may place on others' peers:"
                f" {RAISE}"
            )

    def share(self, owner: str) -> int | None:
        """Bytes of one copy that an owner may still place, about; None: without limit."""
        if owner not in self._shares:
            copies = self._foreign_copies(owner) if self.is_fair else 0
            self._shares[owner] = max(0, self._left(owner)) // copies if copies else None
        return self._shares[owner]

    def growth(self, volume: VolumeId) -> Growth | None:
        """What a batch in this volume is judged by; None: it may add what it likes."""
        if not self.is_fair:
            return None
        owner = self._owner_of(volume)
        copies = self._foreign_copies(owner)
        if not copies:
            return None
        counts = self.traffic.owner_counts(owner)
        return Growth(
            owner,
            lambda stock: allowance(counts, stock, self._terms).bytes,
            self._others_share(owner),
            self._promised.slack(owner, copies, outstanding=self._outstanding(owner)),
        )

    def _outstanding(self, owner: str, *, but: SessionId | None = None) -> int:
        mine = frozenset(one.id for one in self._roster.nodes.values() if one.owner == owner)
        copies = min(self._foreign_copies(owner), self._terms.min_replicas)
        return self._ledger.outstanding(mine, copies=copies, but=but)

    def _left(self, owner: str) -> int:
        """Bytes of copies that may be added on others' peers; less than 0: there are too many."""
        stock = self._stock(owner)
        return self._allowance(owner, stock).bytes - stock.burden(self._others_share(owner))

    def _others_share(self, owner: str) -> float:
        """Of an owner's copies, how many belong on others' peers at least: chunks go to peers by their room, and a
        chunk's copies to as many owners as there are."""
        rooms, others = Counter[bool](), set[str]()
        for peer in self._roster.members():
            if not peer.is_leaving:
                rooms[peer.node.owner != owner] += peer.offered
                others.add(peer.node.owner)
        if not rooms[True] or not rooms[False]:
            return float(rooms[True] > 0)
        copies = self.copies(owner)
        return min(rooms[True] / rooms.total(), 1 - math.ceil(copies / len(others)) / copies)

    def cap(self, node: NodeId, room: tuple[int, int]) -> tuple[int, int]:
        """(total, free) bytes as a node's owner may use them: what statfs shows."""
        if not self.is_fair:
            return room
        owner = self._roster.node(node).owner
        copies = self._foreign_copies(owner)
        if not copies:
            return room
        stock = self._stock(owner)
        allowed, burden = self._allowance(owner, stock).bytes, stock.burden(self._others_share(owner))
        total = min(room[0], max(allowed, burden) // copies)
        return total, min(room[1], total, max(0, allowed - burden) // copies)

    def _foreign_copies(self, owner: str) -> int:
        """Copies of a chunk that lie on others' peers, at most."""
        others = sum(peer.node.owner != owner and not peer.is_leaving for peer in self._roster.members())
        return min(self.copies(owner), others)

    def _stock(self, owner: str) -> Stock:
        return self._database.read(lambda connection: rows.stock(connection, owner))

    def _allowance(self, owner: str, stock: Stock) -> Allowance:
        return allowance(self.traffic.owner_counts(owner), stock, self._terms)

    def _owner_of(self, volume: VolumeId) -> str:
        owner = self._owners.get(volume)
        if owner is None:
            owner = self._database.read(lambda connection: volumes.owner_of(connection, volume))
            self._owners[volume] = owner
        return owner

    # ---- the worker -------------------------------------------------------------------------------------------------

    async def work(self) -> Progress:
        """Keep what was counted, and judge anew."""
        # days that a wrong clock is beyond would be gone for good
        kept = None if await self._pool_clock.doubt() else self.traffic.expire()
        changed, told = self.traffic.take_changes()

        def keep(connection: sqlite3.Connection) -> None:
            rows.keep(connection, changed, told)
            if kept is not None:
                rows.expire(connection, kept)

        try:
            if changed or told:
                await self._database.write(keep)
        except BaseException:
            self.traffic.put_back(changed, told)
            raise
        self._judge()
        await self._release()
        return Progress.IDLE

    async def wait(self) -> None:
        await trio.sleep(TICK_S)

    def _judge(self) -> None:
        """Copies and priorities as of now; mounts hear of other numbers of copies with the map."""
        self._shares.clear()
        self._promised.forget()
        before = {owner: one.copies for owner, one in self._given.items()}
        nothing = Stock()
        self._given = {
            owner: allowance(counts, nothing, self._terms) for owner, counts in self.traffic.by_owner().items()
        }
        after = {owner: one.copies for owner, one in self._given.items()}
        if self.is_fair and any(copies != before.get(owner, self._terms.replicas) for owner, copies in after.items()):
            self._roster.retell()

    async def _release(self) -> None:
        """Who gets more copies by now gets them for what was written before, too, little by little."""
        for owner in self._database.read(rows.frugal_owners):
            copies = self.copies(owner)
            if copies >= self._terms.replicas:
                released = await self._database.write(
                    lambda connection, owner=owner, copies=copies: rows.release(  # type: ignore[misc]
                        connection, owner, copies=copies, limit=RELEASED
                    )
                )
                self._noticed.tell(released)

    # ---- what is shown ----------------------------------------------------------------------------------------------

    async def report(self) -> UsefulnessReport:
        """Of everybody."""
        return UsefulnessReport(self._rules(), self.owners(await self._database.scan(rows.stocks)), self._nodes())

    def owners(self, stocks: Mapping[str, Stock]) -> list[OwnerUsefulness]:
        """All that have members; `stocks` as `rows.stocks` has them."""
        owners = sorted({node.owner for node in self._roster.nodes.values() if node.revoked_s is None})
        return [self._owner(owner, stocks.get(owner, Stock())) for owner in owners]

    def detail(self, text: str) -> UsefulnessDetail:
        """Of one node, with every input. Raises NotFound."""
        node = self._roster.node(text)
        counts, stock = self.traffic.owner_counts(node.owner), self._stock(node.owner)
        unconfirmed, today = self.traffic.unconfirmed(node.id), self.traffic.today
        owner = self._owner(node.owner, stock)
        share = self._others_share(node.owner)
        advice = hints(counts, stock, self._terms, has_peer=owner.peers > 0, others_share=share)
        return UsefulnessDetail(
            self._rules(),
            self._node(node),
            owner,
            days=[
                Day(day, weight_of(today - day), _gave(one))
                for day, one in sorted(self.traffic.windows(node.id).items(), reverse=True)
            ],
            owner_nodes=[one for one in self._nodes() if one.owner == node.owner],
            advice=[
                Advice(one.code, one.bytes) for one in advice if self.is_fair or one.code not in ("hold", "remove")
            ],
            unconfirmed_served=unconfirmed.served,
            unconfirmed_fetched=unconfirmed.fetched,
        )

    def _rules(self) -> Rules:
        terms = self._terms
        policy = FAIR if self.is_fair else "open"
        return Rules(
            policy, terms.weights.ds, terms.weights.us, terms.grant, terms.replicas, terms.min_replicas,
            WINDOWS, HALF_LIFE_DAYS,
        )  # fmt: skip

    def _nodes(self) -> list[NodeUsefulness]:
        shown = [
            node for node in self._roster.nodes.values() if node.revoked_s is None or self.traffic.windows(node.id)
        ]
        return [self._node(node) for node in sorted(shown, key=lambda node: node.name)]

    def _node(self, node: Node) -> NodeUsefulness:
        counts = self.traffic.counts(node.id)
        return NodeUsefulness(node.id, node.name, node.owner, coefficient(counts, self._terms.weights), _gave(counts))

    def _owner(self, owner: str, stock: Stock) -> OwnerUsefulness:
        counts = self.traffic.owner_counts(owner)
        given = allowance(counts, stock, self._terms) if self.is_fair else None
        return OwnerUsefulness(
            owner,
            coefficient(counts, self._terms.weights),
            _gave(counts),
            placed=stock.placed,
            held=stock.held,
            peers=sum(peer.node.owner == owner for peer in self._roster.members()),
            copies=given.copies if given else self._terms.replicas,
            allowed=given.bytes if given else None,
            left=max(0, given.bytes - stock.burden(self._others_share(owner))) if given else None,
            priority=given.priority if given else 0,
        )


def _gave(counts: Counts) -> Gave:
    return Gave(round(counts.u_usual), round(counts.d_usual), round(counts.d_special), round(counts.u_special))
