"""What a peer answers: one handler for each of wire.routes.PEER_ROUTES.

A handler parses, asks the store, and answers. Who may call was decided by the server from the table; whether a PUT has
room is the token's to say. Made by `composition`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.protocol import Blocks
from p2pfs.errors import Invalid, Misuse, NoSpace, NotFound, Unavailable
from p2pfs.format.chunk import BlockHasher
from p2pfs.format.ranges import SEALED_BLOCK_BYTES
from p2pfs.net.server import Handler, Request, Response
from p2pfs.types import BLOCKS_PER_CHUNK, GONE_STATES, KIB, ChunkId, NodeId, PeerState, VolumeId
from p2pfs.wire import failures
from p2pfs.wire.chunks import RESERVATION_HEADER
from p2pfs_peerd.budget import ReadBudget, Turns
from p2pfs_peerd.tokens import TokenBook

_LEAVING: Final = GONE_STATES | {PeerState.DRAINING}
_RECEIVE: Final = 256 * KIB
_BEFORE_BUFFER: Final = 64 * KIB
_BYTES: Final = "application/octet-stream"
_RANGE: Final = re.compile(r"bytes=(\d{1,10})-(\d{1,10})", re.ASCII)
_VOLUME: Final = re.compile(r"[0-9a-f]{16}")
_CHUNK: Final = re.compile(r"[0-9a-f]{64}")


Served = Callable[[NodeId, VolumeId, ChunkId, int], None]
"""Told who was given how many bytes of which chunk."""


class PeerApp:
    """The handlers of one peer."""

    def __init__(self, store: DirectoryStore, tokens: TokenBook, served: Served = lambda *_: None) -> None:
        self._served = served
        self._store = store
        self._tokens = tokens
        self._budget = ReadBudget()
        self._turns = Turns()
        self.is_open = True
        """Whether chunks are taken and given; not while it is unknown who is revoked."""
        self.is_leaving = False
        """No new chunks are taken: a mount whose map is old goes to another peer."""
        self.taken_bytes = self.given_bytes = 0  # of chunks, since the start

    def hear(self, state: str) -> None:
        """What the coordinator says this peer is (types.PeerState)."""
        self.is_leaving = state in _LEAVING

    def handlers(self) -> Mapping[str, Handler]:
        """By route name."""
        return {
            "put_chunk": self.put,
            "get_chunk": self.get,
            "head_chunk": self.head,
            "health": self.health,
        }

    async def put(self, request: Request) -> Response:
        """Receive in place, hash on the way, store, sign."""
        self.expect_taking()
        volume, chunk = named(request)
        size = request.content_length
        runs.expect_chunk(size)
        header = request.headers.get(RESERVATION_HEADER.lower())
        with self._tokens.spend(header, sender=request.caller.node, volume=volume, size=size):
            # Who announces and sends nothing gets no buffer, and who sends slowly keeps only a few from others.
            first = memoryview(bytearray(min(size, _BEFORE_BUFFER)))
            await request.fill(first)
            async with self._turns.taken(request.caller.node) as turn, self._store.lend() as buffer:
                hasher = await _receive(request, first, buffer.body[:size])
                turn.end()  # the rest depends on this disk and not on the sender
                receipt = await self._store.keep(volume, chunk, buffer, size, hasher)
                self.taken_bytes += size
                return Response.of(receipt)

    async def get(self, request: Request) -> Response:
        """The whole chunk, or the range asked for; only the blocks it touches are read and verified."""
        self.expect_open()
        volume, chunk = named(request)
        wanted = _range(request.headers.get("range"))
        most = BLOCKS_PER_CHUNK if wanted is None else min(BLOCKS_PER_CHUNK, runs.run_of(*wanted).count)
        lease = await self._budget.take(request.caller.node, most * SEALED_BLOCK_BYTES)
        try:
            start, stop = wanted or (0, 0)

            def select(size: int) -> Blocks:
                nonlocal stop
                if wanted is None:
                    stop = size
                elif stop > size:
                    raise Invalid(f"the chunk has only {size} bytes")
                return runs.run_of(start, stop)

            size, view = await self._store.read(volume, chunk, select, most=most)
            first, _ = runs.span(size, runs.run_of(start, stop))
            view = view[start - first : stop - first]
            lease.follow(view)
            self.given_bytes += stop - start
            self._served(request.caller.node, volume, chunk, stop - start)
        except BaseException:
            lease.end()
            raise
        if wanted is None:
            return Response(failures.OK, view, _BYTES)
        content_range = ("content-range", f"bytes {start}-{stop - 1}/{size}")
        return Response(failures.PARTIAL_CONTENT, view, _BYTES, (content_range,))

    async def head(self, request: Request) -> Response:
        """Whether the chunk is here, and its size; it is not read."""
        self.expect_open()
        size = await self._store.size(*named(request))
        if size is None:
            raise NotFound("no such chunk here")
        return Response(failures.OK, content_type=_BYTES, length=size)

    async def health(self, _request: Request) -> Response:
        """That this peer lives, and how full it is."""
        usage = self._store.usage()
        return Response.of(
            {"capacity": usage.capacity, "used": usage.used, "trash": usage.trash, "chunks": usage.chunks}
        )

    def expect_taking(self) -> None:
        """Raises Unavailable or NoSpace unless new chunks are taken."""
        self.expect_open()
        if self.is_leaving:
            raise NoSpace("this peer is leaving the pool")

    def expect_open(self) -> None:
        """Raises Unavailable while it is unknown who is revoked."""
        if not self.is_open:
            raise Unavailable("this peer has not heard from its coordinator yet")


async def _receive(request: Request, first: memoryview, body: memoryview) -> BlockHasher:
    """Fill `body`, whose beginning has arrived already; hashed on the way."""
    hasher = BlockHasher()
    body[: len(first)] = first
    hasher.update(first)
    at = len(first)
    while at < len(body):
        piece = body[at : at + _RECEIVE]
        hasher.update(piece[: await request.fill(piece)])
        at += len(piece)
    return hasher


def named(request: Request) -> tuple[VolumeId, ChunkId]:
    """Volume and chunk of the path. Raises Misuse unless they are written exactly as we write them."""
    volume, chunk = request.parameters["volume"], request.parameters["chunk"]
    if not _VOLUME.fullmatch(volume) or not _CHUNK.fullmatch(chunk):
        raise Misuse("a chunk is named by 16 and 64 lower-case hexadecimal digits")
    return VolumeId(int(volume, 16)), ChunkId(bytes.fromhex(chunk))


def _range(header: str | None) -> tuple[int, int] | None:
    """[start, stop) of `Range: bytes=first-last`; None without one. Other forms are not for machines."""
    if header is None:
        return None
    found = _RANGE.fullmatch(header)
    if found is None or int(found[1]) > int(found[2]):
        raise Misuse("a range is written bytes=first-last")
    return int(found[1]), int(found[2]) + 1
