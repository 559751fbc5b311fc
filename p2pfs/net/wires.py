"""The bytes below TLS: a socket driven directly, or any trio stream.

Not a protocol. `net.tls` fills its incoming BIO from a wire and writes its outgoing bytes to it. A socket is read and
written without a checkpoint while the kernel has data or room (trio's own methods take one for each call), through one
receive buffer a thread; after a few such calls in a row it takes one, so that a busy connection starves nobody. Who
knows how much is still to come is woken when much of it is there (SO_RCVLOWAT) and not for every piece.
"""

import array
import contextlib
import fcntl
import os
import select
import ssl
import termios
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import trio

from p2pfs.errors import Unavailable
from p2pfs.types import KIB, Buffer

RECEIVE_BYTES: Final = 128 * KIB
_UNSENT_BYTES: Final = 256 * KIB
"""How much the kernel may hold unsent before a socket counts as full; trio's own 16 KiB costs bulk sends a wake-up for
every few records."""
_LONGEST_STREAK: Final = 16
_MOST_AWAITED: Final = 256 * KIB
"""As much is let arrive before a receiver is woken. Each wake-up costs both ends' processors about 50 µs."""
_TLS_RECORD: Final = 17 * KIB
"""At most so much of what is expected has arrived already, in part, and waits inside TLS."""


class Total:
    """What went through all wires of this process since it began, in bytes."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = self.sent = 0


TOTAL: Final = Total()


class Stall:
    """Ends a scope when nothing moved for a while: each byte that does moves its deadline on."""

    __slots__ = ("_idle_s", "_scope")

    def __init__(self, scope: trio.CancelScope, idle_s: float) -> None:
        self._scope = scope
        self._idle_s = idle_s
        self.progressed()

    def progressed(self) -> None:
        self._scope.deadline = trio.current_time() + self._idle_s


class Wire(Protocol):
    """Raises Unavailable when the connection is gone, from every method but `close`."""

    stall: Stall | None

    @property
    def sends_now(self) -> bool:
        """Whether `write_nowait` would try."""
        ...

    def arrived(self) -> int:
        """Bytes that have come so far, also those that nobody has taken yet."""
        ...

    def moved(self) -> int:
        """These and the bytes sent, as far as it is known that they got to the other end's system."""
        ...

    def write_nowait(self, data: Buffer) -> int:
        """Send what is taken without waiting; how many bytes. 0 after many calls in a row: it is others' turn then."""
        ...

    async def fill(self, incoming: ssl.MemoryBIO, expected: int = 1) -> bool:
        """Put what has arrived into `incoming`, waiting for at least a byte; False at the end of the stream.

        `expected` plain bytes are sure to come and nothing can be done before they are there: the wait may last until
        most of them are.

        Cancellation: nothing is lost.
        """
        ...

    def take(self, incoming: ssl.MemoryBIO) -> bool:
        """Put what has arrived into `incoming` without waiting; False when that is nothing, or not known."""
        ...

    async def write(self, data: Buffer) -> None:
        """Send all. Cancellation: some of it may have gone out."""
        ...

    def is_readable(self) -> bool:
        """Whether something (data, end, error) waits to be read; False when that cannot be known."""
        ...

    async def finish(self) -> None:
        """Say that nothing more will be sent; goes on reading."""
        ...

    async def close(self, last: bytes) -> None:
        """Try once to send `last`, then close. Ends within a second."""
        ...


