"""One chunk's life in a pool whose peers come and go, looked after by the project's own decisions.

The peers around it are ordered by `placement.rendezvous`, and at every event that concerns the chunk
`placement.care.need` is asked what is to be done, as the coordinator's care asks. What it wants copied is copied after
a wait (until a survey comes by, and in the target's queue) if it is still wanted then; what it wants audited has been
shown after `audit_s`. Nobody announces that they leave, room is never short, every peer is its owner's only one.

    LEAVE ─▶ silent ──down_s──▶ UNREADABLE ──repair_delay_s──▶ UNEXPECTED        of holders only
       │        └────── RETURN: its copies are to be proved anew
       └─ for good: a newcomer takes the slot at once; a holder is forgotten when UNEXPECTED

Peers without the chunk matter only as targets. Used by `survival` (the paper's churn) and `durability`.
"""

import enum
import heapq
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from p2pfs.placement import rendezvous
from p2pfs.placement.candidates import Candidate
from p2pfs.placement.care import Held, Keeper, Need, need
from p2pfs.placement.policy import capped
from p2pfs.types import GIB, GroupId, PeerNumber

FIRST: Final = 32
"""Of a longer order only so many are asked about, unless something is to be done; so does the coordinator."""
TRANSFER_S: Final = 1.0
"""What copying one chunk takes at least."""


class Event(enum.IntEnum):
    """What happens at a moment, to a slot or to a peer."""

    LEAVE = 0  # the peer in this slot falls silent
    RETURN = 1  # it is back
    PERIOD = 2  # of the churn; no slot
    UNREADABLE = 3  # this silent holder counts as down
    UNEXPECTED = 4  # this silent holder's copy counts no more
    COPY = 5  # the turn of a copy that waits for this peer has come
    SHOWN = 6  # this holder has shown its copy


@dataclass(frozen=True, slots=True)
class Rules:
    """The pool's settings, and how long its work takes: seconds."""

    copies: int
    repair_delay_s: float = 600.0
    down_s: float = 60.0
    survey_s: float = 0.0  # a survey of the whole index; one follows the other
    queue_s: float = 0.0  # what one lost peer held, pulled by all others
    audit_s: float = 60.0

    @property
    def patience_s(self) -> float:
        """Silence after which a copy is made again."""
        return self.down_s + self.repair_delay_s


class Churn(Protocol):
    """Who leaves when, and for how long."""

    def begin(self, history: "History") -> None:
        """Time begins: there is a peer in every slot, and it is up."""

    def arrived(self, history: "History", slot: int) -> None:
        """The peer in this slot is new, or back."""

    def absence_s(self) -> float | None:
        """For how long the one that leaves now is silent; None: for good, and another comes."""

    def period(self, history: "History") -> None:
        """A `PERIOD` that it asked for begins."""

    def again_s(self, event: Event) -> float | None:
        """In how many seconds what it announced happens, drawn anew as if from now on; None: as announced."""


