"""What the elected peer learns of what others hold: digests and listings, asked of a few at a time.

Nobody who hangs or dawdles holds a look up for long: each has so much time for all of it, and who exceeds that does not
show in this look what it holds. Called by `election`.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeVar

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.errors import Misuse, PoolError, Unavailable
from p2pfs.format.inventory import BUCKETS, DIGEST_BYTES, digest
from p2pfs.net.client import Client
from p2pfs.placement.election import Found
from p2pfs.runtime.clocks import Clock
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.orders import MOST_LISTED, Digest, Digested, Listed
from p2pfs.wire.orders import List as ListBucket
from p2pfs_peerd.watch import AT_ONCE, Watch

log = logging.getLogger(__name__)

ASK_S: Final = 60.0
"""For one answer."""
LOOK_S: Final = 300.0
"""For all that one peer is asked in one look."""
MOST_PAGES: Final = 10
"""Listings of one bucket of one peer, 100 000 chunks in all: one that goes on lists what does not exist."""

T = TypeVar("T")


@dataclass(slots=True)
class Listings:
    """What was listed of one bucket."""

    holders: dict[Found, list[PeerNumber]] = field(default_factory=dict)
    failed: set[PeerNumber] = field(default_factory=set)
    is_as_told: bool = True  # the same as the digests say


class Inventories:
    """Those of one absence."""

    def __init__(self, watch: Watch, *, client: Client, store: DirectoryStore, clock: Clock) -> None:
        self._watch = watch
        self._client = client
        self._store = store
        self._clock = clock
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._spent_s: defaultdict[PeerNumber, float] = defaultdict(float)  # in this look
        self.shown_s: dict[PeerNumber, float] = {}  # when each last showed what it holds, monotonic

    async def digests(self) -> dict[PeerNumber, list[bytes]]:
        """Of each peer that shows what it holds, this one included: a look begins."""
        self._spent_s.clear()
        found = {self._watch.own: await self._store.digests()}

        async def ask(number: PeerNumber) -> None:
            told = await self._call(number, Digest(0), Digested)
            if len(told.digests) != BUCKETS or any(len(one) != DIGEST_BYTES for one in told.digests):
                raise Misuse(f"an inventory has {BUCKETS} digests")
            found[number] = told.digests
            self.shown_s[number] = self._clock.monotonic()

        await self._each(self._watch.heard(), ask)
        return found

    async def listings(self, bucket: int, told: Mapping[PeerNumber, bytes]) -> Listings:
        """What each of those that told a digest lists of a bucket. Copies of one that fails do not count: at worst
        there is one too many."""
        lists: dict[PeerNumber, list[Found]] = {}

        async def ask(number: PeerNumber) -> None:
            lists[number] = await self._listed(number, bucket)

        found = Listings(failed=await self._each(told, ask))
        for number in sorted(lists):
            listed = lists[number]
            for one in listed:
                found.holders.setdefault(one, []).append(number)
            # Else its digest is of what it held a moment ago, and says nothing when it is told again.
            found.is_as_told &= digest((one.volume, one.chunk) for one in listed) == told[number]
            await trio.lowlevel.checkpoint()
        return found

    async def _each(
        self, numbers: Iterable[PeerNumber], ask: Callable[[PeerNumber], Awaitable[None]]
    ) -> set[PeerNumber]:
        """Ask each of them; returns those that failed, or have used up their time. The own disk may take any time."""
        failed: set[PeerNumber] = set()

        async def one(number: PeerNumber) -> None:
            async with self._at_once:
                began_s = self._clock.monotonic()
                left_s = max(0.0, LOOK_S - self._spent_s[number])
                try:
                    with trio.move_on_after(left_s if number != self._watch.own else math.inf) as scope:
                        await ask(number)
                    if scope.cancelled_caught:
                        raise Unavailable("it takes too long")
                except PoolError as error:
                    failed.add(number)
                    log.info("peer %d does not show what it holds: %s", number, error)
                self._spent_s[number] += self._clock.monotonic() - began_s

        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(one, number)
        return failed

    async def _listed(self, number: PeerNumber, bucket: int) -> list[Found]:
        """What a peer holds of a bucket. Raises PoolError."""
        listed: list[Found] = []
        after: tuple[int, bytes] | None = None
        for _ in range(MOST_PAGES):
            if number == self._watch.own:
                own_after = (VolumeId(after[0]), ChunkId(after[1])) if after else None
                page = await self._store.listed(bucket, own_after)
                listed += [Found(one.volume, one.chunk, one.size) for one in page.entries]
                more = page.more
            else:
                told = await self._call(number, ListBucket(0, bucket, after), Listed)
                listed += checked(bucket, after, told)
                more = told.more
            if not more or not listed:
                return listed
            after = listed[-1].volume, listed[-1].chunk
        return listed

    async def _call(self, number: PeerNumber, what: Digest | ListBucket, kind: type[T]) -> T:
        endpoint = self._watch.endpoint(number)
        return await self._client.call(endpoint, "POST", "/fellows/inventory", what, kind, timeout_s=ASK_S)


def checked(bucket: int, after: tuple[int, bytes] | None, told: Listed) -> list[Found]:
    """What was listed. Raises Misuse when that is impossible."""
    keys = [after or (-1, b""), *((entry.volume, entry.chunk) for entry in told.entries)]
    if len(told.entries) > MOST_LISTED or any(one >= other for one, other in pairwise(keys)):
        raise Misuse("a listing is too long or out of order")
    for entry in told.entries:
        if len(entry.chunk) != 32 or entry.chunk[0] != bucket or not 0 <= entry.volume < 1 << 63:
            raise Misuse("a listing names an impossible chunk")
        runs.expect_chunk(entry.size)
    return [Found(VolumeId(entry.volume), ChunkId(entry.chunk), entry.size) for entry in told.entries]
