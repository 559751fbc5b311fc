"""Whom a volume is shared with: what they may do of it, what only its owner may, and that it ends."""

from pathlib import Path

import msgspec
import pytest
from coordination import Pool, pool, volume_message

from p2pfs.coordinator.delegations import ALONE_S
from p2pfs.errors import Denied, Fenced, Invalid, NotFound, PoolError
from p2pfs.format import sharing
from p2pfs.format.keys import VolumeKeys, guard_hash
from p2pfs.format.sharing import Identity as Keys
from p2pfs.meta.volume_members import MOST_MEMBERS
from p2pfs.net.identity import Identity
from p2pfs.types import ROOT_INODE, Role, SessionId, VolumeId, volume_name
from p2pfs.wire.namespace import Batch, Make
from p2pfs.wire.routes import COORDINATOR_ROUTES, Route
from p2pfs.wire.sharing import ChangeMembers, NewMember, PublishKey
from p2pfs.wire.volumes import DeleteVolume, OpenSession, Reserve

pytestmark = pytest.mark.l1

VOLUME, MASTER = VolumeId(7), bytes(range(32))
GUARD = VolumeKeys.derive(MASTER).guard
ANNA, BOB, EVE = (Keys(bytes((number,)) * 32) for number in (1, 2, 3))
OWNED = {"change_slots", "configure_volume", "delete_volume", "undelete_volume", "book", "members", "change_members"}
"""Routes of a volume that nobody but its owner may use."""


async def client(p: Pool, name: str, keys: Keys) -> Identity:
    """A node that has shown its key."""
    identity = p.identity((await p.join(name, Role.CLIENT)).node, [Role.CLIENT])
    proof = sharing.prove(keys, p.record.pool, identity.node)
    await p.services.sharing.publish(identity, PublishKey(keys.public.encoded, proof))
    return identity


async def three(p: Pool) -> tuple[Identity, Identity, Identity]:
    """Anna, who has a volume; Bob and Eve."""
    found = [await client(p, f"{name}@host", keys) for name, keys in (("anna", ANNA), ("bob", BOB), ("eve", EVE))]
    await p.services.volumes.create(
        found[0], msgspec.structs.replace(volume_message(VOLUME), slot_guard=guard_hash(GUARD))
    )
    return found[0], found[1], found[2]


def new(keys: Keys, *, read_only: bool) -> NewMember:
    slot = sharing.wrap_for(keys.public, MASTER, VOLUME, ANNA, read_only=read_only)
    return NewMember(keys.public.fingerprint, read_only, slot)


async def share(p: Pool, owner: Identity, keys: Keys, *, read_only: bool) -> None:
    await p.services.sharing.change(owner, VOLUME, ChangeMembers(GUARD, add=[new(keys, read_only=read_only)]))


async def open_session(p: Pool, who: Identity, request: OpenSession) -> SessionId:
    """As the handler does."""
    route = next(route for route in COORDINATOR_ROUTES if route.name == "open_session")
    p.services.authorise(route, who, {"volume": volume_name(VOLUME)})
    if not p.services.volumes.is_owners(who, VOLUME):
        p.services.sharing.check_session(who.node, VOLUME, request)
    return SessionId((await p.services.sessions.open(who, VOLUME, request)).session)


def of_volumes() -> list[Route]:
    return [route for route in COORDINATOR_ROUTES if "{volume}" in route.path]


def verdict(p: Pool, route: Route, who: Identity) -> type[PoolError] | None:
    try:
        p.services.authorise(route, who, {"volume": volume_name(VOLUME)})
    except PoolError as error:
        return type(error)
    return None


async def test_every_route_of_a_volume_for_owner_member_reader_and_stranger(tmp_path: Path) -> None:
    assert {route.name for route in COORDINATOR_ROUTES if route.owned} == OWNED
    async with pool(tmp_path) as p:
        anna, bob, eve = await three(p)
        for rights in (None, True, False):
            if rights is not None:
                await share(p, anna, BOB, read_only=rights)
            for route in of_volumes():
                assert verdict(p, route, anna) is None, route.name
                assert verdict(p, route, eve) is NotFound, route.name  # whose volumes there are is not told
                expected = NotFound if rights is None else Denied if route.name in OWNED else None
                assert verdict(p, route, bob) is expected, route.name


