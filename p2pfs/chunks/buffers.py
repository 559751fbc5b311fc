"""Page-aligned buffers, each large enough for a chunk file, reused because fresh pages are dear (docs/performance.md).

A buffer is lent to one PUT at a time: its body is received in place, hashed on the way and written with its header by
one write. One that a stuck disk may still be reading is forfeited, never lent again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.chunks.pages import aligned
from p2pfs.chunks.spares import Spares
from p2pfs.runtime.credits import ByteCredits
from p2pfs.types import SEALED_CHUNK_BYTES


class ChunkBuffer:
    """Room for the header page and the sealed bytes after it."""

    __slots__ = ("body", "forfeited", "page", "whole")

    def __init__(self) -> None:
        self.whole = memoryview(aligned(HEADER_BYTES + SEALED_CHUNK_BYTES))
        self.page = self.whole[:HEADER_BYTES]
        self.body = self.whole[HEADER_BYTES : HEADER_BYTES + SEALED_CHUNK_BYTES]
        self.forfeited = False


class BufferPool:
    """At most `limit` buffers lent at once; whoever comes later waits, which is the peer's back-pressure."""

    def __init__(self, limit: int = 16) -> None:
        self._free = Spares[ChunkBuffer](limit)
        self._limit = ByteCredits(limit)

    @property
    def lent(self) -> int:
        return self._limit.taken

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[ChunkBuffer]:
        """A buffer for the duration of the block."""
        await self._limit.take(1)
        buffer = self._free.take() or ChunkBuffer()
        try:
            yield buffer
        finally:
            if not buffer.forfeited:
                self._free.put(buffer)
            self._limit.give(1)
