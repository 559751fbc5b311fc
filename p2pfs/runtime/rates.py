"""A rate limit: bytes a second that background work may move, shared by whoever takes from it.

A token bucket. Not a bound on what is under way at once, which is runtime.credits.
"""

from typing import Final

import trio

from p2pfs.errors import Misuse
from p2pfs.runtime.clocks import Clock

BURST_S: Final = 1.0
"""So many seconds' worth may be taken at once after a pause."""
_SHORTEST_WAIT_S: Final = 0.001
"""A clock does not tell much shorter ones apart; waiting for the last half token would spin."""


class RateLimit:
    """`rate` bytes a second, None for no limit; in order of arrival.

    More than a burst may be taken in one go: it is granted when a whole burst is there, and those behind wait until it
    is paid off.

    Cancellation: a cancelled waiter has taken nothing and holds nobody up.
    """

    def __init__(self, rate: float | None, clock: Clock) -> None:
        self._rate = _checked(rate)
        self._clock = clock
        self._tokens = 0.0 if rate is None else rate * BURST_S
        self._counted_s = clock.monotonic()
        self._turn = trio.Lock()  # fair
        self._changed = trio.Event()

    @property
    def rate(self) -> float | None:
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        """From now on, also for those who wait. Raises Misuse unless it is above zero."""
        if rate == self._rate:
            return
        self._fill()
        self._rate = _checked(rate)
        if rate is not None:
            self._tokens = min(self._tokens, rate * BURST_S)
        self._changed.set()
        self._changed = trio.Event()

    async def take(self, n: int) -> None:
        """Take `n` bytes, waiting for them if need be. The caller's cancel scope bounds the wait."""
        async with self._turn:
            while (wait_s := self._missing_s(n)) > 0:
                with trio.move_on_after(max(wait_s, _SHORTEST_WAIT_S)):
                    await self._changed.wait()
            if self._rate is not None:
                self._tokens -= n

    def _missing_s(self, n: int) -> float:
        """How long until `n` may be taken at the present rate; nothing below zero means now."""
        if self._rate is None:
            return 0.0
        self._fill()
        return (min(n, self._rate * BURST_S) - self._tokens) / self._rate

    def _fill(self) -> None:
        now_s = self._clock.monotonic()
        if self._rate is None:
            self._tokens = 0.0  # what was taken without a limit is no debt, and nothing was saved up
        else:
            self._tokens = min(self._tokens + (now_s - self._counted_s) * self._rate, self._rate * BURST_S)
        self._counted_s = now_s


def _checked(rate: float | None) -> float | None:
    if rate is not None and not rate > 0:
        raise Misuse("a rate is above zero, or there is none")
    return rate
