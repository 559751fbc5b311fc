"""Which session keeps which inode beyond its last name: rows of `open_inode`, inside the caller's transaction.

    (no row) ──another session takes the last name──▶ kept until `until_s` ──Opened──▶ kept ──Released──▶ (no row)
        └──────────────────────────────Opened─────────────────────────────────────────▶ ┘

A row that nobody confirms lapses, so that a mount which never answers does not keep what others remove.
"""

import itertools
import sqlite3
from collections.abc import Iterable
from typing import Final

from p2pfs.meta import inodes
from p2pfs.types import InodeId, VolumeId

AT_ONCE: Final = 1000
"""Most rows that the end of a session removes itself; the others lapse at once (`lapse`)."""
_ENDED: Final = 0.0  # until_s of a row whose session is over


def keep(connection: sqlite3.Connection, volume: VolumeId, inode: int, *, session: int) -> None:
    """The session says that it has it open; again is fine."""
    connection.execute(
        "INSERT INTO open_inode VALUES (?, ?, ?, NULL)"
        " ON CONFLICT (volume, inode, session) DO UPDATE SET until_s = NULL",
        (volume, inode, session),
    )


def keep_for(
    connection: sqlite3.Connection, volume: VolumeId, inode: int, *, sessions: Iterable[int], until_s: float
) -> None:
    """These sessions may have it open: until then it is theirs to say."""
    connection.executemany(
        "INSERT OR IGNORE INTO open_inode VALUES (?, ?, ?, ?)",
        [(volume, inode, session, until_s) for session in sessions],
    )


def release(connection: sqlite3.Connection, volume: VolumeId, inode: int, *, session: int) -> bool:
    """Keep it no longer; whether it was kept."""
    place = (volume, inode, session)
    found = connection.execute("DELETE FROM open_inode WHERE volume = ? AND inode = ? AND session = ?", place)
    return found.rowcount > 0


def count(connection: sqlite3.Connection, session: int) -> int:
    """How many inodes the session said it has open."""
    query = "SELECT count(*) FROM open_inode WHERE session = ? AND until_s IS NULL"
    return int(connection.execute(query, (session,)).fetchone()[0])


def held(connection: sqlite3.Connection, session: int, *, limit: int) -> list[InodeId]:
    """Inodes without a name that are kept for the session."""
    found = connection.execute(
        "SELECT o.inode FROM open_inode o INDEXED BY open_inode_session"
        " CROSS JOIN inode i ON i.volume = o.volume AND i.inode = o.inode"
        " WHERE o.session = ? AND i.links = 0 ORDER BY o.inode LIMIT ?",
        (session, limit),
    )
    return [InodeId(inode) for (inode,) in found]


def end(connection: sqlite3.Connection, volume: VolumeId, *, session: int) -> None:
    """The session is over: what only it kept goes."""
    released = connection.execute(
        "DELETE FROM open_inode WHERE (volume, inode, session) IN"
        " (SELECT volume, inode, session FROM open_inode WHERE session = ? LIMIT ?) RETURNING inode",
        (session, AT_ONCE),
    ).fetchall()
    inodes.remove_nameless(connection, volume, [row[0] for row in released])
    if len(released) == AT_ONCE:
        connection.execute("UPDATE open_inode SET until_s = ? WHERE session = ?", (_ENDED, session))


def has_lapsed(connection: sqlite3.Connection, *, now_s: float) -> bool:
    """Whether there is something for `lapse`."""
    return connection.execute("SELECT 1 FROM open_inode WHERE until_s < ? LIMIT 1", (now_s,)).fetchone() is not None


def lapse(connection: sqlite3.Connection, *, now_s: float, limit: int) -> int:
    """Let go of what nobody confirmed in time, at most `limit` rows; returns how many."""
    rows = connection.execute(
        "DELETE FROM open_inode WHERE (volume, inode, session) IN"
        " (SELECT volume, inode, session FROM open_inode WHERE until_s < ? LIMIT ?) RETURNING volume, inode",
        (now_s, limit),
    ).fetchall()
    for volume, of_volume in itertools.groupby(sorted(rows), key=lambda row: row[0]):
        inodes.remove_nameless(connection, volume, dict.fromkeys(row[1] for row in of_volume))
    return len(rows)


def extend(connection: sqlite3.Connection, *, until_s: float) -> None:
    """Nothing lapses before then: nobody could confirm anything while the coordinator was away."""
    connection.execute(
        "UPDATE open_inode SET until_s = ? WHERE until_s > ? AND until_s < ?", (until_s, _ENDED, until_s)
    )
