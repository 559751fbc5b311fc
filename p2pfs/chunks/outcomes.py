"""What became of requests to several peers, in the order in which they ended, for the one task that waits for them.

Not a channel: the locks, events and halves that several readers and writers would need cost as much as the request.
"""

from collections import deque
from typing import Generic, TypeVar

import trio

from p2pfs.types import PeerNumber

T = TypeVar("T")


class Outcomes(Generic[T]):
    """Unbounded by itself: who uses it bounds the requests under way."""

    __slots__ = ("_ended", "_waiting")

    def __init__(self) -> None:
        self._ended: deque[tuple[PeerNumber, T]] = deque()
        self._waiting: trio.lowlevel.Task | None = None

    def add(self, peer: PeerNumber, outcome: T) -> None:
        """A request ended."""
        self._ended.append((peer, outcome))
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def next(self) -> tuple[PeerNumber, T]:
        """The next outcome. Takes a checkpoint only where it waits."""
        if not self._ended:
            self._waiting = trio.lowlevel.current_task()

            def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
                self._waiting = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        return self._ended.popleft()
