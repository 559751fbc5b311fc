"""Named reservations: asked for, listed, given back, over. How much each volume booked is `booked`'s; which room is
taken for it `reservations` says. Called by `handlers`, `sessions` (what was stored) and `status`; a worker of `daemon`.
"""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from typing import Final

import trio

from p2pfs.coordinator.booked import Booked, content_in, room_for
from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.coordinator.usefulness import Usefulness
from p2pfs.errors import NotFound
from p2pfs.meta import bookings as rows
from p2pfs.meta.bookings import Booking
from p2pfs.meta.database import Database
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import Role, VolumeId
from p2pfs.wire.bookings import Book, BookingInfo

_EVERY_S: Final = 5.0


class Bookings:
    """Worker: ends those whose time is over, and keeps what was drawn: a crash gives back what was in some seconds."""

    name = "bookings"

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        reservations: Reservations,
        booked: Booked,
        usefulness: Usefulness,
        pool_clock: PoolClock,
        clock: Clock,
    ) -> None:
        self._database = database
        self._roster = roster
        self._reservations = reservations
        self._booked = booked
        self._usefulness = usefulness
        self._pool_clock = pool_clock
        self._clock = clock
        self._asked = 0  # since the start: makes provisional numbers

    async def book(self, identity: Identity, volume: VolumeId, request: Book) -> BookingInfo:
        """Promise a volume of the asker's owner room for a while; that it is theirs was checked before.

        Durability: on return it is committed on stable storage.

        Raises:
            Invalid, OverQuota: There cannot be such a one, or one more, or the owner's share does not allow it.
            NoSpace: There is not room enough; it says for how much there is.
            NotFound: The volume is deleted.
        """
        owner, content, now_s = self._roster.member(identity.node).owner, request.bytes, self._clock.time()
        self._booked.check(owner, content, request.for_s)
        own = sum(booking.left_bytes for booking in self._booked if booking.owner == owner)
        self._usefulness.require_booked(owner, room_for(content), own)
        self._booked.fit(owner, content, self._reservations.bookable(), is_alone=self._is_alone(owner))
        room = room_for(content)
        self._asked += 1
        booking = Booking(-self._asked, owner, volume, content, room, room, now_s, now_s + request.for_s)
        provisional = booking.id  # it has another once it is committed
        self._booked.add(booking)  # no checkpoint since it fitted: it counts from now on
        try:
            await self._database.write(
                lambda connection: rows.add(connection, booking),
                committed=lambda number: self._booked.renumber(booking, number),
            )
        except BaseException:
            self._booked.remove(provisional)  # if it is committed all the same, it is there, or comes back then
            raise
        return self._info(booking, self._reservations.short())

    def listed(self, identity: Identity) -> list[BookingInfo]:
        """The asker's owner's, all for an admin; the oldest first."""
        owner, short = self._owner_for(identity), self._reservations.short()
        return [
            self._info(booking, short) for booking in self._booked if booking.id > 0 and owner in (None, booking.owner)
        ]

    def by_volume(self) -> dict[VolumeId, tuple[int, int]]:
        """(left, short) bytes of content of every volume that booked any."""
        short = self._reservations.short()
        left: Counter[VolumeId] = Counter()
        for booking in self._booked:
            left[booking.volume] += min(booking.bytes, content_in(booking.left_bytes))
        return {volume: (size, min(size, content_in(short.get(volume, 0)))) for volume, size in left.items()}

    async def release(self, identity: Identity, number: str) -> BookingInfo:
        """Give one of the asker's owner's back; an admin, anybody's.

        Raises:
            NotFound: There is none, or it is another owner's.
        """
        owner = self._owner_for(identity)
        booking = self._booked.get(int(number) if number.isdecimal() and len(number) < 18 else 0)
        if owner not in (None, booking.owner):
            raise NotFound("there is no such reservation")
        info = self._info(booking, self._reservations.short())
        await self._database.write(
            lambda connection: rows.remove(connection, [booking.id]),
            committed=lambda _: self._booked.remove(booking.id),
        )
        return info

    # ---- a worker ---------------------------------------------------------------------------------------------------

    async def work(self) -> Progress:
        drawn = self._booked.drawn()
        is_sure = not await self._pool_clock.doubt()  # a clock that runs ahead must not end them for good
        over = self._booked.expired(self._clock.time()) if is_sure else []
        if over or drawn:

            def keep(connection: sqlite3.Connection) -> None:
                rows.remove(connection, over)
                rows.drawn(connection, drawn)

            def kept(_: None) -> None:
                for number in over:
                    self._booked.remove(number)
                self._booked.kept(drawn)

            await self._database.write(keep, committed=kept)
        return Progress.IDLE

    async def wait(self) -> None:
        await trio.sleep(_EVERY_S)

    def _owner_for(self, identity: Identity) -> str | None:
        """Whose the asker may see and release; None: everybody's."""
        node = self._roster.member(identity.node)
        return None if Role.ADMIN in identity.roles else node.owner

    def _is_alone(self, owner: str) -> bool:
        """Whether nobody else stores anything in this pool."""
        storing = (node for node in self._roster.nodes.values() if Role.CLIENT in node.roles and not node.revoked_s)
        return all(node.owner == owner for node in storing)

    def _info(self, booking: Booking, lacking: Mapping[VolumeId, int]) -> BookingInfo:
        """What a volume lacks is told of each that was made for it."""
        short = min(booking.left_bytes, lacking.get(booking.volume, 0))
        return BookingInfo(
            booking.id,
            booking.volume,
            booking.owner,
            booking.bytes,
            left_bytes=min(booking.bytes, content_in(booking.left_bytes)),
            short_bytes=min(booking.bytes, content_in(short)),
            made_s=booking.made_s,
            expires_s=booking.expires_s,
        )
