"""What `GET /status` says, and how health is judged from it: pure.

Messages in JSON, because people and their tools read them; the keys are documented in docs/commands.md and only ever
added to. `status` gathers the facts and calls `judge`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from p2pfs.coordinator.offers import is_over
from p2pfs.runtime.sizes import format_count, format_size
from p2pfs.types import GONE_STATES, Health, PeerState
from p2pfs.wire.jobs import ENDED, JobInfo, JobKind, JobState
from p2pfs.wire.membership import Resources
from p2pfs.wire.offers import Offered, PooledOffer

NEARLY_FULL: Final = 0.10
"""Free share of the pool below which it counts as nearly full."""
EXPIRY_WARNING_S: Final = 14 * 86400
"""Nodes renew a month ahead: one with less than this left has failed to for a fortnight."""
CLOCK_WARNING_S: Final = 60.0
LEASE_WARNING_S: Final = 7 * 86400
NOTE: Final = "info"
"""The severity of what is worth saying and no fault."""


class Reason(msgspec.Struct, frozen=True):
    """Why the pool is not healthy, or what is worth knowing though it is. `code` is stable, `message` is for people."""

    code: str
    message: str
    severity: str  # "info" | "warning" | "error"


class PoolReport(msgspec.Struct, frozen=True):
    """All sizes in bytes; `writable` and `total` are after replication, the others as disks count."""

    id: str
    name: str
    replicas: int
    min_replicas: int
    capacity: int
    used: int
    promised: int
    total: int
    writable: int
    map_version: int
    incarnation: int
    sessions: int
    reserved: int = 0  # of content, by name and not stored yet


class CoordinatorReport(msgspec.Struct, frozen=True):
    node: str
    name: str
    addresses: list[str]
    version: str
    uptime_s: float
    certificate_expires_s: float  # UTC
    clock_s: float = 0.0  # UTC, by its clock; an earlier version does not tell


class PeerReport(msgspec.Struct, frozen=True):
    """One peer that has served at least once."""

    number: int
    node: str
    name: str
    owner: str
    zone: str
    state: str  # types.PeerState
    addresses: list[str]
    capacity: int
    used: int
    trash: int
    free: int  # without what is promised
    chunks: int
    silent_s: float
    clock_ahead_s: float | None
    certificate_expires_s: float  # UTC; 0: unknown
    version: str
    resources: Resources | None
    leaving: bool = False  # being drained, whether it answers or not
    away_until_s: float = 0.0  # UTC; it said that it would be silent until then; 0: it said nothing
    recounted_s: float = 0.0  # UTC; when its chunks were last compared with the index; 0: not since the start
    drift: int = 0  # bytes that it counted beyond the index then; what is written meanwhile is among them
    receiving: float = 0.0  # bytes a second through its connections, between its last heartbeats
    sending: float = 0.0
    offers: list[Offered] = []  # of every kind; of an earlier version only its storage


class VolumeReport(msgspec.Struct, frozen=True):
    """Only volumes the asker may use, or all for an admin."""

    id: str  # sixteen hexadecimal digits
    name: str
    owner: str
    files: int
    bytes: int
    delegated_to: str = ""  # host:mount point; "": nobody
    trash_files: int = 0  # inodes that can be brought back
    trash_bytes: int = 0
    expires_s: int = 0  # UTC: the lease of its root; 0: for ever
    expiring: int = 0  # inodes whose lease ends within LEASE_WARNING_S
    reserved: int = 0  # bytes of content, by name and not stored yet
    reserved_short: int = 0  # of those, what there is no room for any more
    quota_bytes: int = 0  # most content bytes; 0: no limit
    quota_files: int = 0  # most inodes
    members: int = 0  # keys it is shared with


class ChunksReport(msgspec.Struct, frozen=True):
    """`by_copies` counts the copies on peers that answer (up, draining, suspect); `lost` have none there, now. `away`
    of the under-replicated are so only because peers are away as they said."""

    total: int
    under_replicated: int
    lost: int
    by_copies: dict[str, int]
    away: int = 0


class BackupReport(msgspec.Struct, frozen=True):
    """How much would be lost with the coordinator's disk: `age_s`, None before the first backup of this run. `holders`
    are peers whose backup is not too old, of `wanted`."""

    age_s: float | None
    generation: str  # sixteen hexadecimal digits; empty before the first
    number: int  # of the newest part
    holders: int
    wanted: int
    bytes: int
    shrank: bool  # a backup before a much smaller one is kept apart
    has_kit: bool
    stale_s: float  # the age from which on it is too old


class RestoredReport(msgspec.Struct, frozen=True):
    """What the last restore lost: everything after `state_s`. Copies on peers that the index does not know are counted
    while `orphans_suspended`: bytes as disks count."""

    state_s: float  # UTC
    restored_s: float  # UTC
    unknown_chunks: int
    unknown_bytes: int
    orphans_suspended: bool


class ChurnReport(msgspec.Struct, frozen=True):
    """How peers come and go: what was counted since `since_s` (UTC), but `joined` and `gone`, which are of all time.
    Those that left and neither returned nor are gone are silent now."""

    since_s: float
    peer_days: float  # that peers were reachable, together
    joined: int  # peers that ever served
    left: int  # how often one became down or away
    returned: int
    gone: int  # forgotten or revoked
    absence_s: float  # of those that returned, on average; 0: none did


class OwnerReport(msgspec.Struct, frozen=True):
    """How useful an owner is to the others; see `p2pfs usefulness` for why."""

    owner: str
    coefficient: float | None  # None: infinite
    left: int | None  # bytes it may still place on others' peers; None: the pool's policy is open


class StatusReport(msgspec.Struct, frozen=True):
    health: str  # types.Health
    reasons: list[Reason]
    pool: PoolReport
    coordinator: CoordinatorReport
    peers: list[PeerReport]
    volumes: list[VolumeReport]
    chunks: ChunksReport
    jobs: list[JobInfo] = []  # those that go on
    backup: BackupReport | None = None
    restored: RestoredReport | None = None  # None: it never was
    churn: ChurnReport | None = None
    owners: list[OwnerReport] = []
    offers: list[PooledOffer] = []  # every kind, over the peers that answer


def count_chunks(
    by_copies: Mapping[int, int], wanted: int, with_away: Mapping[int, int] | None = None, *, content: int = 0
) -> ChunksReport:
    """The chunk line from how many chunks have how many readable copies; `with_away`: if peers that are away were
    here; `content`: how many have fewer than `wanted` and want no more."""
    short = _short(by_copies, wanted) - content
    return ChunksReport(
        total=sum(by_copies.values()),
        under_replicated=short,
        lost=by_copies.get(0, 0),
        by_copies={str(copies): by_copies[copies] for copies in sorted(by_copies)},
        away=max(0, short - max(0, _short(with_away, wanted) - content)) if with_away is not None else 0,
    )


def _short(by_copies: Mapping[int, int], wanted: int) -> int:
    return sum(count for copies, count in by_copies.items() if 0 < copies < wanted)


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
