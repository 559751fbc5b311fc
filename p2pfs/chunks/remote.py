"""One peer's chunks over the network.

Not a judge of content: whoever holds the keys checks what `get` returns. It spends reservation tokens, which its owner
gets from the coordinator, and asks only for the blocks wanted. Called by chunks.replicated.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.pages import room
from p2pfs.chunks.protocol import Blocks, Check, Released
from p2pfs.errors import Corrupt, Invalid, Misuse, NoSpace, NotFound, Unavailable
from p2pfs.net.client import Client, Endpoint, Reply
from p2pfs.net.watch import Watch
from p2pfs.types import Buffer, ChunkId, PeerNumber, VolumeId, volume_name
from p2pfs.wire import codec
from p2pfs.wire.chunks import RESERVATION_HEADER, Receipt, Token

Tokens = Callable[[PeerNumber, int], Token | None]
"""(peer, sealed bytes) → a token with that much room left, now counted as used; None: treat the peer as full."""

Unspent = Callable[[PeerNumber, Token, int], None]
"""(peer, token, sealed bytes) after a PUT that failed: the peer counts it as not made."""

QUICK_TIMEOUT_S: Final = 2.0
"""For questions without a body to move."""


class RemoteStore:
    """The chunk store of the peer at `endpoint`."""

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        peer: PeerNumber,
        tokens: Tokens,
        *,
        unspent: Unspent | None = None,
        timeout_s: float = 30.0,
        idle_s: float | None = None,
    ) -> None:
        self._client = client
        self.endpoint = endpoint
        self.peer = peer
        self._tokens = tokens
        self._unspent = unspent
        self._timeout_s = timeout_s
        self._idle_s = idle_s

    def __repr__(self) -> str:
        return f"RemoteStore(peer {self.peer} at {self.endpoint.addresses})"

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
            size = runs.total_bytes(parts)
            runs.expect_chunk(size)
            token = self._tokens(self.peer, size)
            if token is None:
                raise NoSpace(f"no room is reserved on peer {self.peer}")
            reply = await self._send(volume, chunk, parts, token, size, watch)
        finally:
            if released is not None:
                released()
        receipt = codec.decode(reply.body, Receipt)
        if receipt.peer != self.peer:
            raise Unavailable(f"peer {self.peer} answered with a receipt of peer {receipt.peer}")
        return [receipt]

    async def _send(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        parts: Sequence[Buffer],
        token: Token,
        size: int,
        watch: Watch | None,
    ) -> Reply:
        try:
            return await self._client.request(
                self.endpoint,
                "PUT",
                _path(volume, chunk),
                parts=parts,
                headers=((RESERVATION_HEADER, codec.encode(token).hex()),),
                timeout_s=self._timeout_s,
                idle_s=self._idle_s,
                watch=watch,
            )
        except NoSpace:
            raise  # perhaps the peer counts more than we do: the token stays spent, and is replaced the sooner
        except BaseException:
            if self._unspent is not None:
                self._unspent(self.peer, token, size)
            raise

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
        try:
            reply = await self._client.request(
                self.endpoint,
                "GET",
                _path(volume, chunk),
                headers=(("Range", f"bytes={start}-{stop - 1}"),),
                into=room(stop - start),
                timeout_s=self._timeout_s,
                idle_s=self._idle_s,
                watch=watch,
            )
        except Invalid as error:  # its copy is shorter than the caller knows the chunk to be
            raise Corrupt(f"peer {self.peer} has another chunk than the one asked for: {error}") from None
        if reply.headers.get("content-range") != f"bytes {start}-{stop - 1}/{size}" or len(reply.body) != stop - start:
            raise Corrupt(f"peer {self.peer} answered with other bytes than those asked for")
        if check is not None:
            check(reply.body)
        return reply.body

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        try:
            await self._client.request(self.endpoint, "HEAD", _path(volume, chunk), timeout_s=QUICK_TIMEOUT_S)
        except NotFound:
            return False
        return True

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        """Refused: a peer deletes what its coordinator orders, and nothing else."""
        await trio.lowlevel.checkpoint()
        raise Misuse("a peer deletes only by order")


def _path(volume: VolumeId, chunk: ChunkId) -> str:
    return f"/volumes/{volume_name(volume)}/chunks/{chunk.hex()}"
