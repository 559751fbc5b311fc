"""Wires whose bytes count towards the limits of this process (`net.pace`), and which wire a stream gets.

A receiver holds senders back by not reading. How that looks to a sender depends on how much the kernel keeps meanwhile:
it acknowledges nothing from when its buffer is full until much of that was read, which under a thin limit takes
seconds, and whoever waits for progress takes this process for silent. So it keeps little while the limit is thin.
"""

import contextlib
import os
import socket
import ssl
from typing import Final

import trio

from p2pfs.net.pace import SMALL_BYTES, Pace, PacedStream, piece_of
from p2pfs.net.wires import BUFFER, RECEIVE_BYTES, SocketWire, StreamWire, Wire
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import KIB, Buffer

_KEPT_S: Final = 0.05
"""So much of a limit may wait unread on each connection: one alone reaches the limit yet where a round trip takes no
longer, and eight that share it stand still for less than a second."""
_LEAST_KEPT: Final = 8 * KIB
_USUAL_KEPT: Final = 128 * KIB
"""What the kernel begins with, and more is needed for nothing."""
_WIDEST_WINDOW: Final = 1 << 30
_SO_BUF_LOCK: Final = 72  # Linux 5.14; not in `socket`


def kept_unread(limit: RateLimit) -> int | None:
    """How many bytes the kernel may keep unread for each connection; None: as many as it likes."""
    if limit.rate is None or (kept := int(limit.rate * _KEPT_S)) >= _USUAL_KEPT:
        return None
    return max(kept, _LEAST_KEPT)


def keep_unread(opened: trio.socket.SocketType, kept: int | None) -> None:
    """Have a connection, or those that a listening socket accepts from now on, keep so much. A window that is open
    already does not shrink."""
    with contextlib.suppress(OSError):  # an old kernel, or closed
        if kept is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kept)
        elif opened.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _USUAL_KEPT)
            opened.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)  # it grows by itself again
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, _WIDEST_WINDOW)


class PacedWire(SocketWire):
    """A socket whose bytes count towards the limits of this process, and wait for them: in pieces, so that many
    connections share a thin limit evenly, and what is small does not wait behind what is large."""

    __slots__ = ("_kept", "_pace")

    def __init__(self, stream: trio.SocketStream, pace: Pace) -> None:
        super().__init__(stream)
        self._pace = pace
        self._kept = kept_unread(pace.down)
        keep_unread(stream.socket, self._kept)

    @property
    def sends_now(self) -> bool:
        return super().sends_now and self._pace.up.has_room()

    def _read(self) -> int:
        most = piece_of(self._pace.down, RECEIVE_BYTES)
        views = BUFFER.list if most == RECEIVE_BYTES else (BUFFER.view[:most],)
        count = os.readv(self._fd(), views)
        self._pace.down.charge(count)
        return count

    async def fill(self, incoming: ssl.MemoryBIO, expected: int = 1) -> bool:
        down = self._pace.down
        if (kept := kept_unread(down)) != self._kept:
            self._kept = kept
            keep_unread(self._socket, kept)
        if not down.has_room():
            await down.settled()  # for what was received before; the kernel holds the sender back meanwhile
        return await super().fill(incoming, min(expected, piece_of(down, expected)))

    def take(self, incoming: ssl.MemoryBIO) -> bool:
        return self._pace.down.has_room() and super().take(incoming)

    async def write(self, data: Buffer) -> None:
        up, rest = self._pace.up, memoryview(data)
        if len(rest) <= SMALL_BYTES and up.spare(len(rest)):
            await super().write(rest)
            return
        while rest:
            piece = rest[: piece_of(up, len(rest))]
            if up.rate is None:
                up.charge(len(piece))
            else:
                await up.take(len(piece))
            await super().write(piece)
            rest = rest[len(piece) :]

    def write_nowait(self, data: Buffer) -> int:
        up = self._pace.up
        if len(data) > piece_of(up, len(data)) or not up.spare(len(data)):
            return 0
        count = super().write_nowait(data)
        up.charge(count - len(data))
        return count


def wire_of(stream: trio.abc.Stream) -> Wire:
    """The fastest way to drive `stream`, which nobody else may use any more."""
    if isinstance(stream, PacedStream):
        return PacedWire(stream.inner, stream.pace)
    return SocketWire(stream) if isinstance(stream, trio.SocketStream) else StreamWire(stream)
