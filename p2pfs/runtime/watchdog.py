"""Signs of life for systemd's watchdog (WatchdogSec=): a service whose event loop hangs is ended and started anew."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from p2pfs.runtime.notify import notify

_SIGNS_PER_PERIOD: Final = 3
"""So that one late sign of life, or two, ends nobody."""


def watchdog_s() -> float | None:
    """After how much silence the supervisor would end this very process; None: it does not watch."""
    period, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not (period.isascii() and period.isdigit()) or pid not in ("", str(os.getpid())):
        return None
    return int(period) / 1e6 or None


@asynccontextmanager
async def watched() -> AsyncIterator[None]:
    """The supervisor is told that this event loop turns, as often as it wants, while the block runs. Errors
    leave in an exception group."""
    async with trio.open_nursery() as nursery:
        period_s = watchdog_s()
        if period_s is not None:
            nursery.start_soon(_show_life, period_s / _SIGNS_PER_PERIOD)
        yield
        nursery.cancel_scope.cancel()


async def _show_life(every_s: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await trio.sleep(every_s)
