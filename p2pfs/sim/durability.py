"""How likely a pool loses a chunk, with so many copies and such a repair delay: an estimate for rare events.

A chunk meets few peers: those that hold it, and the next in its order. As peers are alike and independent, its life
among the thirty it might meet has the same law in a pool of ten thousand; so each chunk of the sample is followed in a
neighbourhood of its own (`history`), and the estimates are of independent lives. The size of the pool and the number of
chunks say how long copies wait (`Pool.rules`).

Losses are too rare to be waited for, so lives that come near to one are split (RESTART, by Villén-Altamirano): each
time one more copy is missing, the life goes on in several retrials that count for a part each and end when the copy is
back. The expected loss is the same as without (`tests/unit/test_sim_durability.py` compares them).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from random import Random
from typing import Final

from p2pfs.placement.groups import GROUPS
from p2pfs.sim import intervals
from p2pfs.sim.churn import DAY_S, Rates, SteadyChurn
from p2pfs.sim.history import TRANSFER_S, History, Rules
from p2pfs.types import MIB, GroupId

SURVEY_S: Final = 60e-6
"""What the coordinator's survey takes for each chunk: a million a minute (`coordinator.upkeep.care`)."""
ENOUGH: Final = 10
"""Lives with a loss from which on their spread is trusted."""
MOST_LOAD: Final = 0.5
"""Share of what peers may copy in a second beyond which a pool does not keep up with its own repairs."""
BATCH: Final = 250
"""Chunks followed at a time: less than a second."""
_NOBODY: Final = 1e-9
"""How unlikely it is that nobody in a neighbourhood could take a copy."""
_MOST_RETRIALS: Final = 1000
_ENTRIES: Final = 2.0
"""Retrials begun at each level for a day of a chunk: about as dear as that day."""
_LEAVES: Final = 1.0
"""How often each peer leaves while a life is counted, on average."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What is asked about. `repair_rate`: bytes a second that a peer copies at most."""

    peers: int
    chunks: int
    rates: Rates
    down_s: float = 60.0
    repair_rate: float = 64.0 * MIB

    def rules(self, copies: int, repair_delay_s: float) -> Rules:
        """How such a pool looks after a chunk."""
        copies = min(copies, self.peers)
        lost_bytes = MIB * self.chunks * copies / self.peers
        return Rules(
            copies,
            repair_delay_s,
            down_s=self.down_s,
            survey_s=SURVEY_S * self.chunks,
            queue_s=lost_bytes / (self.repair_rate * max(1, self.peers - 1)),
        )

    def neighbours(self, copies: int) -> int:
        """How many peers a chunk may meet."""
        spare = math.ceil(math.log(_NOBODY) / math.log(max(_NOBODY, 1 - self.rates.up_share)))
        return min(self.peers, copies + max(4, spare))

    def load(self, copied_per_s: float) -> float:
        """Share of what peers may copy that so many copies of each chunk a second are."""
        return copied_per_s * self.chunks * MIB / (self.peers * self.repair_rate)