async def test_a_member_is_given_its_own_slot_and_nothing_else(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna, bob, eve = await three(p)
        await share(p, anna, BOB, read_only=False)
        slots = p.services.sharing.slots(bob.node, VOLUME).slots
        assert [sharing.open_for(BOB, slot, VOLUME).master for slot in slots] == [MASTER]
        with pytest.raises(NotFound):
            p.services.sharing.slots(eve.node, VOLUME)
        seen = p.services.volumes.visible(bob)
        assert [(volume.name, volume.owner, volume.access) for volume in seen] == [("photos", "anna", "rw")]
        assert [volume.access for volume in p.services.volumes.visible(anna)] == [""]
        assert p.services.volumes.visible(eve) == []
        member = p.services.sharing.members(VOLUME)[0]
        assert (member.fingerprint, member.names, member.read_only) == (BOB.public.fingerprint, ["bob@host"], False)


async def test_who_may_only_read_changes_nothing(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(3)
        anna, bob, _ = await three(p)
        await share(p, anna, BOB, read_only=True)
        for request in (OpenSession("host", "/mnt"), OpenSession("host", ""), OpenSession("host", "/mnt", True, True)):
            with pytest.raises(Denied):
                await open_session(p, bob, request)
        session = await open_session(p, bob, OpenSession("host", "/mnt", True))
        ids = (await p.services.sessions.grant_ids(session, 2)).first_id
        make = Make(ROOT_INODE, b"name", ids, b"tag", ids + 1, 1, 0o644, 0, 0, 0, b"head", 1)
        with pytest.raises(Denied):
            await p.services.sessions.apply(session, Batch(1, 0, [make]))
        with pytest.raises(Denied):
            await p.services.sessions.reserve(session, Reserve(1 << 20))
        assert (await p.services.delegations.ask(session, 0)).epoch == 0


async def test_who_may_write_does_and_has_it_not_alone(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna, bob, _ = await three(p)
        await share(p, anna, BOB, read_only=False)
        with pytest.raises(Denied):
            await open_session(p, bob, OpenSession("host", "/mnt", exclusive=True))
        session = await open_session(p, bob, OpenSession("host", "/mnt"))
        ids = (await p.services.sessions.grant_ids(session, 2)).first_id
        make = Make(ROOT_INODE, b"name", ids, b"tag", ids + 1, 1, 0o644, 0, 0, 0, b"head", 1)
        await p.services.sessions.apply(session, Batch(1, 0, [make]))
        assert p.services.volumes.visible(anna)[0].files == 2


async def test_sharing_ends_and_other_rights_begin_with_other_sessions(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna, bob, _ = await three(p)
        await share(p, anna, BOB, read_only=False)
        session, own = (
            await open_session(p, bob, OpenSession("host", "/mnt")),
            await open_session(p, anna, OpenSession("host", "/mnt")),
        )
        await share(p, anna, BOB, read_only=True)  # a session that might write must not live on
        with pytest.raises(Fenced):
            p.services.sessions.require_holder(bob, session)
        session = await open_session(p, bob, OpenSession("host", "/mnt", True))
        left = await p.services.sharing.change(anna, VOLUME, ChangeMembers(GUARD, remove=[BOB.public.fingerprint]))
        assert left == []
        with pytest.raises(Fenced):
            p.services.sessions.require_holder(bob, session)
        with pytest.raises(NotFound):
            await open_session(p, bob, OpenSession("host", "/mnt", True))
        p.services.sessions.require_holder(anna, own)
        with pytest.raises(NotFound):
            await p.services.sharing.change(anna, VOLUME, ChangeMembers(GUARD, remove=[BOB.public.fingerprint]))


async def take_another_key(p: Pool, who: Identity) -> None:
    other = Keys(bytes((9,)) * 32)
    proof = sharing.prove(other, p.record.pool, who.node)
    await p.services.sharing.publish(who, PublishKey(other.public.encoded, proof))


async def test_sessions_end_with_the_key_that_had_the_rights(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna, bob, _ = await three(p)
        await share(p, anna, BOB, read_only=False)
        session, own = [await open_session(p, who, OpenSession("host", "/mnt")) for who in (bob, anna)]
        proof = sharing.prove(BOB, p.record.pool, bob.node)
        await p.services.sharing.publish(bob, PublishKey(BOB.public.encoded, proof))  # as every mount does
        p.services.sessions.require_holder(bob, session)
        await take_another_key(p, bob)
        with pytest.raises(Fenced):
            p.services.sessions.require_holder(bob, session)
        p.services.sessions.require_holder(anna, own)


@pytest.mark.parametrize("shared", ["no more", "to read"])
async def test_sharing_less_ends_also_what_began_with_another_key(shared: str, tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna, bob, _ = await three(p)
        await share(p, anna, BOB, read_only=False)
        await take_another_key(p, bob)
        grant = await p.services.sessions.open(bob, VOLUME, OpenSession("host", "/mnt"))  # checked before
        if shared == "no more":
            await p.services.sharing.change(anna, VOLUME, ChangeMembers(GUARD, remove=[BOB.public.fingerprint]))
        else:
            await share(p, anna, BOB, read_only=True)
        with pytest.raises(Fenced):
            p.services.sessions.require_holder(bob, SessionId(grant.session))


async def test_whose_rights_are_gone_keeps_the_volume_from_nobody_by_asking_on(tmp_path: Path) -> None:
    renew = next(route for route in COORDINATOR_ROUTES if route.name == "renew_session")
    async with pool(tmp_path) as p:
        anna, bob, _ = await three(p)
        session = (await p.services.sessions.open(bob, VOLUME, OpenSession("host", "/mnt"))).session
        own = await open_session(p, anna, OpenSession("host", "/mnt"))
        p.clock.advance(ALONE_S)
        with pytest.raises(Fenced):
            p.services.authorise(renew, bob, {"session": session})
        assert (await p.services.delegations.ask(own, 0)).epoch
        await p.services.sessions.close(own)
        with pytest.raises(Fenced):
            p.services.authorise(renew, bob, {"session": session})
        await open_session(p, anna, OpenSession("host", "/mnt", exclusive=True))


async def test_sharing_takes_the_key_of_the_volume_and_slots_that_say_the_same(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna, _, _ = await three(p)
        change = p.services.sharing.change
        with pytest.raises(Denied):
            await change(anna, VOLUME, ChangeMembers(b"x" * 32, add=[new(BOB, read_only=True)]))
        for wrong in (
            msgspec.structs.replace(new(BOB, read_only=True), read_only=False),
            msgspec.structs.replace(new(BOB, read_only=True), fingerprint=EVE.public.fingerprint),
            msgspec.structs.replace(new(BOB, read_only=True), slot=volume_message().slots[0]),
        ):
            with pytest.raises(Invalid):
                await change(anna, VOLUME, ChangeMembers(GUARD, add=[wrong]))
        assert p.services.sharing.members(VOLUME) == []
        many = [new(Keys(number.to_bytes(32, "big")), read_only=True) for number in range(MOST_MEMBERS)]
        await change(anna, VOLUME, ChangeMembers(GUARD, add=many))
        with pytest.raises(Invalid):
            await change(anna, VOLUME, ChangeMembers(GUARD, add=[new(BOB, read_only=True)]))
        assert len(p.services.sharing.members(VOLUME)) == MOST_MEMBERS


async def test_only_a_key_that_is_shown_to_be_ones_own_counts(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna, bob, eve = await three(p)
        await share(p, anna, BOB, read_only=True)
        stolen = sharing.prove(BOB, p.record.pool, bob.node)
        with pytest.raises(Denied):
            await p.services.sharing.publish(eve, PublishKey(BOB.public.encoded, stolen))
        with pytest.raises(Invalid):
            await p.services.sharing.publish(eve, PublishKey(b"no key", stolen))
        assert verdict(p, of_volumes()[0], eve) is NotFound
        found = p.services.sharing.keys(eve, sharing.shown(BOB.public.fingerprint))
        assert [(key.name, key.public) for key in found] == [("bob@host", BOB.public.encoded)]
        for unknown in ("A" * 32, "nonsense"):
            with pytest.raises(NotFound):
                p.services.sharing.keys(eve, unknown)
        # who takes another key loses what the old one was shared with, until it is shown again
        other = Keys(bytes((9,)) * 32)
        proof = sharing.prove(other, p.record.pool, bob.node)
        await p.services.sharing.publish(bob, PublishKey(other.public.encoded, proof))
        assert p.services.volumes.visible(bob) == []


async def test_a_deleted_volume_is_shared_with_nobody(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna, bob, _ = await three(p)
        await share(p, anna, BOB, read_only=True)
        session = await open_session(p, bob, OpenSession("host", "", True))
        await p.services.deletion.delete(anna, VOLUME, DeleteVolume(GUARD))
        assert p.services.volumes.visible(bob) == []
        with pytest.raises(Fenced):
            p.services.sessions.require_holder(bob, session)
        with pytest.raises(NotFound):
            p.services.sharing.slots(bob.node, VOLUME)


async def test_a_session_that_began_while_its_rights_went_is_over(tmp_path: Path) -> None:
    """Between what was checked and the session's own transaction others' transactions fit in."""
    async with pool(tmp_path) as p:
        anna, bob, _ = await three(p)
        await share(p, anna, BOB, read_only=True)
        renew = next(route for route in COORDINATOR_ROUTES if route.name == "renew_session")
        reading, writing = [
            (await p.services.sessions.open(bob, VOLUME, OpenSession("host", "/mnt", read_only))).session
            for read_only in (True, False)
        ]
        p.services.authorise(renew, bob, {"session": reading})
        with pytest.raises(Fenced):
            p.services.authorise(renew, bob, {"session": writing})
        other = Keys(bytes((9,)) * 32)
        proof = sharing.prove(other, p.record.pool, bob.node)
        await p.services.sharing.publish(bob, PublishKey(other.public.encoded, proof))
        with pytest.raises(Fenced):
            p.services.authorise(renew, bob, {"session": reading})
        own = (await p.services.sessions.open(anna, VOLUME, OpenSession("host", "/mnt"))).session
        p.services.authorise(renew, anna, {"session": own})
