"""The whole pool under simulated time (promises P1, P3, P5, P6): as many seeds as fit, and the bugs it must find."""

import itertools
import os
import time

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.run import Result, explore, simulate

pytestmark = pytest.mark.l3

SECONDS = float(os.environ.get("P2PFS_SIMULATION_S", "100"))
"""How long random seeds are tried; by command: `python -m tests.simulation.run --seeds 0-9999`."""
FIRST_SEED = int(os.environ.get("P2PFS_SEED", "0"))
ONCE_BROKEN = (0, 12, 62, 75)
"""Seeds that found something: a clock asked for ever, a mount behind a coordinator that was away, a file moved under a
forgotten name."""


def _told(result: Result) -> str:
    events = "\n".join(result.journal[-40:])
    return f"seed {result.seed} fails at step {result.steps}: {result.failure}\n{events}"


@pytest.mark.parametrize("seed", ONCE_BROKEN)
def test_a_seed_that_once_broke_a_promise_keeps_all(seed: int) -> None:
    result = simulate(seed)
    assert result.is_good, _told(result)


def test_a_seed_does_the_same_whatever_ran_before() -> None:
    alone, other, again = simulate(3), simulate(4), simulate(3)
    assert (alone.digest, alone.requests) == (again.digest, again.requests)
    assert alone.digest != other.digest


def test_random_seeds_keep_every_promise() -> None:
    ends = time.monotonic() + SECONDS
    count = acknowledged = refused = 0
    for result in explore(itertools.count(FIRST_SEED), jobs=os.cpu_count() or 1, until=lambda: time.monotonic() > ends):
        assert result.is_good, _told(result)
        count, acknowledged, refused = count + 1, acknowledged + result.acked, refused + result.refused
    assert acknowledged > 5 * count, "hardly anything was stored: this proves nothing"
    assert refused > count, "hardly anything went wrong: this proves nothing"


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_bug_is_found(plant: str) -> None:
    found = next((result for result in explore(range(1000), plant=plant) if not result.is_good), None)
    assert found is not None
    assert found.failure.split(":")[0] in PLANTED[plant].breaks
