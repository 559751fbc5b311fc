"""What every service of one start stands on: the database, the members, the time, and what an earlier run left of them.

Made first, by `composition`.
"""

import sqlite3
from dataclasses import dataclass
from typing import Final

from p2pfs.coordinator.init import POOL_NAME
from p2pfs.coordinator.ledger import Ledger, Promise
from p2pfs.coordinator.liveness import Patience
from p2pfs.coordinator.membership import all_revoked
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.coordinator.sessions import GRACE, HELD
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.meta import members, open_inodes, reservations, sessions
from p2pfs.meta import settings as rows
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeRecord
from p2pfs.types import NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.chunks import Token

STARTS: Final = "starts"
"""The setting that counts starts of this coordinator; it leads the version of the pool map."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the database knew when the coordinator started."""

    starts: int
    pool_name: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """Made by `lay`."""

    record: NodeRecord
    settings: Settings
    found: Found
    database: Database
    roster: Roster
    noticed: Noticed
    pool_clock: PoolClock
    clock: Clock

    def ledger(self) -> Ledger:
        """What was promised before, and what peers hold of it by now."""
        ledger = Ledger(first_seq=self.found.starts << 32)
        for kept in self.database.read(reservations.outstanding):
            ledger.restore(
                _promise(kept.session, kept.token),
                is_withdrawn=kept.is_withdrawn,
                is_acknowledged=kept.is_acknowledged,
                now_s=self.clock.time(),
            )
        for peer, size in self.database.read(reservations.unmeasured):
            ledger.unmeasured(peer, size)
        return ledger


async def lay(
    record: NodeRecord, settings: Settings, *, database: Database, secrets: PoolSecrets, clock: Clock
) -> Foundation:
    """Note the start, and know the members again.

    Durability: on return the start is committed.
    """
    found = await _begin(database, settings, clock)
    roster = Roster(
        record.pool,
        secrets.receipt_master,
        Patience(settings.heartbeat, settings.suspect, settings.down),
        started_s=clock.monotonic(),
        generation=found.starts,
    )
    roster.restore(database.read(members.nodes), database.read(members.peers))
    roster.revocations = database.read(all_revoked)
    return Foundation(
        record=record,
        settings=settings,
        found=found,
        database=database,
        roster=roster,
        noticed=Noticed(clock),
        pool_clock=PoolClock(database, roster, clock),
        clock=clock,
    )


async def _begin(database: Database, settings: Settings, clock: Clock) -> Found:
    """Note the start. Sessions live on as if the coordinator had never been away."""
    now_s = clock.time()

    def begin(connection: sqlite3.Connection) -> Found:
        rows.write(connection, rows.REPLICAS, value=settings.replicas)
        sessions.extend_sessions(connection, until_s=now_s + settings.session_lifetime * GRACE)
        open_inodes.extend(connection, until_s=now_s + settings.session_lifetime * HELD)
        return Found(
            rows.raise_by_one(connection, STARTS),
            rows.read(connection, POOL_NAME, str) or "",
            rows.incarnation(connection),
        )

    return await database.write(begin)


def _promise(session: str, token: Token) -> Promise:
    return Promise(
        token.id,
        SessionId(session),
        NodeId(token.sender),
        VolumeId(token.volume),
        PeerNumber(token.peer),
        token.room_bytes,
        token.expires_s,
    )
