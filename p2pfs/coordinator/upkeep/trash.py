"""A worker that lets go what was in the trash for its time, or before it when room is short.

    in the trash ──its time is over, and it is quiet or too late to wait──▶ gone: sealed rows first (`meta.reaper`),
         └────────room is short: the oldest first, at once─────────────────▶       then chunks (`purge`)

While the pool's clock is in doubt nothing goes at all. What is let go becomes room only when its chunks were purged and
peers have deleted their copies: what is on that way counts, so that a short pool does not lose all its trash at once.
"""

import math
import sqlite3
from collections.abc import Callable
from typing import Final

import trio

from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.coordinator.upkeep.quiet import Quiet
from p2pfs.meta import chunks_index, trash
from p2pfs.meta.database import Database
from p2pfs.meta.trash import Purged
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import CHUNK_BYTES, NodeId

STEP: Final = 200
"""Rows let go in one transaction."""
_EVERY_S: Final = 60.0
_COUNT_EVERY_S: Final = 60.0  # counting is a scan


class TrashPurge:
    """`pressure`: the free share of the pool below which trash is let go before its time. `latest_s`: so long after its
    time it goes even if it is never quiet. `reap` is called when sealed rows wait to be destroyed."""

    name = "trash"

    def __init__(
        self,
        coordinator: NodeId,
        *,
        database: Database,
        reservations: Reservations,
        deletions: Deletions,
        pool_clock: PoolClock,
        quiet: Quiet,
        reap: Callable[[], None],
        pressure: float,
        latest_s: float,
        clock: Clock,
    ) -> None:
        self._coordinator = coordinator
        self._database = database
        self._reservations = reservations
        self._deletions = deletions
        self._pool_clock = pool_clock
        self._quiet = quiet
        self._reap = reap
        self._pressure = pressure
        self._latest_s = latest_s
        self._clock = clock
        self._counted_s = -math.inf  # monotonic
        self._coming = 0  # content bytes that were let go and are no room yet

    @property
    def is_pressed(self) -> bool:
        """Whether room is so short that trash does not last its time."""
        return self._lacking() > 0

    async def work(self) -> Progress:
        now_s = self._clock.time()  # before it is judged: it may jump while room is counted
        if await self._pool_clock.doubt():
            return Progress.IDLE
        earliest_s = self._database.read(trash.earliest_s)
        if earliest_s is None:
            return Progress.IDLE
        short = await self._short()
        if short > 0:
            purged = await self._let_go(lambda c: trash.purge_oldest(c, bytes_=short, limit=STEP))
            if purged.rows:
                return Progress.BUSY
        is_late = earliest_s <= now_s - self._latest_s
        if earliest_s > now_s or not (is_late or self._quiet.is_now()):
            return Progress.IDLE
        await self._let_go(lambda c: trash.purge(c, now_s=now_s, limit=STEP))
        return Progress.BUSY

    async def wait(self) -> None:
        earliest_s = self._database.read(trash.earliest_s)
        due_in_s = _EVERY_S if earliest_s is None else earliest_s - self._clock.time()
        await trio.sleep(min(_EVERY_S, max(1.0, due_in_s)))

    async def _let_go(self, step: Callable[[sqlite3.Connection], Purged]) -> Purged:
        purged = await self._database.write(step)
        self._coming += purged.bytes
        self._reap()
        return purged

    def _lacking(self) -> int:
        """Bytes of room that lack to the share that should be free."""
        total, free = self._reservations.space(self._coordinator, with_booked=True)
        return int(self._pressure * total) - free

    async def _short(self) -> int:
        """The same, less what is on its way to be room."""
        lacking = self._lacking()
        if lacking <= 0:
            return 0
        if self._clock.monotonic() >= self._counted_s + _COUNT_EVERY_S:
            self._counted_s = self._clock.monotonic()
            _, doomed = await self._database.scan(lambda c: chunks_index.doomed(c, before_s=math.inf))
            copies, _ = self._reservations.copies_wanted()
            self._coming = doomed + sum(self._deletions.waiting.values()) * CHUNK_BYTES // max(1, copies)
        return lacking - self._coming
