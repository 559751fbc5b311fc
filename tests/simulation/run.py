"""`python -m tests.simulation.run --seeds 0-9999 [--jobs 2] [--plant NAME]`: runs seeds, tells how fast time passes
and for each failure its seed, step and last events. One again, with all it does: `--seeds 17 --verbose`.
"""

import argparse
import gc
import itertools
import math
import multiprocessing
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.pool import AsyncResult
from pathlib import Path

import trio

from . import invariants
from .determinism import Bugs, PoolTime, controlled
from .faults import Faults
from .load import Load
from .pool import TIDY_S, SimPool
from .world import Violation, World

STEPS = 60
PATIENCE_S = 60
"""Of this process's own time: a machine where others are at work too takes a multiple of it."""
HANGS_S = 1800
"""By the machine's clock: what waits for nothing takes no time of the process."""
WEEK_S = 7 * 86400.0


@dataclass
class Result:
    """What became of one seed."""

    seed: int
    steps: int = 0
    failure: str = ""
    journal: list[str] = field(default_factory=list)
    simulated_s: float = 0.0
    operations: int = 0
    refused: int = 0
    digest: int = 0
    acked: int = 0
    requests: int = 0

    @property
    def is_good(self) -> bool:
        return not self.failure


def simulate(seed: int, *, steps: int = STEPS, verbose: bool = False) -> Result:
    """Run one seed to its end or its first violation."""
    result = Result(seed)
    shared = Path("/dev/shm")
    memory = tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None, prefix="p2pfs-simulation-")
    with memory as directory, controlled(seed, verbose=verbose) as bugs:
        pool = SimPool(seed, Path(directory), peers=4 + seed % 3, mounts=2)
        world = World(seed, pool, verbose=verbose)
        try:
            trio.run(_main, world, bugs, steps, result, clock=PoolTime())
        except BaseException as error:
            result.failure = _first(error)
        finally:
            pool.database.close()
        result.steps, result.digest, result.journal = world.step, world.digest, list(world.journal)
        result.requests = pool.network.requests
    return result


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, Violation):
        return str(error)
    import traceback

    return "".join(traceback.format_exception(error))


async def _main(world: World, bugs: Bugs, steps: int, result: Result) -> None:
    load = Load(world)
    try:
        async with _in_time(), trio.open_nursery() as nursery:
            faults = Faults(world, nursery)
            await faults.start_all()
            await trio.sleep(2)
            for world.step in range(1, steps + 1):
                await _step(world, load, faults)
                invariants.check(world, load, bugs)
            await _end(world, load, faults, bugs)
            nursery.cancel_scope.cancel()
    finally:
        result.simulated_s = trio.current_time()
        result.operations, result.refused = load.operations, load.refused
        result.acked = sum(file.acked > 0 for file in load.files)


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """End a run that goes round in circles, or stands still."""
    token = trio.lowlevel.current_trio_token()
    limits = {signal.ITIMER_PROF: (signal.SIGPROF, PATIENCE_S), signal.ITIMER_REAL: (signal.SIGALRM, HANGS_S)}
    with trio.CancelScope() as scope:
        for timer, (number, limit_s) in limits.items():
            signal.signal(number, lambda *_: token.run_sync_soon(scope.cancel))
            signal.setitimer(timer, limit_s)
        try:
            yield
        finally:
            for timer in limits:
                signal.setitimer(timer, 0)
    if scope.cancelled_caught:
        raise Violation(
            f"P8: this seed does not end within {PATIENCE_S} s of a core; the pool's clock says {trio.current_time():g}"
        )


async def _step(world: World, load: Load, faults: Faults) -> None:
    chance = world.chance
    for _ in range(chance.choice((1, 2, 2, 3, 4))):
        load.start()
    if chance.random() < 0.5:
        await faults.strike()
    if chance.random() < 0.01:
        await faults.oversleep()
    if chance.random() < 0.06:
        await faults.usurp(load.stamp)
    pause_s = _pause(chance.random(), chance.random())
    if pause_s > 300 and chance.random() < 0.6:
        faults.relieve()  # long hours of trouble are long hours of trying again
    await trio.sleep(pause_s)


