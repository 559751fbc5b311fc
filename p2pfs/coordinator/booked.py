"""Named reservations: room promised to a volume before anybody knows which peers its chunks will go to.

    asked for ──▶ open: left_bytes ──stored by the volume's sessions──▶ used up
                   └──released, or its time is over──▶ gone

Only how much is left is kept. Where it is set aside is worked out anew, from the room there is at the moment, whenever
somebody asks for room: so what is set aside never exceeds a peer's room, nothing has to be moved when a peer fills up
or goes, and a crash can forget no more than what was drawn just before it. Sync and without I/O; called by
`reservations`, and by `bookings`, which keeps the database in step.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from p2pfs.coordinator.ledger import CHUNK_OVERHEAD_BYTES, disk_bytes
from p2pfs.coordinator.room import spread, writable
from p2pfs.errors import Invalid, NoSpace, NotFound, OverQuota
from p2pfs.meta.bookings import Booking
from p2pfs.runtime.sizes import format_duration, format_size
from p2pfs.types import CHUNK_BYTES, SEALED_CHUNK_BYTES, PeerNumber, VolumeId

MOST_PER_OWNER: Final = 16
MOST: Final = 256
"""Open ones of an owner, and in all: each is looked at whenever room is asked for."""
LONGEST_S: Final = 7 * 86400.0
OTHERS_SHARE: Final = 0.5
"""Of what could be promised, this much stays for other owners: nobody can keep them all out of the pool, for ever."""
_CHUNK_ON_DISK: Final = SEALED_CHUNK_BYTES + CHUNK_OVERHEAD_BYTES

Shares = Mapping[VolumeId, Mapping[PeerNumber, int]]
"""What is set aside for each volume on each peer."""


def room_for(content: int) -> int:
    """What one copy of so many bytes of content takes on a disk, in whole chunks."""
    chunks = -(-content // CHUNK_BYTES)
    return disk_bytes(content + chunks * (SEALED_CHUNK_BYTES - CHUNK_BYTES))


def content_in(room: int) -> int:
    """How much content fits into so much room on a disk."""
    whole, rest = divmod(room, _CHUNK_ON_DISK)
    return whole * CHUNK_BYTES + max(0, rest - (_CHUNK_ON_DISK - CHUNK_BYTES))


class Booked:
    """Every open one. What a volume stores is drawn from its oldest."""

    def __init__(self, found: Iterable[Booking] = (), share: Callable[[str], int | None] = lambda _owner: None) -> None:
        """`share`: how much an owner may still store in one copy; None: there is no limit."""
        self._share = share
        self._open = {booking.id: booking for booking in found}
        self._kept = {booking.id: booking.left_bytes for booking in self._open.values()}

    def __iter__(self) -> Iterator[Booking]:
        return iter(self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def check(self, owner: str, content: int, for_s: float) -> None:
        """Raises Invalid or OverQuota: such a one cannot be, whatever room there is."""
        if not 0 < content < 1 << 62:
            raise Invalid("a reservation is of at least one byte")
        if not math.isfinite(for_s) or not 0 < for_s <= LONGEST_S:
            raise Invalid(f"room can be reserved for at most {format_duration(LONGEST_S)}")
        if sum(booking.owner == owner for booking in self) >= MOST_PER_OWNER:
            raise OverQuota(f"{owner} has {MOST_PER_OWNER} reservations: release one with p2pfs reserve release")
        if len(self) >= MOST:
            raise OverQuota(f"the pool has {MOST} reservations already: wait until one ends")

    def fit(self, owner: str, content: int, room: int, *, is_alone: bool) -> None:
        """Whether so much can be promised where `room` bytes could still be stored in enough copies; `is_alone`: the
        owner need leave nothing to others.

        Raises:
            NoSpace: It says how much could be.
        """
        own = sum(booking.left_bytes for booking in self if booking.owner == owner)
        most = room if is_alone else min(room, int((room + own) * (1 - OTHERS_SHARE)) - own)
        if room_for(content) > most:
            could = format_size(content_in(max(0, most)))
            why = "" if most >= room else f" for {owner}, so that others find room too"
            raise NoSpace(f"{format_size(content)} cannot be reserved: at most {could} can be at the moment{why}")

    def add(self, booking: Booking) -> None:
        """Set room aside for a new one from now on."""
        self._open[booking.id] = booking
        self._kept[booking.id] = booking.room_bytes

    def renumber(self, booking: Booking, number: int) -> None:
        """It was added under a provisional number."""
        self.remove(booking.id)
        booking.id = number
        self.add(booking)

    def get(self, number: int) -> Booking:
        """Raises NotFound."""
        booking = self._open.get(number)
        if booking is None:
            raise NotFound("there is no such reservation")
        return booking

    def remove(self, number: int) -> None:
        """Set nothing aside for it any more; unknown numbers are passed over."""
        self._open.pop(number, None)
        self._kept.pop(number, None)

    def expired(self, now_s: float) -> list[int]:
        """Those whose time is over."""
        return [booking.id for booking in self if booking.expires_s <= now_s]

    def draw(self, volume: VolumeId, size: int) -> None:
        """A chunk of `size` bytes was stored in this volume."""
        size += CHUNK_OVERHEAD_BYTES
        for booking in self:
            if booking.volume == volume and size:
                taken = min(size, booking.left_bytes)
                booking.left_bytes -= taken
                size -= taken

    def drawn(self) -> list[tuple[int, int]]:
        """(number, left_bytes) of those that were drawn from since `kept`."""
        return [(booking.id, booking.left_bytes) for booking in self if booking.left_bytes != self._kept[booking.id]]

    def kept(self, left: Iterable[tuple[int, int]]) -> None:
        """This is in the database."""
        self._kept |= {number: size for number, size in left if number in self._open}

    def needs(self, under_way: Callable[[VolumeId], int]) -> dict[VolumeId, int]:
        """What has to be set aside for each volume, once: less what its sessions were promised and may store, and for
        an owner's volumes no more than it may store by now. Those that have least under way come first."""
        left: dict[VolumeId, int] = {}
        owners = {booking.volume: booking.owner for booking in self}
        shares = {owner: self._share(owner) for owner in owners.values()}
        for booking in self:
            left[booking.volume] = left.get(booking.volume, 0) + booking.left_bytes
        going = {volume: under_way(volume) for volume in left}
        found: dict[VolumeId, int] = {}
        for volume in sorted(left, key=lambda one: going[one]):
            found[volume], share = max(0, left[volume] - going[volume]), shares[owners[volume]]
            if share is not None:
                found[volume] = min(found[volume], share)
                shares[owners[volume]] = share - found[volume]
        return found


