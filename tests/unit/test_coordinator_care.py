"""A pool that looks after its chunks, with peers that do what they are told, and with others."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from careful import SIZE, VOLUME, careful
from coordination import pool
from plugins.checklogs import Claims

from p2pfs.coordinator.upkeep import audits as audits_module
from p2pfs.coordinator.upkeep import backlog as backlog_module
from p2pfs.coordinator.upkeep.care import LONGEST_REST_S, SURVEY_EVERY_S
from p2pfs.meta import survey, void_copies
from p2pfs.placement.care import Need
from p2pfs.types import PeerState
from p2pfs.wire.jobs import JobAction, JobKind
from p2pfs.wire.namespace import AddReplicas, NewChunk
from p2pfs.wire.orders import Audit, Delete, Failed, Order, Result, Stored, Transfer

pytestmark = [pytest.mark.l2, pytest.mark.trio]


def refuses(order: Order) -> Result | None:
    return Failed(order.order, "Unavailable", "not today") if isinstance(order, Transfer) else None


async def test_a_chunk_is_copied_when_a_peer_was_down_for_long(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, repair_delay="10m") as p:
        c = await careful(p, 4)
        chunk = await c.store(1, [1, 2, 3])
        await c.settle()
        gone = min(c.holders(chunk))
        await c.pass_time(600, gone)  # 10 minutes of silence: it is down, and its copies still count
        await c.settle()
        assert len(c.holders(chunk)) == 3
        await c.pass_time(70, gone)
        await c.settle()
        assert c.having(chunk) == {1, 2, 3, 4}
        assert c.jobs()["repair"] == "done"


async def test_at_one_readable_copy_nobody_waits(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=2)
    async with pool(tmp_path, repair_delay="10m") as p:
        c = await careful(p, 5)
        chunk = await c.store(1, [1, 2, 3])
        await c.settle()
        first, second, _ = sorted(c.holders(chunk))
        await c.pass_time(70, first, second)
        await c.settle()
        assert len(c.having(chunk) - {first, second}) == 3


async def test_who_comes_back_shows_its_copies_before_surplus_goes(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, repair_delay="1m") as p:
        c = await careful(p, 4)
        chunk = await c.store(1, [1, 2, 3])
        await c.settle()
        before = c.holders(chunk)
        gone = min(before)
        await c.pass_time(200, gone)
        await c.settle()
        assert len(c.having(chunk)) == 4
        await c.beat()
        await c.settle()
        assert c.having(chunk) == c.holders(chunk)
        assert len(c.holders(chunk)) == 3
        is_kept = gone in c.holders(chunk)
        assert any(isinstance(order, Audit) for order in c.peers[gone].seen) == is_kept
        assert c.jobs()["trim"] == "done"


async def test_who_comes_back_empty_costs_nobody_a_copy(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=4)
    claim_logs("has not got|the inventory of peer")
    async with pool(tmp_path, repair_delay="1m", replicas="2") as p:
        c = await careful(p, 4)
        chunks = [await c.store(number, [1 + number % 4, 1 + (number + 1) % 4]) for number in range(20)]
        await c.settle()
        for gone in range(1, 5):
            await c.pass_time(200, gone)
            await c.settle()
            c.peers[gone].chunks.clear()
            await c.beat()
            await c.settle()
            for chunk in chunks:
                assert c.having(chunk) == c.holders(chunk)
                assert len(c.having(chunk)) == 2


async def test_nothing_is_proved_while_the_database_does_not_know_who_came_back(
    tmp_path: Path, claim_logs: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a heartbeat and its commit the peer's copies count as before, but for nothing that takes others away."""
    claim_logs("is down", count=1)
    claim_logs("has not got|the inventory of peer")
    async with pool(tmp_path, repair_delay="1m") as p:
        c = await careful(p, 4)
        chunk = await c.store(1, [1, 2, 3])
        await c.settle()
        gone = min(c.holders(chunk))
        await c.pass_time(200, gone)
        await c.settle()
        c.peers[gone].chunks.clear()
        write, stalled = p.database.write, trio.Event()

        async def stall(change: object, **more: object) -> object:
            await stalled.wait()
            return await write(change, **more)  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            monkeypatch.setattr(p.database, "write", stall)
            nursery.start_soon(p.beat, c.peers[gone].node)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(p.database, "write", write)
            assert p.services.roster.peers[c.peers[gone].number].state is PeerState.UP
            await c.work()
            assert len(c.holders(chunk) - {gone}) == 3
            stalled.set()
        await c.settle()
        assert len(c.having(chunk)) == 3


