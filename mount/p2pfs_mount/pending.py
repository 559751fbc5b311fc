"""The handlers under way: each has a deadline, and all can be told to end."""

import contextlib
from collections.abc import Iterator

import trio


class Pending:
    """Who waits in a handler. A handler that is cancelled here answers EIO; pyfuse3 itself cannot interrupt one."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._scopes: set[trio.CancelScope] = set()

    def __len__(self) -> int:
        return len(self._scopes)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Around one handler. Raises trio.TooSlowError when its time is over or `release` was called."""
        with trio.fail_after(self.deadline_s) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def release(self) -> None:
        """Make every handler under way answer now."""
        for scope in self._scopes:
            scope.cancel()
