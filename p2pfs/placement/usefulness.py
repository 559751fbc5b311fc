"""How useful a node or an owner is to the others, and what it may ask of them for that. Pure.

The coefficient is that of the UDD paper:

    fair_coef_usf = (u_usual + δds·d_special) / (d_usual + δus·u_special)

with the bytes of the last WINDOWS days, each day's counting half as much as those of HALF_LIFE_DAYS later. What `fair`
makes of it is `allowance`: what an owner gives, it may take. Called by `p2pfs.coordinator.usefulness` and by the
command that explains it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from p2pfs.types import MIB

WINDOWS: Final = 30
"""Days that count, today included."""
HALF_LIFE_DAYS: Final = 7.0
LITTLE: Final = 16 * MIB
"""Of each copy: with less left, a writer is about to be refused."""
NORMAL_FROM: Final = 0.5
"""The coefficient below which an owner's data is copied last."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Bytes of one node or owner; of others only, never among one owner's nodes."""

    u_usual: float = 0.0  # served for others' reads
    d_usual: float = 0.0  # fetched for its own
    d_special: float = 0.0  # taken in to store for others
    u_special: float = 0.0  # its own, placed on others

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.u_usual + other.u_usual,
            self.d_usual + other.d_usual,
            self.d_special + other.d_special,
            self.u_special + other.u_special,
        )

    def times(self, factor: float) -> "Counts":
        """Each of them so many times."""
        return Counts(self.u_usual * factor, self.d_usual * factor, self.d_special * factor, self.u_special * factor)


NOTHING: Final = Counts()


@dataclass(frozen=True, slots=True)
class Weights:
    """δds and δus, both more than 0: what is stored counts so much more (or less) than what is read."""

    ds: float = 1.0
    us: float = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What `fair` goes by: the pool's copies, and what everybody may place whatever it gives."""

    replicas: int
    min_replicas: int
    grant: int  # bytes, of all copies on others
    weights: Weights = Weights()


@dataclass(frozen=True, slots=True)
class Stock:
    """Bytes of copies as they lie now, until they are purged."""

    placed: int = 0  # the owner's on others' peers
    held: int = 0  # others' on the owner's peers
    own: int = 0  # the owner's on its own peers

    def __add__(self, other: "Stock") -> "Stock":
        return Stock(self.placed + other.placed, self.held + other.held, self.own + other.own)

    def burden(self, others_share: float) -> int:
        """Bytes on others' peers, or bound for them: `others_share` of all copies belongs there at least, and comes to
        lie there sooner or later, wherever the owner said that it put them."""
        return max(self.placed, int((self.placed + self.own) * others_share))


@dataclass(frozen=True, slots=True)
class Allowance:
    """What an owner gets. It bounds growth alone: nothing that is there is ever taken away for it."""

    copies: int  # of each chunk written from now on
    bytes: int  # of copies on others' peers, in all
    priority: int  # of its chunks among equally urgent copies: 0 first, 2 last


def total(counts: Iterable[Counts]) -> Counts:
    """The sum: an owner's is that of its nodes."""
    return sum(counts, NOTHING)


def decayed(windows: Mapping[int, Counts], today: int) -> Counts:
    """What the windows (day → bytes) come to today. Days to come, of a clock that was wrong, count as today's."""
    return total(counts.times(weight_of(today - day)) for day, counts in windows.items() if today - day < WINDOWS)


def weight_of(age_days: int) -> float:
    """How much a window counts that is so old."""
    return float(0.5 ** (max(0, age_days) / HALF_LIFE_DAYS))


def given(counts: Counts, weights: Weights) -> float:
    """Above the line."""
    return counts.u_usual + weights.ds * counts.d_special


def taken(counts: Counts, weights: Weights) -> float:
    """Below the line."""
    return counts.d_usual + weights.us * counts.u_special


def coefficient(counts: Counts, weights: Weights) -> float:
    """fair_coef_usf: 0/0 = 1, x/0 = ∞."""
    above, below = given(counts, weights), taken(counts, weights)
    if below:
        return above / below
    return math.inf if above else 1.0


def headroom(counts: Counts, weights: Weights) -> int:
    """Bytes of its own that can be placed on others before the coefficient falls below 1."""
    return max(0, int((given(counts, weights) - taken(counts, weights)) / weights.us))


def allowance(counts: Counts, stock: Stock, terms: Terms) -> Allowance:
    """What `fair` gives to an owner of these counts, as today.

    *bytes:* its grant and as much as it holds for others, in any case; and what is placed already with as much more as
    brings the coefficient down to 1. So a coefficient of 1 or ∞ is no licence without end: a newcomer, 0/0, has its
    grant. *copies:* the pool's from 1 on, below it in proportion, never fewer than min_replicas. *priority:* by halves.
    """
    value = coefficient(counts, terms.weights)
    extra = terms.replicas - terms.min_replicas
    return Allowance(
        copies=terms.replicas if value >= 1 else terms.min_replicas + int(extra * value),
        bytes=max(terms.grant + stock.held, stock.placed + headroom(counts, terms.weights)),
        priority=0 if value >= 1 else 1 if value >= NORMAL_FROM else 2,
    )


@dataclass(frozen=True, slots=True)
class Hint:
    """One thing that would raise the coefficient or the allowance; `bytes` of it are enough, where that is known."""

    code: str  # "offer_peer" | "store" | "serve" | "hold" | "remove"
    bytes: int = 0


def hints(counts: Counts, stock: Stock, terms: Terms, *, has_peer: bool, others_share: float = 0.0) -> list[Hint]:
    """What would raise a coefficient below 1, and make room where the allowance is (nearly) used up. Empty: nothing
    needs to."""
    found: list[Hint] = []
    lacking = taken(counts, terms.weights) - given(counts, terms.weights)
    if lacking > 0:
        if not has_peer:
            found.append(Hint("offer_peer"))
        found.append(Hint("store", math.ceil(lacking / terms.weights.ds)))
        found.append(Hint("serve", math.ceil(lacking)))
    burden, little = stock.burden(others_share), LITTLE * terms.replicas
    if allowance(counts, stock, terms).bytes - burden < little:
        if not has_peer and not found:
            found.append(Hint("offer_peer"))
        over = burden + little - terms.grant - stock.held
        found.append(Hint("hold", over))
        if removable := min(over, stock.placed):
            found.append(Hint("remove", removable))
    return found
