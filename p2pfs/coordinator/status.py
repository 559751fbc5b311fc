"""Gathers what `GET /status` reports: facts of roster, ledger and database, judged by `health`.

Counting the copies of every chunk is a scan of the index: it runs in a thread, one at a time, and its result serves
everybody who asks within a second. Called by `handlers`.
"""

import importlib.metadata
import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from p2pfs.coordinator import offers
from p2pfs.coordinator.backup.state import Backups, indexed
from p2pfs.coordinator.bookings import Bookings
from p2pfs.coordinator.churn import Churn
from p2pfs.coordinator.flow import Flow
from p2pfs.coordinator.health import judge
from p2pfs.coordinator.report import (
    LEASE_WARNING_S,
    ChunksReport,
    CoordinatorReport,
    OwnerReport,
    PeerReport,
    PoolReport,
    RestoredReport,
    StatusReport,
    VolumeReport,
    count_chunks,
)
from p2pfs.coordinator.reservations import Copies, Reservations
from p2pfs.coordinator.roster import Peer, Roster
from p2pfs.coordinator.upkeep.inventory import Inventory
from p2pfs.coordinator.upkeep.jobs import Jobs
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.coordinator.usefulness import Usefulness
from p2pfs.meta import chunks_index, delegations, leases, members, sessions, settings, usefulness, volumes
from p2pfs.meta.database import Database
from p2pfs.meta.leases import Expected
from p2pfs.net.identity import Identity
from p2pfs.placement.usefulness import Stock
from p2pfs.runtime.clocks import Clock
from p2pfs.types import GONE_STATES, NodeId, PeerNumber, PeerState, Role, VolumeId, volume_name
from p2pfs.wire.jobs import ENDED, JobInfo
from p2pfs.wire.offers import PooledOffer
from p2pfs.wire.volumes import VolumeInfo

FRESH_S: Final = 1.0
"""How long a report serves others, at least."""
SHARE: Final = 10.0
"""It serves for so many times as long as the counting took: whoever polls a large pool gets a tenth of a processor."""
BACKGROUND_SHARE: Final = 100.0
"""The same where nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What only the database knows."""

    by_copies: dict[int, int]
    with_away: dict[int, int] | None  # if the peers that are away were here; None: none is
    content: int  # chunks that have fewer copies than the pool's, and as many as they want
    stocks: dict[str, Stock]  # of each owner: bytes it has on others' peers, and others on its own
    volumes: list[VolumeInfo]
    delegated: dict[VolumeId, str]  # where those are mounted
    leases: dict[VolumeId, Expected]
    sessions: int
    incarnation: int
    expires_s: dict[NodeId, float]  # when each node's newest certificate ends
    indexed: dict[PeerNumber, tuple[int, int]] | None  # after a restore, until it is confirmed: copies, bytes


