"""Volumes and their key slots, and the numbers granted to mounts. Inside the caller's transaction; who may see which
volume is decided by `p2pfs.coordinator`.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from p2pfs.errors import Exists, Misuse, NotFound
from p2pfs.meta import key_slots
from p2pfs.meta.schema import EVERYTHING
from p2pfs.types import ROOT_INODE, Kind, VolumeId
from p2pfs.wire.namespace import FIRST_CHANGE
from p2pfs.wire.volumes import CreateVolume, IdBlock, VolumeInfo, VolumeSettings

MAX_GRANTED_IDS: Final = 1_000_000
"""Most numbers one request gets."""

_INFO = (
    "SELECT id, name, owner, key_check, small_file_bytes, dedup, created_s, inodes, bytes, trash_removed_s,"
    " trash_expired_s, trash_inodes, trash_bytes, index_names, index_prefixes, distribution, index_seal,"
    " quota_bytes, quota_files, (SELECT count(*) FROM volume_member m WHERE m.volume = volume.id)"
    " FROM volume"
)


def create_volume(connection: sqlite3.Connection, message: CreateVolume, *, owner: str, now_s: float) -> VolumeInfo:
    """Make a volume with its key slots and its root directory. Raises Exists (the id, or the owner's name for it)."""
    if not 0 < message.volume <= EVERYTHING:
        raise Misuse("a volume number has 63 bits")
    try:
        connection.execute(
            "INSERT INTO volume (id, name, owner, key_check, small_file_bytes, dedup, created_s, next_id, inodes,"
            " bytes, trash_removed_s, trash_expired_s, slot_guard, distribution, index_names,"
            " index_prefixes, index_seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 0, ?, ?, ?, ?, ?, ?, ?)",
            (
                message.volume,
                message.name,
                owner,
                message.check,
                message.small_file_bytes,
                int(message.dedup),
                now_s,
                ROOT_INODE + 1,
                message.trash_removed_s,
                message.trash_expired_s,
                message.slot_guard or None,
                message.distribution,
                message.index_names,
                message.index_prefixes,
                message.index_seal,
            ),
        )
    except sqlite3.IntegrityError:
        raise Exists(f"there is a volume named {message.name} already") from None
    key_slots.add(connection, VolumeId(message.volume), message.slots)
    time_ns = message.time_ns
    connection.execute(
        "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, 0, 2, 0, ?, 0, ?, ?, ?, ?, 0, ?, 0)",
        (
            message.volume,
            ROOT_INODE,
            int(Kind.DIRECTORY),
            message.root_mode & 0o7777,
            message.root_uid,
            message.root_gid,
            FIRST_CHANGE,
            time_ns,
            time_ns,
            time_ns,
            ROOT_INODE,
            message.root_head,
        ),
    )
    return volume(connection, VolumeId(message.volume))


def volume(connection: sqlite3.Connection, volume_id: VolumeId) -> VolumeInfo:
    """Raises NotFound."""
    row = connection.execute(f"{_INFO} WHERE id = ?", (volume_id,)).fetchone()
    if row is None:
        raise NotFound("there is no such volume")
    return _info(row)


def volume_in_use(connection: sqlite3.Connection, volume_id: VolumeId) -> VolumeInfo:
    """Raises NotFound, also of one that is deleted."""
    row = connection.execute(f"{_INFO} WHERE id = ? AND deleted_s IS NULL", (volume_id,)).fetchone()
    if row is None:
        raise NotFound("there is no such volume")
    return _info(row)


def volumes(connection: sqlite3.Connection, owner: str | None = None) -> list[VolumeInfo]:
    """All volumes, or those of one owner, by name; not those that are deleted."""
    if owner is None:
        rows = connection.execute(f"{_INFO} WHERE deleted_s IS NULL ORDER BY name, owner")
    else:
        rows = connection.execute(f"{_INFO} WHERE owner = ? AND deleted_s IS NULL ORDER BY name", (owner,))
    return [_info(row) for row in rows]


def configure(
    connection: sqlite3.Connection,
    volume_id: VolumeId,
    settings: VolumeSettings,
    *,
    now_s: float = 0.0,
    is_admin: bool = False,
) -> VolumeInfo:
    """Change what is not None, each a column of its name; what is in the trash keeps its time. An admin needs no key.

    Raises:
        NotFound: No such volume, or it is deleted: its name is not its own then, and undeleting it gives one.
        Denied: The sender has not got the volume's key.
        Exists: The owner has another volume of that name.
    """
    volume_in_use(connection, volume_id)
    if not is_admin:
        key_slots.require_key(connection, volume_id, settings.guard)
    given = {key: value for key, value in msgspec.structs.asdict(settings).items() if value is not None}
    del given["guard"]
    if given:
        if settings.quota_bytes is not None or settings.quota_files is not None:
            given["quota_s"] = now_s
        columns = ", ".join(f"{key} = ?" for key in given)
        try:
            connection.execute(f"UPDATE volume SET {columns} WHERE id = ?", (*given.values(), volume_id))
        except sqlite3.IntegrityError:
            raise Exists(f"there is a volume named {settings.name} already") from None
    return volume(connection, volume_id)


def owner_of(connection: sqlite3.Connection, volume_id: VolumeId) -> str:
    """Raises NotFound."""
    row = connection.execute("SELECT owner FROM volume WHERE id = ?", (volume_id,)).fetchone()
    if row is None:
        raise NotFound("there is no such volume")
    return str(row[0])


def grant_ids(connection: sqlite3.Connection, volume_id: VolumeId, *, count: int) -> IdBlock:
    """`count` consecutive inode or dentry numbers that nobody was ever given. Raises NotFound, Misuse."""
    if not 1 <= count <= MAX_GRANTED_IDS:
        raise Misuse(f"between 1 and {MAX_GRANTED_IDS} numbers can be granted at once")
    row = connection.execute(
        "UPDATE volume SET next_id = next_id + ? WHERE id = ? AND deleted_s IS NULL RETURNING next_id",
        (count, volume_id),
    ).fetchone()
    if row is None:
        raise NotFound("there is no such volume")
    return IdBlock(row[0] - count, row[0] - 1)


def _info(row: Sequence[Any]) -> VolumeInfo:
    return VolumeInfo(
        volume=row[0],
        name=row[1],
        owner=row[2],
        check=row[3],
        small_file_bytes=row[4],
        dedup=bool(row[5]),
        created_s=int(row[6]),
        files=row[7],
        bytes=row[8],
        trash_removed_s=row[9],
        trash_expired_s=row[10],
        trash_files=row[11],
        trash_bytes=row[12],
        index_names=bool(row[13]),
        index_prefixes=bool(row[14]),
        distribution=row[15],
        index_seal=row[16],
        quota_bytes=row[17],
        quota_files=row[18],
        members=row[19],
    )
