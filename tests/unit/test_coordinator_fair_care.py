"""What policy `fair` changes for those who look after chunks: how many copies of what is new, and whose come first."""

from pathlib import Path

import pytest
from careful import SIZE, Careful, careful
from coordination import Pool, pool
from plugins.checklogs import Claims

from p2pfs.meta import plans
from p2pfs.placement.usefulness import Counts

pytestmark = [pytest.mark.l2, pytest.mark.trio]

FAIR = {"policy": "fair", "replicas": "3", "min_replicas": "2", "repair_delay": "1m"}


async def frugal(p: Pool) -> Careful:
    """Five peers; owner1 has placed a chunk on others before, and so is given two copies of what it writes."""
    c = await careful(p, 5)
    await c.store(1, [2, 3, 4])
    await c.settle()
    await p.services.usefulness.work()
    assert p.services.pool_map("owner1").replicas == 2
    return c


def counts(c: Careful, at: int) -> Counts:
    return c.pool.services.usefulness.traffic.counts(c.peers[at].node)  # type: ignore[arg-type]


async def short(p: Pool) -> int:
    return (await p.services.status.report(p.identity())).chunks.under_replicated


async def test_what_is_new_gets_as_many_as_its_owner_is_given_and_what_was_there_keeps_its_own(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, **FAIR) as p:
        c = await frugal(p)
        before = c.holders(await c.store(2, [2, 3]))
        await c.pass_time(60)
        await c.settle()
        chunks = [c.holders(one) for one in sorted(c.contents, key=lambda one: c.contents[one])]
        assert sorted(len(holding) for holding in chunks) == [2, 3]
        assert len(before) == 2
        assert await short(p) == 0
        gone = 2
        await c.pass_time(200, gone)
        assert await short(p) > 0
        await c.settle()
        await c.pass_time(2, gone)  # a report is a second old at most
        assert await short(p) == 0
        assert sorted(len(c.holders(one) - {gone}) for one in c.contents) == [2, 3]


async def test_a_peer_may_leave_when_others_hold_as_many_copies_as_each_chunk_wants(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        c = await careful(p, 5)
        one, two, three, four = (c.peers[at].number for at in (1, 2, 3, 4))

        def short() -> int:
            staying = [one, three, four]
            return p.database.read(
                lambda connection: plans.dependence(connection, [two], others=staying, readable=staying, wanted=3)
            ).short

        await c.store(1, [2, 3, 4])
        assert short() == 1
        await p.services.usefulness.work()
        await c.store(2, [2, 3, 4])
        assert short() == 1  # of the second two are enough
        await c.store(3, [2, 3])
        assert short() == 2


async def test_who_gives_again_gets_the_pools_copies_for_what_was_written_before(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        c = await frugal(p)
        chunk = await c.store(2, [2, 3])
        await c.pass_time(60)
        await c.settle()
        assert len(c.holders(chunk)) == 2
        p.services.usefulness.traffic.placed("owner2", None, c.peers[1].number, 100 * SIZE)
        await p.services.usefulness.work()
        await c.settle()
        assert len(c.holders(chunk)) == 3
        assert p.services.pool_map("owner1").replicas == 3


async def test_a_repair_counts_for_who_takes_it_in_and_against_nobody(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, **FAIR) as p:
        c = await careful(p, 5)
        chunk = await c.store(1, [2, 3, 4])
        await c.settle()
        placed = counts(c, 1).u_special
        before = c.holders(chunk)
        took = {at: counts(c, at).d_special for at in c.peers}
        gone = max(before)
        await c.pass_time(200, gone)
        await c.settle()
        (new,) = c.holders(chunk) - before
        assert counts(c, 1).u_special == placed
        for at in c.peers:
            assert counts(c, at).d_special == took[at] + (SIZE if at == new != 1 else 0)


async def test_moves_count_for_nobody(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        c = await careful(p, 5)
        for number in range(1, 9):
            await c.store(number, [2, 3, 4])
        took = sum(counts(c, at).d_special for at in c.peers)
        await c.settle()
        assert any(5 in c.holders(chunk) for chunk in c.contents)  # it was moved there
        assert sum(counts(c, at).d_special for at in c.peers) == took == 8 * 3 * SIZE
