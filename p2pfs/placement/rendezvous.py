"""The order of peers for a group: weighted rendezvous hashing, then failure domains.

Every machine computes the same order from the same map. A peer's chance is its capacity's share; when one comes or
goes, only groups that gain or lose it change. Whether a peer is up, full or silent is not considered: writers skip such
peers, and what moves is decided elsewhere. Called by chunks.replicated and by the coordinator, which cache the result.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from blake3 import blake3

from p2pfs.placement.candidates import Candidate
from p2pfs.types import GroupId, PeerNumber

SPREAD: Final = 16
"""Places in which failure domains are kept apart; more than any pool has copies, and it bounds the work."""
_LABEL: Final = b"p2pfs placement 1\0"
_BITS: Final = 52


def order(peers: Sequence[Candidate], group: GroupId) -> tuple[PeerNumber, ...]:
    """All `peers` in the order in which they are to hold `group`; the first `replicas` of them are its placement.

    One owner's peers are one failure domain while there are others; among equals, one zone's.
    """
    ranked = sorted(peers, key=lambda peer: (-score(peer, group), peer.number))
    placed: list[PeerNumber] = []
    owners: Counter[str] = Counter()
    zones: Counter[str] = Counter()
    all_owners, all_zones = {peer.owner for peer in peers}, {peer.zone for peer in peers}
    while ranked and len(placed) < SPREAD:
        chosen = _next(ranked, owners, zones, (_least(owners, all_owners), _least(zones, all_zones)))
        peer = ranked.pop(chosen)
        owners[peer.owner] += 1
        zones[peer.zone] += 1
        placed.append(peer.number)
    return (*placed, *(peer.number for peer in ranked))


def score(peer: Candidate, group: GroupId) -> float:
    """How much a peer is drawn to a group: -capacity / ln h, with h uniform in (0, 1) by hash of both."""
    digest = blake3(_LABEL + group.to_bytes(2, "big") + peer.number.to_bytes(4, "big")).digest(8)
    # 52 bits and a half: exact in a double and never 0 or 1.
    uniform = ((int.from_bytes(digest, "big") >> 64 - _BITS) + 0.5) / (1 << _BITS)
    return -peer.capacity / math.log(uniform)


def _next(ranked: Sequence[Candidate], owners: Counter[str], zones: Counter[str], fewest: tuple[int, int]) -> int:
    """Where in `ranked` the best peer is whose owner, then zone, was taken least; nobody's less than `fewest`."""
    best, least = 0, (math.inf, math.inf)
    for at, peer in enumerate(ranked):
        taken = (owners[peer.owner], zones[peer.zone])
        if taken < least:
            best, least = at, taken
            if taken == fewest:
                break
    return best


def _least(taken: Counter[str], names: Collection[str]) -> int:
    """How often the name was taken that was taken least."""
    return 0 if len(taken) < len(names) else min(taken[name] for name in names)
