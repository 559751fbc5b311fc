"""Migration: named reservations. Appended to the list in `schema`."""

from typing import Final

BOOKINGS: Final = """
CREATE TABLE booking (              -- room an owner asked for by name of a volume: wire.bookings.BookingInfo
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
    owner       TEXT NOT NULL,
    volume      INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,       -- of content, as asked for
    room_bytes  INTEGER NOT NULL,       -- what one copy of that takes on a disk
    left_bytes  INTEGER NOT NULL,       -- of those, not stored yet; may be some seconds old
    made_s      REAL NOT NULL,
    expires_s   REAL NOT NULL
) STRICT;
-- reservation.session: "" if it was given back or has lapsed: see meta.reservations.SETTLED_S
"""
