"""A chunk store in a dictionary: the model the others are compared with, and the fake of every test above this layer.

Not for keeping data. It behaves like one peer: it verifies what it is given, numbers its PUTs, and can be made full.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.protocol import Asking, Blocks, Check, PeerStore, Released
from p2pfs.chunks.receipts import Sign, sign_for
from p2pfs.errors import Corrupt, Misuse, NoSpace, NotFound, Unavailable
from p2pfs.format import chunk as format_chunk
from p2pfs.net.watch import Watch
from p2pfs.types import Buffer, ChunkId, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt

_FIRST: Final = PeerNumber(1)
_Key = tuple[VolumeId, ChunkId]


class MemoryStore:
    """Holds sealed chunks; `capacity` counts their bytes."""

    def __init__(self, peer: PeerNumber = _FIRST, *, capacity: int | None = None, sign: Sign | None = None) -> None:
        self.peer = peer
        self.capacity = capacity
        self.chunks: dict[_Key, bytearray] = {}
        """The sealed bytes; tests reach in here to damage them."""
        self.put_seqs: dict[_Key, int] = {}
        self.fellows: Callable[[PeerNumber], PeerStore | None] = lambda _peer: None
        """Whom this one can take chunks from."""
        self._sign = sign or sign_for(peer)
        self._last_seq = 0

    @property
    def used(self) -> int:
        return sum(map(len, self.chunks.values()))

    async def put(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        parts: Sequence[Buffer],
        *,
        released: Released | None = None,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        try:
            await trio.lowlevel.checkpoint()
            data = bytearray().join(parts)
        finally:
            if released is not None:
                released()
        try:
            format_chunk.verify(chunk, data)
        except Corrupt as error:
            raise Misuse(f"these are not the bytes of this chunk: {error}") from None
        key = (volume, chunk)
        grown = self.used - len(self.chunks.get(key, b"")) + len(data)
        if self.capacity is not None and grown > self.capacity:
            raise NoSpace(f"peer {self.peer} is full")
        self._last_seq += 1
        self.chunks[key] = data
        self.put_seqs[key] = self._last_seq
        return [self._sign(volume, chunk, len(data), self._last_seq)]

    async def get(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        size: int,
        blocks: Blocks,
        *,
        check: Check | None = None,
        watch: Watch | None = None,
    ) -> memoryview:
        start, stop = runs.span(size, blocks)
        await trio.lowlevel.checkpoint()
        data = self.chunks.get((volume, chunk))
        if data is None:
            raise NotFound(f"peer {self.peer} has no such chunk")
        runs.expect_size(len(data), size)
        try:
            format_chunk.verify(chunk, data)
        except Corrupt:
            del self.chunks[volume, chunk]
            raise
        view = memoryview(bytes(data[start:stop]))
        if check is not None:
            check(view)
        return view

    async def fetch(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        size: int,
        sources: Sequence[PeerNumber],
        *,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        await trio.lowlevel.checkpoint()
        for source in sources:
            fellow = self.fellows(source)
            try:
                if fellow is not None:
                    return await self.put(volume, chunk, [await fellow.get(volume, chunk, size, runs.whole(size))])
            except (Unavailable, NotFound, Corrupt, Misuse):
                continue
        raise NotFound("no source gave the chunk")

    def ask(self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, watch: Watch) -> Asking | None:
        return None

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        await trio.lowlevel.checkpoint()
        return (volume, chunk) in self.chunks

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        await trio.lowlevel.checkpoint()
        key = (volume, chunk)
        if self.put_seqs.get(key, put_seq + 1) <= put_seq:
            del self.put_seqs[key]
            self.chunks.pop(key, None)