class History:
    """A chunk, the peers it may meet, and what waits. It starts with a copy on each of the first peers of its order.

    `slots` has the peer that is in each. `living` copies are on peers that are up or will be back: at 0 the chunk is
    lost. `up` of them can be read now. `copied` counts copies made; `dark_s` adds up while none could be read.
    """

    def __init__(self, rules: Rules, group: GroupId, peers: int, churn: Churn, random: Random) -> None:
        self.rules, self.churn, self.random = rules, churn, random
        self.now_s = self.dark_s = 0.0
        self.copied = 0
        self.slots = [PeerNumber(number) for number in range(1, peers + 1)]
        self._newest = peers
        self._keepers = {number: _arrival(number) for number in self.slots}
        self._order = Order(group, [keeper.candidate for keeper in self._keepers.values()])
        self._wanted, _ = capped(rules.copies, 1, peers)
        self._held = dict.fromkeys(self._order.numbers[: self._wanted], 0)  # → appearances when it was last proved
        self.living = self.up = len(self._held)
        self._absent_s: dict[PeerNumber, float] = {}  # silent ones → since when
        self._gone: set[PeerNumber] = set()  # holders that will not be back, and are not forgotten yet
        self._waiting: dict[PeerNumber, float] = {}  # targets → when their turn comes
        self._is_stuck = False  # something is to be copied, and nobody takes it
        self._events: list[tuple[float, int, Event, int]] = []
        self._count = 0
        churn.begin(self)

    def clone(self) -> "History":
        """One whose peers come and go otherwise from here on; randomness is shared."""
        other = object.__new__(History)
        other.__dict__.update(self.__dict__)
        other.slots, other._order = self.slots.copy(), self._order.clone()
        other._keepers, other._held, other._absent_s = self._keepers.copy(), self._held.copy(), self._absent_s.copy()
        other._gone, other._waiting = self._gone.copy(), self._waiting.copy()
        other._events = [
            (self._again_s(time_s, event), count, event, subject) for time_s, count, event, subject in self._events
        ]
        heapq.heapify(other._events)
        return other

    def _again_s(self, time_s: float, event: Event) -> float:
        again_s = self.churn.again_s(event)
        return time_s if again_s is None else self.now_s + again_s

    # ---- time -------------------------------------------------------------------------------------------------------

    @property
    def next_s(self) -> float:
        """When something happens next."""
        return self._events[0][0]

    def at(self, time_s: float, event: Event, subject: int) -> None:
        """Let it happen then. `subject`: a slot, or a peer's number."""
        self._count += 1  # so that nothing else decides among equal times
        heapq.heappush(self._events, (time_s, self._count, event, subject))

    def step(self) -> None:
        """Let the next thing happen."""
        now_s, _, event, subject = heapq.heappop(self._events)
        if not self.up:
            self.dark_s += now_s - self.now_s
        self.now_s = now_s
        match event:
            case Event.LEAVE:
                self._leave(subject)
            case Event.RETURN:
                self._return(subject)
            case Event.PERIOD:
                self.churn.period(self)
            case Event.COPY:
                self._copy(PeerNumber(subject))
            case Event.SHOWN:
                self._show(PeerNumber(subject))
            case _:
                self._count_silence(PeerNumber(subject))

    # ---- peers ------------------------------------------------------------------------------------------------------

    def _leave(self, slot: int) -> None:
        number, absence_s = self.slots[slot], self.churn.absence_s()
        is_holder = number in self._held
        if is_holder:
            self.up -= 1
            self.at(self.now_s + self.rules.down_s, Event.UNREADABLE, number)
            self.at(self.now_s + self.rules.patience_s, Event.UNEXPECTED, number)
        if absence_s is not None or is_holder:
            self._absent_s[number] = self.now_s
            self._judge(number)
        if absence_s is not None:
            self.at(self.now_s + absence_s, Event.RETURN, slot)
        else:
            if is_holder:
                self.living -= 1
                self._gone.add(number)
            else:
                self._forget(number)
            self._newest += 1
            self.slots[slot] = PeerNumber(self._newest)
            self._join(slot)
        if number in self._waiting:
            self._look()

    def _join(self, slot: int) -> None:
        number = self.slots[slot]
        keeper = self._keepers[number] = _arrival(number)
        place = self._order.add(keeper.candidate)
        self.churn.arrived(self, slot)
        if place < self._wanted or self._is_stuck:
            self._look()

    def _return(self, slot: int) -> None:
        number = self.slots[slot]
        del self._absent_s[number]
        self._judge(number, appearances=self._keepers[number].appearances + 1)
        self.churn.arrived(self, slot)
        self.up += number in self._held
        if number in self._held or self._is_stuck or self._order.numbers.index(number) < self._wanted:
            self._look()

    def _count_silence(self, number: PeerNumber) -> None:
        since_s = self._absent_s.get(number)
        if since_s is None:
            return
        if number in self._gone and self._silence_s(number) >= self.rules.patience_s:
            self._forget(number)
        else:
            self._judge(number)
        self._look()

    def _forget(self, number: PeerNumber) -> None:
        """It is no member any more."""
        self._order.remove(self._keepers.pop(number).candidate)
        self._absent_s.pop(number, None)
        self._held.pop(number, None)
        self._gone.discard(number)

    def _silence_s(self, number: PeerNumber) -> float:
        return self.now_s - self._absent_s[number] + 1e-6  # it was waited for to the microsecond

    def _judge(self, number: PeerNumber, appearances: int | None = None) -> None:
        """Take over how the coordinator sees the peer by now; `coordinator.upkeep.keepers` has the same rules."""
        known = self._keepers[number]
        silence_s = self._silence_s(number) if number in self._absent_s else 0.0
        self._keepers[number] = Keeper(
            known.candidate,
            is_readable=silence_s < self.rules.down_s,
            is_expected=silence_s < self.rules.patience_s,
            is_leaving=False,
            takes=not silence_s,
            appearances=known.appearances if appearances is None else appearances,
        )

    # ---- the chunk --------------------------------------------------------------------------------------------------

    def _ask(self) -> Need | None:
        held = [Held(peer, proved) for peer, proved in self._held.items()]
        placed = self._order.numbers
        if len(placed) > FIRST:
            first = placed[:FIRST]
            if self._held.keys() <= set(first) and self._ask_by(held, first) is None:
                return None
        return self._ask_by(held, placed)

    def _ask_by(self, held: list[Held], placed: list[PeerNumber]) -> Need | None:
        return need(held, keepers=self._keepers, placed=placed, wanted=self._wanted, room=_has_room)

    def _look(self) -> None:
        """Ask what the chunk needs; let that wait, and nothing else."""
        found = self._ask()
        while found is not None and found.drop is not None:
            self._drop(found.drop)
            found = self._ask()
        targets = found.targets if found is not None else ()
        for peer in self._waiting.keys() - targets:
            del self._waiting[peer]
        for peer in targets:
            if peer not in self._waiting:
                self._waiting[peer] = self.now_s + self._wait_s()
                self.at(self._waiting[peer], Event.COPY, peer)
        for peer in found.audit if found is not None else ():
            self.at(self.now_s + self.rules.audit_s, Event.SHOWN, peer)
        self._is_stuck = found is not None and bool(found.stuck)

    def _wait_s(self) -> float:
        """From a decision to the copy: the survey and the queue may be anywhere."""
        draw = self.random.random
        return TRANSFER_S + draw() * self.rules.survey_s + draw() * self.rules.queue_s

    def _copy(self, target: PeerNumber) -> None:
        if self._waiting.get(target) != self.now_s:
            return  # it was not wanted any more
        del self._waiting[target]
        found = self._ask()
        if found is not None and target in found.targets and self.up:  # else those that seem readable are silent
            self._held[target] = self._keepers[target].appearances
            self.living += 1
            self.up += 1
            self.copied += 1
        self._look()

    def _show(self, number: PeerNumber) -> None:
        if number in self._held and number not in self._absent_s:
            self._held[number] = self._keepers[number].appearances
            self._look()

    def _drop(self, number: PeerNumber) -> None:
        del self._held[number]
        self.up -= number not in self._absent_s
        if number in self._gone:
            self._forget(number)
        else:
            self.living -= 1


