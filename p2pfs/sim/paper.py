"""The second paper's experiment, one period: of N nodes that hold some data, how many still do an hour later.

Its three sets (`churn.SETS`) on nodes that the project's own placement chooses, the best and the worst of a hundred
runs beside the exact distribution, and both beside what was published.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from p2pfs.placement import rendezvous
from p2pfs.placement.candidates import Candidate
from p2pfs.placement.groups import GROUPS
from p2pfs.sim.churn import PaperSet
from p2pfs.types import GIB, GroupId, PeerNumber


@dataclass(frozen=True, slots=True)
class Published:
    """From `nodes` on, more than `share` of them still held the data, in the worst of the runs."""

    nodes: int
    share: float


PUBLISHED: Final = {"set 1": Published(14, 0.25), "set 2": Published(25, 0.25), "set 3": Published(86, 0.50)}
FEW: Final = 100
"""Peers up to which every N is tried."""
STEP: Final = 85
"""From one N to the next among more."""


@dataclass(frozen=True, slots=True)
class Point:
    """Of `nodes` with the data so many were left: in the best run, the worst, and on average; `expected` is exact."""

    nodes: int
    best: int
    worst: int
    mean: float
    expected: float

    @property
    def worst_share(self) -> float:
        return self.worst / self.nodes


def sizes(kind: PaperSet) -> Sequence[int]:
    """Every N of a set."""
    return range(1, kind.connected + 1) if kind.connected <= FEW else range(1, 2997, STEP)


def run(kind: PaperSet, *, runs: int, seed: int) -> list[Point]:
    """All points of a set. Each run has the data in a group of its own, placed as the project places it."""
    random = Random(f"{seed}/{kind.name}")
    placed = _placed(kind, runs, random)
    return [_point(kind, nodes, [_left(kind, order[:nodes], random) for order in orders]) for nodes, orders in placed]


def _placed(kind: PaperSet, runs: int, random: Random) -> Iterator[tuple[int, list[Sequence[PeerNumber]]]]:
    """Each N with the order of the peers in each of its runs.

    Where all that may leave do, as in set 2, the placement alone decides, so every N has groups of its own. Among
    thousands of peers the same ones serve every N: there those that leave decide, and hashing all peers takes its time.
    """
    peers = [Candidate(PeerNumber(slot), str(slot), "", GIB) for slot in range(kind.connected)]
    orders: list[Sequence[PeerNumber]] = []
    for nodes in sizes(kind):
        if not orders or kind.connected <= FEW:
            orders = [rendezvous.order(peers, GroupId(random.randrange(GROUPS))) for _ in range(runs)]
        yield nodes, orders


def _left(kind: PaperSet, holders: Sequence[PeerNumber], random: Random) -> int:
    return len(set(holders).difference(kind.departures(random)))


def _point(kind: PaperSet, nodes: int, left: Sequence[int]) -> Point:
    return Point(nodes, max(left), min(left), sum(left) / len(left), nodes * kind.staying)


# ---- exactly --------------------------------------------------------------------------------------------------------


def distribution(kind: PaperSet, nodes: int) -> list[float]:
    """The chance that 0, 1, … `nodes` of them still hold the data after one period.

    Distinct leavers are a random set, and so are the holders: hypergeometric. Drawn anew each time, every draw hits one
    more of the holders that are left with the chance of their share.
    """
    if kind.is_drawn_anew:
        return _drawn_anew(kind, nodes)
    stay, leave = kind.connected - kind.leavers, kind.leavers
    ways = _log_ways(kind.connected, nodes)
    return [
        math.exp(_log_ways(stay, left) + _log_ways(leave, nodes - left) - ways)
        if left <= stay and nodes - left <= leave
        else 0.0
        for left in range(nodes + 1)
    ]


def _log_ways(all_of_them: int, some: int) -> float:
    return math.lgamma(all_of_them + 1) - math.lgamma(some + 1) - math.lgamma(all_of_them - some + 1)


def _drawn_anew(kind: PaperSet, nodes: int) -> list[float]:
    chances = [0.0] * nodes + [1.0]
    able = kind.connected - kind.persistent
    for _ in range(kind.leavers):
        chances = [
            chance * (1 - left / able) + (chances[left + 1] * (left + 1) / able if left < nodes else 0.0)
            for left, chance in enumerate(chances)
        ]
    return chances


def chance_above(kind: PaperSet, nodes: int, share: float, runs: int) -> float:
    """The chance that more than `share` of the nodes are left in every one of the runs."""
    most = math.floor(share * nodes + 1e-9)
    return (1 - min(1.0, sum(distribution(kind, nodes)[: most + 1]))) ** runs


def guaranteed(kind: PaperSet) -> int:
    """The N from which on something is left for certain: more than can leave."""
    return kind.leavers + 1


# ---- compared -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """A published point beside ours. Sizes are N; None where no size was large enough."""

    published: Published
    worst_share: float  # ours at that N
    chance: float  # of every run staying above the share at that N, exactly
    ours_from: int | None  # from which on every run stayed above it, at every larger N too
    likely_from: int | None  # from which on the exact chance of that at one N is a half or more
    kept_from: int | None  # from which on something was left in every run
    kept_likely_from: int | None
    guaranteed_from: int


def compare(kind: PaperSet, points: Sequence[Point], runs: int) -> Comparison:
    """How the published point of a set stands beside these."""
    published = PUBLISHED[kind.name]
    at = next(point for point in points if point.nodes == published.nodes)
    return Comparison(
        published,
        at.worst_share,
        chance_above(kind, at.nodes, published.share, runs),
        ours_from=_from(points, lambda point: point.worst_share > published.share),
        likely_from=_from(points, lambda point: chance_above(kind, point.nodes, published.share, runs) >= 0.5),
        kept_from=_from(points, lambda point: point.worst > 0),
        kept_likely_from=_from(points, lambda point: chance_above(kind, point.nodes, 0.0, runs) >= 0.5),
        guaranteed_from=guaranteed(kind),
    )


def _from(points: Sequence[Point], holds: Callable[[Point], bool]) -> int | None:
    """The first N from which on it holds at every point."""
    found = None
    for point in reversed(points):
        if not holds(point):
            break
        found = point.nodes
    return found


def sentences(kind: PaperSet, found: Comparison, runs: int) -> Iterator[str]:
    """How ours differ from what was published, and why, for a person."""
    published = found.published
    share, worst = f"{100 * published.share:.0f} %", f"{100 * found.worst_share:.1f} %"
    here = f"{kind.name}, N = {published.nodes}"
    if found.worst_share > published.share:
        yield f"{here}: published more than {share}; ours {worst} in the worst of {runs} runs"
    else:
        yield (
            f"{here}: published more than {share}; ours {worst} in the worst of {runs} runs,"
            f" {100 * (published.share - found.worst_share):.1f} points below"
        )
    yield (
        f"exactly: all of {runs} runs stay above {share} at N = {published.nodes} with a chance of"
        f" {_percent(found.chance)}; from N = {_shown(found.likely_from)} on that is likelier than not"
        f" (ours: from N = {_shown(found.ours_from)} on)"
    )
    yield (
        f"something was left in every run from N = {_shown(found.kept_from)} on (likelier than not: from"
        f" {_shown(found.kept_likely_from)}); it is certain from N = {found.guaranteed_from} on, as no more than"
        f" {kind.leavers} leave"
    )


def _shown(nodes: int | None) -> str:
    return "none" if nodes is None else str(nodes)


def _percent(chance: float) -> str:
    if 0 < chance < 0.001 or 0.999 < chance < 1:
        return "under 0.1 %" if chance < 0.5 else "over 99.9 %"
    return f"{100 * chance:.1f} %"
