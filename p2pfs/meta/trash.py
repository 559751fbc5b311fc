"""What lost its last name and can be brought back: rows of `trash`, inside the caller's transaction.

    named ──last name lost──▶ trash, and open perhaps ──last handle closed──▶ trash alone ──purged──▶ gone
      ◀────────────────────── restored ─────────────────────────────────────────┘

A row keeps its inode as an open handle does. Once only the trash keeps it, it counts among the trash of its volume and
is not there for mounts.
"""

import sqlite3
from collections import defaultdict
from typing import Final, NamedTuple

from p2pfs.errors import Misuse
from p2pfs.meta import inodes
from p2pfs.types import VolumeId
from p2pfs.wire.leases import ReadTrash, Reason
from p2pfs.wire.namespace import Attributes, Entry, TrashPage, TrashRow

MAX_PAGE: Final = 500
PAGE_BYTES: Final = 1 << 20
"""Heads, inline data and targets beyond which a page ends early."""


class Lost(NamedTuple):
    """A dentry as it was."""

    parent: int
    dentry: int
    name: bytes
    tag: bytes


class Purged(NamedTuple):
    """What a step let go: rows, and content bytes of those that nothing else keeps."""

    rows: int
    bytes: int


def add(
    connection: sqlite3.Connection,
    volume: VolumeId,
    inode: int,
    *,
    lost: Lost,
    reason: Reason,
    now_s: float,
    purge_s: float,
) -> None:
    """Keep an inode until `purge_s`."""
    connection.execute(
        "INSERT INTO trash VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (volume, inode, *lost, int(reason), now_s, purge_s)
    )


def take(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> Reason | None:
    """Delete a row; why the inode was in the trash, None if it was not."""
    row = connection.execute(
        "DELETE FROM trash WHERE volume = ? AND inode = ? RETURNING reason", (volume, inode)
    ).fetchone()
    return None if row is None else Reason(row[0])


def page(connection: sqlite3.Connection, volume: VolumeId, question: ReadTrash) -> TrashPage:
    """See Namespace.trash."""
    if question.limit < 1:
        raise Misuse("a page of the trash has at least one row")
    limit = min(question.limit, MAX_PAGE)
    within = "AND t.parent = ?" if question.parent else "AND ? = 0"
    cursor = connection.execute(
        f"SELECT t.parent, t.reason, t.removed_s, t.purge_s, t.dentry, t.name, t.tag, {inodes.FIELDS} FROM trash t"
        " JOIN inode i ON i.volume = t.volume AND i.inode = t.inode"
        f" WHERE t.volume = ? {within} AND t.inode > ? ORDER BY t.inode LIMIT ?",
        (volume, question.parent, question.after, limit + 1),
    )
    rows: list[TrashRow] = []
    room = PAGE_BYTES
    for parent, reason, removed_s, purge_s, dentry, name, tag, *fields in cursor:
        if len(rows) == limit or room < 0:
            cursor.close()
            return TrashPage(rows, False)
        attributes = Attributes(*fields)
        room -= inodes.weight(attributes)
        rows.append(TrashRow(parent, Entry(dentry, name, tag, attributes), reason, removed_s, purge_s))
    return TrashPage(rows, True)


_HAS_CHUNKS: Final = "i.size > 0 AND NOT i.inline"
"""SQL, of `inode i`."""

# ---- purging --------------------------------------------------------------------------------------------------------


def earliest_s(connection: sqlite3.Connection) -> float | None:
    """Until when the first row is kept; None: there is none."""
    row = connection.execute("SELECT min(purge_s) FROM trash").fetchone()
    return None if row[0] is None else float(row[0])


def purge(connection: sqlite3.Connection, *, now_s: float, limit: int) -> Purged:
    """Let go what was kept long enough, at most `limit` rows."""
    return _purge(connection, "purge_s <= ? ORDER BY purge_s LIMIT ?", (now_s, limit))


def purge_oldest(connection: sqlite3.Connection, *, bytes_: int, limit: int) -> Purged:
    """Let go what was removed first, whatever its time, until about so many content bytes are gone. What has no chunks
    stays: peers have no room from it."""
    rows = connection.execute(
        "SELECT t.removed_s, i.size FROM trash t JOIN inode i ON i.volume = t.volume AND i.inode = t.inode"
        f" WHERE {_HAS_CHUNKS} ORDER BY t.removed_s LIMIT ?",
        (limit,),
    )
    chosen, enough = 0, 0
    for _, size in rows:
        chosen, enough = chosen + 1, enough + size
        if enough >= bytes_:
            break
    rows.close()
    return _purge(
        connection,
        f"EXISTS (SELECT 1 FROM inode i WHERE i.volume = trash.volume AND i.inode = trash.inode AND {_HAS_CHUNKS})"
        " ORDER BY removed_s LIMIT ?",
        (chosen,),
    )


def restart(connection: sqlite3.Connection, *, now_s: float) -> None:
    """Begin every delay anew: when something was removed may have been told by a clock that was wrong. What went first
    stays first."""
    connection.execute(
        "UPDATE trash SET purge_s = ?1 + max(0, purge_s - removed_s),"
        " removed_s = ?1 - ((SELECT max(removed_s) FROM trash) - removed_s)",
        (now_s,),
    )


def _purge(connection: sqlite3.Connection, which: str, values: tuple[float, ...]) -> Purged:
    rows = connection.execute(
        "DELETE FROM trash WHERE (volume, inode) IN"
        f" (SELECT volume, inode FROM trash WHERE {which}) RETURNING volume, inode",
        values,
    ).fetchall()
    gone: dict[VolumeId, list[int]] = defaultdict(list)
    for volume, inode in rows:
        gone[volume].append(inode)
    freed = sum(_remove(connection, volume, of_volume) for volume, of_volume in gone.items())
    return Purged(len(rows), freed)


def _remove(connection: sqlite3.Connection, volume: VolumeId, candidates: list[int]) -> int:
    """Remove those that only the trash kept; their content bytes."""
    removed = freed = 0
    for inode in candidates:
        if inodes.is_open(connection, volume, inode):
            continue
        size, inline = connection.execute(
            "SELECT size, inline FROM inode WHERE volume = ? AND inode = ?", (volume, inode)
        ).fetchone()
        inodes.remove(connection, volume, inode, inline=bool(inline))
        removed, freed = removed + 1, freed + size
    inodes.count_trash(connection, volume, inodes=-removed, bytes_=-freed)
    return freed
