"""Room promised on peers, so that two mounts are not given the same last gigabyte. Inside the caller's transaction;
how much to promise where, and the tokens' signatures, are `p2pfs.coordinator`'s.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from p2pfs.types import PeerNumber, SessionId, VolumeId
from p2pfs.wire.chunks import Token

SETTLED_S: Final = 120.0
"""Tokens given back are remembered for so long, without a session: what was stored under them just before a crash may
be in no figure that was kept of the peer. Those are a minute old at most (`coordinator.pulse.KEEP_EVERY_S`)."""


def add(connection: sqlite3.Connection, session: SessionId, *, tokens: Sequence[Token]) -> None:
    """Keep what was promised to a session."""
    connection.executemany(
        "INSERT INTO reservation VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(t.id, session, t.sender, t.volume, t.peer, t.room_bytes, t.expires_s) for t in tokens],
    )


def give_back(connection: sqlite3.Connection, session: SessionId, *, tokens: Sequence[int], now_s: float) -> int:
    """Tokens (by id) a session does not need any more; others' are left alone. Returns how many went."""
    gone = 0
    for token in tokens:
        gone += connection.execute(
            "UPDATE reservation SET session = '', expires_s = ? WHERE id = ? AND session = ?", (now_s, token, session)
        ).rowcount
    return gone


def expire(connection: sqlite3.Connection, *, now_s: float) -> int:
    """Take what lapsed from its session, and forget what was given back or lapsed long ago; returns how many."""
    gone = connection.execute("DELETE FROM reservation WHERE expires_s < ?", (now_s - SETTLED_S,)).rowcount
    connection.execute("UPDATE reservation SET session = '' WHERE expires_s < ?", (now_s,))
    return gone


def lapsed(connection: sqlite3.Connection, *, now_s: float) -> bool:
    """Whether there is something to `expire`."""
    row = connection.execute(
        "SELECT 1 FROM reservation WHERE expires_s < ? OR (expires_s < ? AND session != '') LIMIT 1",
        (now_s - SETTLED_S, now_s),
    ).fetchone()
    return row is not None


def returned(connection: sqlite3.Connection) -> list[tuple[VolumeId, PeerNumber, int]]:
    """(volume, peer, room_bytes) of tokens given back or lapsed of late."""
    rows = connection.execute("SELECT volume, peer, room_bytes FROM reservation WHERE session = '' ORDER BY id")
    return [(VolumeId(volume), PeerNumber(peer), room_bytes) for volume, peer, room_bytes in rows]


def unmeasured(connection: sqlite3.Connection) -> list[tuple[PeerNumber, int]]:
    """(peer, bytes) of copies beyond the figures that were last kept of the peer: repairs need no token, and figures
    may be a minute old."""
    rows = connection.execute(
        "SELECT q.number, sum(r.bytes) - q.used AS more FROM placed r JOIN peer q ON q.number = r.peer"
        " GROUP BY q.number HAVING more > 0"
    )
    return [(PeerNumber(peer), size) for peer, size in rows]


def outstanding(connection: sqlite3.Connection) -> list[tuple[SessionId, Token]]:
    """Every token with the session it was given to, without its signature, oldest expiry first."""
    rows = connection.execute(
        "SELECT session, id, sender, volume, peer, room_bytes, expires_s FROM reservation"
        " WHERE session != '' ORDER BY expires_s, id"
    )
    return [
        (SessionId(session), Token(token, sender, volume, peer, room_bytes, int(expires_s)))
        for session, token, sender, volume, peer, room_bytes, expires_s in rows
    ]
