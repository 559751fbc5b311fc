"""One peer's chunks over the network.

Not a judge of content: whoever holds the keys checks what `get` returns. It spends reservation tokens, which its owner
gets from the coordinator, and asks only for the blocks wanted. Called by chunks.replicated.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.pages import room
from p2pfs.chunks.protocol import Asking, Blocks, Check, Released
from p2pfs.errors import Corrupt, Invalid, Misuse, NoSpace, NotFound, Unavailable
from p2pfs.net.asked import Asked
from p2pfs.net.bodies import SLOWEST_BYTES_PER_S
from p2pfs.net.client import Client, Endpoint, Reply
from p2pfs.net.watch import Watch
from p2pfs.types import Buffer, ChunkId, PeerNumber, VolumeId, volume_name
from p2pfs.wire import codec
from p2pfs.wire.chunks import RESERVATION_HEADER, Fetch, Receipt, Token

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
        self._shown: tuple[Token, tuple[str, str]] | None = None

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
            # Whoever has the watch gives up earlier when nothing moves; where it does, a thin uplink needs its time.
            timeout_s = self._timeout_s + size / SLOWEST_BYTES_PER_S
            return await self._stored("PUT", _path(volume, chunk), parts, size, watch, timeout_s)
        finally:
            if released is not None:
                released()

    async def fetch(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        size: int,
        sources: Sequence[PeerNumber],
        *,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        body = codec.encode(Fetch(size, list(sources)))
        path = f"{_path(volume, chunk)}/fetch"
        return await self._stored("POST", path, [body], size, watch, self._timeout_s)

    async def _stored(
        self, method: str, path: str, parts: Sequence[Buffer], size: int, watch: Watch | None, timeout_s: float
    ) -> list[Receipt]:
        """Have the peer store a chunk of `size`, under a token."""
        runs.expect_chunk(size)
        token = self._tokens(self.peer, size)
        if token is None:
            raise NoSpace(f"no room is reserved on peer {self.peer}")
        try:
            reply = await self._client.request(
                self.endpoint, method, path,
                parts=parts, headers=(self._reservation(token),),
                timeout_s=timeout_s, idle_s=self._idle_s, watch=watch,
            )  # fmt: skip
        except (NoSpace, NotFound):
            raise  # perhaps the peer counts more than we do: the token stays spent, and is replaced the sooner
        except BaseException:
            if self._unspent is not None:
                self._unspent(self.peer, token, size)
            raise
        receipt = codec.decode(reply.body, Receipt)
        if receipt.peer != self.peer:
            raise Unavailable(f"peer {self.peer} answered with a receipt of peer {receipt.peer}")
        return [receipt]

    def _reservation(self, token: Token) -> tuple[str, str]:
        """The header for a token, which serves for many chunks."""
        if self._shown is None or self._shown[0] is not token:
            self._shown = token, (RESERVATION_HEADER, codec.encode(token).hex())
        return self._shown[1]

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
                headers=(_range(start, stop),),
                into=room(stop - start),
                timeout_s=self._timeout_s,
                idle_s=self._idle_s,
                watch=watch,
            )
        except Invalid as error:
            raise self._shorter(error) from None
        sealed = self._sealed(reply, start, stop, size)
        if check is not None:
            check(sealed)
        return sealed

    def ask(self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, watch: Watch) -> Asking | None:
        start, stop = runs.span(size, blocks)
        if self._idle_s is not None:
            return None
        asked = self._client.ask(self.endpoint, _path(volume, chunk), (_range(start, stop),), room(stop - start), watch)
        return None if asked is None else _Asking(asked, self, start, stop, size)

    def _sealed(self, reply: Reply, start: int, stop: int, size: int) -> memoryview:
        """The bytes of an answer. Raises Corrupt when they are not those asked for, as far as the peer says."""
        if reply.headers.get("content-range") != f"bytes {start}-{stop - 1}/{size}" or len(reply.body) != stop - start:
            raise Corrupt(f"peer {self.peer} answered with other bytes than those asked for")
        return reply.body

    def _shorter(self, error: Invalid) -> Corrupt:
        """Its copy is shorter than the caller knows the chunk to be."""
        return Corrupt(f"peer {self.peer} has another chunk than the one asked for: {error}")

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


class _Asking:
    """A `get` under way."""

    __slots__ = ("_asked", "_size", "_start", "_stop", "_store")

    def __init__(self, asked: Asked, store: RemoteStore, start: int, stop: int, size: int) -> None:
        self._asked, self._store = asked, store
        self._start, self._stop, self._size = start, stop, size

    async def sealed(self) -> memoryview:
        try:
            reply = await self._asked.answer()
        except Invalid as error:
            raise self._store._shorter(error) from None
        return self._store._sealed(reply, self._start, self._stop, self._size)

    async def aclose(self) -> None:
        await self._asked.aclose()


def _range(start: int, stop: int) -> tuple[str, str]:
    return "Range", f"bytes={start}-{stop - 1}"


def _path(volume: VolumeId, chunk: ChunkId) -> str:
    return f"/volumes/{volume_name(volume)}/chunks/{chunk.hex()}"
