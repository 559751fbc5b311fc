"""The members of the pool in memory: nodes, peers, their last reports and states, and the map made of them.

A mirror: membership facts come from the database at start and are added here after they were committed; liveness lives
only here. Sync and without I/O. Every change that others must hear of raises `version`, which starts above any version
of an earlier run. Used by every service of the coordinator; changed by `membership` and `pulse`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import trio

from p2pfs.coordinator.liveness import REACHABLE, Patience, state_after
from p2pfs.coordinator.offers import is_over
from p2pfs.coordinator.receipts import receipt_key
from p2pfs.errors import Denied, NotFound
from p2pfs.meta import members
from p2pfs.meta.members import Node
from p2pfs.types import GONE_STATES, NodeId, PeerNumber, PeerState, PoolId
from p2pfs.wire.membership import Heartbeat, NodeInfo, PeerInfo, PoolMap, Resources, Revocations
from p2pfs.wire.offers import Offered

CAPACITY_STEP: Final = 0.1
"""Relative change of a peer's offer below which the map keeps the old figure: placement must not follow every breath of
a shared disk. Room is always counted with the latest figures."""
FORMER_RUNS: Final = 16
"""Of a peer's daemon that are remembered."""
_ABSENT: Final = frozenset({PeerState.DOWN, PeerState.AWAY, PeerState.LOST})
"""Who is heard after one of these, or started anew, has appeared: nobody knows what became of its disk meanwhile."""


@dataclass(slots=True)
class Peer:
    """What is known of a peer's daemon. Capacity and addresses are persisted, the rest is the last heartbeat's."""

    number: PeerNumber
    node: Node
    heard_s: float  # monotonic; the coordinator's start until the first heartbeat after it
    state: PeerState
    is_heard: bool = False  # since the coordinator started
    addresses: tuple[str, ...] = ()  # none: it never served
    capacity: int = 0  # as the map says
    offered: int = 0  # as the last heartbeat said, within the node's limit
    used: int = 0
    trash: int = 0
    chunks: int = 0
    resources: Resources | None = None
    offers: tuple[Offered, ...] = ()  # as it says
    clock_ahead_s: float | None = None  # of the coordinator's, when last heard
    version: str = ""
    is_leaving: bool = False  # being drained, whether it is up or not
    away_until_s: float = 0.0  # UTC; it said that it would be silent until then
    back_from_s: float = 0.0  # it is back although it said that, and the database does not know yet
    appearances: int = 0  # see meta.members.appear
    has_appeared: bool = False  # once more, and the database does not know yet
    put_seq: int = -1  # the highest its heartbeats said: PUTs up to it had ended; -1: not told
    run: int = 0  # the daemon's, as its last heartbeat said
    former: tuple[int, ...] = ()  # the last few runs before it
    is_over: bool = False  # it holds more than it offers
    is_deaf: bool = False  # told of orders, it does not come for them: an older version, or it hangs
    kept_s: float = -math.inf  # monotonic; when the database last took over what is here

    @property
    def is_member(self) -> bool:
        """Counts towards the number of copies: it served once and is not gone, whether it is up or not."""
        return bool(self.addresses) and self.state not in GONE_STATES

    @property
    def is_reachable(self) -> bool:
        return self.is_member and self.state in REACHABLE

    @property
    def is_heeding(self) -> bool:
        """Comes for its orders, as far as is known."""
        return self.is_reachable and not self.is_deaf


@dataclass(frozen=True, slots=True)
class Change:
    """A peer went from one state to another."""

    peer: Peer
    before: PeerState
    after: PeerState


