"""Named reservations: others see the room as taken, the volume's own sessions draw from it, it ends by itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coordination import FakeClock, Pool, pool, volume_message
from hypothesis import given
from hypothesis import strategies as st
from plugins.checklogs import Claims

from p2pfs.coordinator.booked import LONGEST_S, MOST_PER_OWNER, content_in, room_for, set_aside
from p2pfs.coordinator.room import spread, writable
from p2pfs.errors import Invalid, NoSpace, NotFound, OverQuota, Unavailable
from p2pfs.meta import bookings as rows
from p2pfs.types import GIB, MIB, SEALED_CHUNK_BYTES, NodeId, PeerNumber, Role, SessionId, VolumeId
from p2pfs.wire.bookings import Book, BookingInfo
from p2pfs.wire.membership import JoinAnswer
from p2pfs.wire.volumes import Reserve

pytestmark = pytest.mark.l0

MINE, THEIRS = VolumeId(7), VolumeId(8)
SESSION = SessionId("1" * 32)
HOUR = 3600.0


async def peopled(p: Pool, *, capacity: int = GIB, count: int = 3) -> tuple[JoinAnswer, JoinAnswer]:
    """So many peers; the first two owners have a volume each."""
    me, they, *_ = await p.peers(count, capacity=capacity)
    for volume, owner in ((MINE, me), (THEIRS, they)):
        await p.services.volumes.create(p.identity(owner.node, [Role.CLIENT]), volume_message(volume, f"v{volume}"))
    return me, they


async def book(p: Pool, owner: JoinAnswer, size: int, *, for_s: float = HOUR, volume: VolumeId = MINE) -> BookingInfo:
    return await p.services.bookings.book(p.identity(owner.node, [Role.CLIENT]), volume, Book(size, for_s))


def listed(p: Pool, owner: JoinAnswer) -> list[BookingInfo]:
    return p.services.bookings.listed(p.identity(owner.node, [Role.CLIENT]))


async def beat_all(p: Pool, *, used: int = 0) -> None:
    for peer in p.services.roster.members():
        await p.beat(peer.node.id, capacity=GIB, used=used)


def free(p: Pool, node: JoinAnswer, volume: VolumeId) -> int:
    return p.services.reservations.space(NodeId(node.node), volume)[1]


FAIR = {"policy": "fair", "fair_grant": "90M", "replicas": "3", "min_replicas": "2"}


async def test_no_more_can_be_booked_than_the_share_allows(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:  # two of three copies lie on others' peers: 45 MiB in each
        me, they = await peopled(p)
        before = free(p, they, THEIRS)
        with pytest.raises(OverQuota, match="owner1 can reserve 45 MiB at most"):
            await book(p, me, 500 * MIB)
        assert free(p, they, THEIRS) == before
        await book(p, me, 30 * MIB)
        with pytest.raises(OverQuota, match="at most"):
            await book(p, me, 16 * MIB)
        await book(p, me, 10 * MIB)
        await book(p, they, 40 * MIB, volume=THEIRS)


async def test_no_more_is_set_aside_than_the_owner_may_store_by_now(tmp_path: Path) -> None:
    async with pool(tmp_path, **FAIR) as p:
        me, _ = await peopled(p)
        await book(p, me, 40 * MIB)
        needs = p.services.bookings._booked.needs
        assert needs(lambda _: 0) == {MINE: room_for(40 * MIB)}
        p.services.usefulness._terms = replace(p.services.usefulness._terms, grant=20 * MIB)
        await p.services.usefulness.work()
        assert needs(lambda _: 0) == {MINE: 10 * MIB}
        assert needs(lambda _: 35 * MIB)[MINE] == room_for(40 * MIB) - 35 * MIB


async def test_what_is_lacking_is_worked_out_once_for_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool(tmp_path) as p:
        me, _ = await peopled(p)
        for _ in range(5):
            await book(p, me, MIB)
        asked = []
        short = p.services.reservations.short
        monkeypatch.setattr(p.services.reservations, "short", lambda: asked.append(1) or short())
        assert len(listed(p, me)) == 5
        assert len(asked) == 1


async def test_others_see_booked_room_as_taken_and_the_volume_itself_does_not(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        me, they = await peopled(p)
        made = await book(p, me, 300 * MIB)
        assert (made.bytes, made.left_bytes, made.short_bytes, made.owner) == (300 * MIB, 300 * MIB, 0, "owner1")
        assert made.expires_s == p.clock.time() + HOUR
        assert free(p, me, MINE) == GIB
        assert free(p, they, THEIRS) <= GIB - room_for(300 * MIB)
        assert p.services.reservations.space(NodeId(they.node), with_booked=True)[1] == GIB
        with pytest.raises(NoSpace):
            await rolling(p, they, THEIRS, GIB - 200 * MIB)
        await rolling(p, me, MINE, GIB - 200 * MIB)


async def rolling(p: Pool, node: JoinAnswer, volume: VolumeId, size: int) -> int:
    """How many peers promise a session of a volume so much."""
    session = SessionId(f"{volume:032x}")
    return len(
        (await p.services.reservations.reserve(session, NodeId(node.node), volume, request=Reserve(size))).tokens
    )


async def test_what_the_volume_stores_draws_from_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        me, they = await peopled(p)
        await book(p, me, 100 * MIB)
        p.services.reservations.drawn([(MINE, SEALED_CHUNK_BYTES)] * 40 + [(THEIRS, SEALED_CHUNK_BYTES)])
        assert [one.left_bytes for one in listed(p, me)] == [60 * MIB]
        assert listed(p, they) == []
        p.services.reservations.drawn([(MINE, SEALED_CHUNK_BYTES)] * 100)
        assert [one.left_bytes for one in listed(p, me)] == [0]
        assert free(p, they, THEIRS) == GIB


async def test_promises_to_its_sessions_are_not_set_aside_twice(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        me, they = await peopled(p)
        await book(p, me, 300 * MIB)
        before = free(p, they, THEIRS)
        await rolling(p, me, MINE, 200 * MIB)
        assert free(p, they, THEIRS) >= before - 32 * MIB
        await rolling(p, me, MINE, 0)
        assert listed(p, me)[0].left_bytes == 300 * MIB
        await p.rest(*[peer.node.id for peer in p.services.roster.members()], capacity=GIB)
        assert free(p, they, THEIRS) == before


async def test_it_survives_a_restart_with_what_was_drawn_and_ends_by_itself(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        me, they = await peopled(p)
        await book(p, me, 100 * MIB, for_s=HOUR)
        p.services.reservations.drawn([(MINE, SEALED_CHUNK_BYTES)] * 40)
        await p.services.bookings.work()
    async with pool(tmp_path, clock=clock) as p:
        await beat_all(p)
        assert [one.left_bytes for one in listed(p, me)] == [60 * MIB]
        assert free(p, they, THEIRS) < GIB
        clock.advance(HOUR)
        await p.services.bookings.work()
        assert listed(p, me) == []
        await beat_all(p)
        assert free(p, they, THEIRS) == GIB
    async with pool(tmp_path, clock=clock) as p:
        assert listed(p, me) == []


async def test_only_its_owner_or_an_admin_sees_and_releases_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        me, they = await peopled(p)
        one = await book(p, me, 100 * MIB)
        two = await book(p, me, 100 * MIB)
        for number in (str(one.id), "0", "-1", "x", "9" * 30, ""):
            with pytest.raises(NotFound):
                await p.services.bookings.release(p.identity(they.node, [Role.CLIENT]), number)
        assert (await p.services.bookings.release(p.identity(me.node, [Role.CLIENT]), str(one.id))).id == one.id
        assert [left.id for left in p.services.bookings.listed(p.identity())] == [two.id]
        await p.services.bookings.release(p.identity(), str(two.id))
        assert free(p, they, THEIRS) == GIB
        assert (await book(p, me, MIB)).id > two.id  # numbers are not used again


async def test_one_that_cannot_be_met_says_how_much_could(tmp_path: Path) -> None:
    async with pool(tmp_path, min_replicas="3") as p:
        me, _ = await peopled(p)
        with pytest.raises(
            NoSpace, match=r"600 MiB cannot be reserved: at most 5.. MiB can be at the moment for owner1"
        ):
            await book(p, me, 600 * MIB)
        await book(p, me, 500 * MIB)
        with pytest.raises(NoSpace):
            await book(p, me, 20 * MIB)


async def test_an_owner_leaves_half_to_others_and_who_is_alone_need_not(tmp_path: Path) -> None:
    async with pool(tmp_path, min_replicas="3") as p:
        me, they = await peopled(p)
        await book(p, me, 500 * MIB)
        await book(p, they, 250 * MIB, volume=THEIRS)
        with pytest.raises(NoSpace):
            await book(p, they, 250 * MIB, volume=THEIRS)
    async with pool(tmp_path / "alone", replicas="1", min_replicas="1") as p:
        peer = await p.join("root@nas", Role.PEER)
        await p.beat(peer.node, capacity=GIB)
        await p.services.volumes.create(p.identity(), volume_message(MINE))
        made = await p.services.bookings.book(p.identity(), MINE, Book(1000 * MIB, HOUR))
        assert made.short_bytes == 0
        with pytest.raises(NoSpace, match=r"at most .* MiB can be at the moment$"):
            await p.services.bookings.book(p.identity(), MINE, Book(GIB, HOUR))


async def test_how_many_and_for_how_long_is_bounded(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        me, they = await peopled(p)
        for for_s in (0.0, -1.0, float("nan"), float("inf"), LONGEST_S + 1):
            with pytest.raises(Invalid):
                await book(p, me, MIB, for_s=for_s)
        for size in (0, -1, 1 << 63):
            with pytest.raises(Invalid):
                await book(p, me, size)
        for _ in range(MOST_PER_OWNER):
            await book(p, me, 1)
        with pytest.raises(OverQuota):
            await book(p, me, 1)
        await book(p, they, 1, volume=THEIRS)


async def test_disks_that_others_fill_make_it_short_and_status_says_so(tmp_path: Path) -> None:
    async with pool(tmp_path, min_replicas="2", replicas="2") as p:
        me, they = await peopled(p, count=3)
        made = await book(p, me, 500 * MIB)
        for peer in p.services.roster.members()[:2]:
            await p.beat(peer.node.id, capacity=GIB, used=GIB - 100 * MIB)  # its owner fills the disk otherwise
        (seen,) = listed(p, me)
        assert 280 * MIB < seen.short_bytes < 320 * MIB
        report = await p.services.status.report(p.identity())
        assert "RESERVATION_SHORT" in [reason.code for reason in report.reasons]
        assert report.pool.reserved == made.bytes
        assert [(one.reserved, one.reserved_short) for one in report.volumes] == [(500 * MIB, seen.short_bytes), (0, 0)]
        assert free(p, they, THEIRS) == 0


async def test_one_that_could_not_be_kept_counts_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool(tmp_path) as p:
        me, they = await peopled(p)

        async def fail(*_: object, **__: object) -> None:
            raise NoSpace("the coordinator's disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(p.database, "write", fail)
            with pytest.raises(NoSpace):
                await book(p, me, 100 * MIB)
        assert listed(p, me) == []
        assert free(p, they, THEIRS) == GIB


def test_content_and_room_are_each_others_inverse() -> None:
    for content in (MIB, 7 * MIB, GIB, 5 * MIB + 1):
        assert content <= content_in(room_for(content)) <= content + MIB
        assert room_for(content_in(room_for(content))) <= room_for(content)


rooms = st.dictionaries(st.integers(1, 8).map(PeerNumber), st.integers(0, 10**9), min_size=1)


@given(rooms, st.integers(0, 10**9), st.integers(1, 4), st.integers(0, 10**6))
def test_what_is_spread_fits_and_is_enough_if_there_is_enough(
    free: dict[PeerNumber, int], amount: int, copies: int, margin: int
) -> None:
    shares = spread(free, {peer: 1 + peer for peer in free}, amount, copies, margin=margin)
    assert all(0 <= shares[peer] <= min(free[peer], amount) for peer in free)
    if writable(list(free.values()), copies) >= amount:
        assert writable(list(shares.values()), copies) >= amount
    assert sum(shares.values()) <= copies * (amount + margin)


@given(rooms, st.lists(st.integers(0, 10**9), max_size=4), st.integers(1, 3))
def test_what_is_set_aside_never_exceeds_room(free: dict[PeerNumber, int], needs: list[int], least: int) -> None:
    wanted = {VolumeId(at): need for at, need in enumerate(needs)}
    shares, lacking = set_aside(wanted, free, dict.fromkeys(free, 1), (3, least))
    for peer, room in free.items():
        assert 0 <= sum(share[peer] for share in shares.values()) <= room
    assert (sum(needs) > writable(list(free.values()), least)) or not lacking
    assert all(0 < amount <= wanted[volume] for volume, amount in lacking.items())


async def test_a_clock_that_jumps_ends_nothing(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("nothing is purged: the coordinator's clock differs")
    async with pool(tmp_path) as p:
        me, _ = await peopled(p)
        right_s = p.clock.time()
        await book(p, me, 100 * MIB)
        p.clock.advance(40 * 86400)
        for peer in p.services.roster.members():
            await p.beat(peer.node.id, capacity=GIB, clock_s=right_s)
        await p.services.bookings.work()
        assert len(listed(p, me)) == 1


async def test_one_whose_end_could_not_be_kept_stays_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        me, _ = await peopled(p)
        await book(p, me, 100 * MIB)
        p.clock.advance(HOUR)
        await beat_all(p)

        async def fail(*_: object, **__: object) -> None:
            raise Unavailable("the disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(p.database, "write", fail)
            with pytest.raises(Unavailable):
                await p.services.bookings.work()
        assert len(listed(p, me)) == 1
        await p.services.bookings.work()
        assert listed(p, me) == []
        assert p.database.read(rows.load) == []


async def test_one_whose_asker_left_just_as_it_was_committed_counts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        me, they = await peopled(p)
        write = p.database.write

        async def cancelled(change: Any, *, committed: Any = None) -> None:  # noqa: ANN401
            await write(change, committed=committed)
            raise KeyboardInterrupt

        with monkeypatch.context() as broken:
            broken.setattr(p.database, "write", cancelled)
            with pytest.raises(KeyboardInterrupt):
                await book(p, me, 100 * MIB)
        assert [one.left_bytes for one in listed(p, me)] == [100 * MIB]
        assert free(p, they, THEIRS) < GIB
