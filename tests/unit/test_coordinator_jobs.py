"""Jobs as people see them: what may be done to one, and figures that do not outlive the work."""

from pathlib import Path

import pytest
from coordination import pool

from p2pfs.errors import Invalid, NotFound
from p2pfs.types import MIB
from p2pfs.wire.jobs import JobAction, JobInfo, JobKind, JobState

pytestmark = pytest.mark.l0

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
