"""What all peers together offer, of every kind: pure.

The coordinator knows storage itself (capacity within the invite's bound, what is used and free); of the other kinds it
has what peers say, which binds nobody but them: a peer that lies about its bandwidth makes a wrong sum, nothing else.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from p2pfs.errors import Misuse
from p2pfs.runtime.offers import registry, storage
from p2pfs.runtime.offers.kinds import LONGEST_RULE, Kind
from p2pfs.types import PeerNumber
from p2pfs.wire.offers import Offered, PooledOffer

MOST_KINDS: Final = 16
_WORD: Final = re.compile(r"[a-z][a-z0-9_/-]{0,31}", re.ASCII)
_MOST: Final = 1 << 62


def check(offers: Sequence[Offered]) -> None:
    """Whether they can be kept and shown. Raises Misuse."""
    if len(offers) > MOST_KINDS or len({one.kind for one in offers}) < len(offers):
        raise Misuse(f"a heartbeat names at most {MOST_KINDS} kinds of resources, each once")
    for one in offers:
        if not _WORD.fullmatch(one.kind) or not _WORD.fullmatch(one.unit):
            raise Misuse("a heartbeat names an impossible kind of resource")
        if not 0 <= one.used <= _MOST or not (one.offered is None or 0 <= one.offered <= _MOST):
            raise Misuse("a heartbeat offers an impossible amount")
        if len(one.rule) > LONGEST_RULE or not one.rule.isprintable():
            raise Misuse(f"a rule has at most {LONGEST_RULE} printable letters")


def of_peer(told: Sequence[Offered], *, capacity: int, used: int) -> list[Offered]:
    """What a peer offers as the coordinator reckons with it."""
    rules = {one.kind: one.rule for one in told}
    disk = Offered(storage.KIND.name, storage.KIND.unit.value, capacity, used, rules.get(storage.KIND.name, ""))
    return [disk, *(one for one in told if one.kind != disk.kind)]


def is_over(told: Sequence[Offered], *, capacity: int, used: int) -> bool:
    """Whether a peer holds more than its owner said. Where that follows the free disk (`auto`), a full peer keeps what
    it holds: somebody who fills a disk for an hour must not set the pool in motion."""
    rule = next((one.rule for one in told if one.kind == storage.KIND.name), storage.AUTOMATIC)
    return used > capacity and rule != storage.AUTOMATIC


def pooled(peers: Mapping[PeerNumber, Sequence[Offered]], storage_free: Mapping[PeerNumber, int]) -> list[PooledOffer]:
    """Every kind that this version knows, over the peers that answer (`of_peer` of each)."""
    return [_pooled(kind, peers, storage_free) for kind in registry.kinds()]


def _pooled(
    kind: Kind, peers: Mapping[PeerNumber, Sequence[Offered]], storage_free: Mapping[PeerNumber, int]
) -> PooledOffer:
    found = {
        number: one for number, told in peers.items() for one in told if one.kind == kind.name and one.unit == kind.unit
    }
    limited = {number: one.offered for number, one in found.items() if one.offered is not None}
    free = {number: max(0, amount - found[number].used) for number, amount in limited.items()}
    if kind is storage.KIND:
        free = {number: storage_free.get(number, 0) for number in found}
    return PooledOffer(
        kind.name,
        kind.unit.value,
        kind.about,
        kind.is_on,
        offered=sum(limited.values()),
        used=sum(one.used for one in found.values()),
        free=sum(free.values()),
        peers=len(found),
        unlimited=len(found) - len(limited),
    )
