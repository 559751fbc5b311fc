"""Peers that go: when one may, who is back, and whom an admin may not give up: who answers, or has left (it would be a
member when it is heard)."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from careful import VOLUME, Careful, Peer, careful
from coordination import Pool, pool
from plugins.checklogs import Claims

from p2pfs.errors import Denied, Invalid, NotFound, Unavailable
from p2pfs.meta import chunks_index, members, plans
from p2pfs.runtime.worker import Progress
from p2pfs.types import GIB, ChunkId, NodeId, PeerState, Role
from p2pfs.wire.jobs import JobKind
from p2pfs.wire.orders import Audit, Failed, Order, Result
from p2pfs.wire.plans import PlanKind, PlanRequest

pytestmark = pytest.mark.l2


async def test_a_peer_that_was_started_anew_is_back_however_soon(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        await p.services.leaving.away(p.identity(), joined.node, 3600.0)
        peer = p.services.roster.members()[0]
        await p.beat(joined.node, run=1)  # about to go
        assert peer.away_until_s > 0
        await p.beat(joined.node, run=2)
        assert peer.away_until_s == 0


async def test_of_two_daemons_with_one_home_the_later_one_counts(tmp_path: Path, claim_logs: Claims) -> None:
    """Each would be taken for what the other holds, and chunks be copied back and forth without end."""
    claim_logs("is down", count=1)
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
        peer = p.services.roster.members()[0]
        await p.beat(joined.node, run=2, used=5)
        with pytest.raises(Denied, match="another daemon"):
            await p.beat(joined.node, run=1)
        await p.beat(joined.node, run=2, used=6)
        assert (peer.run, peer.used) == (2, 6)
        p.clock.advance(100.0)  # that one is stopped
        await p.services.pulse.work()
        for _ in range(2):
            await p.beat(joined.node, run=1)
        assert (peer.run, peer.state, peer.appearances) == (1, PeerState.UP, 2)


@pytest.mark.parametrize("state", [PeerState.UP, PeerState.SUSPECT, PeerState.DRAINING, PeerState.LEFT])
async def test_who_answers_or_has_left_is_not_forgotten(state: PeerState, tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        peer = p.services.roster.members()[0]
        p.services.roster.settle(peer, state=state, is_leaving=state is PeerState.DRAINING)
        with pytest.raises(Invalid):
            await p.services.leaving.forget(p.identity(), peer.node.id)
        assert peer.state is state


@pytest.mark.parametrize("verb", ["drain", "undrain"])
async def test_nobody_but_its_own_voice_brings_a_forgotten_peer_back(verb: str, tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        peer = p.services.roster.members()[0]
        p.services.roster.settle(peer, state=PeerState.LOST, is_leaving=False)
        with pytest.raises(Invalid, match="was forgotten"):
            await getattr(p.services.leaving, verb)(p.identity(), peer.node.id)
        assert (peer.state, peer.is_leaving) == (PeerState.LOST, False)
        await p.beat(peer.node.id)
        assert peer.state is PeerState.UP


async def test_a_drain_does_not_take_back_that_its_peer_appeared_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for proved again what nobody has seen since."""
    async with pool(tmp_path) as p:
        await p.peers(2, run=1)
        peer, write = p.services.roster.members()[0], p.database.write

        async def slow(change: Callable[[sqlite3.Connection], object], *, committed: Callable[[Any], None]) -> object:
            monkeypatch.setattr(p.database, "write", write)
            done = await write(change)
            await p.beat(peer.node.id, run=2)  # committed after the drain, and taken over before it
            committed(done)
            return done

        monkeypatch.setattr(p.database, "write", slow)
        await p.services.leaving.drain(p.identity(), peer.node.id)
        assert peer.appearances == p.database.read(lambda c: members.peer(c, peer.number)).appearances == 1


