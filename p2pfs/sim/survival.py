"""The paper's churn for many periods, with the project's own repair: how long some data stays in the pool.

One run is one datum with so many copies, followed through its life (`history`) until it is lost or time is over.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from p2pfs.placement.groups import GROUPS
from p2pfs.sim import intervals
from p2pfs.sim.churn import HOUR_S, SETS, HourlyChurn, PaperSet
from p2pfs.sim.history import History, Rules
from p2pfs.types import GroupId

COPIES: Final = (2, 3, 5)
DELAYS_S: Final = (math.inf, 3600.0, 600.0, 60.0)
"""`inf`: no repair at all."""
MARKS: Final = (1, 6, 24, 168)
"""Periods after which survivors are counted, as far as the runs go."""
_SURVEY_S: Final = 60.0
"""Of an index with a million chunks."""
AT_A_TIME: Final = 20
"""Runs of one task."""


@dataclass(frozen=True, slots=True)
class Task:
    """Some of the runs of one set, number of copies and delay."""

    kind: PaperSet
    copies: int
    repair_delay_s: float
    first: int
    runs: int
    periods: int
    seed: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Of `runs` data, how many were still there after each mark: (periods, left, low, high), shares with 95 %."""

    kind: PaperSet
    copies: int
    repair_delay_s: float
    runs: int
    copied_per_period: float  # copies made of one datum while it was there
    marks: Sequence[tuple[int, int, float, float]]


def tasks(*, runs: int, periods: int, seed: int) -> list[Task]:
    """All that is to be run."""
    return [
        Task(kind, copies, delay_s, first, min(AT_A_TIME, runs - first), periods, seed)
        for kind in SETS
        for copies in COPIES
        for delay_s in DELAYS_S
        for first in range(0, runs, AT_A_TIME)
    ]


def run(task: Task) -> list[tuple[float, int]]:
    """Of each run: after how many periods it was lost (`inf`: it was not), and copies made."""
    return [_life(task, task.first + number) for number in range(task.runs)]


def _life(task: Task, number: int) -> tuple[float, int]:
    random = Random(f"{task.seed}/{task.kind.name}/{task.copies}/{task.repair_delay_s}/{number}")
    delay_s = task.repair_delay_s
    # Without repair nothing is ever copied: whatever is wanted waits for a survey that does not come.
    rules = Rules(task.copies, delay_s, survey_s=_SURVEY_S if delay_s < math.inf else math.inf)
    group, churn = GroupId(random.randrange(GROUPS)), HourlyChurn(task.kind, random)
    history = History(rules, group, task.kind.connected, churn, random)
    until_s = task.periods * HOUR_S
    while history.next_s < until_s and history.living:
        history.step()
    return (math.inf if history.living else history.now_s / HOUR_S), history.copied


def curves(found: Sequence[tuple[Task, list[tuple[float, int]]]]) -> Iterator[Curve]:
    """What the runs of all tasks show."""
    lives: dict[tuple[PaperSet, int, float], list[tuple[float, int]]] = {}
    periods = max(task.periods for task, _ in found)
    for task, ends in found:
        lives.setdefault((task.kind, task.copies, task.repair_delay_s), []).extend(ends)
    for (kind, copies, delay_s), ends in lives.items():
        lived = sum(min(periods, end) for end, _ in ends)
        yield Curve(
            kind, copies, delay_s, len(ends), sum(copied for _, copied in ends) / lived, list(_marks(ends, periods))
        )


def _marks(ends: Sequence[tuple[float, int]], periods: int) -> Iterator[tuple[int, int, float, float]]:
    for mark in sorted({periods, *(mark for mark in MARKS if mark < periods)}):
        left = sum(end > mark for end, _ in ends)
        yield (mark, left, *intervals.of_share(left, len(ends)))
