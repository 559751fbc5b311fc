"""A worker that forgets chunks nothing has named for the grace period, and has peers delete their copies.

    last reference goes ─▶ doomed ──grace, in a backup, quiet or too late to wait──▶ purged: no row, copies void
       ◀─named again─┘                                                                  └─▶ `deletions` tells the peers

Nothing waits for quiet (`quiet`) longer than `latest_s`. While the pool's clock is in doubt nothing is purged at all.
"""

import math
from collections.abc import Callable
from typing import Final

import trio

from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.jobs import Jobs
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.coordinator.upkeep.quiet import Quiet
from p2pfs.meta import chunks_index, void_copies
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.wire.jobs import JobKind

STEP: Final = 200
"""Chunks forgotten in one transaction."""
RECEIPTS_LIVE_S: Final = 8 * 86400.0
"""For so long after a copy was deleted its receipts are remembered as void; no mount carries one for longer."""
_EVERY_S: Final = 60.0
_COUNT_EVERY_S: Final = 60.0  # counting is a scan


class Purge:
    """`grace_s` after its last reference a chunk may go, `latest_s` later it must. `covered_s`: the time of the state
    that the newest completed backup holds: what it may still name stays."""

    name = "purge"

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        deletions: Deletions,
        jobs: Jobs,
        pool_clock: PoolClock,
        covered_s: Callable[[], float],
        grace_s: float,
        latest_s: float,
        quiet: Quiet,
        clock: Clock,
    ) -> None:
        self._database = database
        self._roster = roster
        self._deletions = deletions
        self._jobs = jobs
        self._pool_clock = pool_clock
        self._covered_s = covered_s
        self._grace_s = grace_s
        self._latest_s = latest_s
        self._quiet = quiet
        self._clock = clock
        self._counted_s = -math.inf  # monotonic

    async def work(self) -> Progress:
        doubt = await self._pool_clock.doubt()
        job = self._jobs.current(JobKind.PURGE)
        if doubt:
            if job is not None:
                job.stuck(doubt)
            return Progress.IDLE
        await self._forget_receipts()
        now_s = self._clock.time()
        before_s = min(now_s - self._grace_s, self._covered_s())
        oldest_s = self._database.read(lambda c: chunks_index.oldest_doomed(c, before_s=before_s))
        if oldest_s is None:
            self._jobs.finish(JobKind.PURGE)
            return Progress.IDLE
        job = self._jobs.open(JobKind.PURGE)
        if self._clock.monotonic() >= self._counted_s + _COUNT_EVERY_S or job.row.done >= job.row.total:
            self._counted_s = self._clock.monotonic()
            chunks, size = await self._database.scan(lambda c: chunks_index.doomed(c, before_s=before_s))
            job.set(
                done=job.row.done,
                total=job.row.done + chunks,
                done_bytes=job.row.done_bytes,
                total_bytes=job.row.done_bytes + size,
            )
        if job.is_paused:
            return Progress.IDLE
        if not self._quiet.is_now() and oldest_s > now_s - self._grace_s - self._latest_s:
            job.stuck("waiting for a quiet hour")
            return Progress.IDLE
        job.stuck("")
        purged = await self._database.write(
            lambda c: chunks_index.purge(c, doomed_before_s=before_s, now_s=now_s, limit=STEP)
        )
        self._deletions.added(purged.copies)
        job.advanced(purged.chunks, purged.bytes // max(1, sum(purged.copies.values())) * purged.chunks)
        return Progress.BUSY

    async def wait(self) -> None:
        await trio.sleep(min(_EVERY_S, max(1.0, self._grace_s / 10)))

    async def _forget_receipts(self) -> None:
        before_s = self._clock.time() - RECEIPTS_LIVE_S
        if self._database.read(lambda c: void_copies.has_settled(c, before_s=before_s)):
            await self._database.write(lambda c: void_copies.forget(c, before_s=before_s))
