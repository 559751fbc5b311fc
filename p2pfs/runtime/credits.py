"""A budget of bytes that tasks take from before they use memory and give back when they are done.

Not a rate limit. It is how queues of buffers are bounded: writers, read-ahead, servers' bodies.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from p2pfs.errors import Misuse


class ByteCredits:
    """`total` bytes, granted in order of arrival.

    A request larger than `total` is granted when everything is free, so that no request waits for ever; a small
    request never overtakes a large one.

    Cancellation: a cancelled waiter leaves the queue and has taken nothing; `give` is synchronous.
    """

    def __init__(self, total: int) -> None:
        if total <= 0:
            raise Misuse("a budget needs at least one byte")
        self.total = total
        self._taken = 0
        self._waiting: OrderedDict[trio.lowlevel.Task, int] = OrderedDict()

    def __repr__(self) -> str:
        return f"ByteCredits({self._taken} of {self.total} taken, {len(self._waiting)} waiting)"

    @property
    def available(self) -> int:
        """Bytes nobody holds; never below zero."""
        return max(0, self.total - self._taken)

    @property
    def taken(self) -> int:
        """Bytes held now; above `total` only while one outsized request is out or something was charged."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return len(self._waiting)

    def take_nowait(self, n: int) -> bool:
        """Take `n` bytes if that is possible without overtaking anybody."""
        if n < 0:
            raise Misuse("a negative number of bytes cannot be taken")
        if self._waiting or not self._fits(n):
            return False
        self._taken += n
        return True

    async def take(self, n: int) -> None:
        """Take `n` bytes, waiting for them if need be. The caller's cancel scope bounds the wait.

        Takes a checkpoint only where it waits: what the bytes are for has its own.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.take_nowait(n):
            return
        task = trio.lowlevel.current_task()
        self._waiting[task] = n

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiting[task]
            self._grant()  # the one behind may fit now
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def charge(self, n: int) -> None:
        """Take `n` bytes at once, above `total` if need be: what a task holds already has grown."""
        if n < 0:
            raise Misuse("a negative number of bytes cannot be taken")
        self._taken += n

    def give(self, n: int) -> None:
        """Return `n` bytes taken before, by whichever task."""
        if not 0 <= n <= self._taken:
            raise Misuse(f"{n} bytes given back, {self._taken} are out")
        self._taken -= n
        self._grant()

    @contextmanager
    def returned(self, n: int) -> Iterator[None]:
        """Give `n` bytes, already taken, back on leaving the block."""
        try:
            yield
        finally:
            self.give(n)

    def _fits(self, n: int) -> bool:
        return self._taken + n <= self.total or self._taken == 0

    def _grant(self) -> None:
        while self._waiting:
            task, n = next(iter(self._waiting.items()))
            if not self._fits(n):
                return
            del self._waiting[task]
            self._taken += n
            trio.lowlevel.reschedule(task)
