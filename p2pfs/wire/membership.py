"""Membership on the wire: joining, certificates, heartbeats, the pool map, status."""

import enum

import msgspec

from p2pfs.wire.offers import Offered


class PeerInfo(msgspec.Struct, frozen=True):
    """One peer in the pool map. Placement uses `capacity` of all members; readers skip what is not reachable."""

    number: int
    node: str
    name: str
    owner: str
    zone: str
    addresses: list[str]  # "host:port", best first; "relay": through the coordinator
    capacity: int  # bytes offered
    free: int  # bytes not yet used or promised
    state: str  # types.PeerState
    leaving: bool = False  # being drained: it gets no new chunks, and the number of members is counted without it


class PoolMap(msgspec.Struct, frozen=True):
    """`GET /map`. `version` rises when anything but `free` changes. `replicas` is for what the asker's owner writes:
    under policy `fair` it may be fewer than the pool's."""

    pool: str
    version: int
    incarnation: int
    replicas: int
    min_replicas: int
    peers: list[PeerInfo]


class JoinRequest(msgspec.Struct, frozen=True):
    """`POST /join` without a certificate. The secret is proof; the key is bound to the invite at first use."""

    secret: bytes
    csr: bytes  # PKCS#10, DER


class JoinAnswer(msgspec.Struct, frozen=True):
    """What a new node must know; `certificate` and `ca` are DER."""

    pool: str
    node: str
    name: str
    owner: str
    zone: str
    roles: list[str]
    certificate: bytes
    ca: bytes
    coordinator: str  # node id every later connection must find
    peer: int = 0  # peer number where the role peer was given


class RenewRequest(msgspec.Struct, frozen=True):
    """`POST /renew` with the old certificate, for the same key or a new one."""

    csr: bytes


class RenewAnswer(msgspec.Struct, frozen=True):
    certificate: bytes


class InviteRequest(msgspec.Struct, frozen=True):
    """`POST /invites` by an admin. `name` is `owner@machine`."""

    name: str
    roles: list[str]
    zone: str = ""
    capacity: int = 0  # greatest bytes a peer may offer; 0: no limit
    lifetime_s: int = 86400


class InviteAnswer(msgspec.Struct, frozen=True):
    invite: str  # the text to hand over: format.invites


class Revocations(msgspec.Struct, frozen=True):
    """Everything revoked so far: servers refuse these nodes and serials and close their live connections."""

    version: int
    nodes: list[str]
    serials: list[str]  # hexadecimal


class Resources(msgspec.Struct, frozen=True):
    """What psutil says of a peer's machine; sizes are bytes."""

    disk_total: int
    disk_free: int
    memory_total: int
    memory_available: int
    cpu_count: int
    cpu_load: float  # of the last minute, a processor: 1.0 is busy
    net_sent: int  # bytes since the machine started, all its interfaces together, whoever sent them
    net_received: int


class ScrubState(enum.StrEnum):
    """What a peer's scrub does; `peerd` draws how one follows another."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"


class Scrub(msgspec.Struct, frozen=True):
    """How far a peer is with reading its chunks again: of the round under way, else of the last one. Bytes are of chunk
    files, as in `used`; times are UTC seconds by the peer's clock, 0: never."""

    state: str  # ScrubState
    done: int  # chunks found whole
    total: int
    done_bytes: int
    total_bytes: int
    started_s: float
    finished_s: float  # when a round last came to its end
    damaged: int  # found in this round


class Heartbeat(msgspec.Struct, frozen=True):
    """`POST /heartbeat` by a peer every `heartbeat` seconds."""

    addresses: list[str]
    capacity: int
    used: int
    trash: int
    chunks: int
    clock_s: float
    resources: Resources
    map_version: int
    revocations_version: int
    corrupt: list[tuple[int, bytes]] = []  # (volume, chunk) quarantined since the last acknowledged heartbeat
    version: str = ""
    put_seq: int = -1  # every PUT up to this one is counted in `used`, which was read after it; -1: not told
    run: int = 0  # drawn by chance when the daemon started: another one may have another disk
    scrub: Scrub | None = None  # None: not told
    served: list[tuple[int, str, int]] = []  # (UTC day, reading node, bytes of that day so far in this run), if changed
    withdrawn_seq: int = -1  # nothing new is taken under tokens that answers up to this one withdrew; -1: not told
    draining: list[int] = []  # of those tokens, where something begun before is still being stored, not yet in `used`
    received: int = 0  # bytes through this daemon's connections, in this run
    sent: int = 0
    offers: list[Offered] = []  # what is offered of each kind, storage too


class HeartbeatAnswer(msgspec.Struct, frozen=True):
    """`receipt_key` and `token_key` let the peer sign receipts and check tokens."""

    peer: int
    map_version: int
    receipt_key: bytes
    token_key: bytes  # Ed25519 public key, raw
    capacity: int  # what the pool lets this peer offer
    interval_s: float
    revocations: Revocations | None = None  # when newer than the peer's
    coordinator_clock_s: float = 0.0
    has_orders: bool = False  # `POST /orders` has something for this peer
    state: str = ""  # types.PeerState of this peer
    is_dialable: bool = True  # False: no address of the last heartbeat led to this peer; let it listen at the relay
    withdrawn_seq: int = 0  # of the last withdrawal; heartbeats say it from then on
    withdrawn: list[tuple[int, int]] = []  # (token, expires_s): given back or replaced, to be refused from now on
    members: bytes = b""  # fellows.members_digest of the list that `GET /roll` gives now


class AwayRequest(msgspec.Struct, frozen=True):
    """`POST /peers/{node}/away`: the peer will be silent for so long; 0: it is back."""

    for_s: float


class Listen(msgspec.Struct, frozen=True):
    """`POST /relay/listen`: a peer waits for somebody who dials it through the coordinator."""

    wait_s: float  # 0: answer at once


class NodeInfo(msgspec.Struct, frozen=True):
    """`GET /nodes`."""

    node: str
    name: str
    owner: str
    zone: str
    roles: list[str]
    revoked: bool
    peer: int
    state: str = ""  # PeerState; empty: no peer, or an earlier version answers
