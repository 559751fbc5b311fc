"""What placement needs to know of a peer, and how to take it from a pool map.

Structural types stand for the wire's PeerInfo and PoolMap, so that placement and wire stay independent of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pfs.types import GONE_STATES, PeerNumber


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member peer. `capacity` is what it offers; whether it is up or full does not matter for its place."""

    number: PeerNumber
    owner: str
    zone: str
    capacity: int  # bytes


class PeerLike(Protocol):
    """What placement reads of wire.membership.PeerInfo."""

    @property
    def number(self) -> int: ...
    @property
    def owner(self) -> str: ...
    @property
    def zone(self) -> str: ...
    @property
    def capacity(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def leaving(self) -> bool: ...


class MapLike(Protocol):
    """What placement reads of wire.membership.PoolMap."""

    @property
    def replicas(self) -> int: ...
    @property
    def min_replicas(self) -> int: ...
    @property
    def peers(self) -> Sequence[PeerLike]: ...


def candidates(peers: Sequence[PeerLike]) -> tuple[Candidate, ...]:
    """Those among `peers` that hold chunks and are to go on doing so."""
    return tuple(
        Candidate(PeerNumber(peer.number), peer.owner, peer.zone, peer.capacity) for peer in peers if is_staying(peer)
    )


def is_staying(peer: PeerLike) -> bool:
    """A member, up or not, that is not about to leave."""
    return not peer.leaving and peer.state not in GONE_STATES
