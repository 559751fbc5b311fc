"""Takes chunks from fellow peers because a client says so, which then need not send them once for each copy.

The client shows its own certificate and the token it would have spent on a PUT, and gets the receipt it would have got:
nothing is delegated to the source, which answers a GET like any other. Sources are peers of the map, asked in the
client's order. Made by `composition`.
"""

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.errors import Misuse, NotFound, PoolError, Unavailable
from p2pfs.net.server import Handler, Request, Response
from p2pfs.types import MOST_SOURCES, NodeId, PeerNumber
from p2pfs.wire import codec
from p2pfs.wire.chunks import RESERVATION_HEADER, Fetch, Receipt
from p2pfs_peerd.app import PeerApp, named
from p2pfs_peerd.budget import Places, Turns
from p2pfs_peerd.pulling import Fellows, MapPuller, NotPulled
from p2pfs_peerd.tokens import TokenBook

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""Pulls under way for all clients together: as many as there are buffers, and 16 MiB."""
FETCH_S: Final = 20.0
"""For one, whatever its sources do."""
WAIT_S: Final = 10.0
"""Before it, for others to be done: with both a client's 30 s are not over."""
IDLE_S: Final = 1.0
"""Without a byte from a source the next one is asked."""
_MAP_AFTER_S: Final = 5.0
"""The map is fetched for a source that is not in it at most so often, whatever clients name."""


class Fetches:
    """The handler of `fetch_chunk`."""

    def __init__(self, app: PeerApp, tokens: TokenBook, *, number: PeerNumber) -> None:
        self._app, self._tokens, self._number = app, tokens, number
        self.puller: MapPuller | None = None
        """Not before this peer runs."""
        self._turns = Turns()
        self._places = Places(AT_ONCE)
        self._map_fetched_s = -_MAP_AFTER_S

    def handlers(self) -> dict[str, Handler]:
        """By route name."""
        return {"fetch_chunk": self.fetch}

    async def fetch(self, request: Request) -> Response:
        """Pull, store, sign. The room stays spent when no source gives the chunk: otherwise a client could have peers
        send to each other without end what it never pays for."""
        self._app.expect_taking()
        if self.puller is None:
            raise Unavailable("this peer is only just starting")
        message = codec.decode(await request.body(), Fetch)
        runs.expect_chunk(message.size)
        if not 1 <= len(message.sources) <= MOST_SOURCES:
            raise Misuse(f"a chunk is fetched from 1 to {MOST_SOURCES} peers")
        volume, _ = named(request)
        header = request.headers.get(RESERVATION_HEADER.lower())
        node = request.caller.node
        with self._tokens.spend(header, sender=node, volume=volume, size=message.size):
            async with self._place(node):
                outcome = await self._pulled(self.puller, request, message)
        if isinstance(outcome, PoolError):
            raise outcome
        return Response.of(outcome)

    @asynccontextmanager
    async def _place(self, node: NodeId) -> AsyncIterator[None]:
        """One of the node's and of all. Raises Unavailable, which is no source's fault and costs no room."""
        with trio.move_on_after(WAIT_S) as waiting:
            async with self._turns.taken(node), self._places.taken(node):
                waiting.deadline = math.inf
                yield
                return
        raise Unavailable("this peer takes as many chunks from others as it can")

    async def _pulled(self, puller: MapPuller, request: Request, message: Fetch) -> Receipt | PoolError:
        """The receipt, or what the sources are to blame for. Raises what this peer is."""
        volume, chunk = named(request)
        sources = [source for source in dict.fromkeys(message.sources) if source != self._number]
        with trio.move_on_after(FETCH_S):
            await self._know(puller.fellows, sources)
            try:
                return await puller.pull(volume, chunk, message.size, sources)
            except NotPulled as error:
                if error.is_ours:
                    raise error.reason from None
                return NotFound(f"no source gave the chunk: {error.reason}")
        return NotFound("no source gave the chunk in time")

    async def _know(self, fellows: Fellows, sources: list[int]) -> None:
        """Have a map that names them, if there is one and this peer has not just looked."""
        now = trio.current_time()
        if fellows.knows(sources) or now < self._map_fetched_s + _MAP_AFTER_S:
            return
        self._map_fetched_s = now
        try:
            await fellows.fetch(IDLE_S)
        except PoolError as error:  # the map there is will do, or no source is known
            log.info("the pool map is not fetched: %s", error)
