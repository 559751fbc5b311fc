"""A week without a coordinator under simulated time: a few seeds, and the bugs it must find. Hundreds by command:
`python -m tests.simulation.absence --seeds 0-219`.
"""

from functools import cache

import pytest

from tests.simulation.absence import Outcome, explore, simulate
from tests.simulation.absence_planted import PLANTED

pytestmark = pytest.mark.l3

SEEDS = range(4)


@cache
def week(seed: int) -> Outcome:
    """Some seconds of a core; a test each, so that none is long where others are at work too."""
    return simulate(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_or_deleted_and_the_coordinator_comes_to_the_wanted_copies(seed: int) -> None:
    outcome = week(seed)
    assert outcome.is_good, "\n".join([f"seed {outcome.seed}: {outcome.failure}", *outcome.journal[-40:]])


def test_these_weeks_prove_something() -> None:
    weeks = [week(seed) for seed in SEEDS]
    assert sum(one.died for one in weeks) >= len(SEEDS), "hardly a disk died"
    assert sum(one.copied for one in weeks) > 5 * len(SEEDS), "hardly a copy was made"
    assert sum(one.surplus for one in weeks) > 0, "there was nothing to trim"


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_bug_is_found(plant: str) -> None:
    found = next((outcome for outcome in explore(range(4), plant=plant) if not outcome.is_good), None)
    assert found is not None
    assert found.failure.split(":")[0] in ("short", "P5", "P1")
