"""What the elected peer does, and all it does: look what those it hears hold, and ask for copies of what is short.

A look goes through the 256 buckets one after the other; what is listed is kept for one bucket at a time. Buckets in
which nothing was short are not listed again while everybody's digests stay the same. What was asked for is believed to
come for a while; whether it did is seen at the next look. Made for each absence by `absence`.
"""

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Final, TypeVar

import trio

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.errors import Misuse, PoolError
from p2pfs.format.inventory import BUCKETS, DIGEST_BYTES, digest
from p2pfs.net.client import Client
from p2pfs.placement import rendezvous
from p2pfs.placement.candidates import Candidate, candidates, is_staying
from p2pfs.placement.care import Keeper
from p2pfs.placement.election import Found, View, Wish, wishes
from p2pfs.placement.policy import copies_wanted
from p2pfs.runtime.clocks import Clock
from p2pfs.types import ChunkId, GroupId, PeerNumber, VolumeId
from p2pfs.wire.fellows import MOST_COPIES, MOST_SOURCES, Copy, CopyRequest, Taken
from p2pfs.wire.membership import PeerInfo
from p2pfs.wire.orders import MOST_LISTED, Digest, Digested, Listed
from p2pfs.wire.orders import List as ListBucket
from p2pfs_peerd.copies import Copies
from p2pfs_peerd.watch import Watch

log = logging.getLogger(__name__)

ASK_S: Final = 60.0
MOST_PAGES: Final = 10
"""Listings of one bucket of one peer, 100 000 chunks in all: one that goes on lists what does not exist."""
MOST_COMING: Final = 20_000
"""Copies asked for and not seen yet."""
COMING_LOOKS: Final = 3
"""Looks after which a copy that is not there is asked for again."""
_GROUPS_KNOWN: Final = 4096

T = TypeVar("T")


@dataclass(slots=True)
class _Listings:
    """What was listed of one bucket."""

    holders: dict[Found, list[PeerNumber]] = field(default_factory=dict)
    failed: set[PeerNumber] = field(default_factory=set)
    is_as_told: bool = True  # the same as the digests say


