"""How many copies are wanted, and how well the pool is: facts → coded reasons → one word.

Pure rules for the coordinator's status answer and for writers. The codes are part of the status JSON, which is
documented in docs/commands.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.placement.candidates import MapLike
from p2pfs.types import Health, PeerState

NEARLY_FULL: Final = 0.9
"""Used share of the pool from which on status warns."""

_RANK: Final = {Health.HEALTHY: 0, Health.WARNING: 1, Health.ERROR: 2}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the pool is not simply healthy. `code` is stable, `message` is for a person."""

    code: str
    message: str
    level: Health


@dataclass(frozen=True, slots=True)
class Facts:
    """What the verdict depends on. Names are those of peers as people know them."""

    replicas: int  # as configured
    min_replicas: int
    up: Sequence[str] = ()
    suspect: Sequence[str] = ()
    down: Sequence[str] = ()
    capacity_bytes: int = 0  # of all member peers
    free_bytes: int = 0
    chunks: int = 0
    under_replicated: int = 0  # fewer live copies than wanted, but at least one
    lost: int = 0  # no live copy
    corrupt: int = 0  # damaged copies reported and not yet replaced


def copies_wanted(pool: MapLike) -> tuple[int, int]:
    """(replicas, min_replicas), capped by the number of members; peers that are down or away count as members."""
    members = sum(peer.state != PeerState.REVOKED for peer in pool.peers)
    return capped(pool.replicas, pool.min_replicas, members)


def capped(replicas: int, min_replicas: int, members: int) -> tuple[int, int]:
    """(replicas, min_replicas) of a pool with so many member peers; at least 1, so that an empty pool waits."""
    replicas = max(1, min(replicas, members))
    return replicas, max(1, min(min_replicas, replicas))


def reasons(facts: Facts) -> tuple[Reason, ...]:
    """Everything that is worth telling, worst first."""
    found = [*_of_chunks(facts), *_of_peers(facts), *_of_room(facts)]
    return tuple(sorted(found, key=lambda reason: -_RANK[reason.level]))


def health(found: Iterable[Reason]) -> Health:
    """The pool in one word: the worst of the reasons."""
    return max((reason.level for reason in found), key=_RANK.__getitem__, default=Health.HEALTHY)


def _of_chunks(facts: Facts) -> Iterable[Reason]:
    if facts.lost:
        yield Reason("chunks_lost", f"{facts.lost} chunks have no copy on a reachable peer", Health.ERROR)
    if facts.under_replicated:
        yield Reason(
            "chunks_under_replicated",
            f"{facts.under_replicated} of {facts.chunks} chunks have fewer copies than wanted",
            Health.WARNING,
        )
    if facts.corrupt:
        yield Reason("copies_corrupt", f"{facts.corrupt} damaged copies were found and set aside", Health.WARNING)


def _of_peers(facts: Facts) -> Iterable[Reason]:
    members = len(facts.up) + len(facts.suspect) + len(facts.down)
    reachable = members - len(facts.down)
    wanted, least = capped(facts.replicas, facts.min_replicas, members)
    if not members:
        yield Reason("no_peers", "the pool has no peers: invite one and start it", Health.ERROR)
    elif reachable < least:
        yield Reason(
            "too_few_peers_up",
            f"only {reachable} of {members} peers answer and every write needs {least}: writes wait",
            Health.ERROR,
        )
    if 0 < members < facts.replicas:
        yield Reason(
            "too_few_peers",
            f"{members} peers cannot hold {facts.replicas} copies: {wanted} are kept until more join",
            Health.WARNING,
        )
    if facts.down:
        yield Reason("peers_down", f"not heard from: {', '.join(facts.down)}", Health.WARNING)
    if facts.suspect:
        yield Reason("peers_suspect", f"late: {', '.join(facts.suspect)}", Health.WARNING)


def _of_room(facts: Facts) -> Iterable[Reason]:
    if not facts.capacity_bytes:
        return
    if facts.free_bytes <= 0:
        yield Reason("pool_full", "the pool is full: nothing more can be written", Health.ERROR)
    elif facts.free_bytes < (1 - NEARLY_FULL) * facts.capacity_bytes:
        share = 100 * (1 - facts.free_bytes / facts.capacity_bytes)
        yield Reason("pool_nearly_full", f"{share:.0f} % of the pool is used", Health.WARNING)
