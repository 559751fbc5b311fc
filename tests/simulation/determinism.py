"""What must not depend on anything but the seed: the scheduler, chance, threads, and what the machine says of itself.

One `controlled` block a run. Inside it trio schedules by the seed, a hop to a thread is a step of the event loop, and
constants that only say how often something is looked at are stretched, so that weeks pass quickly.
"""

import contextlib
import logging
import math
import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from unittest import mock

import trio
import trio._core._run as scheduler

import p2pfs.chunks.writing
import p2pfs.coordinator.delegations
import p2pfs.coordinator.foundation
import p2pfs.coordinator.pulse
import p2pfs.coordinator.sessions
import p2pfs.coordinator.upkeep.jobs
import p2pfs.meta.calls
import p2pfs.meta.events
import p2pfs.meta.remote
import p2pfs.vfs.delegation.holding
import p2pfs.vfs.filesystem
import p2pfs.vfs.news
import p2pfs_peerd.heartbeat
import p2pfs_peerd.orders
from p2pfs.chunks.inventory import Inventory
from p2pfs.format.inventory import BUCKETS, EMPTY
from p2pfs.runtime.retry import backoff
from p2pfs.runtime.threads import Threads
from p2pfs.types import VolumeId, volume_name
from p2pfs.wire.membership import Resources

if TYPE_CHECKING:
    from .network import Host

T = TypeVar("T")

HOST: ContextVar["Host | None"] = ContextVar("host", default=None)
"""The machine whose code runs in this task."""

STRETCHED: Final = (
    (p2pfs.coordinator.pulse, "_PAUSE_S", 60.0),
    (p2pfs.coordinator.upkeep.jobs, "_SAVE_EVERY_S", 60.0),
    (p2pfs.coordinator.delegations, "RETRY_S", 120.0),
    (p2pfs.coordinator.sessions, "_SWEEP_S", 60.0),
    (p2pfs.coordinator.sessions, "GRACE", 4),  # lifetimes, not seconds: a silent session is over while a run lasts
    (p2pfs.coordinator.foundation, "GRACE", 4),
    (p2pfs_peerd.orders, "_AFTER_FAILURE_S", 10.0),
    (p2pfs.meta.events, "MAX_WAIT_S", 110.0),
    (p2pfs.meta.events, "SILENT_S", 400.0),
    (p2pfs.meta.calls, "_LONGEST_PAUSE_S", 6.0),
    (p2pfs.meta.calls, "_TURN_PAUSE_S", 10.0),
    (p2pfs.meta.calls, "TURN_S", 300.0),  # longer than a delegation, as in production
    (p2pfs.meta.remote, "_NEWS_S", 150.0),
    (p2pfs.vfs.delegation.holding, "WATCH_S", 1e6),  # nobody suspends a machine here
    (p2pfs.vfs.filesystem, "AGEING_S", 30.0),
    (p2pfs.vfs.news, "WAIT_S", 100.0),
    (p2pfs.vfs.news, "PAUSE_S", 10.0),
)
"""(module, constant, value), seconds mostly: how often somebody looks whether there is something to do."""


_EXPLAINED: Final = (
    "nothing is purged: ",
    "unsaved bytes are given up: this session is over",
    "changes of this mount are lost: ",
    "changes of this mount were lost: ",
)
"""Errors that faults explain: clocks are turned, by more than a session lives; mounts are silent for longer than the
volume is delegated to them."""


class PoolTime(trio.abc.Clock):
    """Time that passes only while nothing can run, and then at once to whatever is due next. As MockClock's autojump,
    without a turn of the event loop for each jump."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def start_clock(self) -> None:
        """Nothing to do."""

    def current_time(self) -> float:
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if math.isinf(deadline):
            return deadline  # nothing will ever happen: the run's patience ends it
        self._now_s = max(self._now_s, deadline)
        return 0.0


class Bugs(logging.Handler):
    """Collects what the code under test logs as an error: an unexpected exception never goes unnoticed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            self.found.append(text + "\n" + logging.Formatter().formatException(record.exc_info))
        elif not any(words in text for words in _EXPLAINED):
            self.found.append(text)


class _Aloud(logging.Handler):
    """Prints what is logged, by the pool's clock and the machine that logs it."""

    def emit(self, record: logging.LogRecord) -> None:
        host = HOST.get()
        name = host.name if host is not None else "-"
        print(f"{trio.current_time():12.3f}      {name}: {record.levelname}: {record.getMessage()}")


