"""The whole pool under simulated time (promises P1, P3, P5, P6): a fixed set of seeds, and the bugs it must find."""

import itertools
import os
import signal
import time
from typing import Final

import pytest
import trio

from tests.simulation import run
from tests.simulation.planted import PLANTED
from tests.simulation.run import Result, explore, simulate
from tests.simulation.world import Violation

pytestmark = pytest.mark.l3

SEEDS: Final = int(os.environ.get("P2PFS_SIMULATION_SEEDS", "80"))
"""How many seeds are always tried: a quarter of a minute of two cores that have nothing else to do."""
SECONDS: Final = float(os.environ.get("P2PFS_SIMULATION_S", "0"))
"""How long others are tried after them; by command: `python -m tests.simulation.run --seeds 0-9999`."""
FIRST_SEED: Final = int(os.environ.get("P2PFS_SEED", "0"))
FOUND_BY: Final = {
    "no-fsync": 0,
    "applied-twice": 5,
    "epoch-ignored": 5,
    "fencing-ignored": 24,
    "early-location": 1,
    "early-delete": 2,
    "early-trash": 0,
    "racing-purge": 3,
}
"""The first seed that finds each planted bug; in full: `python -m tests.simulation.run --plant NAME --seeds 0-999`."""
SPARE: Final = 20
"""Seeds tried after that one: whatever changes the order of events changes what a seed does."""


def _told(result: Result) -> str:
    events = "\n".join(result.journal[-40:])
    return f"seed {result.seed} fails at step {result.steps}: {result.failure}\n{events}"


def test_a_seed_does_the_same_whatever_ran_before() -> None:
    alone, other, again = simulate(3), simulate(4), simulate(3)
    assert (alone.digest, alone.requests) == (again.digest, again.requests)
    assert alone.digest != other.digest


async def test_a_run_that_goes_round_in_circles_ends_by_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PATIENCE_S", 0.05)

    async def circle() -> None:
        async with run._in_time():
            while True:
                await trio.lowlevel.checkpoint()

    with pytest.raises(Violation, match="P8"):
        await circle()
    assert signal.getitimer(signal.ITIMER_PROF) == signal.getitimer(signal.ITIMER_REAL) == (0, 0)


async def test_a_run_may_take_long_on_a_machine_that_is_busy() -> None:
    async with run._in_time():
        own_s, clock_s = signal.getitimer(signal.ITIMER_PROF)[0], signal.getitimer(signal.ITIMER_REAL)[0]
    assert run.PATIENCE_S - 1 < own_s < run.PATIENCE_S + 1
    assert clock_s > 20 * run.PATIENCE_S


def test_random_seeds_keep_every_promise() -> None:
    ends = time.monotonic() + SECONDS
    count = acknowledged = refused = 0
    fixed = FIRST_SEED + SEEDS
    seeds = itertools.takewhile(
        lambda seed: seed < fixed or time.monotonic() < ends, itertools.count(FIRST_SEED)
    )  # drawn as there is room for them
    for result in explore(seeds, jobs=os.cpu_count() or 1):
        assert result.is_good, _told(result)
        count, acknowledged, refused = count + 1, acknowledged + result.acked, refused + result.refused
    assert acknowledged > 5 * count, "hardly anything was stored: this proves nothing"
    assert refused > count, "hardly anything went wrong: this proves nothing"


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_bug_is_found(plant: str) -> None:
    first = FOUND_BY[plant]
    found = next((result for result in explore(range(first, first + SPARE), plant=plant) if not result.is_good), None)
    assert found is not None
    assert found.failure.split(":")[0] in PLANTED[plant].breaks
