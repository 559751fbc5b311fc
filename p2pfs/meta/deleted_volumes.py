"""Volumes that were deleted and can be brought back for a while. Inside the caller's transaction.

    in use ──delete──▶ deleted ──its time is over──▶ shredded: no keys ──destroyed, some rows at a time──▶ no row
      ◀────────undelete──┘                            (deleted_s, no purge_s)

A deleted volume has no session, and the name is free for another. Its files, and their copies, stay as they are until
the keys are gone: then nobody can read a copy or a backup that is left, and only after that rows and chunks follow.
"""

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from p2pfs.errors import Busy, Exists, NotFound
from p2pfs.meta import inodes, key_slots, sessions, volumes
from p2pfs.meta.sessions import Session
from p2pfs.types import SessionId, VolumeId, volume_name
from p2pfs.wire.volumes import DeletedVolume, VolumeInfo

_DELETED: Final = "SELECT id, deleted_name, owner, inodes, bytes, deleted_s, purge_s FROM volume"
_AT_ONCE: Final = ("delegation", "frugal", "placed", "volume_member", "key_slot")
"""Tables with few rows of a volume, or that count what is gone by then."""
_BY_ROW: Final = ("trash", "open_inode", "keyword", "label", "dentry", "inline_data")
"""Tables that have a row for each inode or so; what was left behind by those goes too."""


def delete(
    connection: sqlite3.Connection,
    volume: VolumeId,
    *,
    guard: bytes | None,
    is_awake: Callable[[Session], bool],
    now_s: float,
    purge_s: float,
) -> tuple[DeletedVolume, list[SessionId]]:
    """Put a volume aside until `purge_s`, and end its sessions; which those were. `guard` None: an admin needs none.

    Raises:
        NotFound: There is no such volume in use.
        Denied: The sender has not got its key.
        Exists: The owner has a volume whose name is this one's id.
        Busy: It is mounted (by a session that `is_awake`), or room is reserved for it by name.
    """
    name = volumes.volume_in_use(connection, volume).name
    if guard is not None:
        key_slots.require_key(connection, volume, guard)
    for mount in sessions.mounts(connection, volume):
        if is_awake(mount):
            raise Busy(f"{mount.host}:{mount.mount_point} has the volume mounted: unmount it there first")
    if connection.execute("SELECT 1 FROM booking WHERE volume = ? LIMIT 1", (volume,)).fetchone() is not None:
        raise Busy("room is reserved for the volume: give it back first, with p2pfs reserve release")
    ended = sessions.close_sessions_on(connection, volume)
    try:
        connection.execute(
            "UPDATE volume SET name = ?, deleted_name = ?, deleted_s = ?, purge_s = ? WHERE id = ?",
            (volume_name(volume), name, now_s, purge_s, volume),
        )
    except sqlite3.IntegrityError:  # an earlier version allowed that
        raise Exists(f"another volume is named {volume_name(volume)}, as this one's id: rename that first") from None
    (row,) = connection.execute(f"{_DELETED} WHERE id = ?", (volume,))
    return DeletedVolume(*row), ended


def undelete(connection: sqlite3.Connection, volume: VolumeId, *, name: str) -> VolumeInfo:
    """Use it again, under the name it had if `name` is empty.

    Raises:
        NotFound: It is not there any more, or is in use.
        Exists: The name is another volume's by now.
    """
    row = connection.execute(
        "SELECT deleted_name FROM volume WHERE id = ? AND purge_s IS NOT NULL", (volume,)
    ).fetchone()
    if row is None:
        raise NotFound("there is no such deleted volume, or its time is over")
    try:
        connection.execute(
            "UPDATE volume SET name = ?, deleted_name = '', deleted_s = NULL, purge_s = NULL WHERE id = ?",
            (name or row[0], volume),
        )
    except sqlite3.IntegrityError:
        raise Exists(f"there is another volume named {name or row[0]} by now: give this one another name") from None
    return volumes.volume(connection, volume)


def deleted(connection: sqlite3.Connection, owner: str | None = None) -> list[DeletedVolume]:
    """What can be brought back, of one owner or all; the oldest first."""
    which, values = ("", ()) if owner is None else (" AND owner = ?", (owner,))
    rows = connection.execute(f"{_DELETED} WHERE purge_s IS NOT NULL{which} ORDER BY deleted_s", values)
    return [DeletedVolume(*row) for row in rows]


# ---- the end --------------------------------------------------------------------------------------------------------


def earliest_s(connection: sqlite3.Connection) -> float | None:
    """Until when the first can be brought back; None: there is none."""
    row = connection.execute("SELECT min(purge_s) FROM volume WHERE purge_s IS NOT NULL").fetchone()
    return None if row[0] is None else float(row[0])


def shred(connection: sqlite3.Connection, *, now_s: float) -> list[VolumeId]:
    """Destroy the keys of those whose time is over; which."""
    rows = connection.execute(
        "UPDATE volume SET purge_s = NULL, slot_guard = NULL, key_check = x'', deleted_name = ''"
        " WHERE purge_s <= ? RETURNING id",
        (now_s,),
    ).fetchall()
    for row in rows:
        connection.execute("DELETE FROM key_slot WHERE volume = ?", row)
        connection.execute("DELETE FROM volume_member WHERE volume = ?", row)
    return [VolumeId(row[0]) for row in rows]


def restart(connection: sqlite3.Connection, *, now_s: float) -> None:
    """Begin every delay anew: when something was deleted may have been told by a clock that was wrong."""
    connection.execute(
        "UPDATE volume SET purge_s = ?1 + max(0, purge_s - deleted_s), deleted_s = ?1 WHERE purge_s IS NOT NULL",
        (now_s,),
    )


def shredded(connection: sqlite3.Connection) -> list[VolumeId]:
    """Those without keys of which rows are left."""
    rows = connection.execute("SELECT id FROM volume WHERE deleted_s IS NOT NULL AND purge_s IS NULL")
    return [VolumeId(row[0]) for row in rows]


def destroy(connection: sqlite3.Connection, volume: VolumeId, *, limit: int) -> bool:
    """Delete about `limit` rows of a shredded volume at most; whether there were any. Extents are left to the reaper;
    the volume's own row stays until the last of its chunks was purged."""
    left = limit
    found = connection.execute("SELECT inode, inline FROM inode WHERE volume = ? LIMIT ?", (volume, left)).fetchall()
    for inode, inline in found:
        connection.execute("DELETE FROM trash WHERE volume = ? AND inode = ?", (volume, inode))
        inodes.remove(connection, volume, inode, inline=bool(inline))
    left -= len(found)
    for table in _BY_ROW:
        left -= _some(connection, table, volume, left) if left > 0 else 0
    if left < limit:
        return True
    waiting: tuple[Any, ...] | None = connection.execute(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM chunk WHERE volume = ?1) OR EXISTS (SELECT 1 FROM cut WHERE volume = ?1)",
        (volume,),
    ).fetchone()
    if waiting is None:
        for table in _AT_ONCE:
            connection.execute(f"DELETE FROM {table} WHERE volume = ?", (volume,))
        connection.execute("DELETE FROM volume WHERE id = ?", (volume,))
    return False


def _some(connection: sqlite3.Connection, table: str, volume: VolumeId, limit: int) -> int:
    """Delete up to `limit` rows of a table; how many."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[5]]
    key = ", ".join(columns)
    return connection.execute(
        f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE volume = ? LIMIT ?)", (volume, limit)
    ).rowcount