@dataclass(frozen=True, slots=True)
class Sums:
    """What the lives of some chunks add up to. `lost` of one life is the weight of its losses."""

    lives: int = 0
    hit: int = 0  # lives that came to a loss, or a retrial of theirs did
    lived_s: float = 0.0
    lost: float = 0.0
    lost_squared: float = 0.0
    lost_lived: float = 0.0
    lived_squared: float = 0.0
    copied: int = 0
    dark_s: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was found, with 95 % intervals (low, high)."""

    sums: Sums
    per_s: tuple[float, float, float]  # losses of a chunk a second: estimate, low, high

    def lost_within(self, period_s: float) -> tuple[float, float, float]:
        """The chance that a chunk is lost within so long: estimate, low, high."""
        low, middle, high = (-math.expm1(-rate * period_s) for rate in self.per_s)
        return low, middle, high

    @property
    def copied_per_s(self) -> float:
        """Copies made of each chunk."""
        return self.sums.copied / self.sums.lived_s

    @property
    def dark_share(self) -> float:
        """Share of the time in which no holder was up, though one would be back."""
        return self.sums.dark_s / self.sums.lived_s


def estimate(batches: Iterable[Sums]) -> Estimate:
    """What batches show together.

    Lives are independent, what happens in the retrials of one life is not. So the spread between lives says how many
    independent losses the weighted sum is worth, and Garwood's interval of that many is scaled. A spread that few lives
    show is not to be trusted: then the upper end counts each of them as a whole loss.
    """
    sums = sum(batches, Sums())
    if not sums.lived_s:
        return Estimate(sums, (0.0, 0.0, math.inf))
    rate = sums.lost / sums.lived_s
    if not sums.lost:
        return Estimate(sums, (0.0, 0.0, intervals.of_count(0)[1] / sums.lived_s))
    spread = sums.lost_squared - 2 * rate * sums.lost_lived + rate * rate * sums.lived_squared
    worth = sums.lost / max(spread, 1e-300)  # so much the loss of one life weighs, on average, to the minus one
    low, high = (end / worth / sums.lived_s for end in intervals.of_count(sums.lost * worth))
    if sums.hit < ENOUGH:
        high = max(high, intervals.of_count(sums.hit)[1] / sums.lived_s)
    return Estimate(sums, (rate, low, high))


def batch(pool: Pool, rules: Rules, lives: int, seed: str, *, splits: Sequence[int] | None = None) -> Sums:
    """Follow so many chunks. The same `seed` gives the same again. `splits`: retrials by copies that are missing;
    None: well chosen."""
    random = Random(seed)
    warm_s, until_s = times(pool, rules)
    splits = retrials(pool, rules) if splits is None else splits
    total = Sums()
    for _ in range(lives):
        group = GroupId(random.randrange(GROUPS))
        churn = SteadyChurn(pool.rates, random)
        history = History(rules, group, pool.neighbours(rules.copies), churn, random)
        total += _life(history, warm_s, until_s, splits)
    return total


def times(pool: Pool, rules: Rules) -> tuple[float, float]:
    """From when until when a life is counted: from when as many peers are silent as ever will be, for as long as a peer
    takes to leave and come back."""
    up_s, absence_s = DAY_S / pool.rates.leaves_per_day, pool.rates.absence_s
    copying_s = rules.patience_s + rules.survey_s + rules.queue_s
    warm_s = 3 / (1 / up_s + 1 / absence_s) + copying_s
    return warm_s, warm_s + max(_LEAVES * (up_s + pool.rates.returning * absence_s), 5 * copying_s)


def retrials(pool: Pool, rules: Rules) -> list[int]:
    """How many lives go on where so many copies are missing (index 0: none), so that each level is entered about as
    often as the one before. A bad choice costs time, and nothing else."""
    gone = pool.rates.gone_per_day
    if gone <= 0:
        return [1] * rules.copies
    found = [1, _bounded(_ENTRIES / (rules.copies * gone))]
    copying_s = TRANSFER_S + (rules.survey_s + rules.queue_s) / 2
    left = [living * gone * (rules.patience_s + copying_s) / DAY_S for living in range(rules.copies - 1, 1, -1)]
    return [*found, *(_bounded(1 / chance) for chance in left)][: rules.copies]


def _bounded(retrials_wanted: float) -> int:
    return max(1, min(_MOST_RETRIALS, round(retrials_wanted)))


def _life(history: History, warm_s: float, until_s: float, splits: Sequence[int]) -> Sums:
    while history.next_s < warm_s and history.living:
        history.step()
    if not history.living:
        return Sums(lives=1)
    copied, dark_s = history.copied, history.dark_s
    lost = _followed(history, until_s, splits)
    lived_s = (until_s if history.living else history.now_s) - warm_s
    return Sums(
        1,
        int(lost > 0),
        lived_s,
        lost,
        lost_squared=lost * lost,
        lost_lived=lost * lived_s,
        lived_squared=lived_s * lived_s,
        copied=history.copied - copied,
        dark_s=history.dark_s - dark_s,
    )


def _followed(first: History, until_s: float, splits: Sequence[int]) -> float:
    """The weight of the losses in this life and its retrials. `first` itself lives as without them."""
    lost, copies = 0.0, len(splits)
    trials = [(first, 0, 1.0)]
    while trials:
        history, born, weight = trials.pop()
        level = born
        while history.next_s < until_s:
            history.step()
            if not history.living:
                lost += weight
                break
            now = max(0, copies - history.living)
            if now < born:
                break
            while level < now:
                level += 1
                weight /= splits[level]
                trials += [(history.clone(), level, weight) for _ in range(splits[level] - 1)]
            while level > now:
                weight *= splits[level]
                level -= 1
    return lost
