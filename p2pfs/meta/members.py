"""Who belongs to the pool: nodes, certificates, invites, peers and what they last said of themselves.

Rows in, rows out, inside the caller's transaction; which node may do what and when a peer counts as down is decided by
`p2pfs.coordinator`.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from p2pfs.errors import Exists, NotFound
from p2pfs.meta.sql import GONE, number_list
from p2pfs.types import NodeId, PeerNumber, PeerState, Role
from p2pfs.wire import codec
from p2pfs.wire.membership import Heartbeat, Resources


@dataclass(frozen=True, slots=True)
class Node:
    """A machine's identity. `revoked_s` is None for a member; `capacity_limit` 0 is no limit."""

    id: NodeId
    name: str
    owner: str
    zone: str
    roles: frozenset[Role]
    capacity_limit: int
    joined_s: float
    revoked_s: float | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate ever issued; `serial` is lower-case hexadecimal."""

    serial: str
    node: NodeId
    issued_s: float
    not_after_s: float
    revoked_s: float | None = None


@dataclass(frozen=True, slots=True)
class Invite:
    """One invite by the hash of its secret. `used_s`, `key_hash` and `node` are None until it was used."""

    secret_hash: bytes
    name: str
    owner: str
    zone: str
    roles: frozenset[Role]
    capacity_limit: int
    created_s: float
    expires_s: float
    used_s: float | None = None
    key_hash: bytes | None = None
    node: NodeId | None = None
    invited_by: NodeId | None = None  # whose revocation ends it while it is unused


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer with what its node's row says of it, so that the pool map is one query."""

    number: PeerNumber
    node: NodeId
    name: str
    owner: str
    zone: str
    capacity_limit: int
    addresses: list[str]
    capacity: int
    used: int
    trash: int
    chunks: int
    state: PeerState
    state_s: float
    seen_s: float  # 0: no heartbeat yet
    clock_s: float
    version: str
    resources: Resources | None
    is_leaving: bool = False  # being drained
    away_until_s: float = 0.0
    appearances: int = 0  # see `appear`
    run: int = 0  # of the daemon, as it said last


# ---- nodes ----------------------------------------------------------------------------------------------------------

_NODE = "SELECT id, name, owner, zone, roles, capacity_limit, joined_s, revoked_s FROM node"


