"""Whether the coordinator's clock can be trusted with what must not happen early: purging, and expiry.

It is compared with the median of the clocks in the peers' heartbeats. Off by more than an hour, or back behind what it
showed before, it is in doubt, and stays so, across restarts, until an admin confirms it (`p2pfs coordinator confirm
clock`); while no peer is heard it waits. Called by the workers that delete, and by `status`.
"""

import logging
import math
import sqlite3
import statistics
from typing import Final

from p2pfs.coordinator.roster import Roster
from p2pfs.meta import chunks_index, deleted_volumes, settings, trash
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock

TOLERANCE_S: Final = 3600.0
DOUBT: Final = "clock_doubt"
"""The setting that says why the clock is in doubt; "" or nothing: it is not."""
LATEST: Final = "clock_latest"
"""The setting that holds the latest time the clock has shown."""
CONFIRMED: Final = "clock_confirmed"
"""The setting that says how far peers' clocks were ahead when an admin confirmed this one: that much is no news."""
_KEEP_EVERY_S: Final = 600.0

_log = logging.getLogger(__name__)


class PoolClock:
    """Judges the clock; see `doubt`."""

    def __init__(self, database: Database, roster: Roster, clock: Clock) -> None:
        self._database = database
        self._roster = roster
        self._clock = clock
        self._reason = database.read(lambda connection: settings.read(connection, DOUBT, str)) or ""
        self._latest_s = database.read(lambda connection: settings.read(connection, LATEST, float)) or 0.0
        self._confirmed_s = database.read(lambda connection: settings.read(connection, CONFIRMED, float)) or 0.0
        self._kept_s = self._latest_s
        self._seen = clock.time(), clock.monotonic()
        self._settled_s = -math.inf  # monotonic; by then peers were heard since the clock was set

    @property
    def reason(self) -> str:
        """Why nothing may expire until an admin confirms the clock; "" when that is not so."""
        return self._reason

    async def doubt(self) -> str:
        """Why nothing may be deleted for its age now; "" when it may. Durability: a doubt is kept."""
        if self._reason:
            return self._reason
        now_s = self._clock.time()
        reason = self._doubt(now_s)
        if reason:
            await self._keep(reason, now_s)
            _log.error("nothing is purged: %s; see `p2pfs coordinator confirm clock`", reason)
            return reason
        if self._was_set(now_s):
            return "the coordinator's clock was set: peers have yet to tell whether it is right"
        self._latest_s = max(self._latest_s, now_s)
        if self._latest_s >= self._kept_s + _KEEP_EVERY_S:
            await self._keep("", self._latest_s)
        return "" if self._ahead() is not None else "no peer is heard that could tell the time"

    async def confirm(self) -> None:
        """An admin says that the clock is right as it is, also if it is the peers' that are wrong. What waits to be
        purged waits from now on: when it was doomed may have been told by the wrong clock."""
        now_s, ahead_s = self._clock.time(), self._ahead() or 0.0

        def confirm(connection: sqlite3.Connection) -> None:
            settings.write(connection, CONFIRMED, value=ahead_s)
            chunks_index.restart_grace(connection, now_s=now_s)
            trash.restart(connection, now_s=now_s)
            deleted_volumes.restart(connection, now_s=now_s)

        await self._database.write(confirm)
        self._confirmed_s = ahead_s
        await self._keep("", now_s)

    def _was_set(self, now_s: float) -> bool:
        """Whether the clock has jumped lately: what peers said of it before says nothing about it now."""
        passed_s = self._clock.monotonic()
        if abs((now_s - self._seen[0]) - (passed_s - self._seen[1])) > TOLERANCE_S:
            self._settled_s = passed_s + self._roster.patience.down_s
        self._seen = now_s, passed_s
        return passed_s < self._settled_s

    def _doubt(self, now_s: float) -> str:
        if now_s < self._latest_s - TOLERANCE_S:
            return "the coordinator's clock went back by more than an hour"
        ahead_s = self._ahead()
        if ahead_s is not None and min(abs(ahead_s), abs(ahead_s - self._confirmed_s)) > TOLERANCE_S:
            return "the coordinator's clock differs from most peers' by more than an hour"
        return ""

    def _ahead(self) -> float | None:
        """The median of how far the clocks of peers that are heard are ahead of this one."""
        heard = [peer.clock_ahead_s for peer in self._roster.members() if peer.is_reachable]
        known = [ahead for ahead in heard if ahead is not None]
        return statistics.median(known) if known else None

    async def _keep(self, reason: str, latest_s: float) -> None:
        def keep(connection: sqlite3.Connection) -> None:
            settings.write(connection, DOUBT, value=reason)
            settings.write(connection, LATEST, value=latest_s)

        await self._database.write(keep)
        self._reason, self._latest_s, self._kept_s = reason, latest_s, latest_s
