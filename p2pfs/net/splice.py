"""Two streams joined: what one end sends the other receives, until one of them has had enough.

It understands nothing of what passes. Each direction holds one piece of bytes, and reads the next when the other end
has taken that one: a slow receiver slows its sender. Called by the coordinator's relay.
"""

from collections.abc import Callable
from typing import Final

import trio

LINGER_S: Final = 2.0
"""How long the other direction goes on without a byte after one has ended: last words, not new ones."""

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


async def splice(
    one: trio.abc.HalfCloseableStream,
    other: trio.abc.HalfCloseableStream,
    *,
    idle_s: float,
    moved: Callable[[int], None],
) -> None:
    """Copy both ways until both have ended, either broke, or nothing moved for `idle_s`. `moved` is told of every
    piece. Closes neither."""
    with trio.CancelScope() as scope:
        joint = _Joint(scope, idle_s, moved)
        async with trio.open_nursery() as directions:
            directions.start_soon(joint.pump, one, other)
            directions.start_soon(joint.pump, other, one)


class _Joint:
    """What the two directions share: the deadline."""

    def __init__(self, scope: trio.CancelScope, idle_s: float, moved: Callable[[int], None]) -> None:
        self._scope = scope
        self._idle_s = idle_s
        self._moved = moved
        self._progressed()

    async def pump(self, source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream) -> None:
        try:
            while data := await source.receive_some():
                self._progressed()
                await sink.send_all(data)
                self._progressed()
                self._moved(len(data))
            await sink.send_eof()
        except _GONE:
            self._scope.cancel()
        self._idle_s = min(self._idle_s, LINGER_S)
        self._progressed()

    def _progressed(self) -> None:
        self._scope.deadline = trio.current_time() + self._idle_s