@dataclass(slots=True)
class Roster:
    """All members. `generation` rises with every start of the coordinator and leads the map's version."""

    pool: PoolId
    receipt_master: bytes = field(repr=False)
    patience: Patience
    started_s: float
    generation: int
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    peers: dict[PeerNumber, Peer] = field(default_factory=dict)
    revocations: Revocations = field(default_factory=lambda: Revocations(0, [], []))
    receipt_keys: dict[int, bytes] = field(default_factory=dict, repr=False)  # of peers not revoked
    changed: trio.Event = field(default_factory=trio.Event)  # set, and replaced, with every change of `version`
    _peer_of: dict[NodeId, Peer] = field(default_factory=dict)
    _changes: int = 0
    _heard: int = 0  # peers, since the coordinator started
    _members: tuple[int, list[Peer]] = field(default_factory=lambda: (-1, []))  # as of that many changes

    @property
    def version(self) -> int:
        return (self.generation << 32) + self._changes

    # ---- members ----------------------------------------------------------------------------------------------------

    def restore(self, nodes: Iterable[Node], peers: Iterable[members.Peer]) -> None:
        """Start from what the database has. Who was down stays so until it is heard; silence of the others counts from
        now on."""
        for node in nodes:
            self.admit(node)
        for row in peers:
            peer = self.admit_peer(row.number, row.node)
            peer.addresses, peer.capacity = tuple(row.addresses), row.capacity
            peer.offered, peer.used, peer.trash, peer.chunks = row.capacity, row.used, row.trash, row.chunks
            peer.resources, peer.version = row.resources, row.version
            peer.is_leaving, peer.away_until_s = row.is_leaving, row.away_until_s
            peer.appearances, peer.run = row.appearances, row.run
            if row.state in (PeerState.DOWN, PeerState.AWAY):
                peer.heard_s, peer.state = self.started_s - self.patience.down_s, row.state
            elif row.state in GONE_STATES:
                peer.state = row.state
            elif row.is_leaving:
                peer.state = PeerState.DRAINING
        self._touch()

    def _touch(self) -> None:
        self._changes += 1
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def admit(self, node: Node) -> None:
        """Count a node that the database has."""
        self.nodes[node.id] = node
        self._touch()

    def admit_peer(self, number: PeerNumber, node_id: NodeId) -> Peer:
        """Count a node as a peer."""
        node = self.node(node_id)
        state = PeerState.UP if node.revoked_s is None else PeerState.REVOKED
        peer = self.peers[number] = self._peer_of[node_id] = Peer(number, node, self.started_s, state)
        if node.revoked_s is None:
            self.receipt_keys[number] = receipt_key(self.receipt_master, number, node_id)
        self._touch()
        return peer

    def revoke(self, node: Node, revocations: Revocations) -> None:
        """The node is out, for ever; `node` says since when, `revocations` is everything revoked by now."""
        self.admit(node)
        self.revocations = revocations
        peer = self.peer_of(node.id)
        if peer is not None:
            peer.node, peer.state, peer.is_leaving = node, PeerState.REVOKED, False
            self.receipt_keys.pop(peer.number, None)
            self._touch()

    def node(self, node: str) -> Node:
        """Raises NotFound."""
        try:
            return self.nodes[NodeId(node)]
        except KeyError:
            raise NotFound(f"no node {node} belongs to this pool") from None

    def member(self, node: str) -> Node:
        """A node that may act now.

        Raises:
            Denied: It never joined, or was revoked. A certificate alone makes no member.
        """
        known = self.nodes.get(NodeId(node))
        if known is None or known.revoked_s is not None:
            raise Denied("this node is not a member of the pool (any more)")
        return known

    def name_of(self, node: str) -> str:
        """What people call a node."""
        known = self.nodes.get(NodeId(node))
        return known.name if known is not None else node

    def named(self, name: str) -> Node | None:
        """The member called `owner@machine`, if any; revoked ones have given up their name."""
        return next((node for node in self.nodes.values() if node.name == name and node.revoked_s is None), None)

    def peer_of(self, node: NodeId) -> Peer | None:
        """The peer a node is, if it is one."""
        return self._peer_of.get(node)

    def info(self, node: Node) -> NodeInfo:
        """A node as others see it."""
        peer = self.peer_of(node.id)
        return NodeInfo(
            node.id,
            node.name,
            node.owner,
            node.zone,
            sorted(node.roles),
            revoked=node.revoked_s is not None,
            peer=peer.number if peer else 0,
            state=peer.state if peer else "",
        )

    # ---- life -------------------------------------------------------------------------------------------------------

    def report(self, peer: Peer, heartbeat: Heartbeat, *, now_s: float, time_s: float) -> tuple[Change | None, bool]:
        """Take in a heartbeat: (change of state or None, whether addresses or capacity changed).

        Raises:
            Denied: It is of a daemon that a later one has followed, which is heard: somebody copied the peer's home and
                started both.
        """
        if heartbeat.run != peer.run and heartbeat.run in peer.former and peer.is_reachable:
            raise Denied(f"another daemon has started as {peer.node.name} since, perhaps from a copy of its home")
        if peer.run and heartbeat.run != peer.run:
            peer.former = (*peer.former, peer.run)[-FORMER_RUNS:]
        before, limit = peer.state, peer.node.capacity_limit
        peer.heard_s = now_s
        if before is not PeerState.LEFT:
            peer.state = state_after(0.0, self.patience, is_leaving=peer.is_leaving)
        is_anew = peer.run != 0 and heartbeat.run != peer.run  # so soon, perhaps, that nobody noticed its silence
        if peer.away_until_s and (before is PeerState.AWAY or is_anew):
            peer.away_until_s, peer.back_from_s = 0.0, peer.away_until_s
        had_appeared, peer.has_appeared = peer.has_appeared, peer.has_appeared or is_anew or before in _ABSENT
        peer.offered = min(heartbeat.capacity, limit) if limit else heartbeat.capacity
        peer.used, peer.trash, peer.chunks = heartbeat.used, heartbeat.trash, heartbeat.chunks
        peer.offers = tuple(heartbeat.offers)
        peer.resources, peer.version, peer.run = heartbeat.resources, heartbeat.version, heartbeat.run
        peer.put_seq = max(peer.put_seq, heartbeat.put_seq)
        peer.clock_ahead_s = round(heartbeat.clock_s - time_s, 3)
        addresses = tuple(heartbeat.addresses)
        moved = peer.addresses != addresses or is_step(peer.capacity, peer.offered)
        if moved:
            peer.addresses, peer.capacity = addresses, peer.offered
        was_over, peer.is_over = peer.is_over, is_over(peer.offers, capacity=peer.offered, used=peer.used)
        if moved or before is not peer.state or was_over is not peer.is_over or had_appeared is not peer.has_appeared:
            self._touch()
        if not peer.is_heard:
            peer.is_heard = True
            self._heard += 1
            self._tell()
        return (Change(peer, before, peer.state) if before is not peer.state else None), moved

    @property
    def standing(self) -> tuple[int, int]:
        """Another one whenever peers are to be judged anew: with each version of the map, and when a peer is heard for
        the first time, for which the map does not change."""
        return self.version, self._heard

    def refresh(self, now_s: float, time_s: float) -> list[Change]:
        """Let silence count: the changes of state since the last call."""
        changes = []
        for peer in self.peers.values():
            if peer.is_member:
                after = state_after(
                    now_s - peer.heard_s,
                    self.patience,
                    is_leaving=peer.is_leaving,
                    is_announced=time_s < peer.away_until_s,
                )
                if after is not peer.state:
                    changes.append(Change(peer, peer.state, after))
                    peer.state = after
        if changes:
            self._touch()
        return changes

    def announce(self, peer: Peer, *, away_until_s: float) -> None:
        """The peer will be silent until then, as the database knows; 0: it will not."""
        peer.away_until_s, peer.back_from_s = away_until_s, 0.0
        self._touch()

    def settle(self, peer: Peer, *, state: PeerState, is_leaving: bool) -> None:
        """An admin, or the end of a drain, decided what the peer is from now on; its silence counts again at once."""
        peer.state, peer.is_leaving = state, is_leaving
        self._touch()

    def retell(self) -> None:
        """The map says something else, though no peer changed."""
        self._touch()

    def heed(self, peer: Peer, *, is_deaf: bool) -> None:
        """Whether the peer comes for its orders."""
        if peer.is_deaf != is_deaf:
            peer.is_deaf = is_deaf
            self._touch()

    def appear(self, peer: Peer, appearances: int) -> None:
        """What the peer holds is to be proved anew; the number comes from `meta.members.appear`. Two changes at once
        may be told in either order: behind the database, nothing that is proved would ever count."""
        peer.appearances, peer.has_appeared = max(peer.appearances, appearances), False
        self._touch()

    def untold(self, peer: Peer, *, has_appeared: bool, back_from_s: float) -> None:
        """The database may not know this of the peer after all: its next heartbeat tells it. Another one, which was
        kept meanwhile, may have been told of."""
        if has_appeared or back_from_s:
            peer.has_appeared, peer.back_from_s = peer.has_appeared or has_appeared, peer.back_from_s or back_from_s
            self._touch()

    # ---- what others see --------------------------------------------------------------------------------------------

    def staying(self) -> int:
        """How many members are not about to leave: what the number of copies is capped by."""
        return sum(not peer.is_leaving for peer in self.members())

    def members(self) -> list[Peer]:
        """Peers that count, in the order of their numbers; not to be changed."""
        as_of, found = self._members
        if as_of != self._changes:
            found = [self.peers[number] for number in sorted(self.peers) if self.peers[number].is_member]
            self._members = (self._changes, found)
        return found

    def is_settled(self, now_s: float) -> bool:
        """Whether who is silent is so for another reason than that this coordinator has just started."""
        return now_s - self.started_s >= self.patience.suspect_s or all(peer.is_heard for peer in self.members())

    def reachable(self) -> frozenset[PeerNumber]:
        return frozenset(number for number, peer in self.peers.items() if peer.is_reachable)

    def pool_map(self, *, incarnation: int, replicas: int, min_replicas: int, free: Callable[[Peer], int]) -> PoolMap:
        """The map as sent. Revoked peers are not in it: nobody dials them, and copies there do not count."""
        peers = [peer_info(peer, free(peer)) for peer in self.members()]
        return PoolMap(self.pool, self.version, incarnation, replicas, min_replicas, peers)


def peer_info(peer: Peer, free: int) -> PeerInfo:
    """One line of the map."""
    node = peer.node
    return PeerInfo(
        peer.number,
        node.id,
        node.name,
        node.owner,
        node.zone,
        list(peer.addresses),
        peer.capacity,
        free,
        peer.state.value,
        peer.is_leaving,
    )


def is_step(known: int, offered: int) -> bool:
    """Whether an offer differs enough from the mapped capacity to change the map."""
    return known != offered and (not known or not offered or abs(offered - known) >= CAPACITY_STEP * known)
