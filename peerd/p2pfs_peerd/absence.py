"""While no coordinator answers: knows its fellows from the signed list, elects one of them with them, asks for copies
when it is the one, and takes in copies otherwise. Ends at once when the coordinator answers a heartbeat.

    answered ──elect_after / 2 without an answer──▶ absent ──an answer──▶ answered
                                                      │ greets; after elect_after follows a leader, or leads

Nothing here deletes, admits, or changes what is promised: there is no code for it. Wired by `composition`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.errors import Denied, Unavailable
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.server import Handler, Request, Response
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import ChunkId, PeerNumber, PoolId, VolumeId
from p2pfs.wire.fellows import CopyRequest, Greeting, Taken
from p2pfs.wire.membership import HeartbeatAnswer
from p2pfs.wire.orders import Digest, Digested, Entry, Listed
from p2pfs.wire.orders import List as ListBucket
from p2pfs_peerd.app import PeerApp
from p2pfs_peerd.copies import Copies
from p2pfs_peerd.election import Elected
from p2pfs_peerd.roll import RollBook
from p2pfs_peerd.watch import Watch

log = logging.getLogger(__name__)

_UNKNOWN_S = 60.0
"""How often it is asked whether the list is valid by now: a clock may have been set."""
_SHORTEST_WAIT_S = 0.01
"""A clock does not tell much shorter times apart; waiting for the last bit of one would spin."""


@dataclass(frozen=True, slots=True)
class _Present:
    """The parts of one absence."""

    watch: Watch
    copies: Copies
    elected: Elected


class Absence:
    """`free`, which may block, is what the owner's disk still offers; `share` of it is for copies in one absence."""

    def __init__(
        self,
        pool: PoolId,
        own: PeerNumber,
        store: DirectoryStore,
        app: PeerApp,
        *,
        path: Path,
        free: Callable[[], int],
        share: float,
        clock: Clock,
    ) -> None:
        self._own = own
        self._store = store
        self._app = app
        self._free = free
        self._share = share
        self._clock = clock
        self._book = RollBook(path, pool, clock)
        self._heard_s = clock.monotonic()
        self._present: _Present | None = None
        self._scope: trio.CancelScope | None = None
        self._is_showing = False

    def recall(self) -> bytes:
        """Take over what an earlier run kept; this peer's receipt key with it, empty if there is none. Blocking."""
        return self._book.recall()

    def hear(self, answer: HeartbeatAnswer) -> None:
        """The coordinator answered: whatever was done in its place ends."""
        self._heard_s = self._clock.monotonic()
        self._book.hear(answer)
        if self._scope is not None:
            self._scope.cancel()

    async def run(
        self, client: Client, coordinator: Endpoint, *, rate: RateLimit, addresses: Callable[[], Sequence[str]]
    ) -> None:
        """Until cancelled. `addresses` are where this peer is reached."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._book.run, client, coordinator)
            while True:
                await self._fell_silent()
                with trio.CancelScope() as self._scope:
                    await self._stand_in(client, rate, addresses)
                self._scope = None

    def silent_s(self) -> float:
        """Since the coordinator last answered."""
        return self._clock.monotonic() - self._heard_s

    async def _fell_silent(self) -> None:
        """Until the coordinator has been silent for half of what makes others be elected, and there is a list."""
        while True:
            roll = self._book.roll
            if roll is None or not roll.elect_after_s:
                await self._book.changed(_UNKNOWN_S)
                continue
            left_s = max(1.0, roll.elect_after_s / 2) - self.silent_s()
            if left_s <= 0:
                return
            await trio.sleep(max(left_s, _SHORTEST_WAIT_S))

    async def _stand_in(self, client: Client, rate: RateLimit, addresses: Callable[[], Sequence[str]]) -> None:
        roll = self._book.roll
        if roll is None:
            return
        free = await trio.to_thread.run_sync(self._free)
        takes = self._app.is_open and not self._app.is_leaving  # nobody says otherwise in this absence

        def room() -> int:
            return copies.room()

        watch = Watch(
            self._own, roll, client=client, silent_s=self.silent_s, room=room, addresses=addresses, clock=self._clock
        )
        copies = Copies(self._store, watch.stores, rate=rate, limit_bytes=int(self._share * max(0, free)) * takes)
        elected = Elected(watch, copies, client=client, store=self._store, clock=self._clock)
        self._present = _Present(watch, copies, elected)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.run)
                nursery.start_soon(copies.run)
                nursery.start_soon(elected.run)
        finally:
            self._present = None
            if elected.requested or copies.taken:
                log.info(
                    "the coordinator answers again; until then %d copies were asked for and %d taken in, %d bytes",
                    elected.requested,
                    copies.taken,
                    copies.taken_bytes,
                )

    # ---- for people -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """For `p2pfs peer status`."""
        present = self._present
        return {
            "coordinator_silent_s": round(self.silent_s(), 1),
            "knows_members": self._book.roll is not None,
            "leader": (present.watch.leader or 0) if present else 0,
            "leads": present is not None and present.watch.leads,
            "fellows_heard": len(present.watch.heard()) if present else 0,
            "copies_requested": present.elected.requested if present else 0,
            "copies_taken": present.copies.taken if present else 0,
            "bytes_taken": present.copies.taken_bytes if present else 0,
            "copies_failed": present.copies.failed if present else 0,
            "room_bytes": present.copies.room() if present else 0,
        }

    # ---- routes -----------------------------------------------------------------------------------------------------

    def handlers(self) -> dict[str, Handler]:
        """By route name."""
        return {"fellows": self._greeted, "fellow_inventory": self._inventory, "fellow_copies": self._copies}

    async def _greeted(self, request: Request) -> Response:
        """A fellow greets: tell it whether the coordinator answers this peer."""
        told = await request.message(Greeting)
        if self._present is None:
            if not self._book.lists(request.caller.node):
                raise Denied("this node is not on the list of members")
            return Response.of(Greeting(self.silent_s(), 0, 0, []))
        self._present.watch.hear(request.caller.node, told)
        return Response.of(self._present.watch.greeting())

    async def _inventory(self, request: Request) -> Response:
        """The elected one looks what is held here."""
        asked: Digest | ListBucket = await request.message(Digest | ListBucket)  # type: ignore[arg-type]
        self._app.expect_open()
        fellow = self._following().watch.expect_leader(request.caller.node)
        fellow.looked_s = self._clock.monotonic()
        with self._showing():
            if isinstance(asked, Digest):
                return Response.of(Digested(asked.order, await self._store.digests()))
            return Response.of(await self._listed(asked))

    async def _listed(self, asked: ListBucket) -> Listed:
        after = (VolumeId(asked.after[0]), ChunkId(asked.after[1])) if asked.after else None
        page = await self._store.listed(asked.bucket, after)
        entries = [Entry(one.volume, one.chunk, one.size, one.put_seq, int(one.stored_s)) for one in page.entries]
        return Listed(asked.order, page.settled_seq, entries, page.more)

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """One question about what is held at a time: each makes the disk work. Raises Unavailable."""
        if self._is_showing:
            raise Unavailable("what is held here is being shown already")
        self._is_showing = True
        try:
            yield
        finally:
            self._is_showing = False

    async def _copies(self, request: Request) -> Response:
        """The elected one asks for copies."""
        asked = await request.message(CopyRequest)
        self._app.expect_taking()
        present = self._following()
        present.watch.expect_leader(request.caller.node)
        return Response.of(Taken(await present.copies.ask(asked)))

    def _following(self) -> _Present:
        if self._present is None:
            raise Denied("the coordinator answers this peer: nobody else asks it for anything")
        return self._present