def add_node(connection: sqlite3.Connection, node: Node) -> None:
    """Raises Exists when the id is known."""
    row = (
        node.id,
        node.name,
        node.owner,
        node.zone,
        _pack_roles(node.roles),
        node.capacity_limit,
        node.joined_s,
        node.revoked_s,
    )
    try:
        connection.execute("INSERT INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    except sqlite3.IntegrityError:
        raise Exists(f"node {node.id} is already a member") from None


def node(connection: sqlite3.Connection, node_id: NodeId) -> Node:
    """Raises NotFound. Revoked nodes are found too."""
    row = connection.execute(f"{_NODE} WHERE id = ?", (node_id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no node {node_id} in this pool")
    return _node(row)


def nodes(connection: sqlite3.Connection) -> list[Node]:
    """Every node, revoked ones too, oldest first."""
    return [_node(row) for row in connection.execute(f"{_NODE} ORDER BY joined_s, id")]


def revoke_node(connection: sqlite3.Connection, node_id: NodeId, *, now_s: float) -> bool:
    """Revoke a node with all its certificates; a peer goes to the state REVOKED. False when it was revoked before.

    Sessions of the node are closed by `sessions.close_sessions_of`. Raises NotFound.
    """
    if node(connection, node_id).revoked_s is not None:
        return False
    connection.execute("UPDATE node SET revoked_s = ? WHERE id = ?", (now_s, node_id))
    connection.execute("UPDATE certificate SET revoked_s = ? WHERE node = ? AND revoked_s IS NULL", (now_s, node_id))
    connection.execute(
        "UPDATE peer SET state = ?, state_s = ?, leaving = 0 WHERE node = ?", (PeerState.REVOKED.value, now_s, node_id)
    )
    return True


def _node(row: Sequence[Any]) -> Node:
    return Node(
        id=NodeId(row[0]),
        name=row[1],
        owner=row[2],
        zone=row[3],
        roles=_unpack_roles(row[4]),
        capacity_limit=row[5],
        joined_s=row[6],
        revoked_s=row[7],
    )


def _pack_roles(roles: Iterable[Role]) -> str:
    return " ".join(sorted(role.value for role in roles))


def _unpack_roles(text: str) -> frozenset[Role]:
    return frozenset(Role(word) for word in text.split())


# ---- certificates ---------------------------------------------------------------------------------------------------


def add_certificate(connection: sqlite3.Connection, certificate: Certificate) -> None:
    """Raises Exists when the serial number was issued before."""
    row = (
        certificate.serial,
        certificate.node,
        certificate.issued_s,
        certificate.not_after_s,
        certificate.revoked_s,
    )
    try:
        connection.execute("INSERT INTO certificate VALUES (?, ?, ?, ?, ?)", row)
    except sqlite3.IntegrityError:
        raise Exists(f"the serial number {certificate.serial} was issued before") from None


def certificates(connection: sqlite3.Connection, node_id: NodeId) -> list[Certificate]:
    """All certificates of a node, oldest first."""
    rows = connection.execute(
        "SELECT serial, node, issued_s, not_after_s, revoked_s FROM certificate WHERE node = ?"
        " ORDER BY issued_s, serial",
        (node_id,),
    )
    return [Certificate(serial, NodeId(of), issued, end, revoked) for serial, of, issued, end, revoked in rows]


def revoked(connection: sqlite3.Connection) -> tuple[list[NodeId], list[str]]:
    """(node ids, serial numbers) of everything revoked so far."""
    of_nodes = connection.execute("SELECT id FROM node WHERE revoked_s IS NOT NULL ORDER BY id")
    serials = connection.execute("SELECT serial FROM certificate WHERE revoked_s IS NOT NULL ORDER BY serial")
    return [NodeId(row[0]) for row in of_nodes], [row[0] for row in serials]


# ---- invites --------------------------------------------------------------------------------------------------------


def add_invite(connection: sqlite3.Connection, invite: Invite) -> None:
    """Keep a new, unused invite."""
    connection.execute(
        "INSERT INTO invite (secret_hash, name, owner, zone, roles, capacity_limit, created_s, expires_s, invited_by)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            invite.secret_hash,
            invite.name,
            invite.owner,
            invite.zone,
            _pack_roles(invite.roles),
            invite.capacity_limit,
            invite.created_s,
            invite.expires_s,
            invite.invited_by,
        ),
    )


def invite(connection: sqlite3.Connection, secret_hash: bytes) -> Invite:
    """Used and expired ones too. Raises NotFound."""
    row = connection.execute(
        "SELECT secret_hash, name, owner, zone, roles, capacity_limit, created_s, expires_s, used_s, key_hash, node,"
        " invited_by FROM invite WHERE secret_hash = ?",
        (secret_hash,),
    ).fetchone()
    if row is None:
        raise NotFound("there is no such invite")
    return Invite(
        secret_hash=row[0],
        name=row[1],
        owner=row[2],
        zone=row[3],
        roles=_unpack_roles(row[4]),
        capacity_limit=row[5],
        created_s=row[6],
        expires_s=row[7],
        used_s=row[8],
        key_hash=row[9],
        node=row[10],
        invited_by=row[11],
    )


def use_invite(
    connection: sqlite3.Connection, secret_hash: bytes, *, key_hash: bytes, node_id: NodeId, now_s: float
) -> None:
    """Bind an invite to the public key and node of its first use. Whether it may still be used is the caller's to check
    in the same transaction."""
    connection.execute(
        "UPDATE invite SET used_s = ?, key_hash = ?, node = ? WHERE secret_hash = ?",
        (now_s, key_hash, node_id, secret_hash),
    )


def forget_invites(connection: sqlite3.Connection, *, expired_before_s: float) -> int:
    """Drop invites that expired before then; returns how many."""
    return connection.execute("DELETE FROM invite WHERE expires_s < ?", (expired_before_s,)).rowcount


def withdraw_invites(connection: sqlite3.Connection, node_id: NodeId) -> int:
    """Drop the unused invites a node made; returns how many."""
    return connection.execute("DELETE FROM invite WHERE invited_by = ? AND used_s IS NULL", (node_id,)).rowcount


# ---- peers ----------------------------------------------------------------------------------------------------------

_PEER = (
    "SELECT p.number, p.node, n.name, n.owner, n.zone, n.capacity_limit, p.addresses, p.capacity, p.used, p.trash,"
    " p.chunks, p.state, p.state_s, p.seen_s, p.clock_s, p.version, p.resources, p.leaving, p.away_until_s,"
    " p.appearances, p.run"
    " FROM peer p JOIN node n ON n.id = p.node"
)


def add_peer(connection: sqlite3.Connection, node_id: NodeId, *, now_s: float) -> PeerNumber:
    """Give a node a peer number, with the state DOWN until its first heartbeat. Raises Exists."""
    try:
        cursor = connection.execute(
            "INSERT INTO peer"
            " (node, addresses, state, state_s, capacity, used, trash, chunks, seen_s, clock_s, version)"
            " VALUES (?, ?, ?, ?, 0, 0, 0, 0, 0, 0, '')",
            (node_id, codec.encode([]), PeerState.DOWN.value, now_s),
        )
    except sqlite3.IntegrityError:
        raise Exists(f"node {node_id} is a peer already") from None
    return PeerNumber(cursor.lastrowid or 0)


def peer(connection: sqlite3.Connection, number: PeerNumber) -> Peer:
    """Raises NotFound."""
    row = connection.execute(f"{_PEER} WHERE p.number = ?", (number,)).fetchone()
    if row is None:
        raise NotFound(f"there is no peer number {number}")
    return _peer(row)


def peer_of_node(connection: sqlite3.Connection, node_id: NodeId) -> Peer | None:
    """The peer that a node is, if it is one."""
    row = connection.execute(f"{_PEER} WHERE p.node = ?", (node_id,)).fetchone()
    return None if row is None else _peer(row)


def peers(connection: sqlite3.Connection) -> list[Peer]:
    """Every peer, revoked ones too, by number."""
    return [_peer(row) for row in connection.execute(f"{_PEER} ORDER BY p.number")]


def record_heartbeat(
    connection: sqlite3.Connection, number: PeerNumber, *, heartbeat: Heartbeat, capacity: int, now_s: float
) -> None:
    """Keep what a peer says of itself; `capacity` is what the pool lets it offer. Its state is not touched."""
    connection.execute(
        "UPDATE peer SET addresses = ?, capacity = ?, used = ?, trash = ?, chunks = ?, seen_s = ?, clock_s = ?,"
        " version = ?, resources = ?, run = ? WHERE number = ?",
        (
            codec.encode(heartbeat.addresses),
            capacity,
            heartbeat.used,
            heartbeat.trash,
            heartbeat.chunks,
            now_s,
            heartbeat.clock_s,
            heartbeat.version,
            codec.encode(heartbeat.resources),
            heartbeat.run,
            number,
        ),
    )


def set_peer_state(connection: sqlite3.Connection, number: PeerNumber, *, state: PeerState, now_s: float) -> None:
    """Move a peer to another state."""
    connection.execute("UPDATE peer SET state = ?, state_s = ? WHERE number = ?", (state.value, now_s, number))


def appear(connection: sqlite3.Connection, number: PeerNumber, *, put_seq: int = -1) -> int:
    """The peer came back, or was found to have lied: what it holds is to be proved anew before anything is taken away
    because of it, also what it gave receipts for up to `put_seq`, whenever these come. How often that was by now."""
    row = connection.execute(
        "UPDATE peer SET appearances = appearances + 1, appeared_seq = max(appeared_seq, ?) WHERE number = ?"
        " RETURNING appearances",
        (put_seq, number),
    ).fetchone()
    return int(row[0])


def staying(connection: sqlite3.Connection, numbers: Collection[PeerNumber]) -> dict[PeerNumber, int]:
    """Those of these peers that are members and not about to leave → how often they have appeared."""
    return dict(
        connection.execute(
            f"SELECT number, appearances FROM peer WHERE number IN ({number_list(numbers)})"
            f" AND NOT leaving AND state NOT IN ({GONE})"
        )
    )


def set_leaving(connection: sqlite3.Connection, number: PeerNumber, *, leaving: bool) -> None:
    """Whether a peer is being drained."""
    connection.execute("UPDATE peer SET leaving = ? WHERE number = ?", (leaving, number))


def set_away(connection: sqlite3.Connection, number: PeerNumber, *, until_s: float) -> None:
    """Until when a peer said that it would be silent; 0: it does not."""
    connection.execute("UPDATE peer SET away_until_s = ? WHERE number = ?", (until_s, number))


def set_back(connection: sqlite3.Connection, number: PeerNumber, *, from_s: float) -> bool:
    """It is back from where it had said to be until then. False: it has announced something else since."""
    changed = connection.execute(
        "UPDATE peer SET away_until_s = 0 WHERE number = ? AND away_until_s = ?", (number, from_s)
    )
    return changed.rowcount > 0


def _peer(row: Sequence[Any]) -> Peer:
    return Peer(
        number=PeerNumber(row[0]),
        node=NodeId(row[1]),
        name=row[2],
        owner=row[3],
        zone=row[4],
        capacity_limit=row[5],
        addresses=codec.decode(row[6], list[str]),
        capacity=row[7],
        used=row[8],
        trash=row[9],
        chunks=row[10],
        state=PeerState(row[11]),
        state_s=row[12],
        seen_s=row[13],
        clock_s=row[14],
        version=row[15],
        resources=None if row[16] is None else codec.decode(row[16], Resources),
        is_leaving=bool(row[17]),
        away_until_s=row[18],
        appearances=row[19],
        run=row[20],
    )
