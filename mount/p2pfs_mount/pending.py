"""The handlers under way: each has a deadline, and all can be told to end.

In a hard mount they have none, but pyfuse3 has a bounded number of tasks: the newest of too many that wait for long are
told to end, so that requests which can be answered are.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

import trio

MOST_OLD: Final = 64
"""Of pyfuse3's 99 tasks, how many may wait for long in a hard mount."""
CAP_CHECK_S: Final = 1.0


class Pending:
    """Who waits in a handler. A handler that is cancelled here answers EIO; pyfuse3 itself cannot interrupt one."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._since: dict[trio.CancelScope, float] = {}  # in the order of their beginning

    def __len__(self) -> int:
        return len(self._since)

    def oldest_s(self) -> float:
        """How long the first of them has been under way; 0 without any."""
        return trio.current_time() - next(iter(self._since.values()), trio.current_time())

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Around one handler. Raises trio.TooSlowError when its time is over or `release` was called."""
        with trio.fail_after(self.deadline_s) as scope:
            self._since[scope] = trio.current_time()
            try:
                yield
            finally:
                del self._since[scope]

    def release(self) -> None:
        """Make every handler under way answer now."""
        for scope in self._since:
            scope.cancel()

    async def keep_capped(self, old_s: float, most: int = MOST_OLD) -> None:
        """Let at most `most` handlers be older than `old_s`: the newest beyond that are made to answer. Runs until
        cancelled."""
        while True:
            await trio.sleep(CAP_CHECK_S)
            limit = trio.current_time() - old_s
            old = [scope for scope, since in self._since.items() if since < limit]
            for scope in old[most:]:
                scope.cancel()
