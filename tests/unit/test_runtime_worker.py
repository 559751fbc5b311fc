"""The worker loop, pauses and clocks."""

import random
from itertools import islice

import pytest
import trio
from plugins.checklogs import Claims
from trio.testing import MockClock

from p2pfs.errors import Unavailable
from p2pfs.runtime.clocks import FakeClock, SimulatedClock, SystemClock
from p2pfs.runtime.retry import backoff
from p2pfs.runtime.worker import Progress, Report, run

pytestmark = pytest.mark.l0


class Scripted:
    """A worker that does what its script says: a Progress to return or an exception to raise."""

    name = "scripted"

    def __init__(self, *script: Progress | Exception) -> None:
        self.script = list(script)
        self.waits = 0

    async def work(self) -> Progress:
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def wait(self) -> None:
        self.waits += 1
        await trio.lowlevel.checkpoint()


async def test_a_busy_worker_works_on_and_an_idle_one_waits() -> None:
    worker = Scripted(Progress.BUSY, Progress.BUSY, Progress.IDLE, Progress.DONE)
    report = Report("scripted")
    await run(worker, report)
    assert worker.waits == 1
    assert (report.steps, report.errors, report.state) == (4, 0, "done")


async def test_weather_is_logged_once_a_row_and_work_goes_on(autojump_clock: MockClock, claim_logs: Claims) -> None:
    claim_logs("worker scripted: gone", count=2)
    worker = Scripted(
        Unavailable("gone"), Unavailable("gone"), Unavailable("gone"), Progress.BUSY, Unavailable("gone"), Progress.DONE
    )
    report = Report("scripted")
    began = trio.current_time()
    await run(worker, report, chance=random.Random(1))
    assert report.errors == 4
    assert report.last_error == "Unavailable: gone"
    assert 0.25 + 0.5 + 1 + 0.25 <= trio.current_time() - began <= 0.5 + 1 + 2 + 0.5


async def test_a_bug_is_logged_with_its_traceback_and_does_not_end_the_worker(
    autojump_clock: MockClock, claim_logs: Claims
) -> None:
    claim_logs("worker scripted failed unexpectedly", count=1)
    report = Report("scripted")
    await run(Scripted(KeyError("x"), Progress.DONE), report)
    assert report.last_error == "KeyError: 'x'"


async def test_cancelling_ends_a_worker_in_either_verb() -> None:
    class Stuck(Scripted):
        async def wait(self) -> None:
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, Stuck(Progress.IDLE))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught


async def test_a_worker_that_is_always_busy_lets_others_run() -> None:
    worker = Scripted(*[Progress.BUSY] * 1000, Progress.DONE)
    seen: list[int] = []

    async def other() -> None:
        await trio.lowlevel.checkpoint()
        seen.append(len(worker.script))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, worker)
        nursery.start_soon(other)
    assert seen[0] > 900


def test_pauses_grow_to_the_cap_and_are_never_zero() -> None:
    pauses = list(islice(backoff(0.1, 2.0, chance=random.Random(0)), 12))
    for step, pause in zip([0.1, 0.2, 0.4, 0.8, 1.6] + [2.0] * 7, pauses, strict=True):
        assert step / 2 <= pause <= step


def test_the_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock(100.0)
    before = clock.monotonic()
    clock.advance(5)
    clock.set_time(50.0)
    assert (clock.time(), clock.monotonic() - before) == (50.0, 5.0)


async def test_the_simulated_clock_follows_trio(mock_clock: MockClock) -> None:
    clock = SimulatedClock(1000.0)
    before = clock.time()
    mock_clock.jump(86400)
    assert clock.time() - before == pytest.approx(86400)
    assert SystemClock().monotonic() == trio.current_time()
