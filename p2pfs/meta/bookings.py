"""Rows of named reservations. Inside the caller's transaction; what they mean is `p2pfs.coordinator.bookings`'."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from p2pfs.meta import volumes
from p2pfs.types import VolumeId


@dataclass(slots=True)
class Booking:
    """Room promised to an owner for what one volume will store. Sizes in bytes, times in UTC seconds."""

    id: int
    owner: str
    volume: VolumeId
    bytes: int  # of content, as asked for
    room_bytes: int  # what one copy of that takes on a disk
    left_bytes: int  # of those, not stored yet
    made_s: float
    expires_s: float


def add(connection: sqlite3.Connection, booking: Booking) -> int:
    """Keep a new one; its number. Raises NotFound: the volume was deleted meanwhile."""
    volumes.volume_in_use(connection, booking.volume)
    cursor = connection.execute(
        "INSERT INTO booking (owner, volume, bytes, room_bytes, left_bytes, made_s, expires_s)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            booking.owner,
            booking.volume,
            booking.bytes,
            booking.room_bytes,
            booking.left_bytes,
            booking.made_s,
            booking.expires_s,
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def load(connection: sqlite3.Connection) -> list[Booking]:
    """All, the oldest first."""
    rows = connection.execute(
        "SELECT id, owner, volume, bytes, room_bytes, left_bytes, made_s, expires_s FROM booking ORDER BY id"
    )
    return [Booking(number, owner, VolumeId(volume), *rest) for number, owner, volume, *rest in rows]


def remove(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Forget these."""
    connection.executemany("DELETE FROM booking WHERE id = ?", [(number,) for number in numbers])


def drawn(connection: sqlite3.Connection, left: Iterable[tuple[int, int]]) -> None:
    """(number, left_bytes) each, as they are by now."""
    connection.executemany("UPDATE booking SET left_bytes = ? WHERE id = ?", [(size, number) for number, size in left])
