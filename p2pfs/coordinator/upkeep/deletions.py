"""A desk of `orders`: tells peers which copies to delete. The rows of `meta.void_copies` say which; they were written
in the transaction that stopped counting the copy, so a copy is deleted only after nobody counts on it any more.

Between that transaction and the order much may happen: the peer was away, other copies were lost. So an order is given
only while the chunk has all its copies on peers that can be read, or nobody names it; and `care` may have a copy back
that nobody may be deleting: no peer was told to, or the one that was says that it is not at it any more.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.meta import survey, void_copies
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.orders import Delete, Deleted, Order, Result

AT_ONCE: Final = 200
"""Deletions one peer has in hand."""
LOOK_AT: Final = 2000
"""Rows looked at for one report: less than 20 ms, however many are held back."""
HELD_BACK_S: Final = 30.0
"""Until what could not be ordered is looked at again."""


class Deletions:
    """Copies that must go. `waiting` counts them by peer."""

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        reservations: Reservations,
        waiting: Mapping[PeerNumber, int],
        is_known: Callable[[PeerNumber], bool],
        noticed: Noticed,
        clock: Clock,
    ) -> None:
        """`is_known`: a peer may be deleting nothing but what this desk ordered."""
        self._database = database
        self._roster = roster
        self._reservations = reservations
        self._is_known = is_known
        self._noticed = noticed
        self._clock = clock
        self.waiting = Counter(waiting)
        self._in_hand: dict[PeerNumber, set[tuple[int, bytes]]] = {}
        self._behind: dict[PeerNumber, tuple[int, bytes]] = {}  # the rows so far were looked at
        self._quiet_until_s: dict[PeerNumber, float] = {}  # monotonic
        self._missed: dict[PeerNumber, set[tuple[int, bytes]]] = {}  # copies to have back that may be being deleted

    def added(self, copies: Mapping[PeerNumber, int]) -> None:
        """So many more were committed."""
        self.waiting.update(copies)
        for peer in copies:
            self._quiet_until_s.pop(peer, None)

    async def revive(self, chunks: Iterable[tuple[VolumeId, ChunkId]]) -> list[tuple[VolumeId, ChunkId]]:
        """Count copies again, unproved, that are to be deleted and can be read, unless a peer may be deleting them; the
        chunks that have one more."""
        readable = [peer for peer in self._roster.reachable() if self.waiting[peer]]
        if not readable:
            return []
        found = self._database.read(lambda connection: void_copies.pending_of(connection, chunks, peers=readable))
        free = []
        for row in found:
            peer, volume, chunk, _ = row
            if self._is_known(peer) and (volume, chunk) not in self._in_hand.get(peer, ()):
                free.append(row)
            else:
                self._missed.setdefault(peer, set()).add((volume, chunk))
        if not free:
            return []
        for peer, volume, chunk, _ in free:  # no checkpoint until here: nobody orders them meanwhile
            self._in_hand.setdefault(peer, set()).add((volume, chunk))

        def revive(connection: sqlite3.Connection) -> list[tuple[PeerNumber, VolumeId, ChunkId, int]]:
            return [
                (peer, volume, chunk, put_seq)
                for peer, volume, chunk, put_seq in free
                if survey.revive(connection, peer, volume=volume, chunk=chunk, put_seq=put_seq)
            ]

        try:
            revived = await self._database.write(revive)
        finally:
            for peer, volume, chunk, _ in free:
                self._in_hand[peer].discard((volume, chunk))
        self.waiting.subtract(peer for peer, *_ in revived)
        return [(volume, chunk) for _, volume, chunk, _ in revived]

    def forget(self, peer: PeerNumber) -> None:
        """The peer is gone for good: nobody tells it anything."""
        self.waiting.pop(peer, None)
        self._behind.pop(peer, None)
        self._in_hand.pop(peer, None)
        self._missed.pop(peer, None)

    def waits(self, peer: PeerNumber) -> bool:
        is_quiet = self._clock.monotonic() < self._quiet_until_s.get(peer, 0.0)
        return not is_quiet and self.waiting[peer] > len(self._in_hand.get(peer, ()))

    def take(self, peer: PeerNumber, room: int, numbers: Iterator[int]) -> Sequence[Order]:
        self._have_looked_at(peer)
        if not self.waits(peer):
            return []
        held = self._in_hand.setdefault(peer, set())
        wanted, _ = self._reservations.copies_wanted()
        readable = self._roster.reachable()
        after = self._behind.get(peer, void_copies.FIRST)
        rows, behind = self._database.read(
            lambda c: void_copies.pending(
                c, peer, after=after, limit=AT_ONCE, look_at=LOOK_AT, readable=readable, wanted=wanted
            )
        )
        self._behind[peer] = behind
        is_through = behind == void_copies.FIRST
        if is_through:  # what was counted is an estimate: a row may have been settled otherwise
            self.waiting[peer] = self._database.read(lambda c: void_copies.count_pending(c, peer))
        orders = [
            Delete(next(numbers), volume, chunk, put_seq)
            for volume, chunk, put_seq in rows
            if (volume, chunk) not in held
        ]
        held.update((order.volume, order.chunk) for order in orders)
        if is_through and not orders:
            self._quiet_until_s[peer] = self._clock.monotonic() + HELD_BACK_S
        return orders

    def _have_looked_at(self, peer: PeerNumber) -> None:
        """Let `care` ask again for what the peer is not deleting any more."""
        missed = self._missed.get(peer)
        if missed and self._is_known(peer):
            free = missed - self._in_hand.get(peer, set())
            missed -= free
            self._noticed.tell(free)

    async def settle(self, peer: PeerNumber, ended: Sequence[tuple[Order, Result]]) -> None:
        done = [order for order, result in ended if isinstance(order, Delete) and isinstance(result, Deleted)]
        now_s = self._clock.time()

        def settle(connection: sqlite3.Connection) -> None:
            for order in done:
                void_copies.deleted(
                    connection,
                    peer,
                    volume=VolumeId(order.volume),
                    chunk=ChunkId(order.chunk),
                    put_seq=order.put_seq,
                    now_s=now_s,
                )

        if done:
            await self._database.write(settle)
            self.waiting[peer] = max(0, self.waiting[peer] - len(done))
        self.lost(peer, [order for order, _ in ended])

    def lost(self, peer: PeerNumber, orders: Sequence[Order]) -> None:
        held = self._in_hand.get(peer, set())
        held.difference_update((order.volume, order.chunk) for order in orders if isinstance(order, Delete))
