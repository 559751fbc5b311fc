"""How a chunk's copies come about: all sent by the writer, or one of them, which the holders then pass on.

Pure rules for one chunk (`next_steps`) and for what `auto` means (`chosen`). Called by chunks.writing and
chunks.replicated; what they are told of the uplink comes from chunks.uplink.

    direct   the writer sends every copy, all at once
    relay    the writer sends one; everybody else takes the chunk from that first holder, all at once
    swarm    the writer sends one; then each holder gives it to one peer at a time, so that holders double at each step
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from p2pfs.types import CHUNK_BYTES, MOST_SOURCES, Distribution, PeerNumber

SLOW_S: Final = 0.2
"""When the copies beyond the first keep the uplink so long for each chunk, peers pass it on from then on."""
QUICK_S: Final = 0.1
"""And when they would keep it less than this, no more."""


def chosen(now: Distribution, uplink_bytes_per_s: float | None, copies: int) -> Distribution:
    """What `auto` means, given what it meant until `now`. Without a measured uplink that stays as it is. It costs one
    more request between peers for each copy, and their time, so it must save the writer something."""
    if copies < 2:
        return Distribution.DIRECT
    if uplink_bytes_per_s is None:
        return now
    saved_s = (copies - 1) * CHUNK_BYTES / max(uplink_bytes_per_s, 1.0)
    if saved_s >= SLOW_S:
        return Distribution.SWARM
    return Distribution.DIRECT if saved_s < QUICK_S else now


@dataclass(frozen=True, slots=True)
class Step:
    """One more copy: `target` is sent the chunk, or told to take it from the first of `sources` that gives it."""

    target: PeerNumber
    sources: tuple[PeerNumber, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one chunk has come."""

    holders: Sequence[PeerNumber]  # whose receipts are there, in that order
    under_way: Iterable[Step] = ()  # without those that are overdue
    stuck: Collection[PeerNumber] = ()  # sources of steps that are overdue
    unserved: Mapping[PeerNumber, Collection[PeerNumber]] = field(default_factory=dict)
    """By target: sources that gave it nothing."""
    doubtful: Collection[PeerNumber] = ()  # holders that lately gave others nothing


def next_steps(how: Distribution, targets: Sequence[PeerNumber], progress: Progress) -> list[Step]:
    """What to begin now, so that `targets`, best first, get a copy. Whoever is left out waits for what is under way;
    if nothing is, nobody is left out."""
    if how is Distribution.DIRECT or not targets:
        return [Step(target) for target in targets]
    under_way = list(progress.under_way)
    is_sending = any(not step.sources for step in under_way)
    if not progress.holders:
        if is_sending:
            return []
        return [Step(next((target for target in targets if target not in progress.doubtful), targets[0]))]
    busy = {step.sources[0] for step in under_way if step.sources}
    steps = []
    for target in targets:
        able = _able(target, progress)
        idle = able if how is Distribution.RELAY else [source for source in able if source not in busy]
        if not able and not is_sending:  # nobody gives it to this one: the writer does, to one at a time
            is_sending = True
            steps.append(Step(target))
        elif idle:
            busy.add(idle[0])
            others = [] if how is Distribution.RELAY else [source for source in able if source != idle[0]]
            steps.append(Step(target, (idle[0], *others)[:MOST_SOURCES]))
    return steps


def _able(target: PeerNumber, progress: Progress) -> list[PeerNumber]:
    """Who may give the chunk to `target`, the doubtful ones last."""
    failed = progress.unserved.get(target, ())
    able = [source for source in progress.holders if source not in progress.stuck and source not in failed]
    return sorted(able, key=lambda source: source in progress.doubtful)
