"""Deletes what unlink and truncate only cut: extents and extended attributes of gone inodes, and extents beyond cuts,
some at a time.

A background worker of the coordinator calls `reap` until it returns 0. Nobody sees those rows any more; until they are
deleted their chunks count as named.
"""

import sqlite3
from typing import Final

from p2pfs.meta import chunks_index
from p2pfs.meta.schema import EVERYTHING

XATTR_ROWS: Final = 4
"""What an extended attribute counts among rows: it may have 64 KiB."""


def reap(connection: sqlite3.Connection, *, now_s: float, limit: int = 1000) -> int:
    """Delete about `limit` dead rows at most, and the cuts that are done; returns how many went, 0 when all is done.

    The chunks that nothing names any more are doomed as of `now_s`.
    """
    reaped, left = 0, limit
    while left > 0:
        cut = connection.execute("SELECT volume, inode, from_mib, seq FROM cut LIMIT 1").fetchone()
        if cut is None:
            break
        numbers = _delete_extents(connection, cut, left)
        chunks_index.unrefer(connection, [number for number in numbers if number is not None], now_s=now_s)
        reaped, left = reaped + len(numbers), left - len(numbers)
        if left > 0 and cut[3] == EVERYTHING:
            gone = _delete_xattrs(connection, cut, -(-left // XATTR_ROWS))
            reaped, left = reaped + gone, left - gone * XATTR_ROWS
        if left > 0:
            connection.execute("DELETE FROM cut WHERE volume = ? AND inode = ? AND from_mib = ?", cut[:3])
            reaped, left = reaped + 1, left - 1
    return reaped


def _delete_xattrs(connection: sqlite3.Connection, cut: tuple[int, int, int, int], limit: int) -> int:
    """How many extended attributes were deleted, up to `limit`."""
    return connection.execute(
        "DELETE FROM xattr WHERE rowid IN (SELECT rowid FROM xattr WHERE volume = ? AND inode = ? LIMIT ?)",
        (*cut[:2], limit),
    ).rowcount


def _delete_extents(connection: sqlite3.Connection, cut: tuple[int, int, int, int], limit: int) -> list[int | None]:
    """The chunk numbers (None for holes) of up to `limit` extents deleted."""
    rows = connection.execute(
        "DELETE FROM extent WHERE (volume, inode, mib, seq) IN (SELECT volume, inode, mib, seq FROM extent"
        " WHERE volume = ? AND inode = ? AND mib >= ? AND seq < ? LIMIT ?) RETURNING chunk",
        (*cut, limit),
    )
    return [row[0] for row in rows.fetchall()]
