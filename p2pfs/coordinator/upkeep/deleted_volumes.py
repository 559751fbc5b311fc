"""A worker that destroys deleted volumes when they had their time: keys first, then what they opened.

While the pool's clock is in doubt nothing goes. What the keys opened is let go some rows at a time, behind everybody
else's work, and their chunks are purged as any that nothing names (`purge`).
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.meta import deleted_volumes as rows
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress

STEP: Final = 200
"""Inodes let go in one transaction."""
_EVERY_S: Final = 60.0

_log = logging.getLogger(__name__)


class DeletedVolumes:
    """`reap` is called when sealed rows wait to be destroyed."""

    name = "deleted volumes"

    def __init__(self, *, database: Database, pool_clock: PoolClock, reap: Callable[[], None], clock: Clock) -> None:
        self._database = database
        self._pool_clock = pool_clock
        self._reap = reap
        self._clock = clock

    async def work(self) -> Progress:
        now_s = self._clock.time()  # before it is judged
        earliest_s = self._database.read(rows.earliest_s)
        if earliest_s is not None and earliest_s <= now_s and not await self._pool_clock.doubt():
            for volume in await self._database.write(lambda connection: rows.shred(connection, now_s=now_s)):
                _log.info("the keys of the deleted volume %016x are destroyed", volume)
        for volume in self._database.read(rows.shredded):
            if await self._database.write(partial(rows.destroy, volume=volume, limit=STEP)):
                self._reap()
                return Progress.BUSY
        return Progress.IDLE

    async def wait(self) -> None:
        earliest_s = self._database.read(rows.earliest_s)
        due_in_s = _EVERY_S if earliest_s is None else earliest_s - self._clock.time()
        await trio.sleep(min(_EVERY_S, max(1.0, due_in_s)))
