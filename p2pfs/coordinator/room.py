"""How much fits: pure arithmetic over the peers' room and the number of copies.

No state, no I/O; called by `reservations` (who gets a promise, what statfs says) and `bookings` (what is set aside).
"""

from collections.abc import Mapping, Sequence

from p2pfs.errors import NoSpace
from p2pfs.runtime.sizes import format_count
from p2pfs.types import PeerNumber


def free_room(capacity: int, used: int, *, trash_kept: int, disk_free: int | None, promised: int) -> int:
    """Bytes a peer can still take: what it offers less what it holds, what its trash must keep and what is promised.

    `disk_free` is what its disk has left, where known: others use that disk too.
    """
    room = capacity - used - trash_kept
    if disk_free is not None:
        room = min(room, disk_free)
    return max(0, room - promised)


def peers_with_room(free: Mapping[PeerNumber, int], room_bytes: int, needed: int) -> list[PeerNumber]:
    """Every peer with room for `room_bytes`; at least `needed` of them.

    Whether a peer answers at the moment does not matter: a peer that is away makes a write wait, not fail for space.

    Raises:
        NoSpace: Too few have room.
    """
    roomy = [peer for peer, room in free.items() if room >= room_bytes]
    if len(roomy) < max(1, needed):
        raise NoSpace(
            f"only {len(roomy)} of the {format_count(max(1, needed), 'peer')} needed can take {room_bytes} bytes more"
        )
    return roomy


def writable(free: Sequence[int], copies: int) -> int:
    """The most bytes that can be stored with `copies` copies each, no two copies of a byte on one peer.

    It is the greatest x with Σ min(freeᵢ, x) ≥ copies · x: a peer holds at most one copy of each byte. Peers with more
    than x hold every byte; so try 0, 1, … such peers, largest first, and share the others' room among the other copies.
    """
    if copies < 1 or len(free) < copies:
        return 0
    largest_first = sorted((max(0, amount) for amount in free), reverse=True)
    rest = sum(largest_first)
    for full in range(copies):
        bound = rest // (copies - full)
        if largest_first[full] <= bound:
            return bound
        rest -= largest_first[full]
    return 0


def spread(
    free: Mapping[PeerNumber, int], weights: Mapping[PeerNumber, int], amount: int, copies: int, *, margin: int = 0
) -> dict[PeerNumber, int]:
    """Room for `amount` bytes `copies` times, set aside by `weights` where there is room; no peer holds a byte twice.

    `margin` more is set aside if possible, for nobody knows yet where exactly the copies will go. All there is when
    that is too little: whether it is enough, `writable` of the result says.
    """
    most = {peer: min(max(0, room), amount) for peer, room in free.items()}
    missing = min(copies * (amount + margin), sum(most.values()))
    weight = sum(max(1, weights[peer]) for peer in most)
    shares: dict[PeerNumber, int] = {}
    for peer in sorted(most, key=lambda peer: (most[peer] / max(1, weights[peer]), peer)):  # whoever is full first
        own = max(1, weights[peer])
        shares[peer] = min(most[peer], -(-missing * own // weight))
        missing -= shares[peer]
        weight -= own
    return shares