class Order:
    """The peers in the order in which they are to hold a group, kept while they come and go.

    What `rendezvous.order` says of peers of which each has an owner of its own, without hashing all of them anew.
    """

    def __init__(self, group: GroupId, peers: Iterable[Candidate]) -> None:
        self._group = group
        self._ranks = sorted(map(self._rank, peers))
        self.numbers = [number for _, number in self._ranks]

    def clone(self) -> "Order":
        """One that can be changed by itself."""
        other = object.__new__(Order)
        other._group, other._ranks, other.numbers = self._group, self._ranks.copy(), self.numbers.copy()
        return other

    def add(self, peer: Candidate) -> int:
        """A peer joins; its place."""
        rank = self._rank(peer)
        place = bisect_left(self._ranks, rank)
        self._ranks.insert(place, rank)
        self.numbers.insert(place, peer.number)
        return place

    def remove(self, peer: Candidate) -> None:
        """A peer is gone."""
        place = bisect_left(self._ranks, self._rank(peer))
        del self._ranks[place], self.numbers[place]

    def _rank(self, peer: Candidate) -> tuple[float, PeerNumber]:
        return -rendezvous.score(peer, self._group), peer.number


def _arrival(number: PeerNumber) -> Keeper:
    candidate = Candidate(number, str(number), "", GIB)
    return Keeper(candidate, is_readable=True, is_expected=True, is_leaving=False, takes=True, appearances=0)


def _has_room(_peer: PeerNumber) -> bool:
    return True
