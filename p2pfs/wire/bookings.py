"""Named reservations on the wire: room for what a volume will store, until it is stored or the time is over."""

import msgspec


class Book(msgspec.Struct, frozen=True):
    """`POST /volumes/{volume}/bookings` → BookingInfo. Raises NoSpace when so much cannot be promised."""

    bytes: int  # of content
    for_s: float


class BookingInfo(msgspec.Struct, frozen=True):
    """`GET /bookings` → a list of the asker's owner's, all for an admin; `DELETE /bookings/{booking}` → the last word
    on the one that was released."""

    id: int
    volume: int
    owner: str
    bytes: int  # of content, as asked for
    left_bytes: int  # of those, neither stored nor about to be
    short_bytes: int  # of those left, what no room is found for any more: peers went, or others filled their disks
    made_s: float  # UTC
    expires_s: float
