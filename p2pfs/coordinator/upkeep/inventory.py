"""A desk of `orders`: compares what the index says a peer holds with what the peer says. Finds chunks a peer lost and
orphans nobody needs.

    due ─▶ Digest ─▶ 256 sums compared with the index's ─▶ List of each bucket that differs ─▶ reconciled ─▶ job done

In the index and not listed → the peer has lost it: the copy counts no more, and `care` makes another. Listed and not in
the index → if the chunk is known, the copy counts, unproved until an audit; if it is not, and was not put lately, it is
an orphan and goes to the peer's trash. After a restore from a backup orphans stay until an admin confirms: they may be
what the backup did not know yet. A round is due now and then, when a peer appears, when its daemon starts, and when an
audit failed.
"""

import logging
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from p2pfs.coordinator.ledger import CHUNK_OVERHEAD_BYTES
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.jobs import Jobs
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.errors import Misuse
from p2pfs.format.inventory import BUCKETS
from p2pfs.meta import chunks_index, inventory
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock
from p2pfs.types import PeerNumber
from p2pfs.wire.jobs import JobKind, JobState
from p2pfs.wire.orders import MOST_LISTED, Digest, Digested, Listed, Order, Result
from p2pfs.wire.orders import List as ListBucket

MOST_EMPTY: Final = 3
AGAIN_S: Final = 600.0
"""After so long a round that came to no end is tried again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Round:
    """One comparison with one peer."""

    buckets: list[int] = field(default_factory=list)  # that differ and were not listed to their ends
    after: tuple[int, bytes] | None = None  # the last entry seen of the first of them
    has_digests: bool = False
    in_hand: bool = False
    empty: int = 0  # listings in a row of nothing, with more behind
    lost: int = 0
    adopted: int = 0
    orphans: int = 0
    strangers: int = 0


@dataclass(frozen=True, slots=True)
class Recount:
    """What the last round with a peer counted: chunks and bytes of their files by the index, and by how much what the
    peer told differs."""

    time_s: float
    chunks: int
    bytes: int
    drift_bytes: int


class Inventory:
    """Rounds with each peer, one order of each peer at a time."""

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        deletions: Deletions,
        jobs: Jobs,
        noticed: Noticed,
        orphans_stay: Callable[[], bool],
        interval_s: float,
        orphan_grace_s: float,
        clock: Clock,
    ) -> None:
        self._database = database
        self._roster = roster
        self._deletions = deletions
        self._jobs = jobs
        self._noticed = noticed
        self._orphans_stay = orphans_stay
        self._interval_s = interval_s
        self._orphan_grace_s = orphan_grace_s
        self._clock = clock
        self._rounds: dict[PeerNumber, _Round] = {}
        self._done_s: dict[PeerNumber, float] = {}  # monotonic, when the last round ended
        self._as_of: dict[PeerNumber, tuple[int, int]] = {}  # (appearances, run) that round was of
        self._not_before_s: dict[PeerNumber, float] = {}  # monotonic; of those whose last round broke the protocol
        self.recounts: dict[PeerNumber, Recount] = {}

    def waits(self, peer: PeerNumber) -> bool:
        going = self._rounds.get(peer)
        return not going.in_hand if going is not None else self._is_due(peer)

    def take(self, peer: PeerNumber, room: int, numbers: Iterator[int]) -> Sequence[Order]:
        if not self.waits(peer) or self._jobs.is_paused(JobKind.RECOUNT, self._subject(peer)):
            return []
        going = self._rounds.get(peer)
        if going is None:
            going = self._rounds[peer] = _Round()
            self._as_of[peer] = self._now_of(peer)
        going.in_hand = True
        if not going.has_digests:
            return [Digest(next(numbers))]
        return [ListBucket(next(numbers), going.buckets[0], going.after)]

    async def settle(self, peer: PeerNumber, ended: Sequence[tuple[Order, Result]]) -> None:
        for order, result in ended:
            going = self._rounds.get(peer)
            if going is None:
                return
            try:
                await self._take_over(peer, going, order, result)
            except Misuse as error:  # refused, it would only be told again
                self._not_before_s[peer] = self._clock.monotonic() + AGAIN_S
                self._end(peer, going, error=str(error))
            going.in_hand = False  # not before: the next part is asked for when this one was taken over

    def lost(self, peer: PeerNumber, orders: Sequence[Order]) -> None:
        going = self._rounds.get(peer)
        if going is not None:
            going.in_hand = False

    # ---- a round ----------------------------------------------------------------------------------------------------

    async def _take_over(self, peer: PeerNumber, going: _Round, order: Order, result: Result) -> None:
        if isinstance(order, Digest) and isinstance(result, Digested):
            await self._compare(peer, going, result)
        elif isinstance(order, ListBucket) and isinstance(result, Listed):
            await self._reconcile(peer, going, order, result)
        else:
            self._end(peer, going, error="the peer could not tell what it holds")

    async def _compare(self, peer: PeerNumber, going: _Round, told: Digested) -> None:
        if len(told.digests) != BUCKETS:
            raise Misuse(f"an inventory has {BUCKETS} digests")
        known = await self._database.scan(lambda connection: inventory.digests(connection, peer))
        going.has_digests = True
        first = int(self._clock.monotonic())  # if this round comes to no end, the next one begins elsewhere
        buckets = [(first + at) % BUCKETS for at in range(BUCKETS)]
        going.buckets = [bucket for bucket in buckets if known[bucket] != told.digests[bucket]]
        if not going.buckets:
            await self._recount(peer)
            self._end(peer, going)
            return
        self._jobs.open(JobKind.RECOUNT, self._subject(peer)).set(done=0, total=len(going.buckets))

    async def _reconcile(self, peer: PeerNumber, going: _Round, order: ListBucket, told: Listed) -> None:
        _check(order, told)
        if told.more and not told.entries:  # everything it was about to list is gone: asked again
            going.empty += 1
            if going.empty > MOST_EMPTY:
                raise Misuse("a listing has no end")
            return
        going.empty = 0
        last = (told.entries[-1].volume, told.entries[-1].chunk) if told.more else None
        part = inventory.Part(order.bucket, order.after, last, told.settled_seq)
        ahead_s = self._roster.peers[peer].clock_ahead_s or 0.0  # the ages are by the peer's clock
        orphaned_before_s = -math.inf if self._orphans_stay() else self._clock.time() + ahead_s - self._orphan_grace_s
        now_s = self._clock.time()

        def reconcile(connection: sqlite3.Connection) -> inventory.Differences:
            return inventory.reconcile(
                connection, peer, part=part, entries=told.entries, orphaned_before_s=orphaned_before_s, now_s=now_s
            )

        found = await self._database.write(reconcile)
        going.lost += len(found.lost)
        going.adopted += len(found.adopted)
        going.orphans += found.orphans
        going.strangers += found.strangers
        self._deletions.added({peer: found.orphans})
        self._noticed.tell((*found.lost, *found.adopted))
        if going.strangers >= inventory.MOST_VOID:  # each costs the database time, and it may make up more without end
            raise Misuse("a peer lists too many chunks that nobody knows")
        going.after = last
        job = self._jobs.open(JobKind.RECOUNT, self._subject(peer))
        if not told.more:
            going.buckets.pop(0)
            job.advanced(1, 0)
        if not going.buckets:
            await self._recount(peer)
            self._end(peer, going)

    async def _recount(self, number: PeerNumber) -> None:
        """Compare the bytes of the index with those the peer last told, now that both name the same chunks. What is
        stored or deleted at this moment makes them differ, too."""
        chunks, size = await self._database.scan(lambda connection: chunks_index.used_by(connection, number))
        peer = self._roster.peers[number]
        counted = size + chunks * CHUNK_OVERHEAD_BYTES
        found = self.recounts[number] = Recount(self._clock.time(), chunks, counted, peer.used - counted)
        job = self._jobs.open(JobKind.RECOUNT, self._subject(number))
        job.set(done=chunks, total=chunks, done_bytes=counted, total_bytes=counted)
        if found.drift_bytes:
            _log.info(
                "peer %s counts %+d bytes beyond the %d of its %d chunks in the index",
                peer.node.name,
                found.drift_bytes,
                counted,
                chunks,
            )

    def _end(self, peer: PeerNumber, going: _Round, *, error: str = "") -> None:
        del self._rounds[peer]
        sooner_s = max(0.0, self._interval_s - AGAIN_S) if error else 0.0
        self._done_s[peer] = self._clock.monotonic() - sooner_s
        job = self._jobs.current(JobKind.RECOUNT, self._subject(peer))
        if job is not None:
            self._jobs.end(job, JobState.FAILED if error else JobState.DONE, error)
        if going.lost or going.adopted or going.orphans:
            # Copies that nobody names are left wherever a write was given up, and those whose receipt got lost are
            # found: no cause for alarm. What is missing is.
            _log.log(
                logging.WARNING if going.lost else logging.INFO,
                "the inventory of peer %s differed: %d chunks lost, %d found, %d orphans",
                self._roster.peers[peer].node.name,
                going.lost,
                going.adopted,
                going.orphans,
            )

    def _is_due(self, peer: PeerNumber) -> bool:
        if self._clock.monotonic() < self._not_before_s.get(peer, 0.0):
            return False
        done_s = self._done_s.get(peer)
        if done_s is None or self._as_of.get(peer) != self._now_of(peer):
            return True
        return self._clock.monotonic() - done_s >= self._interval_s

    def _now_of(self, peer: PeerNumber) -> tuple[int, int]:
        known = self._roster.peers[peer]
        return known.appearances, known.run

    def _subject(self, peer: PeerNumber) -> str:
        return self._roster.peers[peer].node.id


def _check(order: ListBucket, told: Listed) -> None:
    """Whether a listing can be one. Raises Misuse."""
    keys = [(entry.volume, entry.chunk) for entry in told.entries]
    if len(keys) > MOST_LISTED:
        raise Misuse("a listing has an impossible length")
    if any(len(chunk) != 32 or chunk[0] != order.bucket or not 0 <= volume < 1 << 63 for volume, chunk in keys):
        raise Misuse("a listing names an impossible chunk")
    behind = [order.after or (-1, b""), *keys]
    if any(earlier >= later for earlier, later in zip(behind, keys, strict=False)):
        raise Misuse("a listing is out of order")
    if any(not 0 <= put_seq < 1 << 63 for put_seq in (told.settled_seq + 1, *(one.put_seq for one in told.entries))):
        raise Misuse("a listing has an impossible put_seq")
