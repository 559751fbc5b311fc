"""Jobs as people see them: what may be done to one, and that neither they nor their figures outlive the work."""

from pathlib import Path

import pytest
from careful import SIZE, VOLUME, careful
from coordination import pool
from plugins.checklogs import Claims

from p2pfs.errors import Invalid, NotFound
from p2pfs.types import MIB, PeerState
from p2pfs.wire.jobs import JobAction, JobInfo, JobKind, JobState
from p2pfs.wire.orders import Failed, Transfer

pytestmark = pytest.mark.l2

EVERY = tuple(JobAction)


async def test_a_job_is_held_back_and_goes_on_and_is_called_by_its_peers_name(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        jobs, node = p.services.jobs, next(iter(p.services.roster.peers.values())).node
        job = jobs.open(JobKind.DRAIN, node.id)
        job.stuck("no room")
        paused = await jobs.act(job.row.id, JobAction.PAUSE, p.services.roster.name_of)
        assert (paused.state, paused.subject, paused.error) == ("paused", node.name, "no room")
        assert jobs.is_paused(JobKind.DRAIN, node.id)
        resumed = await jobs.act(job.row.id, JobAction.RESUME)
        assert (resumed.state, resumed.error) == ("running", "")


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED, JobState.CANCELLED])
@pytest.mark.parametrize("action", EVERY)
async def test_over_is_over(state: JobState, action: JobAction, tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        jobs = p.services.jobs
        job = jobs.open(JobKind.REPAIR)
        jobs.end(job, state if state is not JobState.FAILED else JobState.CANCELLED, "the reason")
        job.row.state = state  # a failure would be a warning in the log
        with pytest.raises(Invalid, match="over"):
            await jobs.act(job.row.id, action)
        assert (job.row.state, job.row.error) == (state, "the reason")


async def test_what_keeps_promises_is_not_cancelled_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        jobs = p.services.jobs
        with pytest.raises(Invalid, match="pause it"):
            await jobs.act(jobs.open(JobKind.REPAIR).row.id, JobAction.CANCEL)
        with pytest.raises(NotFound):
            await jobs.act(99, JobAction.PAUSE)


async def test_the_rate_is_that_of_lately(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        jobs = p.services.jobs
        job = jobs.open(JobKind.REPAIR)
        job.found(100, 100 * MIB)
        for _ in range(11):
            job.advanced(1, MIB)
            p.clock.advance(1)

        def seen() -> JobInfo:
            return jobs.listed()[0]

        assert 0 < seen().rate <= 2 * MIB
        assert seen().left_s is not None
        p.clock.advance(60)  # nothing moved for a minute
        assert (seen().rate, seen().left_s) == (0, None)


async def test_no_job_of_a_peer_outlives_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        c = await careful(p, 4)
        jobs, leaver = p.services.jobs, c.peers[2]
        for kind in (JobKind.SCRUB, JobKind.RECOUNT):
            jobs.open(kind, leaver.node)
        await p.services.leaving.drain(p.identity(), leaver.node)
        await c.settle()
        assert p.services.roster.peers[leaver.number].state is PeerState.LEFT
        assert not jobs.going_on(JobKind.SCRUB)
        assert not jobs.current(JobKind.RECOUNT, leaver.node)


async def test_a_paused_drain_keeps_nobody_from_repairing(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, repair_delay="1m") as p:
        c = await careful(p, 5)
        chunks = [await c.store(number, [1, 2, 3]) for number in range(10)]
        await c.settle()
        await p.services.leaving.drain(p.identity(), c.peers[2].node)
        await p.services.jobs.act(p.services.jobs.open(JobKind.DRAIN, c.peers[2].node).row.id, JobAction.PAUSE)
        await c.settle()
        assert p.services.roster.peers[c.peers[2].number].state is PeerState.DRAINING
        await c.pass_time(200, 1)
        await c.settle()
        assert all(len(c.having(chunk) - {1}) >= 3 for chunk in chunks)


async def test_what_a_silent_peer_was_to_show_keeps_no_job_open(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, repair_delay="1m") as p:
        c = await careful(p, 4)
        chunk = await c.store(1, [1, 2, 3])
        await c.settle()
        await c.pass_time(200, 1)
        c.audits.ask(c.peers[1].number, VOLUME, chunk, size=SIZE)
        p.services.jobs.open(JobKind.TRIM)
        await c.settle()
        assert c.jobs()["trim"] == "done"


async def test_trimming_waits_while_it_is_paused(tmp_path: Path) -> None:
    async with pool(tmp_path, replicas="2") as p:
        c = await careful(p, 3)
        chunk = await c.store(1, [1, 2, 3])
        trim = p.services.jobs.open(JobKind.TRIM).row.id
        await p.services.jobs.act(trim, JobAction.PAUSE)
        await c.pass_time(40)
        await c.settle()
        assert len(c.having(chunk)) == 3
        await p.services.jobs.act(trim, JobAction.RESUME)
        await c.settle()
        assert c.having(chunk) == c.holders(chunk)
        assert len(c.having(chunk)) == 2


async def test_what_a_peer_says_of_its_failure_is_one_short_line(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("is down", count=1)
    async with pool(tmp_path, repair_delay="1m") as p:
        c = await careful(p, 4)
        await c.store(1, [1, 2, 3])
        await c.settle()
        for peer in c.peers.values():
            peer.does = lambda order: (
                Failed(order.order, "Unavailable", "\x1b[2J\n" + "x" * 4_000_000)
                if isinstance(order, Transfer)
                else None
            )
        await c.pass_time(200, 1)
        await c.settle()
        (job,) = [job for job in p.services.jobs.listed() if job.kind == "repair"]
        assert job.error
        assert job.error.isprintable()
        assert len(job.error) <= 500
