"""How fast a process may send and receive: one limit each way, shared by all its sockets.

Only sockets count: what is spliced through somebody else goes over one. Bytes are counted as they are given to TCP, TLS
included. `net.paced` does the waiting; the peer daemon makes one `Pace` and gives it to its server and its client.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import KIB

BURST_S: Final = 0.2
"""So much may be moved at once after a pause: over ten seconds that is 2 %. Shorter, and a process that is held up for
a moment could not make up for it."""
SMALL_BYTES: Final = 2 * KIB
"""Heads, heartbeats and short answers do not wait behind chunks."""
_PIECE_S: Final = 0.02
_LEAST_PIECE: Final = 4 * KIB


@dataclass(frozen=True, slots=True)
class Pace:
    """Without a limit it only counts (`RateLimit.taken`). Both may change at any time."""

    up: RateLimit
    down: RateLimit

    @classmethod
    def unlimited(cls, clock: Clock) -> "Pace":
        return cls(RateLimit(None, clock, burst_s=BURST_S), RateLimit(None, clock, burst_s=BURST_S))

    def over(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """The same connection, paced; one that is no socket of this process stays as it is."""
        return PacedStream(stream, self) if isinstance(stream, trio.SocketStream) else stream

    def connecting(
        self, connect: Callable[[str, int], Awaitable[trio.abc.Stream]]
    ) -> Callable[[str, int], Awaitable[trio.abc.Stream]]:
        """As `connect`, and what comes of it is paced."""

        async def paced(host: str, port: int) -> trio.abc.Stream:
            return self.over(await connect(host, port))

        return paced


class PacedStream(trio.abc.Stream):
    """A socket on its way to `net.paced`, which drives what is inside; used directly, it is not paced."""

    def __init__(self, inner: trio.SocketStream, pace: Pace) -> None:
        self.inner = inner
        self.pace = pace

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


def piece_of(limit: RateLimit, most: int) -> int:
    """How much of `most` bytes goes at once: what the limit lets through in a moment."""
    return most if limit.rate is None else min(most, max(_LEAST_PIECE, int(limit.rate * _PIECE_S)))
