"""Promises fit, are remembered, are withdrawn; statfs tells what can be written."""

import sqlite3
from pathlib import Path

import msgspec
import pytest
from coordination import ROOMY, FakeClock, Pool, pool
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from plugins.checklogs import Claims

from p2pfs.coordinator.ledger import disk_bytes
from p2pfs.errors import Invalid, NoSpace, Unavailable
from p2pfs.meta import reservations as rows
from p2pfs.types import GIB, MIB, NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.chunks import Token, token_message
from p2pfs.wire.volumes import Reserve, Reserved

pytestmark = pytest.mark.l0

SESSION, OTHER = SessionId("1" * 32), SessionId("2" * 32)
NODE, STRANGER = NodeId("a" * 32), NodeId("b" * 32)


async def reserve(p: Pool, room: int, *, returned: list[int] | None = None, session: SessionId = SESSION) -> Reserved:
    node = NODE if session == SESSION else STRANGER
    return await p.services.reservations.reserve(session, node, VolumeId(7), request=Reserve(room, returned or []))


async def test_a_token_for_every_peer_with_room(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two, three = await p.peers(3)
        await p.beat(two.node, used=10 * GIB - MIB)
        tokens = (await reserve(p, 64 * MIB)).tokens
        assert [token.peer for token in tokens] == [one.peer, three.peer]
        public = Ed25519PublicKey.from_public_bytes((await p.beat(one.node)).token_key)
        for token in tokens:
            public.verify(token.signature, token_message(p.record.pool, token))
            assert (token.sender, token.volume, token.room_bytes) == (NODE, 7, 64 * MIB)
            assert token.expires_s == int(p.clock.time() + 600)
        assert len({token.id for token in tokens}) == 2


async def test_promises_of_all_sessions_together_never_exceed_the_room(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(3, capacity=disk_bytes(100 * MIB))
        for number in range(10):
            await reserve(p, 10 * MIB, session=SessionId(f"{number:032x}"))
        with pytest.raises(NoSpace):
            await reserve(p, MIB)


async def test_a_peer_that_is_away_makes_writes_wait_not_fail_for_space(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two, _ = await p.peers(3)
        p.clock.advance(20)
        await p.beat(one.node)
        await p.services.pulse.work()
        assert len((await reserve(p, MIB)).tokens) == 3
        await p.beat(two.node, used=10 * GIB)
        assert len((await reserve(p, MIB)).tokens) == 2


async def test_full_pools_have_no_space_and_recover(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        peers = await p.peers(3, used=10 * GIB)
        with pytest.raises(NoSpace):
            await reserve(p, MIB)
        for peer in peers[:2]:
            await p.beat(peer.node, used=GIB)
        assert len((await reserve(p, MIB)).tokens) == 2


async def test_a_pool_of_one_peer_needs_one(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(1)
        assert len((await reserve(p, MIB)).tokens) == 1


def kept_of(p: Pool, session: SessionId) -> list[int]:
    """Tokens of a session that it may spend, as a restart would find them."""
    return [
        one.token.id for one in p.database.read(rows.outstanding) if one.session == session and not one.is_withdrawn
    ]


async def test_returned_tokens_are_free_again_when_their_peer_says_that_it_takes_them_no_more(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1, capacity=disk_bytes(10 * MIB))
        (token,) = (await reserve(p, 10 * MIB)).tokens
        with pytest.raises(NoSpace):
            await reserve(p, 10 * MIB)
        assert kept_of(p, SESSION) == [token.id]  # who is refused keeps what it has
        await reserve(p, 0)
        await p.beat(peer.node, capacity=disk_bytes(10 * MIB))
        with pytest.raises(NoSpace):
            await reserve(p, 10 * MIB)
        await p.rest(peer.node, capacity=disk_bytes(10 * MIB))
        assert len((await reserve(p, 10 * MIB)).tokens) == 1


async def test_a_request_repeated_because_its_answer_was_lost_promises_nothing_twice(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1, capacity=GIB)
        number, once = PeerNumber(peer.peer), disk_bytes(10 * MIB)
        await reserve(p, 10 * MIB, session=OTHER)
        for _ in range(3):
            (token,) = (await reserve(p, 10 * MIB)).tokens
        assert p.services.reservations.promised(number) == 4 * once  # something may have been stored under the others
        await p.rest(peer.node, capacity=GIB)
        assert p.services.reservations.promised(number) == 2 * once
        assert kept_of(p, SESSION) == [token.id]
        assert len(kept_of(p, OTHER)) == 1


async def test_room_for_nothing_gives_everything_back(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1, capacity=GIB)
        await reserve(p, 10 * MIB)
        assert (await reserve(p, 0)).tokens == []
        assert kept_of(p, SESSION) == []
        assert p.services.reservations.promised(PeerNumber(peer.peer)) == disk_bytes(10 * MIB)
        await p.rest(peer.node, capacity=GIB)
        assert p.services.reservations.promised(PeerNumber(peer.peer)) == 0
        assert (await reserve(p, 0)).tokens == []


async def test_others_cannot_return_my_tokens(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1, capacity=disk_bytes(10 * MIB))
        (token,) = (await reserve(p, 9 * MIB)).tokens
        await reserve(p, 1, returned=[token.id], session=OTHER)
        await p.beat(peer.node, capacity=disk_bytes(10 * MIB))
        assert p.services.reservations.promised(PeerNumber(peer.peer)) >= disk_bytes(9 * MIB)


async def test_promises_survive_a_restart_and_expire(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        (peer,) = await p.peers(1, capacity=disk_bytes(10 * MIB))
        await reserve(p, 10 * MIB)
    clock.advance(500)
    async with pool(tmp_path, clock=clock) as p:
        await p.beat(peer.node, capacity=disk_bytes(10 * MIB))
        with pytest.raises(NoSpace):
            await reserve(p, 10 * MIB)
        clock.advance(101)
        await p.services.reservations.expire()
        await p.beat(peer.node, capacity=disk_bytes(10 * MIB))
        assert len((await reserve(p, 10 * MIB)).tokens) == 1


async def test_what_was_stored_under_a_token_given_back_just_before_a_crash_still_counts(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        (peer,) = await p.peers(1, capacity=disk_bytes(10 * MIB))
        (token,) = (await reserve(p, 10 * MIB)).tokens
        p.services.reservations.stored(SESSION, [(PeerNumber(token.peer), 5, 9 * MIB)])
        await reserve(p, 0)
        await p.beat(peer.node, capacity=disk_bytes(10 * MIB), used=9 * MIB, put_seq=5)  # too soon to be kept
    async with pool(tmp_path, clock=clock) as p:
        with pytest.raises(NoSpace):
            await reserve(p, 10 * MIB)
        await p.rest(peer.node, capacity=disk_bytes(10 * MIB), used=9 * MIB, put_seq=5)
        assert len((await reserve(p, MIB // 2)).tokens) == 1
        clock.advance(rows.SETTLED_S + 1000)
        await p.services.reservations.expire()
        assert p.database.read(rows.outstanding) == []


async def test_a_promise_nobody_heard_of_is_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1)

        async def fail(_change: object, **_: object) -> None:
            raise Unavailable("the disk is full")

        monkeypatch.setattr(p.database, "write", fail)
        with pytest.raises(Unavailable):
            await reserve(p, MIB)
        assert p.services.reservations.promised(PeerNumber(peer.peer)) == 0


async def test_impossible_amounts_are_refused(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(1)
        (token,) = (await reserve(p, MIB)).tokens
        for room in (-1, 1 << 40):
            with pytest.raises(Invalid):
                await reserve(p, room)
        assert kept_of(p, SESSION) == [token.id]


async def test_space_is_what_can_be_written_after_replication(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:  # replicas 3
        one, two, three = await p.peers(3, capacity=9 * GIB, used=3 * GIB)
        assert p.services.reservations.space(NODE) == (9 * GIB, 6 * GIB)
        await p.beat(three.node, capacity=9 * GIB, used=8 * GIB)
        assert p.services.reservations.space(NODE) == (9 * GIB, GIB)
        four = await p.join("owner4@host")
        await p.beat(four.node, capacity=9 * GIB)
        assert p.services.reservations.space(NODE) == (12 * GIB, 6 * GIB + GIB // 2)
        await p.beat(one.node, capacity=9 * GIB, used=9 * GIB)
        await p.beat(two.node, capacity=9 * GIB, used=9 * GIB)
        assert p.services.reservations.space(NODE) == (12 * GIB, 0)


async def test_space_is_less_what_others_were_promised(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(3, capacity=GIB)
        await reserve(p, 100 * MIB)
        assert p.services.reservations.space(NODE) == (GIB, GIB)
        assert p.services.reservations.space(STRANGER) == (GIB, GIB - disk_bytes(100 * MIB))


async def test_a_pool_smaller_than_its_replicas_counts_the_copies_it_can_make(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2, capacity=GIB)
        assert p.services.reservations.space(NODE) == (GIB, GIB)


async def test_silent_peers_count_where_too_few_others_are_left(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner[234]@host .* is down", count=3)
    async with pool(tmp_path, replicas="2") as p:
        one, two, three = await p.peers(3, capacity=GIB)
        four = await p.join("owner4@host")
        await p.beat(four.node, capacity=GIB)
        assert p.services.reservations.space(NODE) == (2 * GIB, 2 * GIB)
        for alive, free in (([one, two, three], GIB * 3 // 2), ([one, two], GIB), ([one], 2 * GIB)):
            p.clock.advance(60)
            for peer in alive:
                await p.beat(peer.node, capacity=GIB)
            await p.services.pulse.work()
            assert p.services.reservations.space(NODE) == (2 * GIB, free)


async def test_a_full_disk_counts_whatever_the_peer_offers(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1)
        await p.beat(peer.node, resources=msgspec.structs.replace(ROOMY, disk_free=5 * MIB))
        assert p.services.reservations.space(NODE)[1] == 5 * MIB
        with pytest.raises(NoSpace):
            await reserve(p, 6 * MIB)


async def test_trash_beyond_the_early_purge_limit_is_not_room(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:  # 25 % of the capacity may be emptied early
        (peer,) = await p.peers(1)
        await p.beat(peer.node, capacity=8 * GIB, used=2 * GIB, trash=GIB)
        assert p.services.reservations.space(NODE)[1] == 6 * GIB
        await p.beat(peer.node, capacity=8 * GIB, used=2 * GIB, trash=3 * GIB)
        assert p.services.reservations.space(NODE)[1] == 5 * GIB


async def test_after_a_restart_what_was_replaced_is_drawn_from_before_what_replaced_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        tokens = [Token(number, NODE, 7, 1, MIB, 50) for number in (1, 2)]  # they end in one second

        def keep(connection: sqlite3.Connection) -> list[rows.Kept]:
            rows.add(connection, SESSION, tokens=tokens)
            rows.withdraw(connection, [2])
            return rows.outstanding(connection)

        assert [one.token.id for one in await p.database.write(keep)] == [2, 1]
