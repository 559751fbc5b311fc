"""Deleting volumes and bringing them back. What becomes of those whose time is over is `upkeep.deleted_volumes`'.

A volume goes at the word of who has its key and is of its owner, or of an admin; back it comes at the word of any node
of the owner, or of an admin. Called by `handlers`, which has checked whose it is.
"""

import logging
from collections.abc import Callable

from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.volumes import Volumes, check_name
from p2pfs.meta import deleted_volumes as rows
from p2pfs.meta.database import Database
from p2pfs.meta.sessions import Session
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.types import Role, SessionId, VolumeId
from p2pfs.wire.volumes import DeletedVolume, DeleteVolume, UndeleteVolume, VolumeInfo

_log = logging.getLogger(__name__)


class Deletion:
    """`kept_s`: how long a volume can be brought back. A session that lives on beyond `alive_s()` (UTC) was heard
    lately: then its mount is there. `over` is told of those that end."""

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        volumes: Volumes,
        over: Callable[[SessionId], None],
        alive_s: Callable[[], float],
        kept_s: float,
        clock: Clock,
    ) -> None:
        self._database = database
        self._roster = roster
        self._volumes = volumes
        self._over = over
        self._alive_s = alive_s
        self._kept_s = kept_s
        self._clock = clock

    async def delete(self, identity: Identity, volume: VolumeId, request: DeleteVolume) -> DeletedVolume:
        """Put a volume aside.

        Raises:
            NotFound: It is deleted already.
            Denied: The asker has not got its key, and is no admin.
            Busy: It is mounted, or room is reserved for it.
        """
        node, now_s, alive_s = self._roster.member(identity.node), self._clock.time(), self._alive_s()
        guard = None if Role.ADMIN in identity.roles else request.guard

        def is_awake(session: Session) -> bool:
            return session.expires_s > alive_s

        gone, ended = await self._database.write(
            lambda connection: rows.delete(
                connection, volume, guard=guard, is_awake=is_awake, now_s=now_s, purge_s=now_s + self._kept_s
            ),
            committed=lambda outcome: self._closed(volume, outcome[1]),
        )
        if ended:
            _log.info("%d sessions of the volume %s ended with it", len(ended), gone.name)
        _log.info("%s deleted the volume %s of %s", node.name, gone.name, gone.owner)
        return gone

    async def undelete(self, identity: Identity, volume: VolumeId, request: UndeleteVolume) -> VolumeInfo:
        """Bring it back. Raises NotFound, Exists (the name), Invalid (no name for a volume)."""
        if request.name:
            check_name(request.name)
        node = self._roster.member(identity.node)
        back = await self._database.write(lambda connection: rows.undelete(connection, volume, name=request.name))
        _log.info("%s brought the volume %s of %s back", node.name, back.name, back.owner)
        return back

    def deleted(self, identity: Identity) -> list[DeletedVolume]:
        """The asker's owner's, or all for an admin."""
        node = self._roster.member(identity.node)
        owner = None if Role.ADMIN in identity.roles else node.owner
        return self._database.read(lambda connection: rows.deleted(connection, owner))

    def _closed(self, volume: VolumeId, ended: list[SessionId]) -> None:
        self._volumes.forget(volume)
        for session in ended:
            self._over(session)
