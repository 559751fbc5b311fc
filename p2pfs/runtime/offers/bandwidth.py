"""What a peer sends and receives, both with a schedule: `upload=20Mbit@08:00-18:00,100Mbit download=none`.

The limits are those of the peer's sockets (`p2pfs.net.pace`); used is what went over them in the last few seconds.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from p2pfs.runtime.offers.kinds import Kind, Rule, Unit
from p2pfs.runtime.offers.schedule import parse_scheduled
from p2pfs.runtime.offers.units import UNLIMITED, parse_rate
from p2pfs.runtime.rates import RateLimit

OVER_S: Final = 5.0
"""What is used is counted over so long."""


class Line:
    """One direction of a peer's sockets."""

    def __init__(self, limit: RateLimit, now_s: Callable[[], float]) -> None:
        self._limit = limit
        self._now_s = now_s
        self._counts = deque([(now_s(), limit.taken)])

    def limit(self, amount: int | None) -> None:
        self._limit.rate = amount

    def offered(self) -> int | None:
        return None if self._limit.rate is None else int(self._limit.rate)

    def used(self) -> int:
        """Bytes a second, over the last OVER_S or since it was asked before that, whichever is longer."""
        now_s, taken = self._now_s(), self._limit.taken
        while len(self._counts) > 1 and self._counts[1][0] <= now_s - OVER_S:
            self._counts.popleft()
        then_s, before = self._counts[0]
        if now_s - self._counts[-1][0] >= OVER_S / 10:
            self._counts.append((now_s, taken))
        return int((taken - before) / (now_s - then_s)) if now_s > then_s else 0


def _parse(text: str) -> Rule:
    return parse_scheduled(text, parse_rate)


UPLOAD = Kind(
    "upload",
    Unit.RATE,
    "what its sockets send",
    _parse,
    lambda machine: Line(machine.up, machine.now_s),
    default=UNLIMITED,
)
DOWNLOAD = Kind(
    "download",
    Unit.RATE,
    "what its sockets receive",
    _parse,
    lambda machine: Line(machine.down, machine.now_s),
    default=UNLIMITED,
)
