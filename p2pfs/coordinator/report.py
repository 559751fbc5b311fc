"""What `GET /status` says.

Messages in JSON, because people and their tools read them; the keys are documented in docs/commands.md and only ever
added to. `status` gathers the facts, and `health` judges them.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from p2pfs.wire.jobs import JobInfo
from p2pfs.wire.membership import Resources
from p2pfs.wire.offers import Offered, PooledOffer

LEASE_WARNING_S: Final = 7 * 86400


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
