"""What the elected peer does, and all it does: look what those it hears hold, and ask for copies of what is short.

A look goes through the 256 buckets one after the other; what is listed is kept for one bucket at a time. Buckets in
which nothing was short are not listed again while everybody's digests stay the same. What was asked for is believed to
come for a while; whether it did is seen at the next look. Made for each absence by `absence`.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Final

import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.errors import PoolError, Unavailable
from p2pfs.format.inventory import BUCKETS
from p2pfs.net.client import Client
from p2pfs.placement import rendezvous
from p2pfs.placement.candidates import Candidate, candidates, is_staying
from p2pfs.placement.care import Keeper
from p2pfs.placement.election import Found, Room, View, Wish, shortest, wishes
from p2pfs.placement.policy import copies_wanted
from p2pfs.runtime.clocks import Clock
from p2pfs.types import GroupId, PeerNumber
from p2pfs.wire.fellows import MOST_COPIES, MOST_SOURCES, Copy, CopyRequest, Taken
from p2pfs.wire.membership import PeerInfo
from p2pfs_peerd.copies import Copies
from p2pfs_peerd.inventories import ASK_S, LOOK_S, Inventories
from p2pfs_peerd.watch import AT_ONCE, Watch

log = logging.getLogger(__name__)

MOST_COMING: Final = 20_000
"""Copies asked for and not seen yet."""
COMING_LOOKS: Final = 3
"""Looks after which a copy that is not there is asked for again."""
_GROUPS_KNOWN: Final = 4096
_IN_A_ROW: Final = 256
"""Chunks judged without letting other tasks run: 10 ms."""


class Elected:
    """Looks while its peer leads."""

    def __init__(self, watch: Watch, copies: Copies, *, client: Client, store: DirectoryStore, clock: Clock) -> None:
        self._watch = watch
        self._copies = copies
        self._client = client
        self._clock = clock
        self._inventories = Inventories(watch, client=client, store=store, clock=clock)
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._spent_s: defaultdict[PeerNumber, float] = defaultdict(float)  # asking each to take copies, in this look
        self._calm: dict[int, dict[PeerNumber, bytes]] = {}  # bucket → digests with which nothing in it was short
        self._coming: dict[Found, dict[PeerNumber, float]] = {}  # copies asked for → until when they may come
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
        self._spent_s.clear()
        digests = await self._inventories.digests()
        self._forget_late()
        view = self._view(digests)
        free = {number: self._watch.fellows[number].room for number in digests if number != self._watch.own}
        room = Room(free | {self._watch.own: self._copies.room()}, len(digests))
        for bucket in range(BUCKETS):
            now = {number: told[bucket] for number, told in digests.items()}
            if self._calm.get(bucket) == now or not any(map(any, now.values())):
                continue
            if not self._watch.leads:
                return
            found = await self._inventories.listings(bucket, now)
            if found.failed:  # what it holds is not known: the same as if it had shown nothing from the start
                digests = {number: told for number, told in digests.items() if number not in found.failed}
                view = self._view(digests)
            short = shortest(found.holders, view)
            asked: list[Wish] = []
            for at in range(0, len(short), _IN_A_ROW):
                asked += wishes(short[at : at + _IN_A_ROW], view, room=room, coming=self._coming)
                await trio.lowlevel.checkpoint()
            self._calm.pop(bucket, None)
            if found.is_as_told and not short and not found.failed:
                self._calm[bucket] = now
            await self._request(asked, room)

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
        shown_s = self._inventories.shown_s.get(number)
        if shown_s is None:
            return self._watch.silent_fellow_s(number)
        return self._clock.monotonic() - shown_s

    # ---- asking -----------------------------------------------------------------------------------------------------

    async def _request(self, asked: Sequence[Wish], room: Room) -> None:
        """Ask for these; who holds the same stands in one line, so that what a liar lists stops nothing else."""
        lines: dict[PeerNumber, dict[tuple[PeerNumber, ...], list[Wish]]] = {}
        for wish in asked:
            lines.setdefault(wish.target, {}).setdefault(wish.sources, []).append(wish)

        async def ask(target: PeerNumber) -> None:
            async with self._at_once:
                began_s = self._clock.monotonic()
                try:
                    with trio.move_on_after(max(0.0, LOOK_S - self._spent_s[target])) as scope:
                        for wanted in lines[target].values():
                            await self._put(target, wanted, room)
                    if scope.cancelled_caught:
                        raise Unavailable("it takes too long")
                except PoolError as error:
                    room.close(target)  # in this look
                    log.info("peer %d does not take copies: %s", target, error)
                self._spent_s[target] += self._clock.monotonic() - began_s

        async with trio.open_nursery() as nursery:
            for target in lines:
                nursery.start_soon(ask, target)

    async def _put(self, target: PeerNumber, wanted: Sequence[Wish], room: Room) -> None:
        """Ask for these copies until it has no room for more now. Raises PoolError."""
        taken = 0
        for batch in _batches(wanted):
            count = min(await self._ask(target, batch), len(batch))
            self._note(batch[:count])
            taken += count
            if count < len(batch):
                break
        for wish in wanted[taken:]:
            room.charge(wish, back=True)

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
