"""Who gave what to whom as the coordinator counts it, against liars and loops; and what `fair` gives for it."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from coordination import FakeClock, Pool, chunk_id, pool, volume_message
from plugins.checklogs import Claims

from p2pfs.coordinator import traffic
from p2pfs.coordinator.traffic import DAY_S, MOST_DAY_BYTES, MOST_ROWS, MOST_RUNS
from p2pfs.errors import Misuse, NoSpace, OverQuota
from p2pfs.meta import chunks_index
from p2pfs.meta import usefulness as rows
from p2pfs.placement.usefulness import WINDOWS, Counts, Stock
from p2pfs.types import GIB, MIB, NodeId, PeerNumber, Role, SessionId, VolumeId
from p2pfs.wire import codec
from p2pfs.wire.membership import JoinAnswer
from p2pfs.wire.namespace import AddReplicas, Applied, Batch, Commit, ExtentRow, Make, Unlink
from p2pfs.wire.usefulness import Gave
from p2pfs.wire.volumes import OpenSession, Reserve

pytestmark = pytest.mark.l0

SIZE = MIB


class Mount:
    """A session of one node on a volume of its owner's."""

    def __init__(self, p: Pool, node: str, volume: int) -> None:
        self.p, self.node, self.volume = p, NodeId(node), VolumeId(volume)
        self.seq = self.files = 0

    async def open(self) -> "Mount":
        identity = self.p.identity(self.node, [Role.CLIENT])
        known = {one.volume for one in self.p.services.volumes.visible(identity)}
        if self.volume not in known:
            await self.p.services.volumes.create(identity, volume_message(self.volume, f"v{self.volume}"))
        grant = await self.p.services.sessions.open(identity, self.volume, OpenSession("host", f"/mnt{self.volume}"))
        self.session, self.next = SessionId(grant.session), grant.first_id
        return self

    async def apply(self, *operations: Make | Commit | Unlink | AddReplicas) -> Applied:
        self.seq += 1
        batch = Batch(self.seq, self.seq - 1, list(operations))
        return codec.decode(await self.p.services.sessions.apply(self.session, batch), Applied)

    async def write(
        self, number: int, peers: Iterable[int], *, size: int = SIZE, put_seq: int = 1, times: int = 1
    ) -> Unlink:
        """A file of one chunk; what removes it."""
        chunk = self.p.stored(self.volume, number, peers, size=size, put_seq=put_seq)
        self.next += 2
        self.files += 1
        name, inode = b"file %d" % self.files, self.next - 1
        extent = ExtentRow(0, 1, chunk.chunk, b"sealed")
        await self.apply(
            Make(1, name, self.next - 2, b"tag", inode, 1, 0o644, 0, 0, 0, b"head", 1),
            Commit(inode, 0, size, b"head", 2, extents=[extent], chunks=[chunk] * times),
        )
        return Unlink(1, name, inode, False, 3)

    async def fetched(self, *rows_: tuple[int, int, int]) -> None:
        await self.p.services.sessions.renew(self.session, rows_)

    async def reserve(self, room: int) -> int:
        """How many peers promised it."""
        return len((await self.p.services.sessions.reserve(self.session, Reserve(room))).tokens)


async def fair(p: Pool, count: int = 3) -> tuple[list[JoinAnswer], Mount]:
    """Peers of owner1, owner2, …, and a mount of anna's, who has none."""
    peers = await p.peers(count, capacity=1 << 40)
    node = (await p.join("anna@laptop", Role.CLIENT)).node
    return peers, await Mount(p, node, 7).open()


def counts(p: Pool, node: str) -> Counts:
    return p.services.usefulness.traffic.counts(NodeId(node))


def today(p: Pool) -> int:
    return int(p.clock.time() // DAY_S)


# ---- what is stored -------------------------------------------------------------------------------------------------


async def test_a_commit_counts_for_who_took_it_in_and_against_who_placed_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, two, three), anna = await fair(p)
        await anna.write(1, [one.peer, two.peer])
        assert counts(p, anna.node) == Counts(u_special=2 * SIZE)
        assert counts(p, one.node) == counts(p, two.node) == Counts(d_special=SIZE)
        assert counts(p, three.node) == Counts()


