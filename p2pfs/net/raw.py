"""A connection that has left HTTP: after `101 Switching Protocols` both ends send whatever they like over its TLS.

A trio stream, so that another TLS can run inside. Made by `net.connection` at a server and by `net.dialled` at a
client; what arrived together with the head comes first.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from p2pfs.errors import Misuse, PoolError
from p2pfs.net.inbox import Inbox
from p2pfs.net.tls import TlsStream
from p2pfs.types import KIB

PIECE_BYTES: Final = 64 * KIB


class RawStream(trio.abc.HalfCloseableStream):
    """It sets no deadlines. Raises trio's BrokenResourceError when the connection is gone.

    Cancellation: as `TlsStream`: a cancelled send leaves a stream that can only be closed.
    """

    def __init__(self, stream: TlsStream, inbox: Inbox) -> None:
        self._stream = stream
        self._inbox = inbox
        self._piece = memoryview(bytearray(PIECE_BYTES))

    def is_readable(self) -> bool:
        """Whether something (data, end, error) waits to be read."""
        return self._inbox.waiting > 0 or self._stream.is_readable()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At most `max_bytes` or PIECE_BYTES, whichever is less; empty at the end."""
        try:
            count = await self._inbox.receive_into(self._piece[: max_bytes or PIECE_BYTES])
        except PoolError as error:
            raise trio.BrokenResourceError(str(error)) from error
        return bytes(self._piece[:count])

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all((data,))
        except Misuse as error:
            raise trio.BusyResourceError(str(error)) from error
        except PoolError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        try:
            await self._stream.finish()
        except PoolError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def aclose(self) -> None:
        """Ends within a second."""
        await self._stream.aclose()


Upgrade = Callable[[RawStream], Awaitable[None]]
"""What a server does with a connection that has left HTTP. The connection is closed when it returns."""
