"""A week without a coordinator under simulated time: a few seeds, and the bugs it must find. Hundreds by command:
`python -m tests.simulation.absence --seeds 0-219`.
"""

import pytest

from tests.simulation.absence import explore
from tests.simulation.absence_planted import PLANTED

pytestmark = pytest.mark.l3

SEEDS = range(4)


def test_nothing_is_lost_or_deleted_and_the_coordinator_comes_to_the_wanted_copies() -> None:
    copied = died = surplus = 0
    for outcome in explore(SEEDS):
        assert outcome.is_good, "\n".join([f"seed {outcome.seed}: {outcome.failure}", *outcome.journal[-40:]])
        copied, died, surplus = copied + outcome.copied, died + outcome.died, surplus + outcome.surplus
    assert died >= len(SEEDS), "hardly a disk died: this proves nothing"
    assert copied > 5 * len(SEEDS), "hardly a copy was made: this proves nothing"
    assert surplus > 0, "there was nothing to trim: this proves less"


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_bug_is_found(plant: str) -> None:
    found = next((outcome for outcome in explore(range(4), plant=plant) if not outcome.is_good), None)
    assert found is not None
    assert found.failure.split(":")[0] in ("short", "P5", "P1")