class Elected:
    """Looks while its peer leads."""

    def __init__(self, watch: Watch, copies: Copies, *, client: Client, store: DirectoryStore, clock: Clock) -> None:
        self._watch = watch
        self._copies = copies
        self._client = client
        self._store = store
        self._clock = clock
        self._calm: dict[int, dict[PeerNumber, bytes]] = {}  # bucket → digests with which nothing in it was short
        self._coming: dict[Found, dict[PeerNumber, float]] = {}  # copies asked for → until when they may come
        self._shown_s: dict[PeerNumber, float] = {}  # when each last showed what it holds
        self.requested = 0
        self.requested_bytes = 0

    async def run(self) -> None:
        """Look as long as this peer leads, until cancelled."""
        while True:
            await trio.sleep(self._watch.interval_s)
            if self._watch.leads:
                before = self.requested
                try:
                    await self._look()
                except PoolError as error:
                    log.info("cannot look for what is short: %s", error)  # the own disk
                if self.requested > before:
                    log.info("asked for %d copies of what is short", self.requested - before)
                await trio.sleep(self._watch.elect_after_s - self._watch.interval_s)

    async def _look(self) -> None:
        """Go through all buckets once."""
        digests = await self._digests()
        self._forget_late()
        view = self._view(digests)
        room = {number: self._watch.fellows[number].room for number in digests if number != self._watch.own}
        room[self._watch.own] = self._copies.room()
        for bucket in range(BUCKETS):
            now = {number: told[bucket] for number, told in digests.items()}
            if self._calm.get(bucket) == now or not any(map(any, now.values())):
                continue
            if not self._watch.leads:
                return
            found = await self._listings(bucket, now)
            if found.failed:  # what it holds is not known: the same as if it had shown nothing from the start
                digests = {number: told for number, told in digests.items() if number not in found.failed}
                view = self._view(digests)
            asked, is_short = wishes(found.holders, view, room=room, coming=self._coming)
            self._calm.pop(bucket, None)
            if found.is_as_told and not is_short and not found.failed:
                self._calm[bucket] = now
            await self._request(asked)

    # ---- what others hold -------------------------------------------------------------------------------------------

    async def _digests(self) -> dict[PeerNumber, list[bytes]]:
        """Of each peer that shows what it holds, this one included."""
        found = {self._watch.own: await self._store.digests()}

        async def ask(number: PeerNumber) -> None:
            try:
                told = await self._call(number, Digest(0), Digested)
                if len(told.digests) != BUCKETS or any(len(one) != DIGEST_BYTES for one in told.digests):
                    raise Misuse(f"an inventory has {BUCKETS} digests")
                found[number] = told.digests
                self._shown_s[number] = self._clock.monotonic()
            except PoolError as error:
                log.info("peer %d does not show what it holds: %s", number, error)

        async with trio.open_nursery() as nursery:
            for number in self._watch.heard():
                nursery.start_soon(ask, number)
        return found

    async def _listings(self, bucket: int, told: Mapping[PeerNumber, bytes]) -> _Listings:
        """What each of those that told a digest lists of a bucket. Copies of one that fails do not count: at worst
        there is one too many."""
        found = _Listings()
        for number in sorted(told):
            try:
                listed = await self._listed(number, bucket)
            except PoolError as error:
                found.failed.add(number)
                log.info("peer %d does not list what it holds: %s", number, error)
                continue
            for one in listed:
                found.holders.setdefault(one, []).append(number)
            # Else its digest is of what it held a moment ago, and says nothing when it is told again.
            found.is_as_told &= digest((one.volume, one.chunk) for one in listed) == told[number]
        return found

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
                listed += _checked(bucket, after, told)
                more = told.more
            if not more or not listed:
                return listed
            after = listed[-1].volume, listed[-1].chunk
        return listed

    async def _call(self, number: PeerNumber, what: Digest | ListBucket, kind: type[T]) -> T:
        endpoint = self._watch.endpoint(number)
        return await self._client.call(endpoint, "POST", "/fellows/inventory", what, kind, timeout_s=ASK_S)

    # ---- what is short ----------------------------------------------------------------------------------------------

    def _view(self, showing: Collection[PeerNumber]) -> View:
        staying = candidates(self._watch.infos())

        @lru_cache(maxsize=_GROUPS_KNOWN)
        def placed(group: GroupId) -> tuple[PeerNumber, ...]:
            return rendezvous.order(staying, group)

        keepers = {PeerNumber(peer.number): self._keeper(peer, showing) for peer in self._watch.map.peers}
        return View(keepers, placed, copies_wanted(self._watch.map)[0])

    def _keeper(self, peer: PeerInfo, showing: Collection[PeerNumber]) -> Keeper:
        number = PeerNumber(peer.number)
        is_shown = number in showing
        return Keeper(
            Candidate(number, peer.owner, peer.zone, peer.capacity),
            is_readable=is_shown,
            is_expected=not is_shown and self._unseen_s(number) < self._watch.roll.repair_delay_s,
            is_leaving=False,  # nobody leaves while nobody lets it go
            takes=is_shown and is_staying(peer),
            appearances=0,
        )

    def _unseen_s(self, number: PeerNumber) -> float:
        """For how long nothing was seen of what this fellow holds."""
        if number not in self._watch.fellows:
            return math.inf
        shown_s = self._shown_s.get(number)
        if shown_s is None:
            return self._watch.silent_fellow_s(number)
        return self._clock.monotonic() - shown_s

    # ---- asking -----------------------------------------------------------------------------------------------------

    async def _request(self, asked: Sequence[Wish]) -> None:
        by_target: dict[PeerNumber, list[Wish]] = {}
        for wish in asked:
            by_target.setdefault(wish.target, []).append(wish)
        for target, wanted in by_target.items():
            try:
                for batch in _batches(wanted):
                    taken = batch[: await self._ask(target, batch)]
                    self._note(taken)
                    if len(taken) < len(batch):
                        break  # it has no room for more now
            except PoolError as error:
                log.info("peer %d does not take copies: %s", target, error)

    async def _ask(self, target: PeerNumber, batch: Sequence[Wish]) -> int:
        """How many of these it takes."""
        copies = [
            Copy(wish.found.volume, wish.found.chunk, wish.found.size, list(wish.sources[:MOST_SOURCES]))
            for wish in batch
        ]
        if target == self._watch.own:
            return await self._copies.ask(CopyRequest(copies))
        endpoint, request = self._watch.endpoint(target), CopyRequest(copies)
        taken = await self._client.call(endpoint, "POST", "/fellows/copies", request, Taken, timeout_s=ASK_S)
        return max(0, taken.count)

    def _note(self, taken: Sequence[Wish]) -> None:
        until_s = self._clock.monotonic() + COMING_LOOKS * self._watch.elect_after_s
        for wish in taken:
            self.requested += 1
            self.requested_bytes += wish.found.size
            if len(self._coming) < MOST_COMING:
                self._coming.setdefault(wish.found, {})[wish.target] = until_s

    def _forget_late(self) -> None:
        now_s = self._clock.monotonic()
        coming = {
            found: {target: until_s for target, until_s in targets.items() if until_s > now_s}
            for found, targets in self._coming.items()
        }
        self._coming = {found: targets for found, targets in coming.items() if targets}


def _batches(wishes: Sequence[Wish]) -> Iterator[Sequence[Wish]]:
    return (wishes[at : at + MOST_COPIES] for at in range(0, len(wishes), MOST_COPIES))


def _checked(bucket: int, after: tuple[int, bytes] | None, told: Listed) -> list[Found]:
    """What was listed. Raises Misuse when that is impossible."""
    keys = [after or (-1, b""), *((entry.volume, entry.chunk) for entry in told.entries)]
    if len(told.entries) > MOST_LISTED or any(one >= other for one, other in pairwise(keys)):
        raise Misuse("a listing is too long or out of order")
    for entry in told.entries:
        if len(entry.chunk) != 32 or entry.chunk[0] != bucket or not 0 <= entry.volume < 1 << 63:
            raise Misuse("a listing names an impossible chunk")
        runs.expect_chunk(entry.size)
    return [Found(VolumeId(entry.volume), ChunkId(entry.chunk), entry.size) for entry in told.entries]
