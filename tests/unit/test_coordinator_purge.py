"""What nothing names any more goes: late, from honest peers, and never by a clock that is wrong."""

from pathlib import Path

import pytest
from careful import SIZE, VOLUME, Careful, careful
from coordination import Pool, pool
from plugins.checklogs import Claims

from p2pfs.errors import Gone
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import ChunkId
from p2pfs.wire.namespace import Commit, ExtentRow, Make, NewChunk

pytestmark = [pytest.mark.l2, pytest.mark.trio]


async def doomed(c: Careful) -> ChunkId:
    """A chunk that three peers hold and nothing names."""
    chunk = await c.store(1, [1, 2, 3])
    await c.settle()
    await c.unlink(1)
    return chunk


async def name_again(c: Careful, chunk: ChunkId, receipts: dict[int, int]) -> None:
    """A new file of that chunk; `receipts`: peer → put_seq."""
    inode = c.first + 500
    made = [c.pool.receipt(c.peers[at].number, VOLUME, chunk, size=SIZE, put_seq=seq) for at, seq in receipts.items()]
    make = Make(1, b"again", inode, b"tag", inode, 1, 0o644, 0, 0, 0, b"head", 1)
    new = [NewChunk(chunk, SIZE, made)] if made else []
    await c.batch(make, Commit(inode, 0, SIZE, b"head", 2, extents=[ExtentRow(0, 1, chunk, b"sealed")], chunks=new))


async def test_a_chunk_goes_after_its_grace_and_can_be_named_until_then(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_grace="1h", purge_latest="0s") as p:
        c = await careful(p, 3)
        chunk = await doomed(c)
        await c.pass_time(3500)
        await c.purge.work()
        await name_again(c, chunk, {})
        await c.pass_time(8000)
        await c.purge.work()
        assert c.holders(chunk) == c.having(chunk) == {1, 2, 3}


async def test_what_was_purged_must_be_put_again(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_grace="1h", purge_latest="0s") as p:
        c = await careful(p, 3)
        chunk = await doomed(c)
        old = dict(zip((1, 2), (c.peers[1].chunks[chunk], c.peers[2].chunks[chunk]), strict=True))
        await c.pass_time(3700)
        await c.purge.work()
        assert c.holders(chunk) == set()
        assert set(c.pending().values()) == {1}
        with pytest.raises(Gone):
            await name_again(c, chunk, old)
        new = {at: c.peers[at].put(chunk) for at in (1, 2)}  # before the orders to delete have arrived
        await name_again(c, chunk, new)
        await c.pass_time(40)
        await c.settle()
        assert c.having(chunk) == c.holders(chunk) == {1, 2, 3}
        assert c.pending() == {}


async def test_copies_are_deleted_also_after_a_restart(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_grace="1h", purge_latest="0s") as p:
        c = await careful(p, 3)
        chunk = await doomed(c)
        await c.pass_time(3700)
        await c.purge.work()
        await c.exchange(c.peers[1])
        clock = p.clock
    async with pool(tmp_path, clock=clock) as p:
        c.pool = p
        await c.beat()
        await c.settle()
        assert c.having(chunk) == set()
        assert c.pending() == {}


@pytest.mark.parametrize("heard", [True, False])
async def test_a_clock_that_was_set_purges_nothing(tmp_path: Path, claim_logs: Claims, heard: bool) -> None:
    """Also before the next heartbeats come, which will say so."""
    if heard:
        claim_logs("nothing is purged", count=1)
    async with pool(tmp_path, purge_grace="1h", purge_latest="0s") as p:
        c = await careful(p, 3)
        chunk = await doomed(c)
        right_s = p.clock.time()
        p.clock.set_time(right_s + 10 * 365 * 86400.0)
        if heard:
            for peer in c.peers.values():
                await p.beat(peer.node, clock_s=right_s)
        for _ in range(3):
            await c.purge.work()
        assert c.holders(chunk) == {1, 2, 3}
        if not heard:  # it was wrong before, and is right now: the peers say so
            await c.pass_time(61)
            await c.purge.work()
            assert c.holders(chunk) == set()


async def test_a_clock_that_an_admin_confirmed_is_believed_though_peers_still_differ(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("nothing is purged", count=2)
    clock = FakeClock()

    async def told(p: Pool, c: Careful, behind_s: float) -> str:
        for peer in c.peers.values():
            await p.beat(peer.node, clock_s=p.clock.time() - behind_s)
        return await p.services.pool_clock.doubt()

    async with pool(tmp_path, clock=clock) as p:
        c = await careful(p, 3)
        assert "differs" in await told(p, c, 10_000)
        await p.services.pool_clock.confirm()
        assert await told(p, c, 10_000) == ""
        peers = c.peers
    async with pool(tmp_path, clock=clock) as p:
        assert await told(p, Careful(p, peers), 10_000) == ""  # also after a restart
        assert "differs" in await told(p, Careful(p, peers), 20_000)


async def test_busy_peers_delay_a_purge_but_not_for_ever(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_grace="1h", purge_latest="1h", quiet_load="0") as p:
        c = await careful(p, 3)
        chunk = await doomed(c)
        await c.pass_time(3700)
        await c.purge.work()
        assert c.holders(chunk) == {1, 2, 3}
        (job,) = [job for job in p.services.jobs.listed() if job.kind == "purge"]
        assert job.error == "waiting for a quiet hour"
        await c.pass_time(3600)
        await c.purge.work()
        assert c.holders(chunk) == set()


async def test_nothing_is_purged_while_nobody_tells_the_time(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=3)
    async with pool(tmp_path, purge_grace="1h", purge_latest="0s") as p:
        c = await careful(p, 3)
        chunk = await doomed(c)
        await c.pass_time(4000, 1, 2, 3)
        await c.purge.work()
        assert c.holders(chunk) == {1, 2, 3}


async def test_a_copy_that_arrives_after_its_chunk_was_purged_is_no_location(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_grace="1h", purge_latest="0s", orphan_grace="1h") as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])
        await c.pass_time(30)
        await c.work()
        while chunk not in c.peers[3].chunks:
            await c.exchange(c.peers[3])
        await c.unlink(1)
        results, c.peers[3].results = c.peers[3].results, []
        await c.pass_time(3700)
        await c.purge.work()
        c.peers[3].results = results
        await c.exchange(c.peers[3])
        (job,) = [job for job in p.services.jobs.listed() if job.kind == "repair"]
        assert job.error == "the chunk was deleted while it was copied"
        await c.settle()
        assert c.holders(chunk) == set()
