"""What is to be done about one chunk, given who holds it: copy it, check a copy, take one away, or nothing. Pure.

The rules, in this order (P5: copy, verify, commit the location, and only later delete):

1. Fewer than `wanted` copies on peers that stay → copy it to the best peers with room. A copy on a silent peer counts
   for a while (`is_expected`), so that machines which come and go cause no storm; not when one readable copy is left,
   unless the silence was announced (`is_away`), for a day at most.
2. A peer that holds a copy leaves → the others are audited, unless `wanted` were proved since they last appeared.
3. More than `wanted` readable copies → take the worst-placed one away, but only while `wanted` others were proved
   to exist since their peers last appeared; those that have not are audited first.
4. As many as wanted, but elsewhere than rendezvous hashing has them → copy it where it belongs; rule 3 does the rest.
5. As many as wanted, one of them on a peer that holds more than it offers → copy it to the best peer with room, where
   that brings no two copies to one owner; rule 3 does the rest.

Called by `p2pfs.coordinator.upkeep.care`, by plans and by simulations.
"""

import enum
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from p2pfs.placement.candidates import Candidate
from p2pfs.types import PeerNumber


class Urgency(enum.IntEnum):
    """Why a chunk is copied; lower is sooner."""

    REPAIR = 0  # copies are missing
    DRAIN = 1  # one is on a peer that is about to leave
    REBALANCE = 2  # all are there, but elsewhere than they belong


@dataclass(frozen=True, slots=True)
class Keeper:
    """A member peer as its copies are judged."""

    candidate: Candidate
    is_readable: bool  # its copies can be read now
    is_expected: bool  # silent, but not for long enough that its copies should be made again
    is_leaving: bool
    takes: bool  # it can be asked to take a copy, if it has room
    appearances: int  # a copy is proved while it was shown since the last of them
    is_away: bool = False  # silent as it said it would be
    is_over: bool = False  # it holds more than it offers

    @property
    def number(self) -> PeerNumber:
        return self.candidate.number


@dataclass(frozen=True, slots=True)
class Held:
    """A copy: where, and the keeper's `appearances` when it was last proved."""

    peer: PeerNumber
    proved: int


@dataclass(frozen=True, slots=True)
class Need:
    """What is to be done. Empty `targets`, `audit` and no `drop`: nothing can be, because of `stuck`."""

    urgency: Urgency
    copies: int  # readable now
    sources: tuple[PeerNumber, ...] = ()
    targets: tuple[PeerNumber, ...] = ()  # copy it to each of these
    audit: tuple[PeerNumber, ...] = ()  # these must show their copy before anything is taken away
    drop: PeerNumber | None = None  # take this copy away
    stuck: str = ""


Room = Callable[[PeerNumber], bool]
"""Whether a peer has room for another copy of the chunk."""


def need(
    held: Sequence[Held],
    *,
    keepers: Mapping[PeerNumber, Keeper],
    placed: Sequence[PeerNumber],
    wanted: int,
    room: Room,
    coming: Collection[PeerNumber] = (),
) -> Need | None:
    """What a chunk needs, or None.

    `placed`: all that stay, in the order of its group (rendezvous.order). `coming`: peers that are being sent a copy.
    """
    known = [copy for copy in held if copy.peer in keepers]
    readable = [copy for copy in known if keepers[copy.peer].is_readable]
    staying = [copy for copy in known if not keepers[copy.peer].is_leaving]
    is_last = len(readable) <= 1 < wanted
    safe = [copy.peer for copy in staying if _counts(keepers[copy.peer], is_last)]
    missing = wanted - len(safe) - len(coming)
    if missing > 0:
        taken = {copy.peer for copy in known} | set(coming)
        beside = [*safe, *(peer for peer in coming if peer in keepers)]
        return _copy(readable, beside, keepers, placed, taken=taken, missing=missing, wanted=wanted, room=room)
    if coming:
        return None
    present = [copy for copy in readable if not keepers[copy.peer].is_leaving]
    unproved = tuple(copy.peer for copy in present if copy.proved != keepers[copy.peer].appearances)
    if unproved and len(staying) < len(known) and len(present) - len(unproved) < wanted:
        return Need(Urgency.DRAIN, len(readable), audit=unproved)
    if len(present) > wanted:
        return _trim(present, keepers, placed, wanted)
    return _move(present, known, keepers, placed, wanted=wanted, room=room)