async def test_a_peer_that_takes_nothing_holds_nobody_up(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        for bad in (3, 4):
            c.peers[bad].does = refuses
            p.clock.advance(1)
            chunk = await c.store(bad, [1, 2])
            c.peers[bad].seen.clear()
            await c.pass_time(40)
            await c.settle()
            assert len(c.having(chunk)) == 3
            assert len([order for order in c.peers[bad].seen if isinstance(order, Transfer)]) <= 2  # to mend, to move
            c.peers[bad].does = lambda _: None


async def test_what_fails_is_tried_again_later_and_later_and_says_why(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])
        c.peers[3].does = refuses
        tried: list[float] = []
        await c.pass_time(30)
        start_s = p.clock.monotonic()
        for _ in range(600):
            await c.work()
            if any(isinstance(order, Transfer) for order in await c.exchange(c.peers[3])):
                tried.append(p.clock.monotonic() - start_s)
                await c.exchange(c.peers[3])
            await c.pass_time(1)
        assert tried[0] == 0
        pauses = [after - before for before, after in itertools.pairwise(tried)]
        assert pauses == [pytest.approx(5 * 2**at, abs=1.5) for at in range(len(pauses))]
        assert len(tried) == 7
        (job,) = [job for job in p.services.jobs.listed() if job.kind == "repair"]
        assert (job.state, job.error) == ("running", "not today")
        c.peers[3].does = lambda _: None
        await p.services.jobs.act(job.id, JobAction.RETRY)  # at once
        await c.settle()
        assert c.having(chunk) == {1, 2, 3}
        assert (c.jobs()["repair"], job.total) == ("done", 0)


async def test_a_peer_that_forgets_its_orders_gets_them_once_more_and_then_later(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        await c.store(1, [1, 2])
        await c.pass_time(30)
        forgetful = c.peers[3]
        for _ in range(50):
            await c.work()
            await c.exchange(forgetful)
            forgetful.results.clear()
        assert len([order for order in forgetful.seen if isinstance(order, Transfer)]) == 2
        await c.pass_time(10)
        await c.settle()
        assert len(c.holders(forgetful.seen and next(iter(c.contents)))) == 3


async def test_a_revoked_peer_is_no_longer_waited_for(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked", count=1)
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        chunk = await c.store(1, [1, 2])
        await c.pass_time(30)
        await c.work()
        target = next(peer for peer in (c.peers[3], c.peers[4]) if c.care.waits(peer.number))
        while not any(isinstance(order, Transfer) for order in target.seen):
            await c.exchange(target)
        await p.services.membership.revoke(target.node)
        await c.settle()
        assert len(c.having(chunk) & c.holders(chunk) - {target.at}) == 3


@pytest.mark.parametrize("lie", ["forged", "another peer's", "another chunk's"])
async def test_a_receipt_that_proves_nothing_makes_no_location(tmp_path: Path, claim_logs: Claims, lie: str) -> None:
    if lie != "another peer's":
        claim_logs("does not verify", count=1)
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])

        def lies(order: Order) -> Result | None:
            if not isinstance(order, Transfer):
                return None
            peer, named = (c.peers[2].number, chunk) if lie == "another peer's" else (c.peers[3].number, bytes(32))
            if lie == "forged":
                named = chunk
            receipt = p.receipt(peer, VOLUME, named, size=SIZE + (lie == "forged"), put_seq=7)
            return Stored(order.order, VOLUME, chunk, SIZE, receipt)

        c.peers[3].does = lies
        await c.pass_time(30)
        await c.settle()
        assert c.holders(chunk) == {1, 2}
        (job,) = [job for job in p.services.jobs.listed() if job.kind == "repair"]
        assert job.error == "the receipt does not verify"


