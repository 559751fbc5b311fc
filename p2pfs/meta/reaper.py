"""Deletes what unlink and truncate only cut: extents of gone inodes and beyond cuts, some at a time.

A background worker of the coordinator calls `reap` until it returns 0. Nobody sees those rows any more; until they are
deleted their chunks count as named.
"""

import sqlite3

from p2pfs.meta import chunks_index


def reap(connection: sqlite3.Connection, *, now_s: float, limit: int = 1000) -> int:
    """Delete at most `limit` dead extents and the cuts that are done; returns how many rows went, 0 when all is done.

    The chunks that nothing names any more are doomed as of `now_s`.
    """
    reaped, left = 0, limit
    while left > 0:
        cut = connection.execute("SELECT volume, inode, from_mib, seq FROM cut LIMIT 1").fetchone()
        if cut is None:
            break
        numbers = _delete_extents(connection, cut, left)
        chunks_index.unrefer(connection, [number for number in numbers if number is not None], now_s=now_s)
        if len(numbers) < left:
            connection.execute("DELETE FROM cut WHERE volume = ? AND inode = ? AND from_mib = ?", cut[:3])
        reaped += len(numbers) + 1
        left -= len(numbers) + 1
    return reaped


def _delete_extents(connection: sqlite3.Connection, cut: tuple[int, int, int, int], limit: int) -> list[int | None]:
    """The chunk numbers (None for holes) of up to `limit` extents deleted."""
    rows = connection.execute(
        "DELETE FROM extent WHERE (volume, inode, mib, seq) IN (SELECT volume, inode, mib, seq FROM extent"
        " WHERE volume = ? AND inode = ? AND mib >= ? AND seq < ? LIMIT ?) RETURNING chunk",
        (*cut, limit),
    )
    return [row[0] for row in rows.fetchall()]
