"""The handlers under way: each has a deadline, and all can be told to end.

In a hard mount they have none, but pyfuse3 has a bounded number of tasks: the newest of too many that wait for long are
told to end, so that requests which can be answered are.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Final

import trio

MOST_OLD: Final = 64
"""Of pyfuse3's 99 tasks, how many may wait for long in a hard mount."""
CAP_CHECK_S: Final = 1.0
IDLE_CHECK_S: Final = 0.02
IDLE_CHECKS: Final = 5
_EXCUSES: Final = 10
"""Within a deadline."""


class Pending:
    """Who waits in a handler. A handler that is cancelled here answers EIO; pyfuse3 itself cannot interrupt one."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._since: dict[trio.CancelScope, float] = {}  # in the order of their beginning

    def __len__(self) -> int:
        return len(self._since)

    def oldest_s(self) -> float:
        """How long the first of them has been under way without an excuse; 0 without any."""
        return trio.current_time() - next(iter(self._since.values()), trio.current_time())

    def one(self) -> "_One":
        """Around one handler. Raises trio.TooSlowError when its time is over or `release` was called."""
        return _One(self._since, self.deadline_s)

    def release(self) -> None:
        """Make every handler under way answer now."""
        for scope in self._since:
            scope.cancel()

    async def idle(self) -> None:
        """Wait until none was under way at some looks in a row: the kernel sends the next request when it has taken in
        an answer."""
        idle = 0
        while idle < IDLE_CHECKS:
            idle = 0 if self._since else idle + 1
            await trio.sleep(IDLE_CHECK_S)

    async def keep_capped(self, old_s: float, most: int = MOST_OLD) -> None:
        """Let at most `most` handlers be older than `old_s`: the newest beyond that are made to answer. Runs until
        cancelled."""
        while True:
            await trio.sleep(CAP_CHECK_S)
            limit = trio.current_time() - old_s
            old = [scope for scope, since in self._since.items() if since < limit]
            for scope in old[most:]:
                scope.cancel()

    async def excuse(self, moved_s: Callable[[], float]) -> None:
        """Give everybody all of the time again as long as bytes leave, `moved_s` being when they last did: to store
        much through a thin uplink takes long, and is no error. Runs until cancelled."""
        while True:
            await trio.sleep(self.deadline_s / _EXCUSES)
            now = trio.current_time()
            if now - moved_s() < self.deadline_s / _EXCUSES:
                for scope in self._since:
                    self._since[scope] = now
                    scope.deadline = now + self.deadline_s


class _One:
    """As trio.fail_after, without two generators for each request."""

    __slots__ = ("_deadline_s", "_scope", "_since")

    def __init__(self, since: dict[trio.CancelScope, float], deadline_s: float) -> None:
        self._since, self._deadline_s = since, deadline_s

    def __enter__(self) -> None:
        now = trio.current_time()
        self._scope = trio.CancelScope(deadline=now + self._deadline_s)
        self._scope.__enter__()
        self._since[self._scope] = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        del self._since[self._scope]
        is_swallowed = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise trio.TooSlowError
        return is_swallowed
