"""What a heartbeat tells, what it is told, and which ones are refused."""

import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from careful import careful
from coordination import ROOMY, Pool, chunk_id, pool, volume_message
from msgspec.structs import replace
from plugins.checklogs import Claims

from p2pfs.errors import Denied, Misuse, NoSpace
from p2pfs.meta import chunks_index, members
from p2pfs.types import GIB, ChunkId, NodeId, PeerNumber, PeerState, Role, SessionId, VolumeId
from p2pfs.wire.membership import Scrub
from p2pfs.wire.namespace import AddReplicas, Batch, Commit, ExtentRow, Make
from p2pfs.wire.volumes import OpenSession, Reserve

SCRUB = Scrub("running", 1, 2, 3, 4, 1.8e9, 0.0, 0)
pytestmark = pytest.mark.l0

VOLUME = VolumeId(7)


async def session_of(p: Pool, node: str) -> tuple[SessionId, int]:
    """A session of this node on its owner's new volume, and the first of its numbers."""
    identity = p.identity(node, [Role.CLIENT])
    await p.services.volumes.create(identity, volume_message(VOLUME))
    grant = await p.services.sessions.open(identity, VOLUME, OpenSession())
    return SessionId(grant.session), grant.first_id


async def store(p: Pool, session: SessionId, first: int, peers: list[int], *, number: int = 1) -> None:
    """A file of one chunk on these peers."""
    make = Make(1, b"name%d" % number, first, b"tag", first + 1, 1, 0o644, 0, 0, 0, b"head", 1)
    extent = ExtentRow(0, 1, chunk_id(number), b"sealed")
    commit = Commit(first + 1, 0, 1000, b"head", 2, extents=[extent], chunks=[p.stored(VOLUME, number, peers)])
    await p.services.sessions.apply(session, Batch(number, 0, [make, commit]))


async def test_a_peer_is_told_what_it_needs(tmp_path: Path) -> None:
    async with pool(tmp_path, heartbeat="3s") as p:
        joined = await p.join("anna@laptop")
        answer = await p.beat(joined.node, capacity=7 * GIB)
        assert answer.peer == joined.peer
        assert answer.receipt_key == p.services.roster.receipt_keys[joined.peer]
        assert (answer.capacity, answer.interval_s, answer.coordinator_clock_s) == (7 * GIB, 3.0, p.clock.time())
        assert answer.map_version == p.services.roster.version


