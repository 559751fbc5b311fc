"""What the elected peer learns of others, and that none of them holds it up."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from chunk_pool import pool_map

from p2pfs.chunks.inventory import Listing
from p2pfs.errors import NoSpace
from p2pfs.format.inventory import BUCKETS, EMPTY
from p2pfs.net.client import Endpoint
from p2pfs.placement.election import Found, Room, Wish
from p2pfs.types import MIB, ChunkId, NodeId, PeerNumber, Role, VolumeId
from p2pfs.wire.fellows import CopyRequest, Taken
from p2pfs.wire.orders import Digest, Digested, Entry, Listed
from p2pfs_peerd.election import Elected
from p2pfs_peerd.inventories import LOOK_S, Inventories
from p2pfs_peerd.watch import AT_ONCE

pytestmark = pytest.mark.l0

OWN = PeerNumber(1)
PEERS = range(1, 31)


class Clock:
    def monotonic(self) -> float:
        return trio.current_time()


class Store:
    async def digests(self) -> list[bytes]:
        return [EMPTY] * BUCKETS

    async def listed(self, *_: object) -> Listing:
        return Listing(0, [], more=False)


class Pool:
    """Each answers after so many seconds."""

    def __init__(self, **slow: float) -> None:
        self.takes_s = {number: slow.get(f"peer_{number}", 1.0) for number in PEERS}
        self.asked: list[tuple[int, float]] = []  # who, when
        self.busy = self.most_busy = 0
        self.room = 1000

    async def call(self, endpoint: Endpoint, _method: str, _path: str, what: object, *_: object, **__: object) -> Any:  # noqa: ANN401
        number = int(endpoint.node, 16)
        self.asked.append((number, trio.current_time()))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            await trio.sleep(self.takes_s[number])
        finally:
            self.busy -= 1
        if isinstance(what, Digest):
            return Digested(0, [bytes(range(32))] * BUCKETS)
        if isinstance(what, CopyRequest):
            if what.copies[0].sources == [9]:
                return Taken(0)
            if number == 8:
                raise NoSpace("none")
            return Taken(len(what.copies))
        return Listed(0, 0, [Entry(1, bytes([what.bucket]) + bytes(31), 5000, 1, 0)], more=False)  # type: ignore[attr-defined]

    def watch(self) -> Any:  # noqa: ANN401
        infos = {peer.number: peer for peer in pool_map(PEERS).peers}
        return SimpleNamespace(
            own=OWN,
            elect_after_s=120.0,
            heard=lambda: [PeerNumber(number) for number in PEERS if number != OWN],
            endpoint=lambda number: Endpoint(NodeId(infos[number].node), Role.PEER, ("192.0.2.1:1",)),
        )


async def test_who_dawdles_does_not_show_and_holds_nobody_up(autojump_clock: object) -> None:
    pool = Pool(peer_7=55.0)
    shown = Inventories(pool.watch(), client=pool, store=Store(), clock=Clock())  # type: ignore[arg-type]
    told = await shown.digests()
    assert set(told) == set(PEERS)
    failed = []
    for bucket in range(20):
        listings = await shown.listings(bucket, {number: one[bucket] for number, one in told.items()})
        failed.append(listings.failed)
        told = {number: one for number, one in told.items() if number not in listings.failed}
        (holders,) = listings.holders.values()
        assert holders == [number for number in PEERS if number != OWN and number in told]
    assert failed[0] == set()
    assert {7} in failed
    assert failed[-1] == set()  # not asked any more
    spent = [when for number, when in pool.asked if number == 7]
    assert spent[-1] - spent[0] <= LOOK_S
    assert trio.current_time() < LOOK_S + 20 * 10
    assert pool.most_busy == AT_ONCE


async def test_the_next_look_hears_it_again(autojump_clock: object) -> None:
    pool = Pool(peer_7=LOOK_S + 1)
    shown = Inventories(pool.watch(), client=pool, store=Store(), clock=Clock())  # type: ignore[arg-type]
    assert 7 not in await shown.digests()
    pool.takes_s[7] = 1.0
    assert 7 in await shown.digests()


def wish(seed: int, target: int, *sources: int) -> Wish:
    found = Found(VolumeId(1), ChunkId(seed.to_bytes(32, "big")), MIB)
    return Wish(found, tuple(map(PeerNumber, sources)), PeerNumber(target))


async def test_what_is_not_taken_is_given_back_and_stops_nothing_else(autojump_clock: object) -> None:
    pool = Pool(peer_5=LOOK_S + 1)
    elected = Elected(pool.watch(), None, client=pool, store=Store(), clock=Clock())  # type: ignore[arg-type]
    room = Room({PeerNumber(number): 400 * MIB for number in PEERS}, 1)
    asked = [wish(seed, 2, 9) for seed in range(200)]
    asked += [wish(1000 + target, target, 3) for target in (2, 5, 6, 8)]
    for one in asked:
        room.charge(one)
    assert not room.takes(PeerNumber(2), 300 * MIB, PeerNumber(3))
    await elected._request(asked, room)
    assert elected.requested == 2  # of 2 and 6
    assert room.takes(PeerNumber(2), 399 * MIB, PeerNumber(4))
    for closed in (5, 8):
        assert not room.takes(PeerNumber(closed), 1, PeerNumber(4))
    assert trio.current_time() <= LOOK_S + 1