class Status:
    """Makes reports. Sessions count as mounts while they would live on beyond `sessions_alive()` (UTC)."""

    def __init__(
        self,
        coordinator: NodeId,
        pool_name: str,
        *,
        database: Database,
        roster: Roster,
        reservations: Reservations,
        copies: Copies,
        bookings: Bookings,
        jobs: Jobs,
        inventory: Inventory,
        pool_clock: PoolClock,
        addresses: Callable[[], Sequence[str]],
        clock: Clock,
        backups: Backups,
        churn: Churn,
        flow: Flow,
        judged: Usefulness,
        sessions_alive: Callable[[], float],
        is_pressed: Callable[[], bool],
    ) -> None:
        self._coordinator = coordinator
        self._sessions_alive = sessions_alive
        self._is_pressed = is_pressed
        self.pool_name = pool_name
        self._database = database
        self._roster = roster
        self._reservations = reservations
        self._copies = copies
        self._bookings = bookings
        self._jobs = jobs
        self._inventory = inventory
        self._pool_clock = pool_clock
        self._addresses = addresses
        self._clock = clock
        self._backups = backups
        self._churn = churn
        self._flow = flow
        self._usefulness = judged
        self._counting = trio.Lock()
        self._counts: Counts | None = None
        self._counted: tuple[float, _Peers] = (0.0, (frozenset(), frozenset()))  # when, and with which peers
        self._took_s = 0.0

    async def report(self, identity: Identity) -> StatusReport:
        """The pool as the asker may see it: volumes of its owner only, unless it is an admin."""
        node = self._roster.member(identity.node)
        return await self._report(None if Role.ADMIN in identity.roles else node.owner)

    async def overall(self) -> StatusReport:
        """The whole pool, for the coordinator itself, which looks so often that it counts more seldom."""
        return await self._report(None, share=BACKGROUND_SHARE)

    async def _report(self, owner: str | None, *, share: float = SHARE) -> StatusReport:
        counts = await self._count(share)
        chunks = self._chunks(counts)
        peers = [self._peer(peer, counts) for _, peer in sorted(self._roster.peers.items()) if peer.addresses]
        pool, coordinator = self._pool(peers, counts), self._describe_self(counts)
        backup, restored = self._backups.report(), self._restored(peers, counts)
        seen = self._volumes(counts, owner)
        jobs = self._going_on()
        health, reasons = judge(
            pool,
            coordinator,
            peers=peers,
            chunks=chunks,
            now_s=self._clock.time(),
            backup=backup,
            restored=restored,
            jobs=jobs,
            clock_doubt=self._pool_clock.reason,
            volumes=seen,
            is_pressed=self._is_pressed(),
        )
        return StatusReport(
            health.value,
            reasons,
            pool,
            coordinator,
            peers=peers,
            volumes=seen,
            chunks=chunks,
            jobs=jobs,
            backup=backup,
            restored=restored,
            churn=self._churn.report(),
            owners=self._owners(counts),
            offers=self._offers(peers),
        )

    def _offers(self, peers: Sequence[PeerReport]) -> list[PooledOffer]:
        reachable = self._roster.reachable()
        answering = [peer for peer in peers if peer.number in reachable]
        return offers.pooled(
            {PeerNumber(peer.number): peer.offers for peer in answering},
            {PeerNumber(peer.number): peer.free for peer in answering},
        )

    def _restored(self, peers: Sequence[PeerReport], counts: Counts) -> RestoredReport | None:
        """What the last restore lost. What members have beyond the index is counted from their heartbeats, so it is
        only about right while something is written."""
        restored = self._backups.restored
        if restored is None:
            return None
        copies = size = 0
        counted = [peer for peer in peers if peer.state not in GONE_STATES]
        for peer in counted if counts.indexed is not None else ():
            known_copies, known_bytes = (counts.indexed or {}).get(PeerNumber(peer.number), (0, 0))
            copies += max(0, peer.chunks - known_copies)
            size += max(0, peer.used - known_bytes)
        return RestoredReport(restored.state_s, restored.restored_s, copies, size, counts.indexed is not None)

    def _volumes(self, counts: Counts, owner: str | None) -> list[VolumeReport]:
        """Of one owner, or all."""
        booked = self._bookings.by_volume()
        return [
            VolumeReport(
                volume_name(VolumeId(volume.volume)),
                volume.name,
                volume.owner,
                volume.files,
                volume.bytes,
                counts.delegated.get(VolumeId(volume.volume), ""),
                trash_files=volume.trash_files,
                trash_bytes=volume.trash_bytes,
                expires_s=counts.leases[VolumeId(volume.volume)].root_s,
                expiring=counts.leases[VolumeId(volume.volume)].count,
                reserved=booked.get(VolumeId(volume.volume), (0, 0))[0],
                reserved_short=booked.get(VolumeId(volume.volume), (0, 0))[1],
                quota_bytes=volume.quota_bytes,
                quota_files=volume.quota_files,
                members=volume.members,
            )
            for volume in counts.volumes
            if owner in (None, volume.owner)
        ]

    def _owners(self, counts: Counts) -> list[OwnerReport]:
        return [
            OwnerReport(one.owner, one.coefficient if math.isfinite(one.coefficient) else None, one.left)
            for one in self._usefulness.owners(counts.stocks)
        ]

    def _going_on(self) -> list[JobInfo]:
        return [job for job in self._jobs.listed(self._roster.name_of) if job.state not in ENDED]

    async def _count(self, share: float) -> Counts:
        """Counts no older than FRESH_S, or than what took so long to count, and made with the peers that are reachable,
        or away, now."""
        async with self._counting:
            members = self._roster.members()
            away = frozenset(peer.number for peer in members if peer.state is PeerState.AWAY)
            peers = self._roster.reachable(), away
            now_s = self._clock.monotonic()
            made_s, made_with = self._counted
            if self._counts is None or now_s - made_s >= max(FRESH_S, share * self._took_s) or made_with != peers:
                alive_until_s = self._sessions_alive()
                before_s = int(self._clock.time()) + LEASE_WARNING_S
                wanted, _ = self._reservations.copies_wanted()
                self._counts = await self._database.scan(
                    lambda connection: count(connection, *peers, alive_until_s, before_s, wanted)
                )
                self._counted, self._took_s = (now_s, peers), self._clock.monotonic() - now_s
            return self._counts

    def _chunks(self, counts: Counts) -> ChunksReport:
        wanted, _ = self._reservations.copies_wanted()
        return count_chunks(counts.by_copies, wanted, counts.with_away, content=counts.content)

    def _pool(self, peers: Sequence[PeerReport], counts: Counts) -> PoolReport:
        total, writable = self._reservations.space(self._coordinator)
        counted = [peer for peer in peers if peer.state not in GONE_STATES]
        return PoolReport(
            self._roster.pool,
            self.pool_name,
            replicas=self._copies.replicas,
            min_replicas=self._copies.min_replicas,
            capacity=sum(peer.capacity for peer in counted),
            used=sum(peer.used for peer in counted),
            promised=sum(self._reservations.promised(PeerNumber(peer.number)) for peer in counted),
            total=total,
            writable=writable,
            map_version=self._roster.version,
            incarnation=counts.incarnation,
            sessions=counts.sessions,
            reserved=sum(left for left, _ in self._bookings.by_volume().values()),
        )

    def _describe_self(self, counts: Counts) -> CoordinatorReport:
        return CoordinatorReport(
            self._coordinator,
            self._roster.node(self._coordinator).name,
            list(self._addresses()),
            version=software_version(),
            uptime_s=round(self._clock.monotonic() - self._roster.started_s, 3),
            certificate_expires_s=counts.expires_s.get(self._coordinator, 0.0),
            clock_s=self._clock.time(),
        )

    def _peer(self, peer: Peer, counts: Counts) -> PeerReport:
        node, recount = peer.node, self._inventory.recounts.get(peer.number)
        receiving, sending = self._flow.rates(peer.number)
        return PeerReport(
            peer.number,
            node.id,
            node.name,
            node.owner,
            node.zone,
            peer.state.value,
            list(peer.addresses),
            capacity=peer.offered,
            used=peer.used,
            trash=peer.trash,
            free=self._reservations.free(peer),
            chunks=peer.chunks,
            silent_s=round(self._clock.monotonic() - peer.heard_s, 3),
            clock_ahead_s=peer.clock_ahead_s,
            certificate_expires_s=counts.expires_s.get(node.id, 0.0),
            version=peer.version,
            resources=peer.resources,
            leaving=peer.is_leaving,
            away_until_s=peer.away_until_s,
            recounted_s=recount.time_s if recount else 0.0,
            drift=recount.drift_bytes if recount else 0,
            receiving=round(receiving, 1),
            sending=round(sending, 1),
            offers=offers.of_peer(peer.offers, capacity=peer.offered, used=peer.used),
        )


