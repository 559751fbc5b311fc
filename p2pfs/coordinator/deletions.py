"""A desk of `orders`: tells peers which copies to delete. The rows of `meta.void_copies` say which; they were written
in the transaction that stopped counting the copy, so a copy is deleted only after nobody counts on it any more.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from p2pfs.meta import void_copies
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.orders import Delete, Deleted, Order, Result

AT_ONCE: Final = 200
"""Deletions one peer has in hand."""


class Deletions:
    """Copies that must go. `waiting` counts them by peer."""

    def __init__(self, database: Database, clock: Clock, waiting: Mapping[PeerNumber, int]) -> None:
        self._database = database
        self._clock = clock
        self.waiting = Counter(waiting)
        self._in_hand: dict[PeerNumber, set[tuple[int, bytes]]] = {}

    def added(self, copies: Mapping[PeerNumber, int]) -> None:
        """So many more were committed."""
        self.waiting.update(copies)

    def forget(self, peer: PeerNumber) -> None:
        """The peer is gone for good: nobody tells it anything."""
        self.waiting.pop(peer, None)
        self._in_hand.pop(peer, None)

    def waits(self, peer: PeerNumber) -> bool:
        return self.waiting[peer] > len(self._in_hand.get(peer, ()))

    def take(self, peer: PeerNumber, room: int, numbers: Iterator[int]) -> Sequence[Order]:
        if not self.waits(peer):
            return []
        held = self._in_hand.setdefault(peer, set())
        rows = self._database.read(lambda connection: void_copies.pending(connection, peer, limit=AT_ONCE))
        if len(rows) < AT_ONCE:
            self.waiting[peer] = len(rows)  # what was counted is an estimate: a row may have been settled otherwise
        orders = [
            Delete(next(numbers), volume, chunk, put_seq)
            for volume, chunk, put_seq in rows
            if (volume, chunk) not in held
        ]
        held.update((order.volume, order.chunk) for order in orders)
        return orders

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