async def draining(p: Pool) -> tuple[Careful, ChunkId, Peer, Peer]:
    """A chunk on two of three peers, of which one is drained and is not let go yet: (the pool's, the chunk, who leaves,
    who stays of the two)."""
    c = await careful(p, 3)
    chunk = await c.store(1, [1, 2])
    await c.pass_time(40)
    await c.settle()
    stays, leaver = (c.peers[at] for at in sorted(c.holders(chunk)))
    await c.leaving.drain(p.identity(), leaver.node)
    for _ in range(10):
        while await c.care.work() is Progress.BUSY:
            pass
        for peer in c.peers.values():
            await c.exchange(peer)
    assert len(c.having(chunk)) == 3
    return c, chunk, leaver, stays


def states(p: Pool, peer: Peer) -> tuple[PeerState, bool]:
    """In memory, when the database says the same."""
    known, kept = p.services.roster.peers[peer.number], p.database.read(lambda c: members.peer(c, peer.number))
    assert (known.state, known.is_leaving, known.appearances) == (kept.state, kept.is_leaving, kept.appearances)
    return known.state, known.is_leaving


async def test_nobody_leaves_because_of_copies_of_a_peer_that_appeared_just_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat waited for the disk, and nobody was told yet when it was committed with the leave."""
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c, _, leaver, stays = await draining(p)
        dependence = plans.dependence

        def looked(*words: Any, **more: Any) -> plans.Dependence:  # noqa: ANN401 - plans.dependence's
            p.ahead(lambda connection: members.appear(connection, stays.number))
            return dependence(*words, **more)

        with monkeypatch.context() as look:
            look.setattr(plans, "dependence", looked)
            assert not await c.leaving._let_go(p.services.roster.peers[leaver.number])
        assert states(p, leaver) == (PeerState.DRAINING, True)
        p.services.roster.appear(p.services.roster.peers[stays.number], 1)
        await c.settle()
        assert states(p, leaver) == (PeerState.LEFT, False)


@pytest.mark.parametrize("doubt", [{"has_appeared": True}, {"is_heard": False}])
async def test_nobody_leaves_because_of_copies_of_a_peer_of_which_nothing_is_known_yet(
    doubt: dict[str, bool], tmp_path: Path
) -> None:
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c, _, leaver, stays = await draining(p)
        for name, value in doubt.items():
            setattr(p.services.roster.peers[stays.number], name, value)
        assert not await c.leaving._let_go(p.services.roster.peers[leaver.number])


async def test_nobody_leaves_because_of_a_copy_whose_loss_waited_for_the_disk(tmp_path: Path) -> None:
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c, chunk, leaver, stays = await draining(p)
        told_s = p.clock.time() - 1.0
        p.ahead(
            lambda connection: chunks_index.drop_replica(
                connection, VOLUME, chunk=chunk, peer=stays.number, now_s=told_s
            )
        )
        assert not await c.leaving._let_go(p.services.roster.peers[leaver.number])


@pytest.mark.parametrize("verb", ["drain", "undrain"])
async def test_a_drain_that_its_asker_gave_up_is_known_once_it_is_committed(verb: str, tmp_path: Path) -> None:
    """Otherwise the map names a peer as one that stays, and commits that count on it are refused without end."""
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c, _, leaver, stays = await draining(p)
        peer, is_leaving = (stays, True) if verb == "drain" else (leaver, False)
        await p.give_up(lambda: getattr(c.leaving, verb)(p.identity(), peer.node))
        assert states(p, peer) == (PeerState.DRAINING if is_leaving else PeerState.UP, is_leaving)
        assert (p.services.jobs.current(JobKind.DRAIN, peer.node) is not None) is is_leaving


async def test_a_peer_that_was_told_to_stay_after_it_had_left_stays(tmp_path: Path) -> None:
    """Both are committed before either hears of it, and they may hear in any order."""
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c, _, leaver, _ = await draining(p)
        write = p.database.write

        async def heard_later(change: Callable[[sqlite3.Connection], object], **more: Any) -> object:  # noqa: ANN401
            done = await write(change, **more)
            if done is True:
                p.database.write = write  # type: ignore[method-assign]
                await c.leaving.undrain(p.identity(), leaver.node)
            return done

        p.database.write = heard_later  # type: ignore[method-assign, assignment]
        assert await c.leaving._let_go(p.services.roster.peers[leaver.number])
        assert states(p, leaver) == (PeerState.UP, False)
        assert p.services.roster.peers[leaver.number].appearances == 1
        assert c.jobs()["drain"] == "done"


async def test_copies_of_a_peer_that_is_back_are_not_forgotten(tmp_path: Path) -> None:
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c, chunk, leaver, _ = await draining(p)
        p.services.roster.settle(p.services.roster.peers[leaver.number], state=PeerState.LEFT, is_leaving=False)
        await c.leaving.work()  # the database knows that it is back, and nobody else yet
        assert leaver.at in c.holders(chunk)


async def test_nobody_leaves_while_nobody_stays(tmp_path: Path, claim_logs: Claims) -> None:
    """Copies wanted are never none: the only ones left went with the peer, and an admin was told that nothing depends
    on it."""
    claim_logs("is down", count=1)
    async with pool(tmp_path, replicas="2", min_replicas="1", repair_delay="1h") as p:
        c = await careful(p, 2)
        chunk = await c.store(1, [1, 2])
        await c.settle()
        await c.pass_time(100, 2)
        leaver, dead = c.peers[1], p.services.roster.peers[c.peers[2].number]
        await c.leaving.drain(p.identity(), leaver.node)
        with pytest.raises(Invalid, match="not being drained"):
            await c.leaving.forget(p.identity(), dead.node.id)
        p.database.write_now(lambda c: members.set_peer_state(c, dead.number, state=PeerState.LOST, now_s=1.0))
        p.services.roster.settle(dead, state=PeerState.LOST, is_leaving=False)  # as by another version
        await c.settle()
        assert not await c.leaving._let_go(p.services.roster.peers[leaver.number])
        assert states(p, leaver) == (PeerState.DRAINING, True)
        assert c.holders(chunk) == c.having(chunk) - {2} == {1}


async def test_of_two_drains_at_once_one_is_refused_where_only_two_stay(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two = await p.peers(2)
        write = p.database.write

        async def second(change: Callable[[sqlite3.Connection], object], **more: Any) -> object:  # noqa: ANN401
            p.database.write = write  # type: ignore[method-assign]
            await p.services.leaving.drain(p.identity(), two.node)
            return await write(change, **more)

        p.database.write = second  # type: ignore[method-assign, assignment]
        with pytest.raises(Invalid, match="the only peer that stays"):
            await p.services.leaving.drain(p.identity(), one.node)
        assert p.services.roster.staying() == 1


async def test_a_peer_that_is_revoked_while_it_is_drained_stays_revoked(tmp_path: Path, claim_logs: Claims) -> None:
    """Whoever has left may come back, and is told so."""
    claim_logs("revoked", count=1)
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c, _, leaver, _ = await draining(p)
        p.ahead(
            lambda connection: connection.execute(
                "UPDATE peer SET state = ? WHERE number = ?", (PeerState.REVOKED.value, leaver.number)
            )
        )
        assert not await c.leaving._let_go(p.services.roster.peers[leaver.number])
        await p.services.membership.revoke(leaver.node)
        await c.settle()
        assert states(p, leaver) == (PeerState.REVOKED, False)
        assert c.jobs()["drain"] == "cancelled"


async def test_who_is_back_while_its_rows_were_cleared_away_is_not_taken_for_gone(
    tmp_path: Path, claim_logs: Claims
) -> None:
    """Deletions that it was owed would never be ordered."""
    claim_logs("is down", count=1)
    claim_logs("is forgotten", count=1)
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c = await careful(p, 3)
        await c.store(1, [1, 2])
        await c.settle()
        await c.pass_time(100, 2)
        gone, write = p.services.roster.peers[c.peers[2].number], p.database.write
        await c.leaving.forget(p.identity(), gone.node.id)

        async def heard_meanwhile(change: Callable[[sqlite3.Connection], object], **more: Any) -> object:  # noqa: ANN401
            done = await write(change, **more)
            if isinstance(done, tuple) and not done[0]:
                p.database.write = write  # type: ignore[method-assign]
                await c.beat()
            return done

        p.database.write = heard_meanwhile  # type: ignore[method-assign, assignment]
        while await c.leaving._clear():
            pass
        assert gone.is_member
        assert gone.number not in c.leaving._cleared


async def test_who_was_forgotten_and_back_before_it_was_revoked_is_cleared_away(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("is down", count=1)
    claim_logs("is forgotten", count=1)
    claim_logs("revoked", count=1)
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c = await careful(p, 3)
        await c.pass_time(100, 2)
        await c.leaving.forget(p.identity(), c.peers[2].node)
        await c.settle()
        await c.beat()
        await c.settle()
        chunk = await c.store(1, [1, 2])
        assert 2 in c.holders(chunk)
        await p.services.membership.revoke(c.peers[2].node)
        await c.settle()
        assert 2 not in c.holders(chunk)


async def test_a_heartbeat_under_way_does_not_make_who_was_told_to_stay_one_that_left(tmp_path: Path) -> None:
    """In the database it was one for ever, and copies there did not count for commits."""
    async with pool(tmp_path, replicas="2", min_replicas="2") as p:
        c = await careful(p, 2)
        left, write = p.services.roster.peers[c.peers[2].number], p.database.write
        p.database.write_now(lambda c: members.set_peer_state(c, left.number, state=PeerState.LEFT, now_s=1.0))
        p.services.roster.settle(left, state=PeerState.LEFT, is_leaving=False)

        async def late(change: Callable[[sqlite3.Connection], object], **more: Any) -> object:  # noqa: ANN401
            p.database.write = write  # type: ignore[method-assign]
            await c.leaving.undrain(p.identity(), left.node.id)
            return await write(change, **more)

        p.database.write = late  # type: ignore[method-assign, assignment]
        await p.beat(left.node.id, capacity=5 * GIB)
        assert states(p, c.peers[2]) == (PeerState.UP, False)
        await c.store(1, [1, 2])


async def test_who_is_heard_as_it_is_forgotten_is_a_member_everywhere(tmp_path: Path, claim_logs: Claims) -> None:
    """And shows what it holds anew, as some of its rows may be gone."""
    claim_logs("is down", count=1)
    claim_logs("is forgotten", count=1)
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 3)
        await c.pass_time(100, 2)
        gone, write = c.peers[2], p.database.write

        async def late(change: Callable[[sqlite3.Connection], object], **more: Any) -> object:  # noqa: ANN401
            p.database.write = write  # type: ignore[method-assign]
            known = p.services.roster.peers[gone.number]
            known.state = PeerState.DOWN  # as when it was forgotten
            await c.leaving.forget(p.identity(), gone.node)
            return await write(change, **more)

        p.database.write = late  # type: ignore[method-assign, assignment]
        await p.beat(gone.node)
        assert states(p, gone) == (PeerState.UP, False)
        assert p.services.roster.peers[gone.number].appearances == 1


@pytest.mark.parametrize("verb", ["drain", "undrain"])
async def test_nobody_is_brought_back_that_was_forgotten_just_before(verb: str, tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        peer = p.services.roster.members()[0]
        p.ahead(lambda c: members.set_peer_state(c, peer.number, state=PeerState.LOST, now_s=1.0))
        with pytest.raises(Invalid, match="was forgotten"):
            await getattr(p.services.leaving, verb)(p.identity(), peer.node.id)
        assert p.database.read(lambda c: members.peer(c, peer.number)).state is PeerState.LOST


async def test_the_last_that_stays_is_not_forgotten_when_the_other_began_to_leave_just_before(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path) as p:
        c = await careful(p, 2)
        await c.pass_time(100, 2)
        p.ahead(lambda connection: members.set_leaving(connection, c.peers[1].number, leaving=True))
        with pytest.raises(Invalid, match="not being drained"):
            await c.leaving.forget(p.identity(), c.peers[2].node)


async def test_a_peer_revoked_meanwhile_is_not_drained(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        peer = p.services.roster.members()[0]
        p.ahead(lambda connection: members.revoke_node(connection, peer.node.id, now_s=1.0))
        with pytest.raises(NotFound):
            await p.services.leaving.drain(p.identity(), peer.node.id)
        assert p.database.read(lambda c: members.peer(c, peer.number)).state is PeerState.REVOKED


async def test_a_peer_that_was_started_anew_while_the_coordinator_was_away_has_appeared(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (joined,) = await p.peers(1, run=1)
    for run, appearances in ((1, 0), (2, 1), (2, 1)):
        async with pool(tmp_path) as p:
            await p.beat(joined.node, run=run)
            peer = p.services.roster.peer_of(NodeId(joined.node))
            assert peer is not None
            assert peer.appearances == appearances


async def test_a_peer_leaves_when_nothing_depends_on_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        chunks = [await c.store(number, [1, 2, 3]) for number in range(12)]
        await c.settle()
        leaver = c.peers[2]
        began = await p.services.leaving.drain(p.identity(), leaver.node)
        assert began.state == PeerState.DRAINING
        await c.work()
        held = [chunk for chunk in chunks if 2 in c.holders(chunk)]
        assert held
        assert p.services.roster.peers[leaver.number].state is PeerState.DRAINING
        await c.settle()
        assert p.services.roster.peers[leaver.number].state is PeerState.LEFT
        assert (await p.services.leaving.drain(p.identity(), leaver.node)).state == PeerState.LEFT
        assert all(len(c.having(chunk) - {2}) == 3 for chunk in chunks)
        assert c.jobs()["drain"] == "done"
        assert all(2 not in c.holders(chunk) for chunk in chunks)  # its rows are cleared away
        assert set(held) <= set(leaver.chunks)  # and nothing on its disk is touched


async def test_a_peer_does_not_leave_because_of_copies_that_are_not_there(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    claim_logs("has not got|the inventory of peer")
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c = await careful(p, 3)
        chunks = [await c.store(number, [1, 2]) for number in range(10)]
        c.care._noticed.take()
        await c.settle()
        await c.pass_time(100, 1)
        c.peers[1].chunks.clear()  # a new disk
        await c.beat()
        await p.services.leaving.drain(p.identity(), c.peers[2].node)
        await c.settle()
        assert p.services.roster.peers[c.peers[2].number].state is PeerState.LEFT
        assert all(c.having(chunk) >= {1, 3} for chunk in chunks)


async def test_a_peer_leaves_once_those_who_came_back_have_shown_their_copies(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c = await careful(p, 3)
        for number in range(40):
            await c.store(number, [1, 2])
        await c.settle()
        await c.pass_time(100, 1)
        await c.beat()  # it is back, and what it holds is not proved
        await c.settle()
        await p.services.leaving.drain(p.identity(), c.peers[2].node)
        for _ in range(10):  # the copies are made before it shows anything: only showing is left
            await c.work()
            await c.exchange(c.peers[3])
        await c.settle()
        assert p.services.roster.peers[c.peers[2].number].state is PeerState.LEFT


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_peer_leaves_although_an_audit_came_to_nothing(
    is_lost: bool, tmp_path: Path, claim_logs: Claims
) -> None:
    """Lost, as by a restart of who was to show its copy, or failed for another reason than the copy. And when it comes
    to something at last, that is what the drain waited for: nothing is copied after it."""
    claim_logs("is down", count=1)
    async with pool(tmp_path, replicas="2", repair_delay="1h") as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])
        await c.pass_time(40)
        await c.settle()
        stays, leaver = (c.peers[at] for at in sorted(c.holders(chunk)))
        await c.pass_time(100, stays.at)
        await c.beat()
        await p.services.leaving.drain(p.identity(), leaver.node)
        failed: list[Order] = []

        def fails_once(order: Order) -> Result | None:
            if isinstance(order, Audit) and not failed:
                failed.append(order)
                return Failed(order.order, "Unavailable", "the disk does not answer")
            return None

        stays.does = fails_once
        for _ in range(5):
            await c.work()
            for peer in c.peers.values():
                await c.exchange(peer)
            if is_lost:
                stays.results = [result for result in stays.results if not isinstance(result, Failed)]
        assert failed
        await c.settle()
        assert p.services.roster.peers[leaver.number].state is PeerState.LEFT
        assert len(c.having(chunk) - {leaver.at}) == 2


async def test_who_stays_after_all_has_no_job_any_more(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        for number in range(12):
            await c.store(number, [1, 2, 3])
        await c.settle()
        await p.services.leaving.drain(p.identity(), c.peers[2].node)
        await c.work()
        for peer in c.peers.values():
            await c.exchange(peer)
        await p.services.leaving.undrain(p.identity(), c.peers[2].node)
        await c.settle()
        assert c.jobs()["drain"] == "cancelled"
        assert p.services.jobs.going_on(JobKind.DRAIN) == []
        assert all(len(c.having(chunk)) == 3 for chunk in c.contents)


async def test_forgotten_and_back_again(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    claim_logs("is forgotten", count=1)
    async with pool(tmp_path, repair_delay="1h") as p:
        c = await careful(p, 4)
        chunks = [await c.store(number, [1, 2, 3]) for number in range(12)]
        await c.settle()
        await c.pass_time(100, 2)
        await p.services.leaving.forget(p.identity(), c.peers[2].node)
        await c.settle()
        assert all(len(c.holders(chunk) - {2}) == 3 for chunk in chunks)
        await c.beat()
        await c.settle()
        assert p.services.roster.peers[c.peers[2].number].state is PeerState.UP
        assert all(c.holders(chunk) == c.having(chunk) and len(c.having(chunk)) == 3 for chunk in chunks)


async def test_one_asker_has_one_plan_made_at_a_time(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        answers: list[object] = []
        request = PlanRequest(PlanKind.DRAIN, [c.peers[1].node])

        async def ask(at: int) -> None:
            try:
                answers.append(await c.leaving.plan(p.identity(c.peers[at].node, [Role.PEER]), request))
            except Unavailable:
                answers.append(None)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, 2)
            nursery.start_soon(ask, 3)
        assert len([answer for answer in answers if answer]) == 2
        await ask(2)
        assert answers[-1]


async def test_a_plan_tells_of_chunks_that_too_few_peers_are_left_for(tmp_path: Path) -> None:
    """Fewer copies are wanted where fewer peers stay, so that nothing of them would be short."""
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        for number in range(12):
            await c.store(number, [1, 2, 3])
        await c.settle()

        async def plan(kind: PlanKind, *numbers: int) -> tuple[int, int, int]:
            request = PlanRequest(kind, [c.peers[number].node for number in numbers])
            answer = await c.leaving.plan(p.identity(), request)
            return answer.thinned, answer.wanted, answer.replicas

        assert await plan(PlanKind.DRAIN, 1) == (0, 3, 3)
        assert await plan(PlanKind.LOSE, 1, 2) == (12, 2, 3)
        assert await plan(PlanKind.STOP, 1, 2) == (0, 3, 3)
