"""Who belongs to the pool: inviting, joining, renewing certificates, revoking.

Each change is one transaction, mirrored into the roster after its commit. What a role may do is `wire.routes`' table,
enforced by the server; here is only who gets which role. Called by `handlers`.
"""

import logging
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from p2pfs.coordinator import invites
from p2pfs.coordinator.authority import Authority, Issued, compressed, requested_key
from p2pfs.coordinator.roster import Roster
from p2pfs.errors import Denied, Exists, Invalid, NotFound
from p2pfs.format.invites import Invite, encode_invite
from p2pfs.meta import members, sessions, settings
from p2pfs.meta.database import Database
from p2pfs.meta.members import Certificate, Node
from p2pfs.net.identity import Identity
from p2pfs.net.identity import Revocations as LiveRevocations
from p2pfs.runtime.clocks import Clock
from p2pfs.types import NodeId, PeerNumber, PoolId, Role, SessionId
from p2pfs.wire.membership import (
    InviteAnswer,
    InviteRequest,
    JoinAnswer,
    JoinRequest,
    NodeInfo,
    RenewAnswer,
    RenewRequest,
    Revocations,
)

MAX_CERTIFICATES: Final = 50
"""Most certificates of one node within a day: each is a row for ever."""
_COUNT_BITS: Final = 40  # of a version of the revocations: above them is the incarnation
_DAY_S: Final = 86400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a join did in its transaction."""

    node: Node
    peer: PeerNumber
    certificate: bytes


class Membership:
    """The pool's doors. `revoked` is an event replaced at each revocation: whoever keeps connections waits on it, and
    `revocations` is what the server refuses requests by."""

    def __init__(
        self,
        pool: PoolId,
        coordinator: NodeId,
        *,
        database: Database,
        roster: Roster,
        session_over: Callable[[SessionId], None],
        authority: Authority,
        revocations: LiveRevocations,
        addresses: Callable[[], Sequence[str]],
        certificate_lifetime_s: float,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._coordinator = coordinator
        self._database = database
        self._roster = roster
        self._session_over = session_over
        self._authority = authority
        self._revocations = revocations
        self._addresses = addresses
        self._lifetime_s = certificate_lifetime_s
        self._clock = clock
        self.revoked = trio.Event()

    def nodes(self) -> list[NodeInfo]:
        """Every node that ever joined, by name."""
        known = sorted(self._roster.nodes.values(), key=lambda node: (node.name, node.joined_s))
        return [self._roster.info(node) for node in known]

    # ---- joining ----------------------------------------------------------------------------------------------------

    async def invite(self, request: InviteRequest, invited_by: NodeId) -> InviteAnswer:
        """A new invite for a node that does not exist yet. It ends with the membership of the node that makes it.

        Raises:
            Denied: That node was revoked.
            Invalid: The request cannot be meant.
            Exists: A member has that name.
        """
        now_s, secret = self._clock.time(), invites.new_secret()
        invite = invites.new_invite(request, secret, invited_by=invited_by, now_s=now_s)
        self._require_free(request.name)

        def keep(connection: sqlite3.Connection) -> None:
            if members.node(connection, invited_by).revoked_s is not None:  # perhaps since the request came
                raise Denied("this node is not a member of the pool any more")
            members.forget_invites(connection, expired_before_s=now_s - invites.KEEP_EXPIRED_S)
            members.add_invite(connection, invite)

        await self._database.write(keep)
        _log.info("invited %s with roles %s", request.name, ", ".join(sorted(invite.roles)))
        text = Invite(
            self._pool,
            tuple(self._addresses()),
            self._authority.public_key,
            self._coordinator,
            secret,
            int(invite.expires_s),
        )
        return InviteAnswer(encode_invite(text))

    async def join(self, request: JoinRequest) -> JoinAnswer:
        """Admit the holder of an invite. Again with the same key gives the same node a fresh certificate.

        Raises:
            Denied: There is no such invite, or it is spent.
            Exists: Meanwhile another member got the name.
            Misuse: The certificate request is none.
        """
        secret_hash = invites.secret_hash(request.secret)
        self._find(secret_hash)  # before anything is computed for a stranger
        key, now_s = requested_key(request.csr), self._clock.time()
        admission = await self._database.write(lambda connection: self._admit(connection, secret_hash, key, now_s))
        node = admission.node
        if node.id not in self._roster.nodes:
            self._roster.admit(node)
            if admission.peer:
                self._roster.admit_peer(admission.peer, node.id)
            _log.info("%s joined as %s", node.name, node.id)
        return JoinAnswer(
            self._pool,
            node.id,
            node.name,
            node.owner,
            node.zone,
            sorted(node.roles),
            certificate=admission.certificate,
            ca=self._authority.der,
            coordinator=self._coordinator,
            peer=admission.peer,
        )

    def _find(self, secret_hash: bytes) -> members.Invite:
        try:
            return self._database.read(lambda connection: members.invite(connection, secret_hash))
        except NotFound:
            raise Denied("this invite is unknown here: ask for a new one") from None

    def _admit(
        self, connection: sqlite3.Connection, secret_hash: bytes, key: ec.EllipticCurvePublicKey, now_s: float
    ) -> Admission:
        """The transaction of a join."""
        key_bytes = compressed(key)
        invite = members.invite(connection, secret_hash)
        invites.check_use(invite, key_bytes, now_s)
        if invite.node is not None:
            node = members.node(connection, invite.node)
            if node.revoked_s is not None:
                raise Denied("this node was revoked: ask for a new invite")
            row = members.peer_of_node(connection, node.id)
            peer = row.number if row else PeerNumber(0)
        else:
            if any(node.name == invite.name and node.revoked_s is None for node in members.nodes(connection)):
                raise Exists(f"{invite.name} is a member already: revoke it first, or invite under another name")
            node = _new_node(invite, now_s)
            peer = enrol(connection, node)
            key_hash = invites.key_hash(key_bytes)
            members.use_invite(connection, secret_hash, key_hash=key_hash, node_id=node.id, now_s=now_s)
        return Admission(node, peer, self._issue(connection, node, key, now_s).der)

    def _require_free(self, name: str) -> None:
        if self._roster.named(name) is not None:
            raise Exists(f"{name} is a member already: revoke it first, or choose another name")

    # ---- certificates -----------------------------------------------------------------------------------------------

    async def renew(self, identity: Identity, request: RenewRequest) -> RenewAnswer:
        """A new certificate for the node that asks, with the roles it has in the pool's books.

        Raises:
            Denied: It is no member any more.
            Misuse: The certificate request is none.
        """
        node, key, now_s = self._roster.member(identity.node), requested_key(request.csr), self._clock.time()
        issued = await self._database.write(lambda connection: self._issue(connection, node, key, now_s))
        _log.info("renewed the certificate of %s", node.name)
        return RenewAnswer(issued.der)

    async def renew_own(self, key: ec.EllipticCurvePublicKey) -> Issued:
        """A new certificate for the coordinator itself."""
        node, now_s = self._roster.member(self._coordinator), self._clock.time()
        return await self._database.write(lambda connection: self._issue(connection, node, key, now_s))

    def _issue(
        self, connection: sqlite3.Connection, node: Node, key: ec.EllipticCurvePublicKey, now_s: float
    ) -> Issued:
        young = [one for one in members.certificates(connection, node.id) if one.issued_s > now_s - _DAY_S]
        if len(young) >= MAX_CERTIFICATES:
            raise Denied(f"{node.name} got {MAX_CERTIFICATES} certificates within a day: try again tomorrow")
        return issue_recorded(connection, self._authority, node, key=key, now_s=now_s, lifetime_s=self._lifetime_s)

    # ---- revoking ---------------------------------------------------------------------------------------------------

    async def revoke(self, node_id: str) -> NodeInfo:
        """Put a node out, for ever; again is fine. Its sessions and unused invites end, its promises are withdrawn.

        Raises:
            NotFound: No such node.
            Invalid: It is the coordinator.
        """
        node = self._roster.node(node_id)
        if node.id == self._coordinator:
            raise Invalid("the coordinator cannot revoke itself: the pool would have nobody to ask")
        if node.revoked_s is not None:
            return self._roster.info(node)
        now_s = self._clock.time()

        def put_out(connection: sqlite3.Connection) -> tuple[Node, Revocations, list[SessionId]]:
            members.revoke_node(connection, node.id, now_s=now_s)
            members.withdraw_invites(connection, node.id)
            ended = sessions.close_sessions_of(connection, node.id)
            return members.node(connection, node.id), all_revoked(connection), ended

        def committed(found: tuple[Node, Revocations, list[SessionId]]) -> None:
            out, revocations, ended = found
            self._roster.revoke(out, revocations)
            self._revocations.update(revocations)  # from here on its requests are refused
            for session in ended:
                self._session_over(session)
            event, self.revoked = self.revoked, trio.Event()
            event.set()
            _log.warning("revoked %s (%s)", out.name, out.id)

        out, _, _ = await self._database.write(put_out, committed=committed)
        return self._roster.info(out)


def enrol(connection: sqlite3.Connection, node: Node) -> PeerNumber:
    """Write a new node's row, and its peer's where it has that role; the peer number or 0."""
    members.add_node(connection, node)
    if Role.PEER not in node.roles:
        return PeerNumber(0)
    return members.add_peer(connection, node.id, now_s=node.joined_s)


def issue_recorded(
    connection: sqlite3.Connection,
    authority: Authority,
    node: Node,
    *,
    key: ec.EllipticCurvePublicKey,
    now_s: float,
    lifetime_s: float,
) -> Issued:
    """Issue a certificate and write it down in the same transaction: no certificate is ever unknown to the pool."""
    issued = authority.issue(key, node.id, roles=node.roles, now_s=now_s, lifetime_s=lifetime_s)
    members.add_certificate(connection, Certificate(issued.serial, node.id, now_s, issued.not_after_s))
    return issued


def all_revoked(connection: sqlite3.Connection) -> Revocations:
    """Everything revoked so far. Nothing is ever taken back, so that their number serves as version: above all those
    before a restore, of which some may be lost. Peers that know them must hear of the restored coordinator's."""
    nodes, serials = members.revoked(connection)
    before = (settings.incarnation(connection) - 1) << _COUNT_BITS
    return Revocations(before + len(nodes) + len(serials), list(nodes), serials)


def _new_node(invite: members.Invite, now_s: float) -> Node:
    return Node(
        NodeId(secrets.token_hex(16)),
        invite.name,
        invite.owner,
        invite.zone,
        invite.roles,
        capacity_limit=invite.capacity_limit,
        joined_s=now_s,
    )
