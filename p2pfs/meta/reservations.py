"""Room promised on peers, so that two mounts are not given the same last gigabyte. Inside the caller's transaction;
how much to promise where, and the tokens' signatures, are `p2pfs.coordinator`'s.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.types import PeerNumber, SessionId
from p2pfs.wire.chunks import Token

SETTLED_S: Final = 120.0
"""Rows of tokens whose time is over are kept for so long: what was stored under them just before a crash may be in no
figure that was kept of the peer. Those are a minute old at most (`coordinator.pulse.KEEP_EVERY_S`)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A token with the session it was given to."""

    session: SessionId
    token: Token  # without its signature
    is_withdrawn: bool
    is_acknowledged: bool  # its peer takes it no more


def add(connection: sqlite3.Connection, session: SessionId, *, tokens: Sequence[Token]) -> None:
    """Keep what was promised to a session."""
    connection.executemany(
        "INSERT INTO reservation VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
        [(t.id, session, t.sender, t.volume, t.peer, t.room_bytes, t.expires_s) for t in tokens],
    )


def withdraw(connection: sqlite3.Connection, tokens: Iterable[int], *, is_acknowledged: bool = False) -> None:
    """Tokens (by id) that were given back or replaced, and whether their peers know."""
    connection.executemany(
        "UPDATE reservation SET withdrawn = ? WHERE id = ?", [(1 + is_acknowledged, token) for token in tokens]
    )


def expire(connection: sqlite3.Connection, *, now_s: float) -> int:
    """Forget what lapsed long ago; returns how many."""
    return connection.execute("DELETE FROM reservation WHERE expires_s < ?", (now_s - SETTLED_S,)).rowcount


def lapsed(connection: sqlite3.Connection, *, now_s: float) -> bool:
    """Whether there is something to `expire`."""
    row = connection.execute("SELECT 1 FROM reservation WHERE expires_s < ? LIMIT 1", (now_s - SETTLED_S,)).fetchone()
    return row is not None


def unmeasured(connection: sqlite3.Connection) -> list[tuple[PeerNumber, int]]:
    """(peer, bytes) of copies beyond the figures that were last kept of the peer: repairs need no token, and figures
    may be a minute old."""
    rows = connection.execute(
        "SELECT q.number, sum(r.bytes) - q.used AS more FROM placed r JOIN peer q ON q.number = r.peer"
        " GROUP BY q.number HAVING more > 0"
    )
    return [(PeerNumber(peer), size) for peer, size in rows]


def outstanding(connection: sqlite3.Connection) -> list[Kept]:
    """Every token, the oldest first: one that was replaced before what replaced it, though both end in one second."""
    rows = connection.execute(
        "SELECT session, id, sender, volume, peer, room_bytes, expires_s, withdrawn FROM reservation"
        " ORDER BY withdrawn DESC, expires_s, id"
    )
    return [
        Kept(
            SessionId(session),
            Token(token, sender, volume, peer, room_bytes, int(expires_s)),
            is_withdrawn=withdrawn > 0,
            is_acknowledged=withdrawn > 1,
        )
        for session, token, sender, volume, peer, room_bytes, expires_s, withdrawn in rows
    ]