def _pause(kind: float, share: float) -> float:
    """Seconds from one step to the next: mostly a few, sometimes hours."""
    if kind < 0.6:
        return 0.02 + 5 * share**2
    return 5 + 115 * share if kind < 0.95 else 120 + 3480 * share**2


async def _end(world: World, load: Load, faults: Faults, bugs: Bugs) -> None:
    """All is well again: everything acknowledged can be read by a mount that knows nothing."""
    await faults.all_well()
    await trio.sleep(world.pool.settings.down)
    for mount in world.pool.mounts:
        mount.leave()
    await trio.sleep(120)
    await faults.all_well()
    await trio.sleep(60)
    invariants.check(world, load, bugs)
    reader = next(iter(world.using()), None)
    if reader is None:
        raise Violation("P8: nobody can mount although all is well")
    done = trio.Event()

    async def read() -> None:
        await load.read_all(reader)
        done.set()

    reader.start_soon(read)
    with trio.move_on_after(3600):
        await done.wait()
    if not done.is_set():
        raise Violation("P8: reading what is stored does not end")
    invariants.check(world, load, bugs)
    invariants.check_rows(world)
    await trio.sleep(world.pool.settings.trash_keep + 2 * TIDY_S)
    invariants.check(world, load, bugs)
    for left in world.left_in_trash():
        raise Violation(f"P6: still in the trash of {left}")


# ---- many ------------------------------------------------------------------------------------------------------------


def explore(
    seeds: Iterable[int],
    *,
    jobs: int = 1,
    plant: str = "",
    steps: int = STEPS,
    until: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Results as they come, until `until` says so."""
    if jobs == 1:
        for seed in seeds:
            if until():
                return
            yield _one((seed, plant, steps))
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        given = iter(seeds)
        waiting = deque[AsyncResult[Result]]()
        while not until():
            for seed in itertools.islice(given, 2 * jobs - len(waiting)):
                waiting.append(pool.apply_async(_one, ((seed, plant, steps),)))
            if not waiting:
                return
            yield waiting.popleft().get()


def _one(work: tuple[int, str, int]) -> Result:
    seed, plant, steps = work
    gc.freeze()  # what was imported is not looked through again and again
    if not plant:
        return simulate(seed, steps=steps)
    from .planted import planted

    with planted(plant):
        return simulate(seed, steps=steps)


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(100), help="17 or 0-9999")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--plant", default="", help="a planted bug: see tests/simulation/planted.py")
    parser.add_argument("--verbose", action="store_true", help="print everything that happens")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    options = parser.parse_args()
    began = time.monotonic()
    count = failures = 0
    simulated_s = 0.0
    if options.verbose:
        from contextlib import nullcontext

        from .planted import planted

        with planted(options.plant) if options.plant else nullcontext():
            results: Iterator[Result] = iter([simulate(options.seeds[0], steps=options.steps, verbose=True)])
    else:
        results = explore(options.seeds, jobs=options.jobs, plant=options.plant, steps=options.steps)
    for result in results:
        count, simulated_s = count + 1, simulated_s + result.simulated_s
        if not result.is_good:
            failures += 1
            print(f"\nseed {result.seed} fails at step {result.steps}: {result.failure}", flush=True)
            if not options.keep_going:
                print(*result.journal, sep="\n")
                break
        elif sys.stderr.isatty() or count % 20 == 0:
            print(f"{count} seeds, {count / (time.monotonic() - began):.1f}/s", end="\n", file=sys.stderr, flush=True)
    took_s = max(time.monotonic() - began, 1e-9)
    weeks = simulated_s / WEEK_S
    rate = weeks / took_s * 60 if math.isfinite(weeks) else 0.0
    print(
        f"{count} seeds in {took_s:.1f} s ({count / took_s:.2f}/s), {failures} failures,"
        f" {weeks:.1f} weeks of pool time: {rate:.1f} weeks a minute"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
