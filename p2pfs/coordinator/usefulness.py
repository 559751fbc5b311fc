"""What each owner gets for what it gives: allowances under policy `fair`, and what everybody may see of them.

    traffic (windows) ─▶ coefficient ┐
    placed rows ─▶ stock ────────────┴─▶ allowance ─▶ copies (pool map, commits) · bytes (reservations, statfs)
                                                      · priority (care)

Copies and priority are worked out anew every TICK_S, bytes whenever somebody asks for room. A low value bounds what is
written from now on and nothing else. The worker also keeps the account in the database.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.coordinator.ledger import Ledger
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.traffic import Traffic
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.errors import OverQuota
from p2pfs.meta import usefulness as rows
from p2pfs.meta import volumes
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
from p2pfs.runtime.sizes import format_size
from p2pfs.runtime.worker import Progress
from p2pfs.types import ChunkId, NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.namespace import NewChunk
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
    """A peer took a chunk in for the first time."""

    volume: VolumeId
    peer: PeerNumber
    size: int


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
        self._given: dict[str, Allowance] = {}  # as of the last tick; `bytes` without stock, of no use
        self._judge()

    # ---- what is counted --------------------------------------------------------------------------------------------

    def arrivals(self, connection: sqlite3.Connection, volume: VolumeId, chunk: NewChunk) -> list[Arrival]:
        """What a commit of this chunk will place where none was, to be asked in its transaction before it is made. The
        same copy put again and again counts once, also after it was deleted or lost."""
        peers = [receipt.peer for receipt in chunk.receipts if receipt.peer in self._roster.peers]
        found = rows.newcomers(connection, volume, chunk=ChunkId(chunk.chunk), peers=peers)
        return [Arrival(volume, peer, chunk.size) for peer in found]

    def arrived(self, arrivals: list[Arrival], node: NodeId | None) -> None:
        """They were committed: stored by a node, or (None) by order of the coordinator."""
        for one in arrivals:
            self.traffic.placed(self._owner_of(one.volume), node, one.peer, one.size)

    # ---- what is given ----------------------------------------------------------------------------------------------

    def copies(self, owner: str) -> int:
        """Of each chunk that the owner writes from now on, before the number of members caps it."""
        given = self._given.get(owner)
        return self._terms.replicas if given is None or not self.is_fair else given.copies

    def frugal(self, owner: str) -> int:
        """The same if it is fewer than the pool's; otherwise 0."""
        copies = self.copies(owner)
        return copies if copies < self._terms.replicas else 0

    def frugal_of(self, node: NodeId) -> int:
        """The same by a node of the owner's."""
        return self.frugal(self._roster.node(node).owner) if self.is_fair else 0

    def precedence(self, volume: VolumeId) -> int:
        """Whose chunks are copied first among equally urgent ones: lower is sooner."""
        given = self._given.get(self._owner_of(volume)) if self.is_fair else None
        return given.priority if given is not None else 0

    def require(self, session: SessionId, node: NodeId, room_bytes: int) -> None:
        """Whether a session may be promised room for so much, instead of what it was promised.

        Raises:
            OverQuota: With it the owner would have more on others' peers than it is allowed.
        """
        if not self.is_fair or not room_bytes:
            return
        owner = self._roster.node(node).owner
        copies = self._foreign_copies(owner)
        if not copies:
            return
        stock = self._stock(owner)
        left = self._allowance(owner, stock).bytes - stock.placed
        mine = frozenset(one.id for one in self._roster.nodes.values() if one.owner == owner)
        # what the session itself was promised is given back for this, but can be spent until its peers know
        others = self._ledger.outstanding(mine, copies=min(copies, self._terms.min_replicas))
        if (room_bytes + others) * copies > left:
            raise OverQuota(
                f"{owner} may place {format_size(max(0, left))} more on others' peers, in {copies} copies: offer a peer"
                " or store more for others; `p2pfs usefulness --explain` shows how much"
            )

    def cap(self, node: NodeId, room: tuple[int, int]) -> tuple[int, int]:
        """(total, free) bytes as a node's owner may use them: what statfs shows."""
        if not self.is_fair:
            return room
        owner = self._roster.node(node).owner
        copies = self._foreign_copies(owner)
        if not copies:
            return room
        stock = self._stock(owner)
        allowed = self._allowance(owner, stock).bytes
        total = min(room[0], max(allowed, stock.placed) // copies)
        return total, min(room[1], total, max(0, allowed - stock.placed) // copies)

    def _foreign_copies(self, owner: str) -> int:
        """Copies of a chunk that lie on others' peers, at most."""
        others = sum(peer.node.owner != owner and not peer.is_leaving for peer in self._roster.members())
        return min(self.copies(owner), others)

    def _stock(self, owner: str) -> Stock:
        return Stock(*self._database.read(lambda connection: rows.stock(connection, owner)))

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
        if not self._pool_clock.reason:  # days that a wrong clock is beyond would be gone for good
            windows_before, reports_before = self.traffic.expire()
        else:
            windows_before = reports_before = 0
        changed, told = self.traffic.take_changes()

        def keep(connection: sqlite3.Connection) -> None:
            rows.keep(connection, changed, told)
            rows.expire(connection, windows_before=windows_before, reports_before=reports_before)

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

    def owners(self, stocks: Mapping[str, tuple[int, int]]) -> list[OwnerUsefulness]:
        """All that have members; `stocks` as `rows.stocks` has them."""
        owners = sorted({node.owner for node in self._roster.nodes.values() if node.revoked_s is None})
        return [self._owner(owner, Stock(*stocks.get(owner, (0, 0)))) for owner in owners]

    def detail(self, text: str) -> UsefulnessDetail:
        """Of one node, with every input. Raises NotFound."""
        node = self._roster.node(text)
        counts, stock = self.traffic.owner_counts(node.owner), self._stock(node.owner)
        unconfirmed, today = self.traffic.unconfirmed(node.id), self.traffic.today
        owner = self._owner(node.owner, stock)
        advice = hints(counts, stock, self._terms, has_peer=owner.peers > 0)
        return UsefulnessDetail(
            self._rules(),
            self._node(node),
            owner,
            days=[
                Day(day, weight_of(today - day), _gave(one))
                for day, one in sorted(self.traffic.windows(node.id).items(), reverse=True)
            ],
            owner_nodes=[one for one in self._nodes() if one.owner == node.owner],
            advice=[Advice(one.code, one.bytes) for one in advice if self.is_fair or one.code != "remove"],
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
            left=max(0, given.bytes - stock.placed) if given else None,
            priority=given.priority if given else 0,
        )


def _gave(counts: Counts) -> Gave:
    return Gave(round(counts.u_usual), round(counts.d_usual), round(counts.d_special), round(counts.u_special))
