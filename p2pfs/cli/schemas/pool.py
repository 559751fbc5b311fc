"""What commands about a pool and its machines print with `--json`."""

from msgspec import UNSET, Struct, UnsetType

from p2pfs.coordinator.report import (
    BackupReport,
    ChunksReport,
    ChurnReport,
    OwnerReport,
    PeerReport,
    PoolReport,
    Reason,
    RestoredReport,
    VolumeReport,
)
from p2pfs.wire.jobs import JobInfo
from p2pfs.wire.offers import PooledOffer


class NewPool(Struct):
    """What was made. The recovery kit is in the file that was named, never here."""

    home: str  # the node's state directory
    pool: str  # its id
    node: str  # this node's id
    addresses: list[str]  # where others are to reach the coordinator, host:port


class NewInvite(Struct):
    """A secret: whoever has it can join, once."""

    invite: str  # one line, for p2pfs join
    name: str  # owner@machine
    lifetime_s: int


class DashboardLink(Struct):
    """A secret: whoever opens it first is this admin, once."""

    url: str  # to open in a browser
    urls: list[str]  # one for each address of the dashboard, best first
    fingerprint: str  # SHA-256 of the certificate that the browser will see, hexadecimal
    lifetime_s: int


class Joined(Struct):
    """This machine as a node."""

    home: str  # the node's state directory
    pool: str  # its id
    node: str  # this node's id
    name: str  # owner@machine


class FoundCoordinator(Struct):
    """Where the coordinator answers on the local network."""

    found: str  # host:port
    is_new: bool  # this node did not know, and does now
    addresses: list[str]  # all that it knows, best first


class Coordinator(Struct):
    """Where nobody answers only `node`, `addresses` and `reachable` are there."""

    node: str
    addresses: list[str]
    name: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    uptime_s: float | UnsetType = UNSET
    certificate_expires_s: float | UnsetType = UNSET  # UTC
    clock_s: float | UnsetType = UNSET  # UTC, by its clock
    reachable: bool | UnsetType = UNSET  # false where nobody answers


class Status(Struct):
    """The pool. Bytes are as disks count, but where after replication is said."""

    health: str  # healthy, warning or error
    reasons: list[Reason]  # errors first; codes are in docs/protocol.md, and COORDINATOR_UNREACHABLE
    pool: PoolReport | None  # null when nobody answers
    coordinator: Coordinator
    peers: list[PeerReport]
    volumes: list[VolumeReport]  # of this node's owner, or all for an admin
    chunks: ChunksReport
    jobs: list[JobInfo]  # those that go on
    backup: BackupReport | UnsetType | None = UNSET
    restored: RestoredReport | UnsetType | None = UNSET  # null: it never was
    churn: ChurnReport | UnsetType | None = UNSET
    owners: list[OwnerReport] | UnsetType = UNSET
    offers: list[PooledOffer] | UnsetType = UNSET  # every kind, over the peers that answer


class Finding(Struct):
    """What one check found."""

    check: str  # what was looked at: versions, fuse, state, disk, certificate, clock, ports…
    health: str  # healthy, warning or error
    found: str  # a sentence
    mend: str  # what to do; empty where nothing is wrong


class BundleEntry(Struct):
    """A file in a bundle."""

    name: str
    bytes: int
    about: str  # what it is


class Bundle(Struct):
    """A new bundle."""

    file: str  # where it is
    bytes: int
    entries: list[BundleEntry]
    left_out: list[str]  # names of what held a secret of the home
    asked: int  # processes that were asked for their tasks


class Versions(Struct):
    """null: not installed."""

    p2pfs: str | None
    python: str
    trio: str | None
    cryptography: str | None
    blake3: str | None
    msgspec: str | None
    pyfuse3: str | None
    psutil: str | None


class Part(Struct):
    """A process of a demo."""

    part: str
    pid: int | None
    state: str  # running, paused, dead or stopped


class PeerStatus(Struct):
    """What a peer knows by itself."""

    coordinator_silent_s: float | None  # since that last answered
    knows_members: bool  # there is a valid list of them
    leader: int  # the number of the peer it follows; 0: nobody
    leads: bool
    fellows_heard: int
    copies_requested: int  # by this peer, in this absence
    copies_taken: int
    bytes_taken: int
    copies_failed: int
    room_bytes: int  # it would still take


class PeerTrash(Struct):
    """Of this home's own peer."""

    trash: int  # bytes


class EmptiedTrash(Struct):
    """Of this home's own peer."""

    removed: int  # chunks
    freed: int  # bytes


class OfferedKind(Struct):
    """One kind of resource that a peer may offer."""

    kind: str  # storage, upload, download…
    rule: str  # what its owner said, as p2pfs share takes it
    unit: str  # bytes, bytes/s or count
    offered: int | None  # now; null: without a limit, or the peer does not run
    used: int | None  # null: the peer does not run
    about: str
    is_on: bool  # false: described, and not there yet


class Share(Struct):
    """What this machine's peer offers."""

    running: bool
    offers: list[OfferedKind]
    wished: int | None  # bytes of storage it would offer; null: the peer does not run
    granted: int | None  # what the pool takes of it; null: not known
    passing: list[str]  # kinds that the running peer was given with --set, which comes back when it is started anew


class NamedNode(Struct):
    """A node by id and name."""

    node: str
    name: str


class FilesAtRisk(Struct):
    """Files of one volume that could not be read any more, in part."""

    volume: str  # sixteen hexadecimal digits
    name: str
    owner: str
    files: int  # how many
    inodes: list[int]  # the first thousand
    paths: list[str]  # those that a mount on this machine could name


class Plan(Struct):
    """What would happen. Chunks are counted as of now."""

    kind: str  # drain, lose or stop
    nodes: list[NamedNode]
    held: int  # chunks on these peers
    held_bytes: int
    short: int  # of them with fewer copies than wanted on the other peers
    short_bytes: int  # what would have to be copied, all missing copies counted
    unreadable: int  # of them without any copy on another peer that answers
    unreadable_bytes: int
    files: list[FilesAtRisk]
    room_bytes: int  # free on the peers that would stay
    staying: int  # how many those are
    wanted: int  # copies, among them
    rate: float  # bytes a second that copying would take
    is_measured: bool  # the rate was; else it is assumed
    answering: int  # of those that would stay, how many can be copied to now
    thinned: int  # chunks that should have more copies than there are peers that stay
    replicas: int  # copies wanted where there are peers enough
    copy_bytes: int  # what would be copied
    copy_s: float  # how long that takes
    has_room: bool
    exit_code: int  # this command's
    sentence: str | UnsetType = UNSET  # of peer safe-to-stop
