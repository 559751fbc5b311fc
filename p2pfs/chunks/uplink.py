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
from p2pfs.types import KIB

WINDOW_S: Final = 0.5
"""Shorter ones are not judged: what is in the buffers of the kernel would count for too much."""
SEVERAL: Final = 2
CONNECTING_S: Final = 1.0
"""What a new connection may take where the uplink is slow and full, in which its handshake waits behind everything."""
LEAVES_WITHIN_S: Final = 8.0
"""What is on its way is at most what the uplink moves in this time: a chunk then moves at twice the rate that peers of
earlier versions ask for, or is one of two."""
TELLING_BYTES: Final = 128 * KIB
"""Of less, all may leave at once on an uplink that is slow: routers let short bursts pass."""
_SMOOTHING: Final = 0.5
_SLACK: Final = 0.25
_NO_TIME_S: Final = 0.001


class Uplink:
    """`rate` in bytes a second, None until it was measured. Times come from `now`, which only ever rises."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.rate: float | None = None
        self._under_way: dict[int, _Sent] = {}
        self._since_s = 0.0
        self._ended = 0  # bytes moved in this window by those that have ended
        self._proven = 0.0  # bytes a second that a PUT has moved
        self._moved_s = -math.inf  # when a PUT that has ended last moved

    def begin(self, attempt: Attempt) -> None:
        """A PUT is sent."""
        self._judge_if_due()
        self._under_way[id(attempt)] = _Sent(attempt)
        if len(self._under_way) == SEVERAL:
            self._open()

    def end(self, attempt: Attempt, *, is_stored: bool = False) -> None:
        """It has ended, one way or the other."""
        self._judge_if_due()
        self._ended += self._under_way.pop(id(attempt)).moved()
        if is_stored:
            self._moved_s = self._now()
            if attempt.size >= TELLING_BYTES:
                self._prove(attempt.size / max(_NO_TIME_S, self._moved_s - attempt.started_s))

    def _prove(self, rate: float) -> None:
        """The uplink is no slower than one PUT was, which also tells that it has become faster."""
        self._proven = max(self._proven, rate)
        if self.rate is not None:
            self.rate = max(self.rate, rate)

    def room(self) -> float:
        """How many bytes may be on their way. Before the uplink was measured it is as fast as a PUT has proved it."""
        return LEAVES_WITHIN_S * (self._proven if self.rate is None else self.rate)

    def moved_s(self) -> float:
        """When something last moved, as far as is known."""
        now = self._now()
        for sent in self._under_way.values():
            sent.attempt.quiet_s(now)
        moving = (sent.attempt.moved_s for sent in self._under_way.values() if sent.attempt.moved)
        return max(self._moved_s, max(moving, default=-math.inf))

    def fair(self, attempt: Attempt) -> float:
        """Bytes that a PUT must have moved by now, to be no slower than where the uplink is slow and full all are: a
        quarter of what an equal share would be. Infinite where the uplink is no excuse."""
        if self.rate is None:
            self._judge_if_due()
        if self.rate is None:
            return math.inf
        share = _SLACK * self.rate / max(1, len(self._under_way))
        elapsed_s = self._now() - attempt.started_s
        if share * elapsed_s >= attempt.size / 2:
            return math.inf
        return share * max(0.0, elapsed_s - self.excuse_s(attempt))

    def excuse_s(self, attempt: Attempt) -> float:
        """For how long nothing is asked of a PUT where the uplink is slow and full: to connect, and a quarter of the
        time that an equal share needs for it. Connections that fill it together take turns of seconds."""
        if not self.rate:
            return CONNECTING_S
        return CONNECTING_S + 0.25 * attempt.size * max(1, len(self._under_way)) / self.rate

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
