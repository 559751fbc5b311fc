"""Public keys of nodes' users, and who is a member of which volume. Called by `handlers`.

Only nodes of a volume's owner share it, and they show that they have its key; what a slot holds is opaque here. A
member's sessions end when its rights change.
"""

import logging
from collections.abc import Callable
from typing import Final

from p2pfs.coordinator.roster import Roster
from p2pfs.errors import Corrupt, Denied, Fenced, Invalid, NotFound
from p2pfs.format import sharing as format
from p2pfs.meta import volume_members as rows
from p2pfs.meta.database import Database
from p2pfs.meta.sessions import Session
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.types import NodeId, PoolId, SessionId, VolumeId
from p2pfs.wire.sharing import ChangeMembers, Member, NewMember, NodeKey, PublishKey
from p2pfs.wire.volumes import OpenSession, VolumeSlots

READ_ONLY: Final = "this volume is shared with you to read only: mount it with -o ro"

_log = logging.getLogger(__name__)


class Sharing:
    """`over` is told of sessions that end."""

    def __init__(
        self,
        pool: PoolId,
        *,
        database: Database,
        roster: Roster,
        over: Callable[[SessionId], None],
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._database = database
        self._roster = roster
        self._over = over
        self._clock = clock

    async def publish(self, identity: Identity, message: PublishKey) -> None:
        """Keep a node's public key; sessions end that it has not the rights for.

        Raises:
            Denied: It is not shown to be the node's.
            Invalid: It is no key.
        """
        node = self._roster.member(identity.node)
        try:
            public = format.PublicKey(message.public)
        except Corrupt as error:
            raise Invalid(str(error)) from None
        try:
            format.check_proof(public, message.proof, self._pool, node.id)
        except Corrupt as error:
            raise Denied(str(error)) from None
        await self._database.write(
            lambda connection: rows.publish(
                connection, node.id, fingerprint=public.fingerprint, public=public.encoded, proof=message.proof
            ),
            committed=self._all_over,
        )
        _log.info("%s has the key %s", node.name, format.shown(public.fingerprint))

    def keys(self, identity: Identity, fingerprint: str) -> list[NodeKey]:
        """Who has this key. Raises NotFound."""
        self._roster.member(identity.node)
        try:
            wanted = format.parse_fingerprint(fingerprint)
        except Invalid:
            wanted = b""
        found = self._database.read(lambda connection: rows.keys(connection, wanted))
        if not found:
            raise NotFound("nobody has shown a key with this fingerprint: run `p2pfs key fingerprint` over there")
        return found

    def members(self, volume: VolumeId) -> list[Member]:
        """With whom a volume is shared."""
        return self._database.read(lambda connection: rows.members(connection, volume))

    async def change(self, identity: Identity, volume: VolumeId, message: ChangeMembers) -> list[Member]:
        """Share with some, and no more with others.

        Raises:
            NotFound: It is not shared with one of those.
            Denied: The sender has not got the volume's key.
            Invalid: A slot cannot be meant, or there are too many.
        """
        node, now_s = self._roster.member(identity.node), self._clock.time()
        if len(message.add) + len(message.remove) > rows.MOST_MEMBERS:
            raise Invalid(f"a volume is shared with at most {rows.MOST_MEMBERS} keys")
        for new in message.add:
            check_member(new)
        ended = await self._database.write(
            lambda connection: rows.change(
                connection, volume, guard=message.guard, add=message.add, remove=message.remove, now_s=now_s
            ),
            committed=self._all_over,
        )
        _log.info(
            "%s shares volume %016x with %d more, %d less; %d sessions ended",
            node.name, volume, len(message.add), len(message.remove), len(ended),
        )  # fmt: skip
        return self.members(volume)

    def slots(self, node: NodeId, volume: VolumeId) -> VolumeSlots:
        """What a node that a volume is shared with is given to open it. Raises NotFound: it is not."""
        found = self._database.read(lambda connection: rows.access(connection, volume, node))
        if found is None:
            raise NotFound("there is no such volume")
        return VolumeSlots([found[1]])

    def check_session(self, node: NodeId, volume: VolumeId, request: OpenSession) -> None:
        """Whether a node that a volume is shared with may begin such a session. Raises Denied."""
        found = self._database.read(lambda connection: rows.access(connection, volume, node))
        if found is not None and found[0] and not request.read_only:
            raise Denied(READ_ONLY)
        if found is None or request.exclusive:
            raise Denied("only its owner has a volume alone: leave writeback_cache")

    def require_rights(self, session: Session) -> None:
        """Whether a session of a node that the volume is shared with may go on: it may have begun while its rights
        went. Raises Fenced."""
        found = self._database.read(lambda connection: rows.access(connection, session.volume, session.node))
        if found is None or (found[0] and not session.read_only):
            raise Fenced("the volume is not shared with this node any more, or with other rights: mount it again")

    def _all_over(self, ended: list[SessionId]) -> None:
        for session in ended:
            self._over(session)


def check_member(new: NewMember) -> None:
    """Whether the slot says what the message does: a mount goes by the slot. Raises Invalid."""
    if format.recipient_of(new.slot) != new.fingerprint or format.is_read_only(new.slot) != new.read_only:
        raise Invalid("the key slot is for another key, or for other rights")
