"""The vocabulary: identifiers, sizes and enumerations that every layer shares.

Nothing here does anything; ids are types so that a signature says which number it wants.
"""

import enum
from typing import Final, NewType

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

BLOCK_BYTES: Final = 64 * KIB
"""Plain bytes of a full block, the unit of authentication and of a partial read."""
CHUNK_BYTES: Final = MIB
"""Most plain bytes of a chunk; also the span of file bytes one extent index covers."""
TAG_BYTES: Final = 16
"""Authentication tag at the end of each sealed block."""
BLOCKS_PER_CHUNK: Final = CHUNK_BYTES // BLOCK_BYTES
SEALED_CHUNK_BYTES: Final = CHUNK_BYTES + BLOCKS_PER_CHUNK * TAG_BYTES
"""Most bytes a sealed chunk has on the wire and on a peer's disk."""
DIGEST_RANGE_BYTES: Final = 256 * MIB
"""File bytes covered by one digest of an inode head."""
INDICES_PER_RANGE: Final = DIGEST_RANGE_BYTES // CHUNK_BYTES
MAX_LAYERS: Final = 16
"""Extents of one MiB beyond which a mount compacts."""
MAX_NAME_BYTES: Final = 255
MAX_TARGET_BYTES: Final = 4095
MAX_FILE_BYTES: Final = 1 << 44
"""16 TiB, as ext4: the head of the largest file, which every commit of it carries, has 2 MiB."""
MAX_XATTR_BYTES: Final = 64 * KIB
"""Most bytes of an extended attribute's value, as on any file system of Linux."""
DIGEST_BYTES: Final = 32
HEAD_FIXED_BYTES: Final = 64
"""At least what a sealed inode head has beside its digests (format.heads: 36), with room for a later version."""
MAX_HEAD_BYTES: Final = HEAD_FIXED_BYTES + DIGEST_BYTES * (MAX_FILE_BYTES // DIGEST_RANGE_BYTES)
"""Most bytes of a sealed head; it travels with every commit and in every answer about its inode."""

PoolId = NewType("PoolId", str)
"""32 lower-case hexadecimal digits, random."""
NodeId = NewType("NodeId", str)
"""32 lower-case hexadecimal digits, random, never reused."""
PeerNumber = NewType("PeerNumber", int)
"""32 bit, given by the coordinator to a node with the role peer; rows use it instead of the node id."""
VolumeId = NewType("VolumeId", int)
"""63 bit, random; sixteen hexadecimal digits in addresses and on disks."""
InodeId = NewType("InodeId", int)
"""63 bit, per volume, never reused."""
DentryId = NewType("DentryId", int)
"""63 bit, per volume, never reused; the readdir cookie. Drawn from the same blocks as inode numbers."""
ChunkId = NewType("ChunkId", bytes)
"""32 bytes: BLAKE3 over the hashes of the sealed blocks (format.chunk)."""
ChunkKey = NewType("ChunkKey", bytes)
"""32 bytes: the AES-256-GCM key of one chunk."""
GroupId = NewType("GroupId", int)
"""The first 16 bits of a chunk id."""
SessionId = NewType("SessionId", str)
"""32 hexadecimal digits naming one mount's conversation with the coordinator."""

ROOT_INODE: Final = InodeId(1)

Buffer = bytes | bytearray | memoryview


class Kind(enum.IntEnum):
    """What an inode is. Persisted and sealed: never renumber."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER = 6
    BLOCK = 7


class Role(enum.StrEnum):
    """What a node's certificate lets it be."""

    COORDINATOR = "coordinator"
    PEER = "peer"
    CLIENT = "client"
    ADMIN = "admin"
    RECOVERY = "recovery"  # of the recovery kit, which is no node: reads backups and nothing else


NODE_ROLES: Final = frozenset(Role) - {Role.RECOVERY}
"""What a node can be."""


class Distribution(enum.StrEnum):
    """How a volume's chunks get to their peers (`p2pfs.placement.distribution`)."""

    AUTO = "auto"  # DIRECT or SWARM, as the writer's uplink wants it
    DIRECT = "direct"
    RELAY = "relay"
    SWARM = "swarm"


MOST_SOURCES: Final = 4
"""Peers that a client names to another to take a chunk from."""


class PeerState(enum.StrEnum):
    """A peer as the coordinator sees it; `p2pfs.coordinator.liveness` draws how one becomes another."""

    UP = "up"
    DRAINING = "draining"  # up, and about to leave: what it holds is being copied elsewhere
    SUSPECT = "suspect"
    AWAY = "away"  # silent, as it said it would be
    DOWN = "down"
    LEFT = "left"  # drained and let go
    LOST = "lost"  # gone for good, said an admin
    REVOKED = "revoked"


GONE_STATES: Final = frozenset({PeerState.LEFT, PeerState.LOST, PeerState.REVOKED})
"""A peer in one of these is no member: nothing is asked of it, and what it may still hold is no copy."""


class Health(enum.StrEnum):
    """The whole pool in one word."""

    HEALTHY = "healthy"
    WARNING = "warning"
    ERROR = "error"


def head_limit(size: int) -> int:
    """Most bytes of the sealed head of a file of `size`: one digest for each range begun, at least one."""
    return min(HEAD_FIXED_BYTES + DIGEST_BYTES * max(1, -(-size // DIGEST_RANGE_BYTES)), MAX_HEAD_BYTES)


def volume_name(volume: VolumeId) -> str:
    """Sixteen hexadecimal digits, as used in addresses and on peers' disks."""
    return f"{volume:016x}"
