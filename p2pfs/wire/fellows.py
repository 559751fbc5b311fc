"""What peers say to each other while no coordinator answers: the signed list of members by which they know each other,
greetings, and requests to take copies. Inventories are asked for with `Digest` and `List` of wire.orders.
"""

import hashlib
from typing import Final

import msgspec

from p2pfs.types import GONE_STATES, PoolId
from p2pfs.wire.membership import PoolMap

MOST_COPIES: Final = 64
"""In one request."""
MOST_SOURCES: Final = 16
"""Of one copy."""
_LABEL: Final = b"p2pfs roll 1\0"


class Roll(msgspec.Struct, frozen=True):
    """The members of a pool as the coordinator last signed them, and its patience. `free` of its peers is not told."""

    issued_s: int  # UTC
    expires_s: int  # UTC; nobody is elected by an older one
    elect_after_s: float  # silence of the coordinator after which another is elected; 0: never
    repair_delay_s: float  # a silent peer's copies are not made again for so long
    map: PoolMap


class SignedRoll(msgspec.Struct, frozen=True):
    """`GET /roll`: `body` is a Roll; `signature` is Ed25519 by the key that signs reservations."""

    body: bytes
    signature: bytes


class Greeting(msgspec.Struct, frozen=True):
    """`POST /fellows`, and its answer."""

    silent_s: float  # since the coordinator last answered the sender
    leader: int  # the peer number the sender follows; 0: none
    room: int  # bytes of copies it would take on request
    addresses: list[str]  # where it is now


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """A chunk that is short, and who has it."""

    volume: int
    chunk: bytes
    size: int  # sealed bytes
    sources: list[int]  # peer numbers


class CopyRequest(msgspec.Struct, frozen=True):
    """`POST /fellows/copies` by the elected: take these, please."""

    copies: list[Copy]


class Taken(msgspec.Struct, frozen=True):
    """The first so many of them are here, or will be fetched; for the others there is no room now."""

    count: int


def members_digest(pool: PoolMap, elect_after_s: float) -> bytes:
    """What of a roll does not change when peers merely come and go; always the same where nobody is ever elected."""
    if not elect_after_s:
        return b"nobody"
    members = [
        (peer.number, peer.node, peer.owner, peer.zone, peer.leaving, peer.capacity > 0)
        for peer in pool.peers
        if peer.state not in GONE_STATES
    ]
    said = (elect_after_s, pool.replicas, sorted(members))
    return hashlib.sha256(msgspec.msgpack.encode(said)).digest()[:8]


def roll_message(pool: PoolId, body: bytes) -> bytes:
    """The bytes a roll's signature covers."""
    return _LABEL + bytes.fromhex(pool) + body
