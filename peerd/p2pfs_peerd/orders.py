"""Does what the coordinator orders: copies chunks from other peers, deletes, shows blocks, lists what is held.

One task asks, as long as there is something to tell or to do; each order runs in a task of its own, transfers a few at
a time and at the owner's rate. A chunk is taken only from a peer of the pool's map, and kept only when its bytes are
those of its id. Nothing is remembered across a restart: the coordinator orders again what was lost.
"""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.errors import Misuse, PoolError
from p2pfs.net.client import Client, Endpoint
from p2pfs.runtime.rates import RateLimit
from p2pfs.runtime.retry import backoff
from p2pfs.types import MIB, ChunkId, VolumeId
from p2pfs.wire import codec, failures
from p2pfs.wire.orders import (
    MOST_RESULTS,
    Audit,
    Audited,
    Delete,
    Deleted,
    Digest,
    Digested,
    Entry,
    Failed,
    List,
    Listed,
    Order,
    Orders,
    Report,
    Result,
    Steer,
    Steered,
    Stored,
    Transfer,
)
from p2pfs_peerd.pulling import Fellows, MapPuller, NotPulled

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Transfers under way: enough to keep a disk and a link busy."""
ROOM: Final = 12
"""Transfers in hand, so that none of the four waits for the coordinator."""
TRANSFER_S: Final = 60.0
"""For a chunk from one source."""
MOST_WORKING: Final = 1000
"""Orders in hand, twice what a coordinator gives; of what is beyond it is told no word, so that it orders it again."""
REPORT_BYTES: Final = 2 * MIB
"""Most bytes of results in one report, but for a single one: far below what the coordinator takes."""
_ASK_S: Final = 10.0
_AFTER_FAILURE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
"""A row of failures must not become a storm of questions."""


class Scrubbing(Protocol):
    """What a Steer order reaches."""

    def steer(self, action: str) -> None:
        """Raises Misuse for an unknown action."""
        ...


class OrderRunner:
    """Runs until cancelled. `wake` when the coordinator says that there are orders."""

    def __init__(
        self,
        client: Client,
        coordinator: Endpoint,
        store: DirectoryStore,
        *,
        fellows: Fellows,
        rate: RateLimit,
        scrub: Scrubbing | None,
    ) -> None:
        self._client = client
        self._coordinator = coordinator
        self._store = store
        self._rate = rate
        self._scrub = scrub
        self._fellows = fellows
        self._map_wanted = 0
        self.puller = MapPuller(client, fellows, store, timeout_s=TRANSFER_S)
        self._results: list[Result] = []
        self._working: set[int] = set()
        self._transferring = trio.CapacityLimiter(AT_ONCE)
        self._transfers = 0
        self._failing = False
        self._awake = trio.Event()

    def wake(self, *, map_version: int) -> None:
        """The coordinator has orders; the map that names their sources is at least of this version."""
        self._map_wanted = map_version
        self._awake.set()

    async def run(self) -> None:
        """Ask, work, tell."""
        async with trio.open_nursery() as nursery:
            pauses = backoff(_AFTER_FAILURE_S, _LONGEST_PAUSE_S)
            while True:
                await self._awake.wait()
                self._awake = trio.Event()
                try:
                    await self._exchange(nursery)
                    pauses = backoff(_AFTER_FAILURE_S, _LONGEST_PAUSE_S)
                except PoolError as error:
                    log.info("cannot get or report work: %s", error)
                    await trio.sleep(next(pauses))
                if self._results:
                    self._awake.set()
                if self._failing:
                    self._failing = False
                    await trio.sleep(_AFTER_FAILURE_S)

    async def _exchange(self, nursery: trio.Nursery) -> None:
        """Tell what was done and take what is to be done."""
        told = report_of(self._results)
        untold = {result.order for result in self._results[len(told) :]}  # otherwise they would count as forgotten
        report = Report(told, sorted(self._working | untold), max(0, ROOM - self._transfers))
        given = await self._client.call(self._coordinator, "POST", "/orders", report, Orders, timeout_s=_ASK_S)
        del self._results[: len(told)]
        if any(isinstance(order, Transfer) for order in given.orders):
            await self._fellows.refresh(self._map_wanted)
        for order in given.orders[: max(0, MOST_WORKING - len(self._working))]:
            self._working.add(order.order)
            self._transfers += isinstance(order, Transfer)
            nursery.start_soon(self._do, order)

    async def _do(self, order: Order) -> None:
        try:
            result = await self._done(order)
        except PoolError as error:
            result = _failed(order, error)
        self._failing = self._failing or isinstance(result, Failed)
        self._working.discard(order.order)
        self._transfers -= isinstance(order, Transfer)
        self._results.append(result)
        self._awake.set()

    async def _done(self, order: Order) -> Result:
        _expect_possible(order)
        match order:
            case Transfer():
                return await self._transfer(order)
            case Delete():
                await self._store.delete(VolumeId(order.volume), ChunkId(order.chunk), order.put_seq)
                return Deleted(order.order, order.volume, order.chunk, order.put_seq)
            case Audit():
                hashes, data = await self._store.audit(VolumeId(order.volume), ChunkId(order.chunk), order.block)
                return Audited(order.order, hashes, data)
            case Digest():
                return Digested(order.order, await self._store.digests())
            case List():
                return await self._listed(order)
            case Steer():
                if self._scrub is None:
                    raise Misuse("this peer does not scrub")
                self._scrub.steer(order.action)
                return Steered(order.order)

    async def _listed(self, order: List) -> Listed:
        after = (VolumeId(order.after[0]), ChunkId(order.after[1])) if order.after else None
        listing = await self._store.listed(order.bucket, after)
        entries = [Entry(one.volume, one.chunk, one.size, one.put_seq, int(one.stored_s)) for one in listing.entries]
        return Listed(order.order, listing.settled_seq, entries, listing.more)

    async def _transfer(self, order: Transfer) -> Result:
        """Copy a chunk from the first source that has it."""
        volume, chunk = VolumeId(order.volume), ChunkId(order.chunk)
        async with self._transferring:
            await self._rate.take(order.size)
            try:
                receipt = await self.puller.pull(volume, chunk, order.size, self.puller.quickest(order.sources))
            except NotPulled as error:
                return _failed(order, error.reason, error.missing)
        return Stored(order.order, order.volume, order.chunk, order.size, receipt)


def _expect_possible(order: Order) -> None:
    """A coordinator gone bad must not end the daemon. Raises Misuse."""
    if isinstance(order, Transfer | Delete | Audit) and not (len(order.chunk) == 32 and 0 <= order.volume < 1 << 63):
        raise Misuse("an order names an impossible chunk")
    if isinstance(order, Transfer):
        runs.expect_chunk(order.size)


def report_of(results: Sequence[Result]) -> list[Result]:
    """The first of these, as many as one report takes."""
    told: list[Result] = []
    size = 0
    for result in results[:MOST_RESULTS]:
        size += len(codec.encode(result))
        if told and size > REPORT_BYTES:
            break
        told.append(result)
    return told


def _failed(order: Order, error: PoolError, sources: Sequence[int] = ()) -> Failed:
    _, body = failures.encode_failure(error)
    failure = codec.decode(body, failures.Failure)
    return Failed(order.order, failure.code, failure.message, list(sources))