_Peers = tuple[frozenset[PeerNumber], frozenset[PeerNumber]]
"""Reachable ones, and those that are away as they said."""


def count(
    connection: sqlite3.Connection,
    reachable: frozenset[PeerNumber],
    away: frozenset[PeerNumber],
    alive_until_s: float,
    expiring_before_s: int,
    wanted: int,
) -> Counts:
    """Everything the database must be asked, in one snapshot."""
    return Counts(
        chunks_index.counts(connection, reachable),
        chunks_index.counts(connection, reachable | away) if away else None,
        usefulness.content(connection, wanted, reachable),
        usefulness.stocks(connection),
        volumes.volumes(connection),
        delegations.holders(connection),
        leases.expected(connection, before_s=expiring_before_s),
        sessions=sum(session.expires_s >= alive_until_s for session in sessions.sessions(connection)),
        incarnation=settings.incarnation(connection),
        expires_s={
            node.id: max((one.not_after_s for one in members.certificates(connection, node.id)), default=0.0)
            for node in members.nodes(connection)
            if node.revoked_s is None
        },
        indexed=indexed(connection) if settings.number(connection, settings.ORPHANS_STAY) else None,
    )


def software_version() -> str:
    """What this process runs; empty when it was not installed."""
    try:
        return importlib.metadata.version("p2pfs")
    except importlib.metadata.PackageNotFoundError:
        return ""


def encode(report: StatusReport) -> bytes:
    """The report as JSON."""
    return msgspec.json.encode(report)
