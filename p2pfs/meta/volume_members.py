"""Public keys of nodes, and with which keys volumes are shared. Inside the caller's transaction.

A volume is shared with a key, not with a node: whoever has shown that the key is theirs is a member.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

from p2pfs.errors import Invalid, NotFound
from p2pfs.meta import key_slots, sessions
from p2pfs.types import NodeId, SessionId, VolumeId
from p2pfs.wire.sharing import Member, NewMember, NodeKey
from p2pfs.wire.volumes import KeySlot

MOST_MEMBERS: Final = 64
"""Of a volume, beside its owner."""


def publish(
    connection: sqlite3.Connection, node: NodeId, *, fingerprint: bytes, public: bytes, proof: bytes
) -> list[SessionId]:
    """A node's key, in place of the one it had; its sessions that end as it has not the rights of the other."""
    connection.execute(
        "INSERT INTO node_key VALUES (?, ?, ?, ?) ON CONFLICT (node) DO UPDATE"
        " SET fingerprint = excluded.fingerprint, public = excluded.public, proof = excluded.proof",
        (node, fingerprint, public, proof),
    )
    return _end(connection, f"s.node = ? AND {_WITHOUT_RIGHTS}", node)


def keys(connection: sqlite3.Connection, fingerprint: bytes) -> list[NodeKey]:
    """The nodes that have this key, revoked ones left out."""
    rows = connection.execute(
        "SELECT k.node, n.name, k.public, k.proof FROM node_key k JOIN node n ON n.id = k.node"
        " WHERE k.fingerprint = ? AND n.revoked_s IS NULL ORDER BY k.node LIMIT 16",
        (fingerprint,),
    )
    return [NodeKey(*row) for row in rows]


def members(connection: sqlite3.Connection, volume: VolumeId) -> list[Member]:
    """With which keys a volume is shared, and who has them; the oldest first."""
    rows = connection.execute(
        "SELECT fingerprint, read_only, since_s FROM volume_member WHERE volume = ? ORDER BY since_s, fingerprint",
        (volume,),
    ).fetchall()
    return [
        Member(fingerprint, bool(read_only), since_s, [key.name for key in keys(connection, fingerprint)])
        for fingerprint, read_only, since_s in rows
    ]


def change(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    guard: bytes,
    add: Iterable[NewMember],
    remove: Iterable[bytes],
    now_s: float,
) -> list[SessionId]:
    """Share with some and no more with others, all or nothing; the sessions that end with it. Who is added again is so
    from now on, with the rights and the slot given.

    Raises:
        NotFound: No such volume, or it is not shared with one of `remove`.
        Denied: The sender has not got the volume's key.
        Invalid: There would be too many.
    """
    key_slots.require_key(connection, volume, guard)
    changed = []
    for fingerprint in remove:
        gone = connection.execute(
            "DELETE FROM volume_member WHERE volume = ? AND fingerprint = ?", (volume, fingerprint)
        ).rowcount
        if not gone:
            raise NotFound("the volume is not shared with that key")
        changed.append(fingerprint)
    for new in add:
        connection.execute(
            "INSERT INTO volume_member VALUES (?, ?, ?, ?, ?) ON CONFLICT (volume, fingerprint) DO UPDATE"
            " SET read_only = excluded.read_only, slot = excluded.slot, since_s = excluded.since_s",
            (volume, new.fingerprint, int(new.read_only), new.slot.wrapped, now_s),
        )
        changed.append(new.fingerprint)
    (count,) = connection.execute("SELECT count(*) FROM volume_member WHERE volume = ?", (volume,)).fetchone()
    if count > MOST_MEMBERS:
        raise Invalid(f"a volume is shared with at most {MOST_MEMBERS} keys")
    ended = _end(connection, f"s.volume = ? AND {_WITHOUT_RIGHTS}", volume)
    for fingerprint in changed:
        ended += _end(connection, "s.volume = ? AND k.fingerprint = ?", volume, fingerprint)
    return ended


def access(connection: sqlite3.Connection, volume: VolumeId, node: NodeId) -> tuple[bool, KeySlot] | None:
    """(only to read, slot) of what a volume in use is to a node that it is shared with; None: it is not."""
    row = connection.execute(
        "SELECT m.read_only, m.slot FROM node_key k JOIN volume_member m ON m.fingerprint = k.fingerprint"
        " JOIN volume v ON v.id = m.volume WHERE k.node = ? AND m.volume = ? AND v.deleted_s IS NULL",
        (node, volume),
    ).fetchone()
    return None if row is None else (bool(row[0]), KeySlot("shared", row[1]))


def shared_with(connection: sqlite3.Connection, node: NodeId) -> dict[VolumeId, bool]:
    """Volumes in use that are shared with a node → only to read."""
    rows = connection.execute(
        "SELECT m.volume, m.read_only FROM node_key k JOIN volume_member m ON m.fingerprint = k.fingerprint"
        " JOIN volume v ON v.id = m.volume WHERE k.node = ? AND v.deleted_s IS NULL",
        (node,),
    )
    return {VolumeId(volume): bool(read_only) for volume, read_only in rows}


_WITHOUT_RIGHTS: Final = "(m.fingerprint IS NULL OR m.read_only > s.read_only)"
"""SQL, of a session `s` that is not the owner's: its node's key is no member's, or only a reader's. The key may not be
the one it began with."""


def _end(connection: sqlite3.Connection, condition: str, *values: object) -> list[SessionId]:
    """End the sessions `s` of nodes with the key `k`, as the member `m`, if they have one and are one; the volume's
    owner's are left out."""
    rows = connection.execute(
        "SELECT s.id FROM session s JOIN volume v ON v.id = s.volume LEFT JOIN node_key k ON k.node = s.node"
        " LEFT JOIN volume_member m ON m.volume = s.volume AND m.fingerprint = k.fingerprint"
        f" WHERE s.owner != v.owner AND {condition}",
        values,
    ).fetchall()
    for row in rows:
        sessions.close_session(connection, SessionId(row[0]))
    return [SessionId(row[0]) for row in rows]