class _Buffer(threading.local):
    """Filled and emptied between two checkpoints, so that one is enough for all connections of a thread."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE_BYTES))
        self.list: Sequence[memoryview] = (self.view,)


BUFFER: Final = _Buffer()


class SocketWire:
    """A TCP (or UNIX) socket."""

    __slots__ = ("_awaited", "_is_quiet", "_received", "_sent", "_socket", "_streak", "stall")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._awaited = 1  # the socket counts as readable from so many bytes on
        self._is_quiet = False  # something was just sent, and the other end will first have to read it
        self._streak = 0  # calls since this task last let others run
        self._received = self._sent = 0
        self.stall: Stall | None = None
        with contextlib.suppress(OSError):  # not TCP
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    @property
    def sends_now(self) -> bool:
        return self._streak < _LONGEST_STREAK

    def _fd(self) -> int:
        fd = self._socket.fileno()
        if fd < 0:
            raise Unavailable("the connection was closed at this end")
        return fd

    def arrived(self) -> int:
        return self._received + self._queued(termios.FIONREAD)

    def moved(self) -> int:
        return self.arrived() + self._sent - self._queued(termios.TIOCOUTQ)

    def _queued(self, which: int) -> int:
        """Bytes in the kernel that wait to be read, or that were written and not acknowledged; 0 when closed."""
        found = array.array("i", [0])
        fd = self._socket.fileno()
        if fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, which, found)
        return found[0]

    async def fill(self, incoming: ssl.MemoryBIO, expected: int = 1) -> bool:
        while True:
            try:
                count = -1 if self._is_quiet else self._read()
            except BlockingIOError:
                count = -1
            except OSError as error:
                raise _lost(error) from None
            if count < 0:
                self._is_quiet = False
                # While each byte counts as progress, each must be seen.
                self._await(expected - _TLS_RECORD if self.stall is None else 1)
                await self._wait(trio.lowlevel.wait_readable)
                continue
            if not count:
                incoming.write_eof()
                return False
            self._took(incoming, count)
            await self._take_turns()
            return True

    def _read(self) -> int:
        return os.readv(self._fd(), BUFFER.list)

    def take(self, incoming: ssl.MemoryBIO) -> bool:
        try:
            count = self._read()
        except OSError:  # nothing there, or an error that the next `fill` meets
            return False
        self._took(incoming, count)
        return count > 0  # the end is met again by the next `fill`

    def _took(self, incoming: ssl.MemoryBIO, count: int) -> None:
        incoming.write(BUFFER.view[:count])
        self._received += count
        TOTAL.received += count
        if self.stall is not None:
            self.stall.progressed()

    def _await(self, count: int) -> None:
        count = max(1, min(count, _MOST_AWAITED))
        if count != self._awaited:
            self._socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVLOWAT, count)
            self._awaited = count

    async def write(self, data: Buffer) -> None:
        rest = memoryview(data)
        while rest:
            try:
                count = os.write(self._fd(), rest)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_writable)
                continue
            except OSError as error:
                raise _lost(error) from None
            rest = rest[count:]
            self._sent += count
            TOTAL.sent += count
            if self.stall is not None:
                self.stall.progressed()
        self._is_quiet = True
        await self._take_turns()

    def write_nowait(self, data: Buffer) -> int:
        if not self.sends_now:
            return 0
        self._streak += 1
        try:
            count = os.write(self._fd(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _lost(error) from None
        self._sent += count
        TOTAL.sent += count
        self._is_quiet = True
        if self.stall is not None:
            self.stall.progressed()
        return count

    async def _take_turns(self) -> None:
        self._streak += 1
        if self._streak >= _LONGEST_STREAK:
            self._streak = 0
            await trio.lowlevel.checkpoint()

    async def _wait(self, until: Callable[[int], Awaitable[None]]) -> None:
        self._streak = 0
        try:
            await until(self._fd())
        except trio.ClosedResourceError:
            raise Unavailable("the connection was closed at this end") from None

    def is_readable(self) -> bool:
        fd = self._socket.fileno()
        if fd < 0:
            return True
        self._await(1)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    async def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(trio.socket.SHUT_WR)

    async def close(self, last: bytes) -> None:
        fd = self._socket.fileno()
        if last and fd >= 0:
            with contextlib.suppress(OSError):  # full or gone: the end is told by the socket's closing then
                os.write(fd, last)
        self._socket.close()


class StreamWire:
    """Any trio stream: memory streams in tests, a connection spliced through somebody else."""

    __slots__ = ("_received", "_sent", "_stream", "stall")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._received = self._sent = 0
        self.stall: Stall | None = None

    @property
    def sends_now(self) -> bool:
        return False

    def arrived(self) -> int:
        return self._received

    def moved(self) -> int:
        return self._received + self._sent

    def write_nowait(self, data: Buffer) -> int:
        return 0

    async def fill(self, incoming: ssl.MemoryBIO, expected: int = 1) -> bool:
        try:
            data = await self._stream.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _lost(error) from None
        if not data:
            incoming.write_eof()
            return False
        incoming.write(data)
        self._received += len(data)
        TOTAL.received += len(data)
        if self.stall is not None:
            self.stall.progressed()
        return True

    def take(self, incoming: ssl.MemoryBIO) -> bool:
        return False

    async def write(self, data: Buffer) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _lost(error) from None
        self._sent += len(data)
        TOTAL.sent += len(data)
        if self.stall is not None:
            self.stall.progressed()

    def is_readable(self) -> bool:
        return False

    async def finish(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                await self._stream.send_eof()

    async def close(self, last: bytes) -> None:
        with trio.move_on_after(1, shield=True):
            if last:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                    await self._stream.send_all(last)
        await trio.aclose_forcefully(self._stream)


def _lost(error: Exception) -> Unavailable:
    reason = error.strerror if isinstance(error, OSError) else None
    return Unavailable(f"the connection was lost: {(reason or type(error).__name__).lower()}")
