"""The key slots of a volume: wrapped master keys, opaque here. Inside the caller's transaction.

Who changes slots, or settings, proves that it has the volume's key (format.keys, guard): a node of the owner whose
certificate was stolen could otherwise take the last way to the key away.
"""

import hmac
import sqlite3
from collections.abc import Sequence

from p2pfs.errors import Denied, Invalid, NotFound
from p2pfs.format.keys import GUARD_BYTES, MOST_SLOTS, guard_hash, slot_id
from p2pfs.types import VolumeId
from p2pfs.wire.volumes import ChangeSlots, KeySlot


def add(connection: sqlite3.Connection, volume: VolumeId, slots: Sequence[KeySlot]) -> None:
    """Add slots after those there are."""
    (last,) = connection.execute(
        "SELECT coalesce(max(number), -1) FROM key_slot WHERE volume = ?", (volume,)
    ).fetchone()
    connection.executemany(
        "INSERT INTO key_slot VALUES (?, ?, ?, ?)",
        [(volume, number, slot.kind, slot.wrapped) for number, slot in enumerate(slots, last + 1)],
    )


def slots(connection: sqlite3.Connection, volume: VolumeId) -> list[KeySlot]:
    """The volume's key slots, oldest first."""
    rows = connection.execute("SELECT kind, wrapped FROM key_slot WHERE volume = ? ORDER BY number", (volume,))
    return [KeySlot(kind, wrapped) for kind, wrapped in rows]


def change(connection: sqlite3.Connection, volume: VolumeId, message: ChangeSlots) -> list[KeySlot]:
    """Add and remove slots, both or neither; the ones there are then.

    Raises:
        NotFound: No such volume, or no such slot.
        Denied: The sender has not got the volume's key.
        Invalid: None would be left, or more than clients try.
    """
    require_key(connection, volume, message.guard)
    add(connection, volume, message.add)
    known = connection.execute("SELECT number, kind, wrapped FROM key_slot WHERE volume = ?", (volume,)).fetchall()
    numbers = {slot_id(KeySlot(kind, wrapped)): number for number, kind, wrapped in known}
    for name in message.remove:
        number = numbers.pop(name, None)
        if number is None:
            raise NotFound("there is no such key slot any more")
        connection.execute("DELETE FROM key_slot WHERE volume = ? AND number = ?", (volume, number))
    if not 1 <= len(known) - len(message.remove) <= MOST_SLOTS:
        raise Invalid(f"a volume keeps 1 to {MOST_SLOTS} key slots")
    return slots(connection, volume)


def require_key(connection: sqlite3.Connection, volume: VolumeId, guard: bytes) -> None:
    """Whether the sender of this guard has a volume's key.

    Raises:
        NotFound: There is no such volume in use; one whose keys are destroyed would believe anybody.
        Denied: It has not.
    """
    row = connection.execute("SELECT slot_guard FROM volume WHERE id = ? AND deleted_s IS NULL", (volume,)).fetchone()
    if row is None:
        raise NotFound("there is no such volume")
    given = guard_hash(guard)
    if len(guard) == GUARD_BYTES and row[0] is None:  # made by an earlier version: who comes first is believed
        connection.execute("UPDATE volume SET slot_guard = ? WHERE id = ?", (given, volume))
    elif not hmac.compare_digest(row[0] or b"", given):
        raise Denied("only who has the volume's key may change its settings and key slots")
