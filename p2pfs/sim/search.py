"""How many copies, and which repair delay: the fewest copies that reach a target, and of their delays the longest.

All are looked at with a small sample until enough losses were seen; those that may reach the target are then followed
until it is clear that they do not, or through the whole sample. One whose interval reaches beyond the target is no
answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.sim.durability import BATCH, ENOUGH, MOST_LOAD, Estimate, Pool, Sums, batch, estimate
from p2pfs.sim.history import Rules
from p2pfs.sim.parallel import Workers

FIRST_LOOK: Final = 3000
"""Lives at most in a first look."""
_FIRST_ROUND: Final = 4
_ROUND: Final = 16
"""Batches followed before it is asked whether that is enough, which must not depend on how many processes there are."""

Tell = Callable[[int, float, int, int], None]
"""Told copies, repair delay, lives followed, and lives at most, now and then."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One number of copies and one delay, and what they lead to. `lost`: (estimate, low, high) within the period."""

    copies: int
    repair_delay_s: float
    lives: int
    hit: int
    lost: tuple[float, float, float]
    dark_share: float
    copied_per_s: float
    load: float
    verdict: str  # see `verdict`


@dataclass(frozen=True, slots=True)
class Question:
    """`most_lost`: the chance of losing a chunk within `period_s` that is accepted."""

    pool: Pool
    most_lost: float
    period_s: float
    copies: Sequence[int]
    delays_s: Sequence[float]
    sample: int
    seed: int


@dataclass(frozen=True, slots=True)
class Findings:
    """All that were looked at, by copies and then delay; the answer is one of them."""

    choices: Sequence[Choice]
    answer: Choice | None


def search(question: Question, workers: Workers, tell: Tell) -> Findings:
    """Look for the answer. Stops at the first number of copies that has one."""
    asked = _Search(question, workers, tell)
    choices: dict[tuple[int, float], Choice] = {}
    for copies in sorted(question.copies):
        for delay_s in sorted(question.delays_s):
            choices[copies, delay_s] = asked.look(copies, delay_s)
        for delay_s in sorted(question.delays_s, reverse=True):
            if choices[copies, delay_s].verdict in ("reached", "unsure"):
                choice = choices[copies, delay_s] = asked.look(copies, delay_s, is_first=False)
                if choice.verdict == "reached":
                    return Findings(tuple(choices.values()), choice)
    return Findings(tuple(choices.values()), None)


class _Search:
    def __init__(self, question: Question, workers: Workers, tell: Tell) -> None:
        self._question, self._workers, self._tell = question, workers, tell
        self._known: dict[tuple[int, float], tuple[int, Sums]] = {}  # batches followed, what they add up to

    def look(self, copies: int, delay_s: float, *, is_first: bool = True) -> Choice:
        """Follow more lives: at first until some had a loss, then until it is clear that too many have, or to the end
        of the sample."""
        rules = self._question.pool.rules(copies, delay_s)
        done, sums = self._known.get((copies, delay_s), (0, Sums()))
        most = min(FIRST_LOOK, self._question.sample) if is_first else self._question.sample
        last = -(-most // BATCH)
        while done < last and not self._is_enough(sums, is_first=is_first):
            several = range(done, min(last, done + (_FIRST_ROUND if is_first else _ROUND)))
            asked = [(self._question, rules, index) for index in several]
            for one in self._workers.map(_run, asked):
                sums += one
                done += 1
                self._tell(copies, delay_s, sums.lives, most)
        self._known[copies, delay_s] = done, sums
        return self._judged(copies, delay_s, estimate([sums]))

    def _is_enough(self, sums: Sums, *, is_first: bool) -> bool:
        if sums.hit < ENOUGH:
            return False
        return is_first or estimate([sums]).lost_within(self._question.period_s)[1] > self._question.most_lost

    def _judged(self, copies: int, delay_s: float, found: Estimate) -> Choice:
        lost, load = found.lost_within(self._question.period_s), self._question.pool.load(found.copied_per_s)
        return Choice(
            copies,
            delay_s,
            found.sums.lives,
            found.sums.hit,
            lost,
            found.dark_share,
            found.copied_per_s,
            load,
            verdict(lost, load, self._question.most_lost),
        )


def verdict(lost: tuple[float, float, float], load: float, most_lost: float) -> str:
    """`busy`: the pool does not keep up; `missed`, `reached`: the whole interval is; `unsure`: only part of it."""
    _, low, high = lost
    if load > MOST_LOAD:
        return "busy"
    if low > most_lost:
        return "missed"
    return "reached" if high <= most_lost else "unsure"


def _run(asked: tuple[Question, Rules, int]) -> Sums:
    question, rules, index = asked
    lives = min(BATCH, question.sample - index * BATCH) if question.sample < BATCH else BATCH
    seed = f"{question.seed}/{rules.copies}/{rules.repair_delay_s}/{index}"
    return batch(question.pool, rules, lives, seed)
