"""How fast PUTs leave this process, seen from those that are made anyway. No I/O but a look at their sockets.

Time counts while several PUTs are under way, and bytes when the other end's system has acknowledged them. A window in
which most of the PUTs had nothing left to send, or did not move, says only that the uplink is no slower than that:
peers, or this process, were.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2pfs.chunks.standing import Attempt

WINDOW_S: Final = 0.5
"""Shorter ones are not judged: what is in the buffers of the kernel would count for too much."""
SEVERAL: Final = 2
CONNECTING_S: Final = 1.0
"""What a new connection may take where the uplink is slow and full, in which its handshake waits behind everything."""
_SMOOTHING: Final = 0.5
_SLACK: Final = 0.25


class Uplink:
    """`rate` in bytes a second, None until it was measured. Times come from `now`, which only ever rises."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.rate: float | None = None
        self._under_way: dict[int, _Sent] = {}
        self._since_s = 0.0
        self._ended = 0  # bytes moved in this window by those that have ended

    def begin(self, attempt: Attempt) -> None:
        """A PUT is sent."""
        self._judge_if_due()
        self._under_way[id(attempt)] = _Sent(attempt)
        if len(self._under_way) == SEVERAL:
            self._open()

    def end(self, attempt: Attempt) -> None:
        """It has ended, one way or the other."""
        self._judge_if_due()
        self._ended += self._under_way.pop(id(attempt)).moved()

    def fair(self, attempt: Attempt) -> float:
        """Bytes that a PUT must have moved by now, to be no slower than where the uplink is slow and full all are: a
        quarter of what an equal share would be. Infinite where the uplink is no excuse."""
        if self.rate is None:
            self._judge_if_due()
        if self.rate is None:
            return math.inf
        share = _SLACK * self.rate / max(1, len(self._under_way))
        elapsed_s = self._now() - attempt.started_s
        return math.inf if share * elapsed_s >= attempt.size / 2 else share * max(0.0, elapsed_s - CONNECTING_S)

    def _open(self) -> None:
        self._since_s = self._now()
        self._ended = 0
        for sent in self._under_way.values():
            sent.before += sent.moved()

    def _judge_if_due(self) -> None:
        elapsed_s = self._now() - self._since_s
        if len(self._under_way) < SEVERAL or elapsed_s < WINDOW_S:
            return
        moved = [sent.moved() for sent in self._under_way.values()]
        rate = (self._ended + sum(moved)) / elapsed_s
        # One that did not move at all waits for its peer, not for the uplink.
        waiting = sum(
            size > 0 and sent.before + size < sent.attempt.size
            for sent, size in zip(self._under_way.values(), moved, strict=True)
        )
        if 2 * waiting < len(moved):
            self.rate = None if self.rate is None else max(self.rate, rate)
        else:
            self.rate = rate if self.rate is None else self.rate + _SMOOTHING * (rate - self.rate)
        self._open()


@dataclass(slots=True)
class _Sent:
    """A PUT under way."""

    attempt: Attempt
    before: int = 0  # moved before this window

    def moved(self) -> int:
        """In this window."""
        return self.attempt.watch.moved() - self.before