def _counts(keeper: Keeper, is_last: bool) -> bool:
    """Whether a copy there need not be made again, where at most one can be read (`is_last`) or more."""
    return keeper.is_readable or (keeper.is_expected and (keeper.is_away or not is_last))


def _copy(
    readable: Sequence[Held],
    beside: Sequence[PeerNumber],
    keepers: Mapping[PeerNumber, Keeper],
    placed: Sequence[PeerNumber],
    *,
    taken: Collection[PeerNumber],
    missing: int,
    wanted: int,
    room: Room,
) -> Need:
    urgency = Urgency.DRAIN if len(readable) >= wanted else Urgency.REPAIR
    if not readable:
        return Need(urgency, 0, stuck="no peer that holds a copy answers")
    # `beside` hold a copy or are being sent one: new ones go to other owners.
    able = [peer for peer in placed if peer not in taken and keepers[peer].takes]
    roomy = [peer for peer in able if room(peer)]
    targets = _spread(roomy, [keepers[peer].candidate for peer in beside], keepers, missing)
    stuck = "" if targets else "no other peer has room" if able else "there is no other peer that could hold a copy"
    return Need(urgency, len(readable), tuple(copy.peer for copy in readable), targets=tuple(targets), stuck=stuck)


def _trim(
    present: Sequence[Held], keepers: Mapping[PeerNumber, Keeper], placed: Sequence[PeerNumber], wanted: int
) -> Need:
    by_peer = {copy.peer: copy for copy in present}
    ranked = _ranked(by_peer, keepers, placed)
    kept, surplus = ranked[:wanted], ranked[wanted:]
    unproved = tuple(peer for peer in kept if by_peer[peer].proved != keepers[peer].appearances)
    return Need(Urgency.REBALANCE, len(present), audit=unproved, drop=None if unproved else surplus[-1])


def _move(
    present: Sequence[Held],
    known: Sequence[Held],
    keepers: Mapping[PeerNumber, Keeper],
    placed: Sequence[PeerNumber],
    *,
    wanted: int,
    room: Room,
) -> Need | None:
    if len(present) != wanted or len(known) != wanted:  # somebody is silent or leaves: nothing else is moved meanwhile
        return None
    holding = {copy.peer for copy in known}
    first = placed if any(keepers[peer].is_over for peer in holding) else placed[:wanted]
    belongs = [
        peer
        for peer in first
        if peer not in holding and keepers[peer].takes and not keepers[peer].is_over and room(peer)
    ]
    # Not where rule 3 would take it away again: with a full peer among the first, others may be the better ones.
    targets = tuple(peer for peer in belongs if peer in _ranked({*holding, peer}, keepers, placed)[:wanted])[:1]
    if not targets:
        return None
    return Need(Urgency.REBALANCE, len(present), tuple(copy.peer for copy in present), targets=targets)


def _ranked(
    holding: Collection[PeerNumber], keepers: Mapping[PeerNumber, Keeper], placed: Sequence[PeerNumber]
) -> list[PeerNumber]:
    """Holders, best-placed first; those that hold more than they offer come after all others of as many owners."""
    ranked = sorted((peer for peer in placed if peer in holding), key=lambda peer: keepers[peer].is_over)
    return _spread(ranked, [], keepers, len(holding))


def _spread(
    ranked: Sequence[PeerNumber],
    holding: Sequence[Candidate],
    keepers: Mapping[PeerNumber, Keeper],
    count: int,
) -> list[PeerNumber]:
    """The first `count` of `ranked`, owners and then zones that hold the fewest copies first."""
    owners = Counter(peer.owner for peer in holding)
    zones = Counter(peer.zone for peer in holding)
    left, chosen = list(ranked), list[PeerNumber]()
    while left and len(chosen) < count:
        best = min(left, key=lambda peer: _crowd(keepers[peer].candidate, owners, zones))  # the first among equals
        left.remove(best)
        owners[keepers[best].candidate.owner] += 1
        zones[keepers[best].candidate.zone] += 1
        chosen.append(best)
    return chosen


def _crowd(candidate: Candidate, owners: Mapping[str, int], zones: Mapping[str, int]) -> tuple[int, int]:
    return owners[candidate.owner], zones[candidate.zone]