@contextlib.contextmanager
def controlled(seed: int, *, verbose: bool = False) -> Iterator[Bugs]:
    """Everything below trio depends on the seed alone while the block runs."""
    log, bugs = logging.getLogger("p2pfs"), Bugs()
    before = log.level, log.propagate, random.getstate()
    peers_log = logging.getLogger("p2pfs_peerd")
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True))
        stack.enter_context(mock.patch.object(scheduler, "_r", random.Random(seed)))
        stack.enter_context(mock.patch.object(trio.to_thread, "run_sync", in_the_loop))
        stack.enter_context(mock.patch.object(Threads, "run", _in_the_loop))
        stack.enter_context(mock.patch.object(p2pfs_peerd.heartbeat, "resources", _resources))
        stack.enter_context(mock.patch.object(p2pfs_peerd.heartbeat, "version", return_value="simulated"))
        stack.enter_context(mock.patch.object(os, "getloadavg", return_value=(0.1, 0.1, 0.1)))
        for function, seeded in _secrets(random.Random(f"secrets {seed}")).items():
            stack.enter_context(mock.patch.object(secrets, function, seeded))
        stack.enter_context(mock.patch.object(Inventory, "digests", _digests))
        stack.enter_context(mock.patch.object(p2pfs.chunks.writing, "backoff", _backoff))
        for module, name, seconds in STRETCHED:
            stack.enter_context(mock.patch.object(module, name, seconds))
        random.seed(seed)
        for one in (log, peers_log):
            one.addHandler(bugs)
            one.setLevel(logging.INFO if verbose else logging.ERROR)
            if verbose:
                one.addHandler(_Aloud())
            one.propagate = False
        try:
            yield bugs
        finally:
            for one in (log, peers_log):
                one.handlers = []
                one.setLevel(before[0])
                one.propagate = before[1]
            random.setstate(before[2])


def _secrets(chance: random.Random) -> dict[str, Callable[..., Any]]:
    """What production draws from the system decides here and there, whom to audit for instance."""
    return {
        "randbelow": chance.randrange,
        "randbits": chance.getrandbits,
        "token_bytes": lambda count=32: chance.randbytes(count),
        "token_hex": lambda count=32: chance.randbytes(count).hex(),
    }


async def in_the_loop(
    work: Callable[..., T],
    *arguments: Any,  # noqa: ANN401 - as trio.to_thread.run_sync
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
    **_: object,
) -> T:
    """Stands in for `trio.to_thread.run_sync`: takes simulated time where the machine's disk does, and hangs with it.
    A thread goes on when its caller has given up, and so does the work here."""
    host = HOST.get()
    if host is None or host.disk is None:
        await trio.lowlevel.checkpoint()
        return work(*arguments)
    if not abandon_on_cancel or not host.disk.is_stuck:
        if host.disk.is_slow_now():
            with trio.CancelScope(shield=True):
                await host.disk.take_time()
        await trio.lowlevel.checkpoint_if_cancelled()
        return work(*arguments)
    outcome: list[T | BaseException] = []
    done = trio.Event()
    disk = host.disk

    async def thread() -> None:
        await disk.turn()
        try:
            outcome.append(work(*arguments))
        except Exception as error:
            outcome.append(error)
        done.set()

    host.spawn(thread)
    await done.wait()
    found = outcome[0]
    if isinstance(found, BaseException):
        raise found
    return found


async def _in_the_loop(_: Threads, work: Callable[[], T]) -> T:
    """Stands in for `Threads.run`, likewise."""
    return await in_the_loop(work, abandon_on_cancel=True)


def _backoff(*_: float) -> Iterator[float]:
    """For a flight that finds nobody: in a long trouble its tries are most of what happens."""
    return backoff(1.0, 15.0)


async def _digests(inventory: Inventory) -> list[bytes]:
    """`Inventory.digests` in one hop for those buckets that have a directory, not 256."""
    found = [EMPTY] * BUCKETS

    def digest(volume: VolumeId) -> None:
        for name in os.listdir(inventory._files.root / volume_name(volume)):
            bucket = int(name, 16)
            found[bucket] = inventory._digest(volume, bucket, found[bucket])

    for volume in await inventory.volumes():
        await inventory._hop(partial(digest, volume))
    return found


def _resources(_path: object) -> Resources:
    """What psutil would say of the machine whose task asks."""
    host = HOST.get()
    free = host.disk.free_bytes() if host is not None and host.disk is not None else 1 << 40
    return Resources(1 << 40, free, 1 << 33, 1 << 32, 2, host.load if host is not None else 0.0, 0, 0)
