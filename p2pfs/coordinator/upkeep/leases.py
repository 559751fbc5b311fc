"""A worker that lets go files, and directories that nothing is in, whose lease is over: all their names at once, to the
trash, as if somebody had removed them. Mounts are told, and keep what they have open.

A delegated volume is never changed behind its holder: it is asked to return the delegation first, but not more often
than every RECALL_EVERY_S, and one that is silent is waited for until its session is over. While the pool's clock is in
doubt nothing expires.
"""

import math
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from p2pfs.coordinator.delegations import Delegations
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.errors import Recalling
from p2pfs.meta import leases
from p2pfs.meta.database import Database
from p2pfs.meta.events import Listeners, Publication
from p2pfs.meta.work import Rules
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import SessionId, VolumeId

STEP: Final = 100
"""Inodes let go in one transaction."""
MOST: Final = 1000
"""Inodes looked for at once, which is a scan."""
RECALL_EVERY_S: Final = 600.0
WINDOW_S: Final = 90.0
"""How long a volume is asked back before that counts as one time: a holder may be granted 30 s more, or be silent."""
_EVERY_S: Final = 15.0
_AGAIN_S: Final = 1.0
_NOBODY: Final = SessionId("")  # no session did it: all are told


class LeaseExpiry:
    """See the module. `rules` for a change of now; `reap` is called when sealed rows wait to be destroyed."""

    name = "leases"

    def __init__(
        self,
        *,
        database: Database,
        delegations: Delegations,
        listeners: Listeners,
        pool_clock: PoolClock,
        rules: Callable[[], Rules],
        reap: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._database = database
        self._delegations = delegations
        self._listeners = listeners
        self._pool_clock = pool_clock
        self._rules = rules
        self._reap = reap
        self._clock = clock
        self._asked_s: dict[VolumeId, float] = {}  # monotonic; when its delegation was first asked back
        self._is_waiting = False

    async def work(self) -> Progress:
        self._is_waiting = False
        if await self._pool_clock.doubt():
            return Progress.IDLE
        now_s = self._clock.time()
        progress = Progress.IDLE
        for volume in self._database.read(lambda c: leases.overdue_volumes(c, now_s=now_s)):
            if not self._may_ask(volume):
                continue
            found = await self._database.scan(partial(leases.overdue, volume=volume, now_s=now_s, limit=MOST))
            for first in range(0, len(found), STEP):
                try:
                    await self._expire(volume, found[first : first + STEP])
                except Recalling:
                    self._is_waiting = True
                    break
                progress = Progress.BUSY
        return progress

    async def wait(self) -> None:
        await trio.sleep(_AGAIN_S if self._is_waiting else _EVERY_S)

    def _may_ask(self, volume: VolumeId) -> bool:
        """Whether it is not delegated, or is to be asked back now."""
        now_s = self._clock.monotonic()
        since_s = now_s - self._asked_s.get(volume, -math.inf)
        if not self._delegations.is_held(volume) or since_s < WINDOW_S:
            return True
        if since_s < RECALL_EVERY_S:
            return False
        self._asked_s[volume] = now_s
        return True

    async def _expire(self, volume: VolumeId, found: Sequence[int]) -> None:
        def expire(fences: int, connection: sqlite3.Connection) -> Publication:
            return leases.expire(connection, volume, found, rules=self._rules(), fences=fences)

        async def attempt(fences: int) -> Publication:
            return await self._database.write(partial(expire, fences), committed=self._tell)

        await self._delegations.in_own_turn(volume, attempt)

    def _tell(self, news: Publication) -> None:
        self._listeners.publish(_NOBODY, news)
        self._reap()