async def test_damaged_copies_no_longer_count(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner2@host set 1 damaged copies aside", count=1)
    async with pool(tmp_path) as p:
        one, two, three = await p.peers(3)
        session, first = await session_of(p, one.node)
        await store(p, session, first, [one.peer, two.peer, three.peer])
        await p.beat(two.node, corrupt=[(VOLUME, chunk_id(1)), (VOLUME, chunk_id(9)), (8, chunk_id(1))])
        left = p.database.read(lambda connection: chunks_index.holders(connection, VOLUME, chunk=chunk_id(1)))
        assert set(left) == {one.peer, three.peer}
        # Three peers are members and three copies wanted, so one chunk is short now.
        report = await p.services.status.report(p.identity())
        assert (report.chunks.total, report.chunks.under_replicated) == (1, 1)


async def test_what_is_just_possible_is_taken(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        joined = await p.join("anna@laptop")
        most = replace(ROOMY, disk_total=(1 << 63) - 1, disk_free=(1 << 63) - 1, cpu_load=1e9)
        longest = ".".join(["a" * 61, *["a" * 63] * 3]) + ":1"
        await p.beat(joined.node, resources=most, version="1" * 64, addresses=[longest] * 16, clock_s=0.0)
        await p.services.status.report(p.identity())


async def test_an_old_receipt_does_not_bring_a_damaged_copy_back(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner2@host set 1 damaged copies aside", count=1)
    async with pool(tmp_path) as p:
        one, two, _ = await p.peers(3)
        session, first = await session_of(p, one.node)
        await store(p, session, first, [one.peer, two.peer])
        await p.beat(two.node, corrupt=[(VOLUME, chunk_id(1))])
        for seq, put_seq, holders in ((2, 1, {one.peer}), (3, 2, {one.peer, two.peer})):
            again = AddReplicas([p.stored(VOLUME, 1, [two.peer], put_seq=put_seq)])
            await p.services.sessions.apply(session, Batch(seq, 0, [again]))
            left = p.database.read(lambda connection: chunks_index.holders(connection, VOLUME, chunk=chunk_id(1)))
            assert set(left) == holders


async def test_a_commit_turns_promises_into_use(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two, _ = await p.peers(3)
        session, first = await session_of(p, one.node)
        await p.services.sessions.reserve(session, Reserve(2000))
        numbers = [PeerNumber(one.peer), PeerNumber(two.peer)]
        before = [p.services.reservations.promised(number) for number in numbers]
        await store(p, session, first, [int(number) for number in numbers])
        assert [p.services.reservations.promised(number) for number in numbers] == before
        await p.beat(one.node, used=1000 + 4096, put_seq=1)
        await p.beat(two.node, used=0, put_seq=0)  # measured before the chunk came
        after = [p.services.reservations.promised(number) for number in numbers]
        assert after == [before[0] - 1000 - 4096, before[1]]


async def test_figures_are_kept_now_and_then_and_changes_at_once(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1)

        def kept() -> members.Peer:
            return p.database.read(lambda connection: members.peer(connection, PeerNumber(joined.peer)))

        assert kept().state is PeerState.UP
        await p.beat(joined.node, used=5)
        assert kept().used == 0
        p.clock.advance(60)
        await p.beat(joined.node, used=6)
        assert kept().used == 6
        await p.beat(joined.node, used=7, addresses=["192.0.2.7:1"])
        assert (kept().used, kept().addresses) == (7, ["192.0.2.7:1"])


@pytest.mark.parametrize(
    "nonsense",
    [
        {"capacity": -1},
        {"used": 1 << 63},
        {"trash": -5},
        {"put_seq": -2},
        {"addresses": []},
        {"addresses": ["192.0.2.1:1"] * 17},
        {"addresses": ["nowhere"]},
        {"addresses": [":9471"]},
        {"addresses": ["192.0.2.1:0"]},
        {"addresses": [f"{'a' * 254}:1"]},
        {"addresses": [" 192.0.2.1:1"]},
        {"addresses": ["192.0.2.1:1\n"]},
        {"clock_s": math.nan},
        {"clock_s": math.inf},
        {"clock_s": -1e300},
        {"resources": replace(ROOMY, cpu_load=math.nan)},
        {"resources": replace(ROOMY, cpu_load=-math.inf)},
        {"resources": replace(ROOMY, disk_free=1 << 63)},
        {"resources": replace(ROOMY, net_sent=-1)},
        {"scrub": replace(SCRUB, done=-1)},
        {"scrub": replace(SCRUB, total_bytes=1 << 63)},
        {"scrub": replace(SCRUB, started_s=math.nan)},
        {"scrub": replace(SCRUB, state="1\x1b[2J")},
        {"scrub": replace(SCRUB, state="x" * 17)},
        {"version": "1" * 65},
        {"version": "1\x1b[2J"},
        {"version": "1\n2"},
        {"corrupt": [(1, b"short")]},
        {"corrupt": [(-1, bytes(32))]},
        {"corrupt": [(1, bytes(32))] * 10_001},
    ],
    ids=lambda nonsense: str(nonsense)[:60],
)
async def test_impossible_heartbeats_are_refused(tmp_path: Path, nonsense: dict[str, object]) -> None:
    async with pool(tmp_path) as p:
        joined = await p.join("anna@laptop")
        with pytest.raises(Misuse):
            await p.beat(joined.node, **nonsense)  # type: ignore[arg-type]
        assert p.services.pool_map().peers == []


async def test_only_peers_have_a_pulse(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        client = await p.join("anna@laptop", Role.CLIENT)
        for node in (client.node, NodeId("ee" * 16)):
            with pytest.raises(Denied):
                await p.beat(node)


async def test_a_state_noticed_late_does_not_bring_a_revoked_peer_back(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked owner1@host", count=1)
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1)
        peer = p.services.roster.peers[PeerNumber(joined.peer)]
        p.clock.advance(20)
        changes = p.services.roster.refresh(p.clock.monotonic(), p.clock.time())
        await p.services.membership.revoke(joined.node)
        await p.services.pulse._keep_states(changes)
        kept = p.database.read(lambda connection: members.peer(connection, peer.number))
        assert kept.state is peer.state is PeerState.REVOKED


async def test_two_heartbeats_at_once_leave_no_appearance_behind_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: a coordinator that was stopped took two of a peer that had tried again, and was told of them in the other
    order. Copies were shown for ever and counted as proved never, so that nobody could leave."""
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        peer, write = p.services.roster.peers[PeerNumber(joined.peer)], p.database.write

        async def slow(change: Callable[[sqlite3.Connection], object], *, committed: Callable[[Any], None]) -> object:
            monkeypatch.setattr(p.database, "write", write)
            done = await write(change)
            await p.beat(joined.node, run=2)
            committed(done)
            return done

        monkeypatch.setattr(p.database, "write", slow)
        await p.beat(joined.node, run=2)
        assert peer.appearances == p.database.read(lambda c: members.peer(c, peer.number)).appearances == 2


async def test_an_appearance_that_could_not_be_kept_is_kept_with_the_next_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        peer, write = p.services.roster.peers[PeerNumber(joined.peer)], p.database.write

        async def full(_change: object, **_: object) -> None:
            monkeypatch.setattr(p.database, "write", write)
            peer.has_appeared = False  # an earlier one was just told
            raise NoSpace("the disk is full")

        monkeypatch.setattr(p.database, "write", full)
        with pytest.raises(NoSpace):
            await p.beat(joined.node, run=2)
        await p.beat(joined.node, run=2)
        assert peer.appearances == p.database.read(lambda c: members.peer(c, peer.number)).appearances == 1


async def test_nothing_is_taken_for_proved_of_a_peer_whose_appearance_could_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither while it waits for the disk, nor after that has failed, whatever was told meanwhile."""
    async with pool(tmp_path) as p:
        c = await careful(p, 1)
        await c.restart(c.peers[1], 1)
        peer, write = p.services.roster.peers[c.peers[1].number], p.database.write

        def counted() -> int:
            c.care._look_at_peers()
            return c.care._keepers[peer.number].appearances

        async def full(_change: object, **_: object) -> None:
            monkeypatch.setattr(p.database, "write", write)
            assert counted() == 1
            p.services.roster.appear(peer, 1)  # an earlier one
            assert counted() == 1
            raise NoSpace("the disk is full")

        assert counted() == 0
        monkeypatch.setattr(p.database, "write", full)
        with pytest.raises(NoSpace):
            await c.restart(c.peers[1], 2)
        assert counted() == 2


async def test_a_heartbeat_that_was_given_up_when_it_was_committed_is_known(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        peer = p.services.roster.peers[PeerNumber(joined.peer)]
        await p.services.leaving.away(p.identity(), joined.node, 3600.0)
        await p.give_up(lambda: p.beat(joined.node, run=2))
        assert (peer.appearances, peer.has_appeared, peer.back_from_s) == (1, False, 0.0)
        await p.beat(joined.node, run=2)
        kept = p.database.read(lambda c: members.peer(c, peer.number))
        assert (kept.appearances, kept.away_until_s) == (peer.appearances, peer.away_until_s) == (1, 0.0)


@pytest.mark.parametrize("announces", [False, True])
async def test_that_a_peer_is_back_is_kept_once_it_can_be_unless_it_goes_again(
    announces: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a coordinator that is started anew waits for it, up to a month, when it dies."""
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1)
        peer, write = p.services.roster.peers[PeerNumber(joined.peer)], p.database.write
        await p.services.leaving.away(p.identity(), joined.node, 3600.0)
        p.clock.advance(20.0)
        await p.services.pulse.work()
        assert peer.state is PeerState.AWAY

        async def full(_change: object, **_: object) -> None:
            monkeypatch.setattr(p.database, "write", write)
            raise NoSpace("the disk is full")

        monkeypatch.setattr(p.database, "write", full)
        with pytest.raises(NoSpace):
            await p.beat(joined.node)
        p.services.roster.appear(peer, 1)  # as an audit has just failed
        if announces:
            await p.services.leaving.away(p.identity(), joined.node, 7200.0)
        await p.beat(joined.node)
        kept = p.database.read(lambda c: members.peer(c, peer.number))
        assert kept.away_until_s == peer.away_until_s == (p.clock.time() + 7200.0 if announces else 0.0)


async def test_an_absence_and_a_return_at_once_are_told_as_they_were_kept(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        peer, write = p.services.roster.peers[PeerNumber(joined.peer)], p.database.write
        await p.services.leaving.away(p.identity(), joined.node, 3600.0)
        run = 1

        async def heard_later(change: Callable[[sqlite3.Connection], object], **more: Any) -> object:  # noqa: ANN401
            nonlocal run
            done = await write(change, **more)
            if run == 1:
                run = 2
                await p.beat(joined.node, run=run)
            return done

        p.database.write = heard_later  # type: ignore[method-assign, assignment]
        await p.services.leaving.away(p.identity(), joined.node, 7200.0)
        assert peer.away_until_s == p.database.read(lambda c: members.peer(c, peer.number)).away_until_s == 0.0


async def test_who_has_announced_to_go_again_is_not_back_by_two_heartbeats_at_once(tmp_path: Path) -> None:
    """Both were on their way when it announced: otherwise the second takes the announcement away, and what it holds is
    copied elsewhere while it is where it said."""
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        peer, write = p.services.roster.peers[PeerNumber(joined.peer)], p.database.write
        await p.services.leaving.away(p.identity(), joined.node, 3600.0)

        async def last(change: Callable[[sqlite3.Connection], object], **more: Any) -> object:  # noqa: ANN401
            p.database.write = write  # type: ignore[method-assign]
            await p.beat(joined.node, run=2)  # that it is back is told by this one
            await p.services.leaving.away(p.identity(), joined.node, 7200.0)
            return await write(change, **more)

        p.database.write = last  # type: ignore[method-assign, assignment]
        await p.beat(joined.node, run=2)
        kept = p.database.read(lambda c: members.peer(c, peer.number))
        assert kept.away_until_s == peer.away_until_s == p.clock.time() + 7200.0
        assert peer.back_from_s == 0.0


async def test_who_announced_while_its_return_could_not_be_kept_has_told_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        peer, write = p.services.roster.peers[PeerNumber(joined.peer)], p.database.write
        await p.services.leaving.away(p.identity(), joined.node, 3600.0)

        async def full(_change: object, **_: object) -> None:
            monkeypatch.setattr(p.database, "write", write)
            await p.services.leaving.away(p.identity(), joined.node, 7200.0)
            raise NoSpace("the disk is full")

        monkeypatch.setattr(p.database, "write", full)
        with pytest.raises(NoSpace):
            await p.beat(joined.node, run=2)
        await p.beat(joined.node, run=2)
        kept = p.database.read(lambda c: members.peer(c, peer.number))
        assert kept.away_until_s == peer.away_until_s == p.clock.time() + 7200.0
        assert peer.back_from_s == 0.0


def test_chunk_ids_of_the_tests_are_chunk_ids() -> None:
    assert len(ChunkId(chunk_id(1))) == 32
