"""What policy `fair` changes for those who look after chunks: how many copies of what is new, and whose come first."""

from dataclasses import replace
from pathlib import Path

import pytest
from careful import SIZE, Careful, Peer, careful
from coordination import Pool, pool
from plugins.checklogs import Claims

from p2pfs.errors import OverQuota
from p2pfs.meta import plans
from p2pfs.meta import usefulness as rows
from p2pfs.placement.usefulness import Counts
from p2pfs.runtime.worker import Progress
from p2pfs.types import NodeId, PeerNumber, Role
from p2pfs.wire.volumes import Reserve

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


async def of_two_peers(p: Pool) -> Careful:
    """Peers of owner1 (1 and 5) and of three others (2 to 4), all with as much room."""
    c = await careful(p, 4)
    mine = await p.join("owner1@second", Role.PEER, Role.CLIENT)
    c.peers[5] = Peer(5, NodeId(mine.node), PeerNumber(mine.peer))
    await c.beat()
    return c


async def leave(p: Pool, c: Careful, *leaving: int) -> None:
    for at in leaving:
        await p.services.leaving.drain(p.identity(c.peers[at].node, [Role.PEER]), c.peers[at].node)
    for _ in range(6):
        await c.pass_time(10)
        await c.settle()


LOW = {"policy": "fair", "replicas": "2", "min_replicas": "2", "repair_delay": "1m"}


async def test_what_is_stored_on_own_peers_without_a_share_is_refused_when_it_is_committed(tmp_path: Path) -> None:
    async with pool(tmp_path, fair_grant="4K", **LOW) as p:
        c = await of_two_peers(p)
        with pytest.raises(OverQuota):
            await p.services.sessions.reserve(c.session, Reserve(20 * SIZE))
        for number in (1, 2, 3, 4):  # one of two copies belongs on others' peers
            await c.store(number, [1, 5])
        with pytest.raises(OverQuota, match="was promised no room"):
            await c.store(5, [1, 5])
        with pytest.raises(OverQuota):
            await c.store(6, [2, 3])
        await leave(p, c, 1, 5)
        placed = p.database.read(lambda connection: rows.stock(connection, "owner1")).placed
        assert placed == 8 * SIZE
        assert counts(c, 1).u_special + counts(c, 5).u_special == 8 * SIZE  # it was allowed, and is no present
        with pytest.raises(OverQuota):
            await c.store(7, [2, 3])


async def test_what_belongs_on_own_peers_is_free(tmp_path: Path) -> None:
    async with pool(tmp_path, fair_grant="4K", **LOW) as p:
        c = await of_two_peers(p)
        for at in (1, 5):  # nearly all of the room
            await p.beat(c.peers[at].node, capacity=1 << 50)
        for number in range(1, 30):
            await c.store(number, [1, 5])


async def test_what_was_accepted_under_a_promise_is_committed_whatever_became_of_the_share(tmp_path: Path) -> None:
    async with pool(tmp_path, fair_grant="100K", **LOW) as p:
        c = await of_two_peers(p)
        await p.services.sessions.reserve(c.session, Reserve(20 * SIZE))
        p.services.usefulness._terms = replace(p.services.usefulness._terms, grant=0)  # others removed what was held
        with pytest.raises(OverQuota):
            await p.services.sessions.reserve(c.session, Reserve(SIZE))
        p.clock.advance(1200)
        await c.beat()
        await p.services.reservations.expire()
        for number in range(1, 11):
            await c.store(number, [2, 3])


async def test_copies_that_the_owner_left_to_the_coordinator_are_its_own(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        c = await careful(p, 5)
        chunks = [await c.store(number, [2, 3]) for number in range(1, 7)]  # three copies are wanted of each
        await c.pass_time(60)
        await c.settle()
        third = [1 not in c.holders(chunk) for chunk in chunks]
        assert any(third)
        assert all(len(c.holders(chunk)) == 3 for chunk in chunks)
        assert 2 * 6 + sum(third) <= counts(c, 1).u_special / SIZE <= 3 * 6


async def test_copies_that_went_with_a_peer_of_others_are_made_again_for_nothing(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("revoked")
    async with pool(tmp_path, **FAIR) as p:
        c = await careful(p, 5)
        chunks = [await c.store(number, [2, 3, 4]) for number in range(1, 7)]
        placed = counts(c, 1).u_special
        await p.services.membership.revoke(c.peers[4].node)
        while await c.leaving.work() is Progress.BUSY:  # its rows are gone before anything is copied
            pass
        del c.peers[4]
        await c.pass_time(60)
        await c.settle()
        assert all(len(c.holders(chunk)) == 3 for chunk in chunks)
        assert any(5 in c.holders(chunk) for chunk in chunks)
        assert counts(c, 1).u_special == placed


async def test_moves_count_for_nobody(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        c = await careful(p, 5)
        for number in range(1, 9):
            await c.store(number, [2, 3, 4])
        took = sum(counts(c, at).d_special for at in c.peers)
        await c.settle()
        assert any(5 in c.holders(chunk) for chunk in c.contents)  # it was moved there
        assert sum(counts(c, at).d_special for at in c.peers) == took == 8 * 3 * SIZE
