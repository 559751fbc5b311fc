"""Room promised on peers, so that two mounts are not given the same last gigabyte. Inside the caller's transaction;
how much to promise where, and the tokens' signatures, are `p2pfs.coordinator`'s.
"""

import sqlite3
from collections.abc import Sequence

from p2pfs.types import SessionId
from p2pfs.wire.chunks import Token


def add(connection: sqlite3.Connection, session: SessionId, *, tokens: Sequence[Token]) -> None:
    """Keep what was promised to a session."""
    connection.executemany(
        "INSERT INTO reservation VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(t.id, session, t.sender, t.volume, t.peer, t.room_bytes, t.expires_s) for t in tokens],
    )


def give_back(connection: sqlite3.Connection, session: SessionId, *, tokens: Sequence[int]) -> int:
    """Forget tokens (by id) a session does not need any more; others' are left alone. Returns how many went."""
    gone = 0
    for token in tokens:
        gone += connection.execute("DELETE FROM reservation WHERE id = ? AND session = ?", (token, session)).rowcount
    return gone


def expire(connection: sqlite3.Connection, *, now_s: float) -> int:
    """Forget what lapsed; returns how many."""
    return connection.execute("DELETE FROM reservation WHERE expires_s < ?", (now_s,)).rowcount


def outstanding(connection: sqlite3.Connection) -> list[tuple[SessionId, Token]]:
    """Every token with the session it was given to, without its signature, oldest expiry first."""
    rows = connection.execute(
        "SELECT session, id, sender, volume, peer, room_bytes, expires_s FROM reservation ORDER BY expires_s, id"
    )
    return [
        (SessionId(session), Token(token, sender, volume, peer, room_bytes, int(expires_s)))
        for session, token, sender, volume, peer, room_bytes, expires_s in rows
    ]
