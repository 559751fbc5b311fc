"""What has arrived on a connection and not been read: heads are cut out of it, bodies pass it by.

Shared by server and client. It sets no deadlines.
"""

from p2pfs.net.heads import END, MAX_HEAD_BYTES, BadHead
from p2pfs.net.tls import TlsStream


class Inbox:
    """Receives from one stream. A head takes at most MAX_HEAD_BYTES of buffer; body bytes that came along with it are
    copied out once, all others go straight to their destination.

    Cancellation: what has arrived is kept.
    """

    __slots__ = ("_buffer", "_searched", "_start", "_stop", "_stream")

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream
        self._buffer = bytearray(MAX_HEAD_BYTES)
        self._start = 0  # the bytes between start and stop have arrived and wait
        self._stop = 0
        self._searched = 0  # no head ends before here

    @property
    def waiting(self) -> int:
        """Bytes that have arrived and not been read."""
        return self._stop - self._start

    async def arrival(self) -> bool:
        """Wait for the first byte of the next head; False when the other end said it is the last."""
        return self.waiting > 0 or await self._receive() > 0

    async def head(self) -> bytes | None:
        """The next head including its empty line; None at the end of the stream between two messages.

        Raises:
            BadHead: It is too large, or the stream ends within it.
        """
        while True:
            if (head := self.whole_head()) is not None:
                return head
            if self.waiting >= MAX_HEAD_BYTES:
                raise BadHead(431, f"the head is larger than {MAX_HEAD_BYTES} bytes")
            if not await self._receive():
                if self.waiting:
                    raise BadHead(400, "the connection ended within a head")
                return None

    def whole_head(self) -> bytes | None:
        """The next head, if all of it has arrived."""
        end = self._buffer.find(END, max(self._start, self._searched - len(END)), self._stop)
        if end >= 0:
            return self._cut(end + len(END))
        self._searched = self._stop
        return None

    def waiting_bytes(self, size: int) -> bytearray | None:
        """The next `size` body bytes, if all of them have arrived."""
        if size > self.waiting:
            return None
        body = self._buffer[self._start : self._start + size]
        self._start += size
        self._searched = self._start
        return body

    def arrived(self) -> int:
        """Bytes that the stream has brought so far, as they travel, also those that nobody has taken yet."""
        return self._stream.arrived()

    async def receive_into(self, view: memoryview, expected: int = 1) -> int:
        """Body bytes: at least one unless `view` is empty or the stream has ended (0); `expected` as for the stream."""
        waiting = min(self.waiting, len(view))
        if not waiting:
            return await self._stream.receive_into(view, expected)
        view[:waiting] = memoryview(self._buffer)[self._start : self._start + waiting]
        self._start += waiting
        self._searched = self._start
        return waiting

    def _cut(self, end: int) -> bytes:
        head = bytes(memoryview(self._buffer)[self._start : end])
        self._start = self._searched = end
        return head

    async def _receive(self) -> int:
        if self._start:
            waiting = self.waiting
            self._buffer[:waiting] = self._buffer[self._start : self._stop]
            self._searched = max(0, self._searched - self._start)
            self._start, self._stop = 0, waiting
        with memoryview(self._buffer) as view:
            count = await self._stream.receive_into(view[self._stop :])
        self._stop += count
        return count