async def test_what_lies_on_the_owners_own_peers_counts_for_nobody(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, two, _), _ = await fair(p)
        own = await Mount(p, one.node, 8).open()
        await own.write(1, [one.peer, two.peer])
        assert counts(p, one.node) == Counts(u_special=SIZE)
        assert counts(p, two.node) == Counts(d_special=SIZE)


async def test_a_late_copy_counts_and_the_same_receipts_again_do_not(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, two, three), anna = await fair(p)
        await anna.write(1, [one.peer, two.peer])
        late = p.stored(7, 1, [three.peer], size=SIZE)
        for _ in range(3):
            await anna.apply(AddReplicas([late]))
            await anna.write(1, [one.peer, two.peer, three.peer])
        assert counts(p, anna.node) == Counts(u_special=3 * SIZE)
        assert counts(p, three.node) == Counts(d_special=SIZE)


async def test_writing_and_deleting_in_a_loop_gains_nobody_more_than_it_costs_the_writer(tmp_path: Path) -> None:
    async with pool(tmp_path, purge_grace="0s") as p:
        (one, two, _), anna = await fair(p)
        for turn in range(3):  # the same bytes to the same friends
            await anna.apply(await anna.write(1, [one.peer, two.peer], put_seq=turn + 1))
            while await p.services.sessions.reap():
                pass
            p.clock.advance(60)
            now_s = p.clock.time()
            p.database.write_now(lambda c, now_s=now_s: chunks_index.purge(c, doomed_before_s=now_s, now_s=now_s))  # type: ignore[misc]
        assert set(p.database.read(rows.stocks).values()) == {Stock()}
        assert counts(p, one.node) == Counts(d_special=SIZE)
        assert counts(p, anna.node) == Counts(u_special=2 * SIZE)
        await anna.write(2, [one.peer, two.peer])  # other bytes: what one gains the other loses
        assert counts(p, one.node).d_special + counts(p, two.node).d_special == counts(p, anna.node).u_special


