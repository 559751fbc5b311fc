"""Invites work once, for one key, for a while; what was revoked stays out."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coordination import FakeClock, Pool, certificate_request, pool, volume_message
from plugins.checklogs import Claims

from p2pfs.coordinator.authority import new_key
from p2pfs.coordinator.membership import MAX_CERTIFICATES
from p2pfs.errors import Denied, Exists, Fenced, Invalid, Misuse, NotFound
from p2pfs.format.invites import decode_invite
from p2pfs.meta import members, sessions
from p2pfs.net.identity import identity_of
from p2pfs.types import GIB, Role, SessionId, VolumeId
from p2pfs.wire.membership import InviteRequest, JoinRequest, RenewRequest
from p2pfs.wire.volumes import OpenSession, Reserve

pytestmark = pytest.mark.l0


async def invited(
    p: Pool,
    name: str = "anna@laptop",
    roles: tuple[str, ...] = ("client", "peer"),
    lifetime_s: int = 86400,
    by: str = "",
) -> bytes:
    answer = await p.services.membership.invite(
        InviteRequest(name, list(roles), lifetime_s=lifetime_s), by or p.record.node
    )
    return decode_invite(answer.invite).secret


async def test_an_invite_says_where_to_go_and_whom_to_expect(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        text = (await p.services.membership.invite(InviteRequest("anna@laptop", ["client"]), p.record.node)).invite
        invite = decode_invite(text)
        assert (invite.pool, invite.coordinator) == (p.record.pool, p.record.node)
        assert list(invite.addresses) == p.record.addresses
        assert invite.expires_s == int(p.clock.time()) + 86400
        assert len(invite.ca_key) == 33


async def test_joining_makes_a_node_with_the_invites_roles_owner_zone_and_limit(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        answer = await p.join("anna@laptop", Role.CLIENT, Role.PEER, zone="home", capacity=5 * GIB)
        assert (answer.name, answer.owner, answer.zone, answer.roles) == (
            "anna@laptop",
            "anna",
            "home",
            ["client", "peer"],
        )
        identity = identity_of(answer.certificate)
        assert (identity.node, identity.roles) == (answer.node, {Role.CLIENT, Role.PEER})
        assert identity.not_after == p.clock.time() + 90 * 86400
        assert (await p.beat(answer.node, capacity=100 * GIB)).capacity == 5 * GIB
        assert p.services.pool_map().peers[0].capacity == 5 * GIB


async def test_a_client_gets_no_peer_number(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        answer = await p.join("anna@laptop", Role.CLIENT)
        assert answer.peer == 0
        with pytest.raises(Denied):
            await p.beat(answer.node)


async def test_an_invite_is_used_once(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        secret = await invited(p)
        await p.services.membership.join(JoinRequest(secret, certificate_request(new_key())))
        with pytest.raises(Denied, match="used already"):
            await p.services.membership.join(JoinRequest(secret, certificate_request(new_key())))


async def test_the_same_key_may_ask_again_when_the_answer_was_lost(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        secret, request = await invited(p), certificate_request(new_key())
        first = await p.services.membership.join(JoinRequest(secret, request))
        p.clock.advance(86400 * 2)  # even after the invite's end: it is this node's already
        again = await p.services.membership.join(JoinRequest(secret, request))
        assert (again.node, again.peer) == (first.node, first.peer)
        assert again.certificate != first.certificate
        assert len([node for node in p.services.membership.nodes() if node.name == "anna@laptop"]) == 1


async def test_an_expired_invite_is_refused(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        secret = await invited(p, lifetime_s=60)
        p.clock.advance(60)
        with pytest.raises(Denied, match="expired"):
            await p.services.membership.join(JoinRequest(secret, certificate_request(new_key())))


async def test_a_guessed_secret_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        with pytest.raises(Denied, match="unknown"):
            await p.services.membership.join(JoinRequest(bytes(16), b"not even a request"))


async def test_a_request_without_proof_leaves_the_invite_unused(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        secret = await invited(p)
        with pytest.raises(Misuse):
            await p.services.membership.join(JoinRequest(secret, b"not a request"))
        await p.services.membership.join(JoinRequest(secret, certificate_request(new_key())))


async def test_secrets_of_invites_are_not_kept(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        secret = await invited(p)
        dump = "\n".join(p.database._connection.iterdump())
        assert "anna@laptop" in dump
        assert secret.hex() not in dump.lower()
        for file in (tmp_path / "coordinator").iterdir():
            assert secret not in file.read_bytes()


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("anna", ["client"]),
        ("anna@", ["client"]),
        ("Anna@laptop", ["client"]),
        ("anna@lap top", ["client"]),
        ("a" * 65 + "@laptop", ["client"]),
        ("anna@laptop\n", ["client"]),
        ("anna@laptop", []),
        ("anna@laptop", ["coordinator"]),
        ("anna@laptop", ["client", "king"]),
    ],
)
async def test_impossible_invites_are_refused(tmp_path: Path, name: str, roles: list[str]) -> None:
    async with pool(tmp_path) as p:
        with pytest.raises(Invalid):
            await p.services.membership.invite(InviteRequest(name, roles), p.record.node)


async def test_a_name_is_taken_until_its_node_is_revoked(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked anna@laptop", count=1)
    async with pool(tmp_path) as p:
        early = await invited(p)
        node = (await p.join("anna@laptop", Role.CLIENT)).node
        with pytest.raises(Exists):
            await invited(p)
        with pytest.raises(Exists):  # an invite from before does not get around it
            await p.services.membership.join(JoinRequest(early, certificate_request(new_key())))
        await p.services.membership.revoke(node)
        assert (await p.join("anna@laptop", Role.CLIENT)).node != node


async def test_renewing_gives_the_roles_in_the_books(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        node = (await p.join("anna@laptop", Role.CLIENT)).node
        p.clock.advance(80 * 86400)
        claimed = p.identity(node, [Role.CLIENT, Role.ADMIN])
        key = new_key()
        answer = await p.services.membership.renew(claimed, RenewRequest(certificate_request(key)))
        identity = identity_of(answer.certificate)
        assert (identity.node, identity.roles) == (node, {Role.CLIENT})
        assert identity.not_after == p.clock.time() + 90 * 86400
        known = p.database.read(lambda connection: members.certificates(connection, node))
        assert identity.serial in [certificate.serial for certificate in known]


async def test_certificates_are_rows_and_so_not_given_without_end(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        node = (await p.join("anna@laptop", Role.CLIENT)).node
        message = RenewRequest(certificate_request(new_key()))
        for _ in range(MAX_CERTIFICATES - 1):
            await p.services.membership.renew(p.identity(node), message)
        with pytest.raises(Denied, match="tomorrow"):
            await p.services.membership.renew(p.identity(node), message)
        p.clock.advance(86400)
        await p.services.membership.renew(p.identity(node), message)


async def test_a_certificate_alone_makes_no_member(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        stranger = p.identity("ee" * 16)
        with pytest.raises(Denied):
            await p.services.membership.renew(stranger, RenewRequest(certificate_request(new_key())))
        with pytest.raises(Denied):
            await p.beat(stranger.node)
        with pytest.raises(Denied):
            p.services.volumes.visible(stranger)
        with pytest.raises(Denied):
            await p.services.status.report(stranger)


async def test_a_revoked_node_is_out_for_good(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked anna@laptop", count=1)
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        secret, request = await invited(p), certificate_request(new_key())
        answer = await p.services.membership.join(JoinRequest(secret, request))
        await p.beat(answer.node)
        event = p.services.membership.revoked
        info = await p.services.membership.revoke(answer.node)
        assert info.revoked
        assert event.is_set()
        assert not p.services.membership.revoked.is_set()
        assert await p.services.membership.revoke(answer.node) == info  # again is fine
        serial = identity_of(answer.certificate).serial
    async with pool(tmp_path, clock=clock) as p:
        identity = identity_of(answer.certificate)
        assert p.revocations.revoked(identity)
        assert serial in p.revocations.serials
        assert answer.peer not in p.services.roster.receipt_keys
        with pytest.raises(Denied):
            await p.beat(answer.node)
        with pytest.raises(Denied):
            await p.services.membership.renew(identity, RenewRequest(request))
        with pytest.raises(Denied):  # nor does its old invite bring it back
            await p.services.membership.join(JoinRequest(secret, request))


async def test_revoking_ends_sessions_and_promises(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked owner1@host", count=1)
    async with pool(tmp_path) as p:
        one, *_ = await p.peers(3)
        identity = p.identity(one.node, [Role.CLIENT])
        volume = (await p.services.volumes.create(identity, volume_message())).volume
        grant = await p.services.sessions.open(identity, VolumeId(volume), OpenSession())
        session = SessionId(grant.session)
        await p.services.sessions.reserve(session, Reserve(1000))
        p.services.sessions.require_holder(identity, session)
        assert list(p.services.sessions._rows) == [session]
        await p.services.membership.revoke(one.node)
        assert not p.services.sessions._rows, "sessions of those who were put out must not gather"
        with pytest.raises(Fenced):
            p.database.read(lambda connection: sessions.session(connection, session))
        members = p.services.roster.members()
        await p.rest(*[peer.node.id for peer in members])
        assert [p.services.reservations.promised(peer.number) for peer in members] == [0] * len(members)


async def test_revocations_reach_a_peer_with_its_next_heartbeat(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked owner2@host", count=1)
    async with pool(tmp_path) as p:
        one, two = await p.peers(2)
        assert (await p.beat(one.node)).revocations is None
        await p.services.membership.revoke(two.node)
        told = (await p.beat(one.node)).revocations
        assert told is not None
        assert told.nodes == [two.node]
        assert (await p.beat(one.node, revocations_version=told.version)).revocations is None


async def test_a_revoked_admins_unused_invites_end_with_it(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked mallory@box", count=1)
    async with pool(tmp_path) as p:
        mallory = await p.join("mallory@box", Role.ADMIN)
        request = certificate_request(new_key())
        used = await invited(p, "anna@laptop", by=mallory.node)
        await p.services.membership.join(JoinRequest(used, request))
        unused = await invited(p, "eve@laptop", ("admin",), by=mallory.node)
        others = await invited(p, "bob@laptop")
        await p.services.membership.revoke(mallory.node)
        with pytest.raises(Denied, match="unknown"):
            await p.services.membership.join(JoinRequest(unused, certificate_request(new_key())))
        with pytest.raises(Denied, match="not a member"):  # a request that was under way
            await invited(p, "eve@laptop", by=mallory.node)
        await p.services.membership.join(JoinRequest(used, request))  # a lost answer
        await p.services.membership.join(JoinRequest(others, certificate_request(new_key())))


async def test_the_coordinator_does_not_revoke_itself_and_nobody_unknown(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        with pytest.raises(Invalid):
            await p.services.membership.revoke(p.record.node)
        with pytest.raises(NotFound):
            await p.services.membership.revoke("ee" * 16)


async def test_of_two_revocations_at_once_both_are_told(tmp_path: Path, claim_logs: Claims) -> None:
    """Who asked for the first may hear of it last; peers went on to take the second one's certificate."""
    claim_logs("revoked", count=2)
    async with pool(tmp_path) as p:
        one, two = await p.peers(2)
        write = p.database.write

        async def heard_later(change: Callable[[sqlite3.Connection], object], **more: Any) -> object:  # noqa: ANN401
            p.database.write = write  # type: ignore[method-assign]
            done = await write(change, **more)
            await p.services.membership.revoke(two.node)
            return done

        p.database.write = heard_later  # type: ignore[method-assign, assignment]
        await p.services.membership.revoke(one.node)
        assert {one.node, two.node} <= set(p.services.roster.revocations.nodes)


async def test_a_revocation_that_its_asker_gave_up_is_obeyed_once_it_is_committed(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("revoked", count=1)
    async with pool(tmp_path) as p:
        (one,) = await p.peers(1)
        await p.give_up(lambda: p.services.membership.revoke(one.node))
        assert one.node in p.services.roster.revocations.nodes
        with pytest.raises(Denied):
            p.services.roster.member(one.node)