def set_aside(
    needs: Mapping[VolumeId, int],
    free: Mapping[PeerNumber, int],
    weights: Mapping[PeerNumber, int],
    copies: tuple[int, int],
) -> tuple[Shares, dict[VolumeId, int]]:
    """Room for each volume where it is free, `copies` (wanted, needed at least) times: as many as there is room for.
    And for how many bytes of a volume there is not even room for the least; those that lack none are left out.

    What fits together is set aside together, each volume's part of it by its need. If not all do, the first come first:
    a volume whose own sessions took their promises unevenly must not make another's short.
    """
    best, least = copies
    rooms, most, fitting, total = dict(free), writable(list(free.values()), least), 0, 0
    for need in needs.values():
        if total + need > most:
            break
        fitting, total = fitting + 1, total + need
    k, margin = least, 0
    if fitting == len(needs):
        k = next((k for k in range(best, least, -1) if writable(list(free.values()), k) >= total), least)
        # where chunks go is as good as chance: it varies by the root of their number
        margin = 2 * math.isqrt(-(-total // _CHUNK_ON_DISK)) * _CHUNK_ON_DISK
    together = spread(rooms, weights, total, k, margin=margin)
    shares: dict[VolumeId, dict[PeerNumber, int]] = {}
    lacking: dict[VolumeId, int] = {}
    for at, (volume, need) in enumerate(needs.items()):
        if at < fitting:
            share = {peer: amount * need // total if total else 0 for peer, amount in together.items()}
        else:
            share = spread(rooms, weights, need, least)
            lacking[volume] = need - writable(list(share.values()), least)
        shares[volume] = share
        for peer, amount in share.items():
            rooms[peer] -= amount
    return shares, {volume: amount for volume, amount in lacking.items() if amount}
