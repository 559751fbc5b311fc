"""How much of a request has moved, for whoever decides whether to go on waiting for it.

Asked when somebody wants to know and not told at every byte: a request that is answered in time pays nothing for it.
"""

from collections.abc import Callable


class Watch:
    """Made by who waits, handed down with the request, followed by the connection that carries it."""

    __slots__ = ("_base", "_count", "_moved")

    def __init__(self) -> None:
        self._count: Callable[[], int] | None = None
        self._base = 0
        self._moved = 0

    def follow(self, count: Callable[[], int]) -> None:
        """The request goes over a connection now; `count` are bytes of that connection. Bytes of an earlier one count
        no longer."""
        self._count = count
        self._base = count()
        self._moved = 0

    def leave(self) -> None:
        """The connection is not the request's any more."""
        self._moved = self.moved()
        self._count = None

    def moved(self) -> int:
        """Bytes since the connection was taken: those that have arrived and, of a request with a body, those the other
        end's system has acknowledged."""
        return self._moved if self._count is None else self._count() - self._base
