"""Time as a parameter: what the wall says and what has passed.

Not a scheduler: waiting is trio's. Everything that compares or stores times takes a `Clock`, so that tests move time
and a whole pool can live under trio's MockClock.
"""

import time
from typing import Protocol

import trio


class Clock(Protocol):
    """Two readings that never mix: one for what is stored and sent, one for how long something took."""

    def time(self) -> float:
        """UTC seconds; may jump when somebody sets the machine's clock."""
        ...

    def monotonic(self) -> float:
        """Seconds since an unknown moment; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clock. `monotonic` is trio's, hence only within trio, and stands still under MockClock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return trio.current_time()


class SimulatedClock:
    """UTC that starts at `start_s` and runs with trio's clock: under MockClock, weeks pass in seconds."""

    def __init__(self, start_s: float = 1_800_000_000.0) -> None:
        self._start_s = start_s

    def time(self) -> float:
        return self._start_s + trio.current_time()

    def monotonic(self) -> float:
        return trio.current_time()


class FakeClock:
    """Stands still until a test moves it; works outside trio too."""

    def __init__(self, time_s: float = 1_800_000_000.0) -> None:
        self._time_s = time_s
        self._monotonic_s = 1000.0

    def time(self) -> float:
        return self._time_s

    def monotonic(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time pass on both readings."""
        self._time_s += seconds
        self._monotonic_s += seconds

    def set_time(self, time_s: float) -> None:
        """Somebody set the machine's clock: only UTC jumps."""
        self._time_s = time_s