async def test_a_peer_that_says_that_it_lost_a_copy_does_not_gain_by_taking_it_again(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("set 1 damaged copies aside")
    async with pool(tmp_path) as p:
        (one, two, _), anna = await fair(p)
        await anna.write(1, [one.peer, two.peer])
        for turn in range(2, 5):
            await p.beat(one.node, corrupt=[(7, chunk_id(1))])
            await anna.apply(AddReplicas([p.stored(7, 1, [one.peer], size=SIZE, put_seq=turn)]))
            assert one.peer in p.database.read(lambda c: chunks_index.holders(c, VolumeId(7), chunk=chunk_id(1)))
        assert counts(p, one.node) == Counts(d_special=SIZE)


async def test_copies_that_were_not_made_count_for_nobody(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, two, _), anna = await fair(p)
        for _ in range(3):  # receipts, as nobody's chunk
            await anna.apply(AddReplicas([p.stored(7, 9, [one.peer], size=SIZE)]))
        assert counts(p, one.node) == counts(p, anna.node) == Counts()
        late = p.stored(7, 1, [one.peer, two.peer], size=SIZE)
        await anna.write(1, [one.peer, two.peer])
        await anna.apply(AddReplicas([late, late, late]))
        assert counts(p, anna.node) == Counts(u_special=2 * SIZE)
        with pytest.raises(Misuse, match="more than once"):
            await anna.write(2, [one.peer, two.peer], times=20)
        assert counts(p, anna.node) == Counts(u_special=2 * SIZE)


async def test_stock_is_what_the_index_has_whatever_changes_it(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("damaged copies aside|revoked")
    async with pool(tmp_path, purge_grace="0s") as p:
        (one, two, three), anna = await fair(p)
        own = await Mount(p, one.node, 8).open()
        await anna.write(1, [one.peer, two.peer, three.peer])
        await anna.write(2, [one.peer, two.peer], size=1000)
        await own.write(3, [one.peer, three.peer])
        assert p.database.read(rows.stocks) == {
            "anna": Stock(3 * SIZE + 2000),
            "owner1": Stock(SIZE, SIZE + 1000, own=SIZE),
            "owner2": Stock(0, SIZE + 1000),
            "owner3": Stock(0, 2 * SIZE),
        }
        await p.beat(three.node, corrupt=[(7, chunk_id(1))])
        p.database.write_now(lambda c: chunks_index.drop_replicas_of(c, PeerNumber(two.peer)))
        found = p.database.read(rows.stocks)
        mine = Stock(SIZE, SIZE + 1000, own=SIZE)
        assert found == {"anna": Stock(SIZE + 1000), "owner1": mine, "owner3": Stock(0, SIZE), "owner2": Stock()}
        for owner, pair in found.items():
            assert p.database.read(lambda c, owner=owner: rows.stock(c, owner)) == pair  # type: ignore[misc]
        await p.services.membership.revoke(three.node)
        assert p.database.read(lambda c: rows.stock(c, "owner1")) == Stock(
            0, SIZE + 1000, SIZE
        )  # nobody counts what lies there


# ---- what is read ---------------------------------------------------------------------------------------------------


async def test_a_read_counts_as_far_as_both_ends_say_so(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, _, _), anna = await fair(p)
        await p.beat(one.node, run=1, served=[(today(p), anna.node, 1000)])
        assert counts(p, one.node) == counts(p, anna.node) == Counts()
        await anna.fetched((today(p), one.peer, 700))
        assert counts(p, one.node) == Counts(u_usual=700)
        assert counts(p, anna.node) == Counts(d_usual=700)
        assert p.services.usefulness.detail(one.node).unconfirmed_served == 300
        assert p.services.usefulness.detail(anna.node).unconfirmed_fetched == 300
        await anna.fetched((today(p), one.peer, 5000))
        assert counts(p, one.node) == Counts(u_usual=1000)


async def test_a_lying_peer_and_a_lying_mount_gain_nothing_alone(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, two, _), anna = await fair(p)
        await p.beat(one.node, run=1, served=[(today(p), anna.node, 1 << 45), (today(p), "f" * 32, 1 << 45)])
        await anna.fetched((today(p), two.peer, 1 << 45), (today(p), 99, 1 << 45))
        assert [counts(p, node) for node in (one.node, two.node, anna.node)] == [Counts()] * 3


async def test_two_nodes_of_one_owner_cannot_serve_each_other_to_fame(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, _, _), _ = await fair(p)
        laptop = (await p.join("owner1@laptop", Role.CLIENT)).node
        mount = await Mount(p, laptop, 8).open()
        await p.beat(one.node, run=1, served=[(today(p), laptop, 1000)])
        await mount.fetched((today(p), one.peer, 1000))
        assert counts(p, one.node) == counts(p, laptop) == Counts()


async def test_what_is_told_again_or_less_counts_once_and_runs_add_up(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, _, _), anna = await fair(p)
        await anna.fetched((today(p), one.peer, 1 << 30))
        for size in (100, 100, 60, 300, 100):
            await p.beat(one.node, run=1, served=[(today(p), anna.node, size)])
        assert counts(p, one.node) == Counts(u_usual=300)
        await p.beat(one.node, run=2, served=[(today(p), anna.node, 50)])  # the daemon has started anew
        assert counts(p, one.node) == Counts(u_usual=350)
        for run in range(3, MOST_RUNS + 20):
            await p.beat(one.node, run=run, served=[(today(p), anna.node, 1)])
        assert counts(p, one.node).u_usual == 350 + MOST_RUNS - 2


async def test_yesterday_counts_for_its_day_and_what_is_older_or_to_come_does_not(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, _, _), anna = await fair(p)
        days = [(today(p) + ahead, 2 ** (5 + ahead)) for ahead in (-3, -2, -1, 0, 1)]
        await p.beat(one.node, run=1, served=[(day, anna.node, size) for day, size in days])
        await anna.fetched(*((day, one.peer, size) for day, size in days))
        windows = p.services.usefulness.traffic.windows(NodeId(one.node))
        assert windows == {today(p) - 1: Counts(u_usual=16), today(p): Counts(u_usual=32)}


async def test_impossible_reports_break_the_protocol(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, _, _), anna = await fair(p)
        for row in ((-1, anna.node, 1), (1, "x" * 65, 1), (1, anna.node, -1), (1, anna.node, MOST_DAY_BYTES + 1)):
            with pytest.raises(Misuse):
                await p.beat(one.node, served=[row])
        with pytest.raises(Misuse):
            await p.beat(one.node, served=[(1, anna.node, 1)] * (MOST_ROWS + 1))
        with pytest.raises(Misuse):
            await anna.fetched((1, -1, 1))


# ---- days -----------------------------------------------------------------------------------------------------------


async def test_the_account_survives_a_restart_and_counts_nothing_twice(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        (one, two, _), anna = await fair(p)
        await anna.write(1, [one.peer, two.peer])
        await p.beat(one.node, run=1, served=[(today(p), anna.node, 1000)])
        await anna.fetched((today(p), one.peer, 1000))
        await p.services.usefulness.work()
        before = [counts(p, node) for node in (one.node, two.node, anna.node)]
    async with pool(tmp_path, clock=clock) as p:
        assert [counts(p, node) for node in (one.node, two.node, anna.node)] == before
        await p.beat(one.node, run=1, served=[(today(p), anna.node, 1000)])
        await p.services.sessions.renew(anna.session, [(today(p), one.peer, 1000)])
        assert [counts(p, node) for node in (one.node, two.node, anna.node)] == before


async def test_days_fade_and_are_forgotten(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one, two, _), anna = await fair(p)
        await anna.write(1, [one.peer, two.peer])
        await p.beat(one.node, run=1, served=[(today(p), anna.node, 1000)])
        await p.services.usefulness.work()
        p.clock.advance(7 * DAY_S)
        assert counts(p, one.node) == Counts(d_special=SIZE / 2)
        p.clock.advance((WINDOWS - 7) * DAY_S)
        assert counts(p, one.node) == Counts()
        await anna.open()
        await p.beat(one.node, capacity=1 << 40)
        await p.services.usefulness.work()  # the clock jumped: peers have to be heard for a while
        p.clock.advance(600)
        await p.beat(one.node, capacity=1 << 40)
        await anna.write(2, [one.peer, two.peer])
        await p.services.usefulness.work()
        assert [set(days) for days in p.database.read(rows.windows).values()] == [{today(p)}] * 3
        assert p.database.read(rows.reports) == {}


async def test_a_clock_that_jumps_ahead_loses_no_day(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("nothing is purged")
    async with pool(tmp_path) as p:
        peers, anna = await fair(p)
        await anna.write(1, [peers[0].peer, peers[1].peer])
        await p.services.usefulness.work()
        p.clock.advance(40 * DAY_S)
        for peer in peers:
            await p.beat(peer.node, clock_s=p.clock.time() - 40 * DAY_S)
        await p.services.usefulness.work()
        p.clock.advance(-40 * DAY_S)
        await p.services.usefulness.work()
        assert counts(p, anna.node) == Counts(u_special=2 * SIZE)
        assert len(p.database.read(rows.windows)) == 3


async def test_what_was_counted_in_days_to_come_fades_from_the_day_the_clock_is_right(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("nothing is purged")
    async with pool(tmp_path) as p:
        (one, two, _), anna = await fair(p)
        right_s = p.clock.time()
        p.clock.advance(3650 * DAY_S)
        await anna.open()
        await anna.write(1, [one.peer, two.peer])
        await anna.fetched((today(p), one.peer, 5))
        await p.services.usefulness.work()
        p.clock.advance(right_s - p.clock.time())
        await p.beat(one.node)
        await p.services.usefulness.work()
        await p.services.pool_clock.confirm()
        p.clock.advance(600)
        await p.beat(one.node)
        await p.services.usefulness.work()
        assert {day for days in p.database.read(rows.windows).values() for day in days} == {today(p)}
        assert p.database.read(rows.reports) == {}
        assert counts(p, anna.node) == Counts(u_special=2 * SIZE)
        p.clock.advance(7 * DAY_S)
        assert counts(p, anna.node) == Counts(u_special=SIZE)


async def test_who_tells_much_that_nobody_confirms_keeps_nobody_else_from_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "MOST_REPORTS", 40)
    monkeypatch.setattr(traffic, "MOST_ALONE", 10)
    monkeypatch.setattr(traffic, "MOST_OF_NODE", 15)
    async with pool(tmp_path) as p:
        (one, two, _), anna = await fair(p)
        liar = (await p.join("owner1@nas", Role.PEER)).node
        for node in (one.node, liar):
            for run in range(20):
                await p.beat(node, run=run, served=[(today(p), anna.node, 100), (today(p), two.node, 100)])
        await p.services.usefulness.work()
        told = p.database.read(rows.reports)
        assert len(told) == 10
        await p.beat(two.node, run=1, served=[(today(p), anna.node, 100)])
        await anna.fetched((today(p), two.peer, 100))
        assert counts(p, two.node) == Counts(u_usual=100)
        for run in range(2, 22):  # what is confirmed is bounded, too
            await p.beat(two.node, run=run, served=[(today(p), anna.node, 100)])
        await p.services.usefulness.work()
        assert sum(key.server == two.node and not key.by_client for key in p.database.read(rows.reports)) == 15


# ---- what it gives --------------------------------------------------------------------------------------------------

FAIR = {"policy": "fair", "fair_grant": "64M", "replicas": "3", "min_replicas": "2"}


async def test_growth_ends_where_the_share_does_and_goes_on_when_others_data_is_taken_in(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        (one, two, _), anna = await fair(p)
        assert await anna.reserve(21 * MIB) == 3  # three copies each
        with pytest.raises(OverQuota, match="anna may place"):
            await anna.reserve(22 * MIB)
        for number in range(24):
            await anna.write(number, [one.peer, two.peer], size=SIZE)
        with pytest.raises(OverQuota):
            await anna.reserve(9 * MIB)
        await p.services.usefulness.work()  # a coefficient of 0 means two copies
        assert await anna.reserve(8 * MIB) == 3
        own = await p.join("anna@nas", Role.PEER)
        await p.beat(own.node, capacity=1 << 40)
        with pytest.raises(OverQuota):  # a peer alone is no use yet
            await anna.reserve(9 * MIB)
        other = await Mount(p, two.node, 9).open()
        for number in range(100, 120):
            await other.write(number, [own.peer, one.peer])
        await anna.reserve(0)
        await p.rest(*[one.node, two.node, own.node], capacity=1 << 40)
        assert await anna.reserve(18 * MIB) == 4
        with pytest.raises(OverQuota):
            await anna.reserve(19 * MIB)


async def test_sessions_of_one_owner_share_its_share(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        peers, anna = await fair(p)
        desk = await Mount(p, (await p.join("anna@desk", Role.CLIENT)).node, 7).open()
        await anna.reserve(15 * MIB)
        with pytest.raises(OverQuota):
            await desk.reserve(7 * MIB)
        await desk.reserve(6 * MIB)
        for one in (anna, desk):
            await one.reserve(0)
        with pytest.raises(OverQuota):  # peers take it yet
            await desk.reserve(21 * MIB)
        await p.rest(*[peer.node for peer in peers], capacity=1 << 40)
        await desk.reserve(21 * MIB)
        await desk.reserve(10 * MIB)  # instead of what it holds, which counts from now on until peers know
        for _ in range(20):
            with pytest.raises(OverQuota):
                await desk.reserve(10 * MIB)


async def test_a_refusal_leaves_what_was_promised(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        _, anna = await fair(p)
        desk = await Mount(p, (await p.join("anna@desk", Role.CLIENT)).node, 7).open()
        await anna.reserve(10 * MIB)
        with pytest.raises(OverQuota):
            await anna.reserve(GIB)
        with pytest.raises(OverQuota):  # what was promised before is still counted
            await desk.reserve(12 * MIB)
        await desk.reserve(11 * MIB)


async def test_open_pools_refuse_nobody(tmp_path: Path) -> None:
    async with pool(tmp_path, fair_grant="1M") as p:
        _, anna = await fair(p)
        assert await anna.reserve(GIB) == 3
        assert p.services.usefulness.cap(anna.node, (5, 4)) == (5, 4)
        assert p.services.usefulness.detail(anna.node).owner.allowed is None


async def test_who_has_only_own_peers_is_free_there(tmp_path: Path) -> None:
    async with pool(tmp_path, policy="fair", fair_grant="1M") as p:
        peer = await p.join("anna@nas", Role.PEER, Role.CLIENT)
        await p.beat(peer.node, capacity=1 << 40)
        assert await (await Mount(p, peer.node, 7).open()).reserve(GIB) == 1


async def test_statfs_shows_no_more_than_the_share(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        (one, two, _), anna = await fair(p)
        cap = p.services.usefulness.cap
        assert cap(anna.node, (1 << 40, 1 << 39)) == (64 * MIB // 3, 64 * MIB // 3)
        await anna.write(1, [one.peer, two.peer])
        assert cap(anna.node, (1 << 40, 1 << 39)) == (64 * MIB // 3, 62 * MIB // 3)
        assert cap(anna.node, (1 << 40, 5)) == (64 * MIB // 3, 5)


async def test_a_full_pool_is_still_full_for_those_who_give(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        peers, anna = await fair(p)
        for peer in peers:
            await p.beat(peer.node, capacity=GIB, used=GIB)
        with pytest.raises(NoSpace):
            await anna.reserve(MIB)


async def test_low_owners_get_fewer_copies_of_what_is_new_and_all_of_them_when_they_give(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        (one, two, three), anna = await fair(p)
        version = p.services.pool_map("anna").version
        await anna.write(1, [one.peer, two.peer, three.peer])
        assert p.services.pool_map("anna").replicas == 3
        await p.services.usefulness.work()
        told = p.services.pool_map("anna")
        assert (told.replicas, told.min_replicas) == (2, 2)
        assert told.version > version  # so that mounts fetch it
        assert p.services.pool_map("owner1").replicas == 3
        await anna.write(2, [one.peer, two.peer])
        frugal = p.database.read(lambda c: c.execute("SELECT count(*) FROM frugal").fetchone()[0])
        assert frugal == 1  # the first keeps what it has
        own = await p.join("anna@nas", Role.PEER)
        await p.beat(own.node, capacity=1 << 40)
        other = await Mount(p, two.node, 9).open()
        for number in range(100, 110):
            await other.write(number, [own.peer, one.peer])
        await p.services.usefulness.work()
        assert p.services.pool_map("anna").replicas == 3
        assert p.database.read(rows.frugal_owners) == []


async def test_chunks_of_low_owners_are_copied_last_among_equals(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        (one, two, _), anna = await fair(p)
        await anna.write(1, [one.peer, two.peer])
        other = await Mount(p, one.node, 9).open()
        await other.write(2, [one.peer, two.peer])
        await p.services.usefulness.work()
        judged = p.services.usefulness
        assert (judged.precedence(anna.volume), judged.precedence(other.volume)) == (2, 0)


async def test_the_report_and_the_detail_agree(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        (one, two, _), anna = await fair(p)
        await anna.write(1, [one.peer, two.peer])
        report = await p.services.usefulness.report()
        detail = p.services.usefulness.detail(anna.node)
        assert detail.owner in report.owners
        assert detail.node in report.nodes
        assert detail.owner.counts == Gave(0, 0, 0, 2 * SIZE)
        assert (detail.owner.placed, detail.owner.allowed, detail.owner.left) == (2 * SIZE, 64 * MIB, 62 * MIB)
        assert [advice.code for advice in detail.advice] == ["offer_peer", "store", "serve"]
        assert {one.owner for one in report.owners} == {"anna", "owner1", "owner2", "owner3", "root"}
