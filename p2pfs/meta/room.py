"""How much fits, from what the peers' rows say: for questions about space where nobody counts promises."""

import sqlite3
from collections.abc import Iterable

from p2pfs.meta import settings
from p2pfs.types import PeerState


def usable(rooms: Iterable[int], copies: int) -> int:
    """Bytes that fit `copies` times into `rooms`, no two copies in one room.

    The k largest rooms hold at most one copy each; the others must hold the remaining copies between them.
    """
    ordered = sorted((max(room, 0) for room in rooms), reverse=True)
    if copies < 1 or len(ordered) < copies:
        return 0
    rest, best = sum(ordered), None
    for taken in range(copies):
        bound = rest // (copies - taken)
        best = bound if best is None else min(best, bound)
        rest -= ordered[taken]
    return best or 0


def room(connection: sqlite3.Connection) -> tuple[int, int]:
    """(total, free) bytes of user data the reachable peers can hold after replication: what statfs shows."""
    rows = connection.execute(
        "SELECT capacity, capacity - used FROM peer WHERE state IN (?, ?)",
        (PeerState.UP.value, PeerState.SUSPECT.value),
    ).fetchall()
    copies = max(1, min(settings.number(connection, settings.REPLICAS, default=3), len(rows)))
    return usable((row[0] for row in rows), copies), usable((row[1] for row in rows), copies)
