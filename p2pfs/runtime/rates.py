"""A rate limit: bytes a second that may be moved, shared by whoever takes from it.

A token bucket. Background work takes before it moves bytes (`take`); a connection pays for what it has received already
(`charge`, then `settled`), and sends what is small ahead of what is large (`spare`). Not a bound on what is under way
at once, which is runtime.credits.
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

    Whatever is taken, by whichever method, never exceeds `rate` times the time that passed by more than two bursts and
    what the last one in each of them took.

    Cancellation: a cancelled waiter has taken nothing and holds nobody up.
    """

    def __init__(self, rate: float | None, clock: Clock, *, burst_s: float = BURST_S) -> None:
        self._rate = _checked(rate)
        self._clock = clock
        self._burst_s = burst_s
        self._tokens = 0.0 if rate is None else rate * burst_s
        self.taken = 0  # bytes, with and without a limit
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
            self._tokens = min(self._tokens, rate * self._burst_s)
        self._changed.set()
        self._changed = trio.Event()

    async def take(self, n: int) -> None:
        """Take `n` bytes, waiting for them if need be. The caller's cancel scope bounds the wait."""
        async with self._turn:
            while (wait_s := self._missing_s(n)) > 0:
                await self._pause(wait_s)
            self.charge(n)

    def charge(self, n: int) -> None:
        """`n` bytes have moved: whoever comes next waits for them too. Below zero they are given back."""
        self.taken += n
        if self._rate is not None:
            self._fill()
            self._tokens -= n

    async def settled(self) -> None:
        """Wait, in order of arrival, until what was charged is paid off. The caller's cancel scope bounds the wait."""
        async with self._turn:
            while (wait_s := self._missing_s(0)) > 0:
                await self._pause(wait_s)

    def spare(self, n: int) -> bool:
        """Take `n` bytes past those who wait, if they do not bring the debt beyond a burst; whether it was so."""
        self._fill()
        if self._rate is not None and n - self._tokens > self._rate * self._burst_s:
            return False
        self.charge(n)
        return True

    def has_room(self) -> bool:
        """Whether nobody who comes now has to wait for what was taken before."""
        return self._missing_s(0) <= 0

    async def _pause(self, wait_s: float) -> None:
        with trio.move_on_after(max(wait_s, _SHORTEST_WAIT_S)):
            await self._changed.wait()

    def _missing_s(self, n: int) -> float:
        """How long until `n` may be taken at the present rate; nothing below zero means now."""
        if self._rate is None:
            return 0.0
        self._fill()
        return (min(n, self._rate * self._burst_s) - self._tokens) / self._rate

    def _fill(self) -> None:
        now_s = self._clock.monotonic()
        if self._rate is None:
            self._tokens = 0.0  # what was taken without a limit is no debt, and nothing was saved up
        else:
            self._tokens = min(self._tokens + (now_s - self._counted_s) * self._rate, self._rate * self._burst_s)
        self._counted_s = now_s


def _checked(rate: float | None) -> float | None:
    if rate is not None and not rate > 0:
        raise Misuse("a rate is above zero, or there is none")
    return rate