async def test_results_nobody_asked_for_change_nothing(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        chunk = await c.store(1, [1, 2])
        await c.pass_time(30)
        await c.work()
        target = next(peer for peer in (c.peers[3], c.peers[4]) if c.care.waits(peer.number))
        other = c.peers[7 - target.at]
        while not (orders := [order for order in await c.exchange(target) if isinstance(order, Transfer)]):
            pass
        receipt = p.receipt(other.number, VOLUME, chunk, size=SIZE, put_seq=9)
        other.results = [Stored(number, VOLUME, chunk, SIZE, receipt) for number in (orders[0].order, 12345)]
        await c.exchange(other)
        assert c.holders(chunk) == {1, 2}
        await c.settle()
        assert c.holders(chunk) == {1, 2, target.at}


async def test_nothing_happens_while_nothing_happens(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        for number in range(10):
            await c.store(number, [1, 2, 3])
        await c.settle()
        read, reads = p.database.read, 0

        def counting(question: object) -> object:
            nonlocal reads
            reads += 1
            return read(question)  # type: ignore[arg-type]

        p.database.read = counting  # type: ignore[method-assign, assignment]
        for _ in range(10):
            assert await c.work() == 1
        assert reads == 0
        p.clock.advance(SURVEY_EVERY_S)
        await c.care.wait()
        assert await c.work() == 3  # one slice, the end, and rest


async def test_a_pool_that_always_changes_is_still_gone_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes the pool change at each heartbeat must not keep the survey at the beginning of the index."""
    monkeypatch.setattr("p2pfs.coordinator.upkeep.care.SLICE", 2)
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        await c.settle()
        chunks = [await c.store(number, [1, 2]) for number in range(20)]
        p.clock.advance(31)
        await c.beat()
        c.care._noticed.take()
        capacity = 10 << 30
        for _ in range(60):
            capacity = capacity * 2 if capacity < 1 << 40 else 10 << 30
            await p.beat(c.peers[4].node, capacity=capacity)
            await c.care.work()
        assert c.care._backlog.waiting == len(chunks)


async def test_a_survey_rests_as_long_as_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million chunks are 5 000 slices: what mounts ask comes in between."""
    monkeypatch.setattr("p2pfs.coordinator.upkeep.care.SLICE", 2)
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(round(seconds, 3))

    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        for number in range(4):
            await c.store(number, [1, 2, 3])
        await c.settle()
        took = iter([0.02, 9.0, 0.001])
        after = survey.after

        def slow(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as the original
            p.clock.advance(next(took))
            return after(*arguments, **options)

        monkeypatch.setattr(survey, "after", slow)
        c.care.survey()
        with monkeypatch.context() as patched:
            patched.setattr(trio, "sleep", sleep)
            for _ in range(3):
                await c.care.work()
        assert rests == [0.02, LONGEST_REST_S, 0.001]


async def test_peers_that_are_not_remembered_of_a_group_count_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a chunk needs does not depend on how many of its group's peers are remembered."""
    async with pool(tmp_path, replicas="2", min_replicas="1") as p:
        c = await careful(p, 5)
        await c.settle()
        holders = [list(some) for size in (1, 2, 3, 5) for some in itertools.combinations(range(1, 6), size)]
        for number, some in enumerate(holders):
            await c.store(number, some)
        chunks = p.database.read(lambda connection: survey.after(connection, 0))

        def needs(first: int) -> list[Need | None]:
            monkeypatch.setattr("p2pfs.coordinator.upkeep.care.FIRST", first)
            c.care._placed.clear()
            return [c.care._need(chunk) for chunk in chunks]

        everything = needs(99)
        assert len({found and found.urgency for found in everything}) == 3  # nothing, a copy, one away
        for first in (1, 2, 3):
            assert needs(first) == everything


async def test_what_is_urgent_finds_place_among_much_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    claim_logs("is down", count=1)
    monkeypatch.setattr(backlog_module, "MOST", 5)
    async with pool(tmp_path, repair_delay="1m", replicas="2") as p:
        c = await careful(p, 3)
        chunks = [await c.store(number, [1, 2 + number % 2]) for number in range(40)]
        c.peers[2].does = c.peers[3].does = lambda order: None
        await c.work()  # some belong elsewhere
        await p.services.jobs.act(p.services.jobs.open(JobKind.REBALANCE).row.id, JobAction.PAUSE)
        await c.pass_time(200, 2)
        await c.settle()
        assert all(len(c.having(chunk) - {2}) == 2 for chunk in chunks)


async def test_a_restarted_coordinator_goes_on(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        chunks = [await c.store(number, [1, 2]) for number in range(30)]
        await c.pass_time(30)
        await c.work()
        for _ in range(3):
            await c.exchange(c.peers[3])
        await p.services.jobs.work()
        peers, contents, clock = c.peers, c.contents, p.clock
    async with pool(tmp_path, clock=clock) as p:
        c.pool = p
        assert (c.peers, c.contents) == (peers, contents)
        await c.beat()
        assert c.peers[3].results  # of the run before
        await c.settle()
        assert all(c.having(chunk) == c.holders(chunk) == {1, 2, 3} for chunk in chunks)
        (job,) = [job for job in p.services.jobs.listed() if job.kind == "repair"]
        assert (job.state, job.done) == ("done", job.total)


@pytest.mark.parametrize("comes_back", [False, True])
async def test_a_peer_that_does_not_come_for_its_orders_holds_nobody_up(
    comes_back: bool, tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, repair_delay="1m") as p:
        c = await careful(p, 5)
        chunks = [await c.store(number, [1, 2, 3]) for number in range(10)]
        await c.settle()
        at_first = [4 in c.having(chunk) for chunk in chunks]
        await c.pass_time(200, 1)
        for _ in range(10):  # peer 4 beats its heart, and that is all it does
            await c.work()
            for at in (2, 3, 5):
                await c.exchange(c.peers[at])
            await c.pass_time(20, 1)
        assert all(len(c.having(chunk) - {1}) >= 3 for chunk in chunks)
        assert [4 in c.having(chunk) for chunk in chunks] == at_first
        assert p.services.roster.peers[c.peers[4].number].is_deaf
        if comes_back:
            await c.exchange(c.peers[4])
            assert not p.services.roster.peers[c.peers[4].number].is_deaf


async def test_who_was_started_anew_shows_its_copies_before_surplus_goes(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("has not got|the inventory of peer")
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        for peer in c.peers.values():
            await p.beat(peer.node, run=1)
        chunk = await c.store(1, [1, 2, 3, 4])  # one more than wanted
        copies: list[int] = []

        def counts(order: Order) -> None:
            if isinstance(order, Delete) and order.chunk in c.peers[3].chunks | c.peers[4].chunks:
                copies.append(len(c.having(chunk)))

        for at in (1, 2):  # with empty disks, and sooner than anybody could notice their silence
            c.peers[at].chunks.clear()
            await p.beat(c.peers[at].node, run=2)
        c.peers[3].does = c.peers[4].does = counts
        await c.pass_time(31)
        await c.settle()
        assert len(c.having(chunk)) == 3
        assert min(copies, default=4) > 3, "a copy was taken away because of one that was not there"


async def test_a_revoked_peer_has_nothing_more_to_show(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked", count=1)
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        chunks = [await c.store(number, [1, 2, 3]) for number in range(20)]
        await c.settle()
        for chunk in chunks:
            c.audits.ask(c.peers[2].number, VOLUME, chunk, size=SIZE)
        assert any(isinstance(order, Audit) for order in await c.exchange(c.peers[2]))
        assert c.audits.is_busy
        await p.services.membership.revoke(c.peers[2].node)
        await p.services.pulse.work()
        assert not c.audits.is_busy


async def test_audits_that_do_not_fit_are_asked_for_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    claim_logs("is down", count=1)
    monkeypatch.setattr(audits_module, "MOST", 3)
    async with pool(tmp_path, repair_delay="1m") as p:
        c = await careful(p, 4)
        chunks = [await c.store(number, [1, 2, 3]) for number in range(40)]
        await c.settle()
        await c.pass_time(200, 1)
        await c.settle()
        await c.beat()
        await c.settle()
        assert all(len(c.having(chunk)) == 3 for chunk in chunks)


async def test_equal_content_stored_elsewhere_again_leaves_no_surplus(tmp_path: Path) -> None:
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 4)
        chunk = await c.store(1, [1, 2])
        await c.settle()
        held = sorted(c.holders(chunk))
        elsewhere = min(set(c.peers) - set(held))
        receipts = [
            p.receipt(c.peers[at].number, VOLUME, chunk, size=SIZE, put_seq=c.peers[at].put(chunk))
            for at in (held[0], elsewhere)
        ]
        await c.batch(AddReplicas([NewChunk(chunk, SIZE, receipts)]))
        assert len(c.holders(chunk)) == 3
        await c.pass_time(40)
        await c.settle()
        assert len(c.holders(chunk)) == 2
        assert c.having(chunk) == c.holders(chunk)


async def test_a_copy_whose_receipt_is_void_is_not_made_again_without_end(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2])
        await c.pass_time(40)
        void = {"volume": VOLUME, "chunk": chunk, "put_seq": 10_000, "pending": False, "now_s": p.clock.time()}
        await p.database.write(lambda connection: void_copies.add(connection, c.peers[3].number, **void))
        await c.settle()
        assert len([order for order in c.peers[3].seen if isinstance(order, Transfer)]) == 1
        (job,) = [job for job in p.services.jobs.listed() if job.kind == "repair"]
        assert job.error == "the receipt is as old as that of a copy which is gone"


async def test_a_restarted_coordinator_takes_nothing_away_for_copies_on_peers_it_has_not_heard(tmp_path: Path) -> None:
    """It may have been away for long: what was proved before says nothing of peers that died meanwhile."""
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        chunks = [await c.store(number, [1, 2, 3, 4]) for number in range(20)]
        clock = p.clock
    async with pool(tmp_path, clock=clock) as p:
        c.pool = p
        await c.beat(1, 2, 3)  # silent, all but peer 4
        await c.work()
        await c.exchange(c.peers[4])
        await c.work()
        assert not any(c.pending().values())
        assert all(c.holders(chunk) == {1, 2, 3, 4} for chunk in chunks)
        await c.beat()
        await c.settle()
        assert all(len(c.having(chunk)) == 3 for chunk in chunks)


async def test_a_peer_that_is_not_heard_after_a_restart_has_the_others_shown_their_copies_once(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        for number in range(20):
            await c.store(number, [1, 2, 3, 4])
        clock = p.clock
    async with pool(tmp_path, clock=clock) as p:
        c.pool = p
        await c.beat(1)
        assert await c.settle() < 100  # to whom nobody listens yet nothing is ordered, again and again least of all
        assert not c.peers[1].seen
