"""Background work with two verbs and a visible state: `work` does one step, `wait` waits until there may be more.

The loop here owns what every background task otherwise gets wrong: errors do not end it, they slow it down and can be
seen; cancelling ends it at once. `status` lists the reports (as in Garage).
"""

import enum
import logging
import random
from dataclasses import dataclass
from typing import Protocol

import trio

from p2pfs.errors import PoolError
from p2pfs.runtime.retry import backoff

_log = logging.getLogger(__name__)


class Progress(enum.Enum):
    """What a step left behind."""

    BUSY = "busy"  # there is more: call work again
    IDLE = "idle"  # nothing to do now: wait
    DONE = "done"  # never anything again


class Worker(Protocol):
    """One background task. Both verbs must be cancellable and keep no invariant open across an await."""

    @property
    def name(self) -> str:
        """For people: "reaper", "heartbeat"."""
        ...

    async def work(self) -> Progress:
        """Do one bounded step."""
        ...

    async def wait(self) -> None:
        """Return when there may be something to do; may sleep, must not poll."""
        ...


@dataclass(slots=True)
class Report:
    """What `status` shows of a worker. Only `run` writes it."""

    name: str
    state: str = "idle"  # Progress, or "failing"
    steps: int = 0
    errors: int = 0  # in all
    failures: int = 0  # in a row
    last_error: str = ""


async def run(
    worker: Worker,
    report: Report | None = None,
    *,
    longest_pause_s: float = 60.0,
    chance: random.Random | None = None,
) -> None:
    """Drive `worker` until it is done or this is cancelled.

    A PoolError is weather: one warning when a row of failures begins, then silence. Anything else is a bug: logged
    with its traceback each time the row begins.
    """
    report = report or Report(worker.name)
    pauses = backoff(0.5, longest_pause_s, chance=chance)
    while True:
        try:
            progress = await worker.work()
            report.steps += 1
            report.state = progress.value
            if progress is Progress.DONE:
                return
            if progress is Progress.IDLE:
                await worker.wait()
        except Exception as error:
            _note(report, error)
            await trio.sleep(next(pauses))
            continue
        if report.failures:
            _log.info("worker %s works again after %d failures", worker.name, report.failures)
            report.failures = 0
            pauses = backoff(0.5, longest_pause_s, chance=chance)
        await trio.lowlevel.checkpoint()


def _note(report: Report, error: Exception) -> None:
    report.errors += 1
    report.failures += 1
    report.state = "failing"
    report.last_error = f"{type(error).__name__}: {error}"
    if report.failures > 1:
        return
    if isinstance(error, PoolError):
        _log.warning("worker %s: %s", report.name, error)
    else:
        _log.error("worker %s failed unexpectedly", report.name, exc_info=error)
