"""How health is judged from what `GET /status` says, and why: pure.

The codes of reasons are documented in docs/protocol.md. Called by `status`.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from p2pfs.coordinator.offers import is_over
from p2pfs.coordinator.report import (
    LEASE_WARNING_S,
    BackupReport,
    ChunksReport,
    CoordinatorReport,
    PeerReport,
    PoolReport,
    Reason,
    RestoredReport,
    VolumeReport,
)
from p2pfs.runtime.sizes import format_count, format_size
from p2pfs.types import GONE_STATES, Health, PeerState
from p2pfs.wire.jobs import ENDED, JobInfo, JobKind, JobState

NEARLY_FULL: Final = 0.10
"""Free share of the pool below which it counts as nearly full."""
EXPIRY_WARNING_S: Final = 14 * 86400
"""Nodes renew a month ahead: one with less than this left has failed to for a fortnight."""
CLOCK_WARNING_S: Final = 60.0
NOTE: Final = "info"
"""The severity of what is worth saying and no fault."""


def judge(
    pool: PoolReport,
    coordinator: CoordinatorReport,
    *,
    peers: Sequence[PeerReport],
    chunks: ChunksReport,
    now_s: float,
    backup: BackupReport | None = None,
    restored: RestoredReport | None = None,
    jobs: Sequence[JobInfo] = (),
    clock_doubt: str = "",
    volumes: Sequence[VolumeReport] = (),
    is_pressed: bool = False,
) -> tuple[Health, list[Reason]]:
    """Health in one word, and every reason it is not `healthy`, errors first; notes follow and do not count.

    `clock_doubt` says why the coordinator's clock is not to be trusted; "" when it is. `is_pressed`: room is so short
    that trash is let go before its time.
    """
    members = [peer for peer in peers if peer.state not in GONE_STATES]
    reasons = [
        *_about_membership(pool, members, now_s),
        *_about_chunks(chunks),
        *_about_room(pool),
        *_about_certificates(coordinator, members, now_s),
        *_about_clocks(members, clock_doubt),
        *_about_jobs(jobs),
        *_about_backup(backup, coordinator.uptime_s),
        *_about_restore(restored),
        *_about_trash(volumes, is_pressed),
        *_about_reservations(volumes),
        *_about_leases(volumes, now_s),
    ]
    reasons.sort(key=lambda reason: _ORDER.index(reason.severity))
    worst = reasons[0].severity if reasons else NOTE
    return Health.HEALTHY if worst == NOTE else Health(worst), reasons


_ORDER: Final = (Health.ERROR.value, Health.WARNING.value, NOTE)


def _about_membership(pool: PoolReport, members: Sequence[PeerReport], now_s: float) -> Iterator[Reason]:
    if not members:
        yield _error("NO_PEERS", "no peer has joined yet: nothing can be stored; see `p2pfs invite` and `p2pfs join`")
        return
    for peer in members:
        if peer.state == PeerState.DOWN:
            yield _warning(
                "PEER_DOWN",
                f"peer {peer.name} has not been heard of for {_age(peer.silent_s)}: start it, or if it is gone for"
                f" good: p2pfs peer forget {peer.name}",
            )
        elif peer.state == PeerState.SUSPECT:
            yield _warning("PEER_SUSPECT", f"peer {peer.name} has been silent for {_age(peer.silent_s)}")
        elif peer.state == PeerState.AWAY:
            left_s = max(0.0, peer.away_until_s - now_s)
            yield _note("PEER_AWAY", f"peer {peer.name} is away, as it said, for {_age(left_s)} more")
        if is_over(peer.offers, capacity=peer.capacity, used=peer.used) and not peer.leaving:
            yield _note(
                "PEER_OVER_OFFER",
                f"peer {peer.name} holds {format_size(peer.used)} and offers {format_size(peer.capacity)}: it takes"
                " nothing new, and what others have room for is being moved there",
            )
        if peer.leaving:
            yield _note("PEER_DRAINING", f"peer {peer.name} is leaving: what depends on it is being copied elsewhere")
    staying = [peer for peer in members if not peer.leaving]
    reachable = sum(peer.state in (PeerState.UP, PeerState.SUSPECT) for peer in staying)
    needed = min(pool.min_replicas, len(staying))
    if reachable < needed:
        yield _error(
            "TOO_FEW_PEERS_UP",
            f"of {format_count(len(staying), 'peer')} only {reachable} can be reached: writing needs {needed}",
        )
    if len(staying) == 1:
        yield _warning("ONE_PEER_ONLY", "the pool has one peer: every chunk has a single copy")
    elif len(staying) < pool.replicas:
        yield _warning(
            "FEWER_PEERS_THAN_REPLICAS", f"{len(staying)} peers cannot hold the {pool.replicas} copies that are wanted"
        )


def _about_chunks(chunks: ChunksReport) -> Iterator[Reason]:
    if chunks.lost:
        yield _error("CHUNKS_LOST", f"no peer that answers has a copy of {format_count(chunks.lost, 'chunk')}")
    short = chunks.under_replicated - chunks.away
    if short:
        yield _warning(
            "CHUNKS_UNDER_REPLICATED", f"there are fewer copies than wanted of {format_count(short, 'chunk')}"
        )


def _about_room(pool: PoolReport) -> Iterator[Reason]:
    if pool.total and not pool.writable:
        yield _error("POOL_FULL", "the pool is full: nothing more can be written until a peer offers room")
    elif pool.total and pool.writable < NEARLY_FULL * pool.total:
        yield _warning("POOL_NEARLY_FULL", f"{100 * pool.writable // pool.total} % of the pool is left")


def _about_certificates(coordinator: CoordinatorReport, peers: Sequence[PeerReport], now_s: float) -> Iterator[Reason]:
    dated = [(coordinator.name, coordinator.certificate_expires_s)]
    dated += [(peer.name, peer.certificate_expires_s) for peer in peers]
    for name, expires_s in dated:
        left_s = expires_s - now_s
        if expires_s and left_s < 0:
            yield _error("CERTIFICATE_EXPIRED", f"the certificate of {name} has expired: it must be renewed")
        elif expires_s and left_s < EXPIRY_WARNING_S:
            yield _warning("CERTIFICATE_EXPIRES", f"the certificate of {name} expires in {_age(left_s)}")


def _about_backup(backup: BackupReport | None, uptime_s: float) -> Iterator[Reason]:
    if backup is None:
        return
    if backup.shrank:
        yield _warning(
            "BACKUP_SHRANK",
            "the last backup is much smaller than the one before, which is kept apart:"
            " see what is missing, then `p2pfs coordinator confirm backup`",
        )
    if uptime_s < backup.stale_s:  # it has only begun
        return
    if not backup.has_kit:
        yield _warning("NO_BACKUP", "there is no recovery kit to seal backups to: run `p2pfs coordinator kit`")
    elif backup.age_s is None:
        yield _warning("NO_BACKUP", "nothing of the coordinator is on any other machine: its disk must not fail")
    elif backup.age_s > backup.stale_s:
        yield _warning("BACKUP_OLD", f"the coordinator's last backup is {_age(backup.age_s)} old")
    elif backup.holders < backup.wanted:
        yield _warning(
            "BACKUP_FEW_HOLDERS", f"only {backup.holders} of {backup.wanted} peers have the coordinator's backup"
        )


def _about_restore(restored: RestoredReport | None) -> Iterator[Reason]:
    if restored is None or not restored.orphans_suspended:
        return
    lost_s = restored.restored_s - restored.state_s
    yield _warning(
        "RESTORED",
        f"restored from a backup {_age(lost_s)} old: what came later to peers,"
        f" {format_count(restored.unknown_chunks, 'copy')} of {format_size(restored.unknown_bytes)}, is kept until"
        " `p2pfs coordinator confirm orphans`",
    )


def _about_trash(volumes: Sequence[VolumeReport], is_pressed: bool) -> Iterator[Reason]:
    if is_pressed and any(volume.trash_files for volume in volumes):
        yield _warning("TRASH_PRESSED", "room is short: the oldest trash is let go before its time")


def _about_reservations(volumes: Sequence[VolumeReport]) -> Iterator[Reason]:
    for volume in volumes:
        if volume.reserved_short:
            yield _warning(
                "RESERVATION_SHORT",
                f"{format_size(volume.reserved_short)} of what is reserved for {volume.name} find no room any more:"
                " peers went, or others filled their disks",
            )


def _about_leases(volumes: Sequence[VolumeReport], now_s: float) -> Iterator[Reason]:
    """Files expire as they were meant to, which is no fault; that a whole volume does may have been forgotten."""
    for volume in volumes:
        left_s = volume.expires_s - now_s
        if volume.expires_s > 0 and left_s < LEASE_WARNING_S:
            when = f"ends in {_age(left_s)}" if left_s >= 1 else "is over"
            yield _warning("VOLUME_EXPIRES", f"the lease of volume {volume.name} {when}: p2pfs lease extend")
        if volume.expiring:
            entries = format_count(volume.expiring, "file or directory", "files and directories")
            yield _note(
                "LEASES_EXPIRE",
                f"volume {volume.name} has {entries} that will expire within {_age(LEASE_WARNING_S)}: p2pfs lease list",
            )


def _about_clocks(peers: Sequence[PeerReport], doubt: str) -> Iterator[Reason]:
    if doubt:
        yield _error(
            "CLOCK_IN_DOUBT", f"nothing is purged: {doubt}; if it is right, say so: p2pfs coordinator confirm clock"
        )
    for peer in peers:
        ahead_s = peer.clock_ahead_s or 0.0
        if abs(ahead_s) > CLOCK_WARNING_S:
            way = "ahead" if ahead_s > 0 else "behind"
            yield _warning("CLOCK_DIFFERS", f"the clock of peer {peer.name} is {_age(abs(ahead_s))} {way}")


def _about_jobs(jobs: Sequence[JobInfo]) -> Iterator[Reason]:
    for job in jobs:
        name = f"job {job.id}, {job.kind}" + (f" of {job.subject}" if job.subject else "")
        if job.state == JobState.PAUSED:
            yield _note("JOB_PAUSED", f"{name}, is held back; it goes on with: p2pfs jobs resume {job.id}")
        elif job.kind == JobKind.PURGE:
            continue  # what it waits for is a quiet hour, as it should, or a clock, which has a reason of its own
        elif job.error and job.state not in ENDED:
            yield _warning("JOB_STUCK", f"{name}, does not get on: {job.error}")


def _note(code: str, message: str) -> Reason:
    return Reason(code, message, NOTE)


def _warning(code: str, message: str) -> Reason:
    return Reason(code, message, Health.WARNING.value)


def _error(code: str, message: str) -> Reason:
    return Reason(code, message, Health.ERROR.value)


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} seconds"
