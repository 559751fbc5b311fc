"""A desk of `orders`: has peers show that they hold what they say. A holder returns the list of block hashes and one
block that it could not know beforehand, which is checked against the chunk's id alone: 1/16 of the bytes, and no keys.

Audits are asked for by `care` (before a copy is taken away because of another, and where a transfer found a source
without its chunk), and go round by themselves: one chunk of each peer now and then. A peer that fails loses the copy
from the index; when it fails at random, everything it holds is to be proved anew.

What an audit cannot find: a peer that fetches the block from somebody else when it is asked for.
"""

import logging
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.errors import Corrupt
from p2pfs.format.chunk import check_audit
from p2pfs.format.ranges import block_count, plain_size
from p2pfs.meta import chunks_index, members, survey
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import ChunkId, PeerNumber, PeerState, VolumeId
from p2pfs.wire.orders import Audit, Audited, Failed, Order, Result

MOST: Final = 10_000
"""Audits that wait for one peer; when these are done, a survey asks for those that did not fit."""
AT_ONCE: Final = 24
_LOST: Final = frozenset({"NotFound", "Corrupt"})
"""A peer that answers with one of these has not got the chunk; other failures are weather."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Asked:
    volume: VolumeId
    chunk: ChunkId
    size: int
    is_random: bool
    put_seq: int = 0  # of the copy, when its peer was told to show it
    appearances: int = 0  # of the peer, then: what it shows proves nothing of a time after a later one


class Audits:
    """Also a worker, which asks each peer for one random chunk every `interval_s`."""

    name = "audits"

    def __init__(
        self, *, database: Database, roster: Roster, noticed: Noticed, interval_s: float, clock: Clock
    ) -> None:
        self._database = database
        self._roster = roster
        self._noticed = noticed
        self._interval_s = interval_s
        self._clock = clock
        self._waiting: dict[PeerNumber, dict[tuple[VolumeId, ChunkId], _Asked]] = {}
        self._in_hand: dict[int, _Asked] = {}
        self._overflowed: set[PeerNumber] = set()
        self.shown = 0
        """Copies that were asked for, not by chance, and are known by now to be there or not."""

    def ask(self, peer: PeerNumber, volume: VolumeId, chunk: bytes, *, size: int, is_random: bool = False) -> None:
        """Have the peer show this copy; once is enough."""
        waiting = self._waiting.setdefault(peer, {})
        key = volume, ChunkId(chunk)
        if key in waiting:
            return
        if len(waiting) >= MOST:
            self._overflowed.add(peer)
            return
        waiting[key] = _Asked(volume, ChunkId(chunk), size, is_random)

    @property
    def is_busy(self) -> bool:
        """Whether something waits to be shown by a peer that comes for its orders."""
        return bool(self._in_hand) or any(
            waiting and self._roster.peers[peer].is_heeding for peer, waiting in self._waiting.items()
        )

    # ---- the worker -------------------------------------------------------------------------------------------------

    async def work(self) -> Progress:
        for gone in [number for number in self._waiting if not self._roster.peers[number].is_member]:
            del self._waiting[gone]
        for peer in self._roster.members():
            if peer.is_reachable:
                start = secrets.randbelow(1 << 62)
                found = self._database.read(partial(survey.one_of, peer=peer.number, start=start))
                if found is not None:
                    self.ask(peer.number, found.volume, found.id, size=found.size, is_random=True)
        return Progress.IDLE

    async def wait(self) -> None:
        await trio.sleep(self._interval_s)

    # ---- the desk ---------------------------------------------------------------------------------------------------

    def waits(self, peer: PeerNumber) -> bool:
        return bool(self._waiting.get(peer))

    def take(self, peer: PeerNumber, room: int, numbers: Iterator[int]) -> Sequence[Order]:
        waiting = self._waiting.get(peer, {})
        orders: list[Audit] = []
        while waiting and len(orders) < AT_ONCE:
            asked = waiting.pop(next(iter(waiting)))
            put_seq = self._put_seq(peer, asked)
            if put_seq is None:
                continue  # it counts no more: there is nothing to show
            block = secrets.randbelow(block_count(plain_size(asked.size)))
            orders.append(Audit(next(numbers), asked.volume, asked.chunk, asked.size, block))
            appearances = self._roster.peers[peer].appearances
            self._in_hand[orders[-1].order] = replace(asked, put_seq=put_seq, appearances=appearances)
        if not waiting and peer in self._overflowed:
            self._overflowed.discard(peer)
            self._noticed.everything()
        return orders

    def _put_seq(self, peer: PeerNumber, asked: _Asked) -> int | None:
        return self._database.read(partial(chunks_index.holders, volume=asked.volume, chunk=asked.chunk)).get(peer)

    async def settle(self, peer: PeerNumber, ended: Sequence[tuple[Order, Result]]) -> None:
        proved: list[_Asked] = []
        lost: list[_Asked] = []
        for order, result in ended:
            asked = self._in_hand.get(order.order)
            if asked is None or not isinstance(order, Audit):
                continue
            verdict = _judge(order, result)
            if verdict is not None:
                (proved if verdict else lost).append(asked)
        if proved or lost:
            await self._commit(peer, proved, lost)
            self.shown += sum(not asked.is_random for asked in (*proved, *lost))
            self._noticed.tell((asked.volume, asked.chunk) for asked in (*proved, *lost))
        self.lost(peer, [order for order, _ in ended])

    def lost(self, peer: PeerNumber, orders: Sequence[Order]) -> None:
        for order in orders:
            self._in_hand.pop(order.order, None)

    async def _commit(self, number: PeerNumber, proved: Sequence[_Asked], lost: Sequence[_Asked]) -> None:
        peer, now_s = self._roster.peers[number], self._clock.time()
        put_seq = peer.put_seq

        def commit(connection: sqlite3.Connection) -> tuple[list[_Asked], int]:
            for asked in proved:
                chunks_index.prove(
                    connection, asked.volume, chunk=asked.chunk, peer=number, appearances=asked.appearances
                )
            # One that was taken off the index meanwhile, or put again, is no loss.
            missing = [
                asked
                for asked in lost
                if chunks_index.drop_replica(
                    connection, asked.volume, chunk=asked.chunk, peer=number, now_s=now_s, up_to_seq=asked.put_seq
                )
            ]
            is_doubtful = any(asked.is_random for asked in missing)
            return missing, members.appear(connection, number, put_seq=put_seq) if is_doubtful else 0

        def committed(found: tuple[list[_Asked], int]) -> None:
            if found[1] and peer.state is not PeerState.REVOKED:
                self._roster.appear(peer, found[1])

        missing, _ = await self._database.write(commit, committed=committed)
        if missing:
            _log.warning("peer %s has not got %d chunks it should have", peer.node.name, len(missing))


def _judge(order: Audit, result: Result) -> bool | None:
    """Whether the copy is there and whole; None: that is still unknown."""
    if isinstance(result, Failed):
        return False if result.code in _LOST else None
    if not isinstance(result, Audited):
        return None
    try:
        check_audit(ChunkId(order.chunk), order.size, order.block, result.hashes, result.data)
    except Corrupt:
        return False
    return True
