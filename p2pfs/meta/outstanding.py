"""Numbers of batches under way: which comes next and which answers the coordinator may forget."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import trio

MAX_AHEAD: Final = 1024
"""Batches begun after the oldest unanswered one; the coordinator keeps all their answers (sessions.MAX_UNACKED)."""


class OutstandingBatches:
    """The sequence numbers of one session. Numbers rise by one and are never used twice."""

    def __init__(self) -> None:
        self._next = 1
        self._under_way: dict[int, None] = {}  # ascending
        self._kept: set[int] = set()  # under way although nobody waits
        self._ended = trio.Event()

    @contextlib.asynccontextmanager
    async def number(self) -> AsyncIterator[tuple[int, int]]:
        """(seq, acked) for one batch, which is answered or given up when the block ends. Waits while MAX_AHEAD would be
        exceeded."""
        while self._under_way and self._next - self._oldest() >= MAX_AHEAD:
            await self._ended.wait()
        seq = self._next
        self._next += 1
        self._under_way[seq] = None
        try:
            yield seq, self._oldest()
        finally:
            if seq not in self._kept:
                self._end(seq)

    def keep(self, seq: int) -> None:
        """The batch may be sent again: its answer is not to be forgotten until `release`."""
        self._kept.add(seq)

    def release(self, seq: int) -> None:
        """The batch kept before was answered, or is given up; again is fine."""
        if seq in self._kept:
            self._kept.remove(seq)
            self._end(seq)

    def _end(self, seq: int) -> None:
        del self._under_way[seq]
        self._ended.set()
        self._ended = trio.Event()

    def _oldest(self) -> int:
        return next(iter(self._under_way))
