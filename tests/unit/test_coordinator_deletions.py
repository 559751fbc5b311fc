"""Copies that a peer was told to delete, and that somebody needs after all."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from careful import Careful, Peer, careful
from coordination import pool
from plugins.checklogs import Claims

from p2pfs.coordinator.upkeep.orders import LONGEST_S
from p2pfs.types import ChunkId
from p2pfs.wire.orders import Delete, Deleted, Failed, Order

pytestmark = [pytest.mark.l2, pytest.mark.trio]


@dataclass
class Hung:
    """A chunk of which one of three copies is surplus: its peer was told to delete it and hangs, and the others are
    about to fall silent."""

    c: Careful
    chunk: ChunkId
    peer: Peer
    order: Delete
    others: set[int]

    async def lose_the_others(self, seconds: float = 100.0) -> None:
        """Both go down; this peer beats and reports."""
        await self.c.pass_time(seconds, *self.others)
        for _ in range(3):
            await self.c.work()
            await self.c.exchange(self.peer)

    def counts(self) -> bool:
        """Whether somebody counts on the copy."""
        return self.peer.at in self.c.holders(self.chunk)


async def hung(c: Careful) -> Hung:
    chunk = await c.store(1, [1, 2, 3])
    await c.pass_time(40.0)  # until nothing more is expected
    orders: list[Order] = []

    def hangs(order: Order) -> bool:
        if isinstance(order, Delete):
            orders.append(order)
        return isinstance(order, Delete)

    for peer in c.peers.values():
        peer.hangs = hangs
    await c.settle()
    (order,) = orders
    assert isinstance(order, Delete)
    (at,) = {1, 2, 3} - c.holders(chunk)
    return Hung(c, chunk, c.peers[at], order, {1, 2, 3} - {at})


async def test_a_copy_that_a_hanging_peer_may_still_delete_counts_for_nothing(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("is down", count=2)
    async with pool(tmp_path, replicas="2") as p:
        h = await hung(await careful(p, 3))
        await h.lose_the_others(LONGEST_S + 100.0)
        assert not h.counts()
        del h.peer.chunks[h.chunk]  # its disk is back
        h.peer.results, h.peer.working = [Deleted(h.order.order, h.order.volume, h.chunk, h.order.put_seq)], []
        await h.c.beat()
        await h.c.settle()
        assert h.c.pending() == {}
        assert h.c.holders(h.chunk) == h.c.having(h.chunk) == h.others


async def test_silence_does_not_undo_an_order_to_delete(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=3)
    async with pool(tmp_path, replicas="2") as p:
        h = await hung(await careful(p, 3))
        await h.c.pass_time(100.0, 1, 2, 3)
        await h.lose_the_others(1.0)
        assert h.c.is_up(h.peer)
        assert not h.counts()


@pytest.mark.parametrize("failed", [False, True])
async def test_a_copy_counts_again_at_once_when_its_peer_says_that_it_is_not_deleting_it(
    tmp_path: Path, claim_logs: Claims, failed: bool
) -> None:
    """Because it was started anew, or could not."""
    claim_logs("is down", count=2)
    async with pool(tmp_path, replicas="2") as p:
        h = await hung(await careful(p, 3))
        await h.lose_the_others()
        assert not h.counts()
        h.peer.working = []
        h.peer.results = [Failed(h.order.order, "Unavailable", "read-only")] if failed else []
        await h.c.exchange(h.peer)
        await h.c.work()
        assert h.counts()


async def test_what_an_earlier_run_of_the_coordinator_ordered_may_still_be_done(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("is down", count=2)
    async with pool(tmp_path, replicas="2") as p:
        h = await hung(await careful(p, 3))
        clock = p.clock
    async with pool(tmp_path, clock=clock, replicas="2") as p:
        h.c.pool = p
        await h.lose_the_others()
        assert not h.counts()
        h.peer.working = []
        await h.c.exchange(h.peer)
        await h.c.work()
        assert h.counts()
