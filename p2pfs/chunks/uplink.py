"""How fast PUTs leave this process, seen from those that are made anyway. No I/O but a look at their sockets.

Time counts while several PUTs are under way, and bytes when the other end's system has acknowledged them. A window in
which most of the PUTs end with nothing left to send says only that the uplink is no slower than that: the disks of
peers, or this process, were.
"""

import math
from collections.abc import Callable
from typing import Final

from p2pfs.chunks.standing import Attempt

WINDOW_S: Final = 0.5
"""Shorter ones are not judged: what is in the buffers of the kernel would count for too much."""
SEVERAL: Final = 2
_SMOOTHING: Final = 0.5
_SLACK: Final = 0.25


class Uplink:
    """`rate` in bytes a second, None until it was measured. Times come from `now`, which only ever rises."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.rate: float | None = None
        self._under_way: dict[int, Attempt] = {}
        self._since_s = 0.0
        self._moved = 0  # in this window, of attempts that have ended; less what the others had moved before it

    def begin(self, attempt: Attempt) -> None:
        """A PUT is sent."""
        self._judge_if_due()
        self._under_way[id(attempt)] = attempt
        if len(self._under_way) == SEVERAL:
            self._open()

    def end(self, attempt: Attempt) -> None:
        """It has ended, or nobody counts on it any more. Again is fine."""
        if id(attempt) not in self._under_way:
            return
        self._judge_if_due()
        del self._under_way[id(attempt)]
        self._moved += attempt.watch.moved()

    def fair(self, attempt: Attempt) -> float:
        """Bytes that a PUT must have moved by now, to be no slower than where the uplink is slow and full all are: a
        quarter of what an equal share would be."""
        if self.rate is None:
            self._judge_if_due()
        if self.rate is None:
            return math.inf
        return _SLACK * self.rate * (self._now() - attempt.started_s) / max(1, len(self._under_way))

    def _open(self) -> None:
        self._since_s = self._now()
        self._moved = -self._moved_so_far()

    def _moved_so_far(self) -> int:
        return sum(attempt.watch.moved() for attempt in self._under_way.values())

    def _judge_if_due(self) -> None:
        elapsed_s = self._now() - self._since_s
        if len(self._under_way) < SEVERAL or elapsed_s < WINDOW_S:
            return
        rate = (self._moved + self._moved_so_far()) / elapsed_s
        waiting = sum(attempt.watch.moved() < attempt.size for attempt in self._under_way.values())
        if 2 * waiting < len(self._under_way):
            self.rate = None if self.rate is None else max(self.rate, rate)
        else:
            self.rate = rate if self.rate is None else self.rate + _SMOOTHING * (rate - self.rate)
        self._open()
