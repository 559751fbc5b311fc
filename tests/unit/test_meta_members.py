"""Members, volumes, reservations and settings: what is kept comes back."""

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
from namespaces import VOLUME, create_volume

from p2pfs.errors import Exists, Misuse, NotFound
from p2pfs.meta import key_slots, members, reservations, settings, volumes
from p2pfs.meta.database import InlineDatabase
from p2pfs.meta.members import Certificate, Invite, Node
from p2pfs.meta.room import usable as usable_bytes
from p2pfs.types import NodeId, PeerNumber, PeerState, Role, SessionId, VolumeId
from p2pfs.wire.chunks import Token
from p2pfs.wire.membership import Heartbeat, Resources
from p2pfs.wire.volumes import KeySlot

pytestmark = pytest.mark.l0

ANNA = Node(NodeId("a" * 32), "anna@laptop", "anna", "home", frozenset({Role.CLIENT, Role.PEER}), 5, 1.0)
BERT = Node(NodeId("b" * 32), "bert@desk", "bert", "", frozenset({Role.PEER}), 0, 2.0)
SESSION = SessionId("5" * 32)


@pytest.fixture
def database() -> Iterator[InlineDatabase]:
    database = InlineDatabase()
    database.write_now(lambda c: (members.add_node(c, ANNA), members.add_node(c, BERT)))
    yield database
    database.close()


def test_nodes_are_kept_for_ever(database: InlineDatabase) -> None:
    assert database.read(members.nodes) == [ANNA, BERT]
    with pytest.raises(Exists):
        database.write_now(lambda c: members.add_node(c, ANNA))
    with pytest.raises(NotFound):
        database.read(lambda c: members.node(c, NodeId("c" * 32)))


def test_revoking_a_node_revokes_its_certificates_and_its_peer(database: InlineDatabase) -> None:
    certificates = [Certificate("01", ANNA.id, 1.0, 9.0), Certificate("02", ANNA.id, 2.0, 10.0)]
    other = Certificate("03", BERT.id, 1.0, 9.0)
    for certificate in (*certificates, other):
        database.write_now(lambda c, made=certificate: members.add_certificate(c, made))  # type: ignore[misc]
    with pytest.raises(Exists):
        database.write_now(lambda c: members.add_certificate(c, other))
    number = database.write_now(lambda c: members.add_peer(c, ANNA.id, now_s=1.0))
    assert database.read(lambda c: members.certificates(c, ANNA.id)) == certificates
    assert database.read(members.revoked) == ([], [])
    assert database.write_now(lambda c: members.revoke_node(c, ANNA.id, now_s=7.0))
    assert not database.write_now(lambda c: members.revoke_node(c, ANNA.id, now_s=8.0))
    assert database.read(members.revoked) == ([ANNA.id], ["01", "02"])
    assert database.read(lambda c: members.node(c, ANNA.id)) == replace(ANNA, revoked_s=7.0)
    assert database.read(lambda c: members.peer(c, number)).state is PeerState.REVOKED
    with pytest.raises(NotFound):
        database.write_now(lambda c: members.revoke_node(c, NodeId("c" * 32), now_s=1.0))


def test_an_invite_remembers_its_use(database: InlineDatabase) -> None:
    invite = Invite(b"h" * 32, "anna@phone", "anna", "", frozenset({Role.CLIENT}), 0, 1.0, 100.0)
    database.write_now(lambda c: members.add_invite(c, invite))
    assert database.read(lambda c: members.invite(c, b"h" * 32)) == invite
    database.write_now(lambda c: members.use_invite(c, b"h" * 32, key_hash=b"k", node_id=ANNA.id, now_s=5.0))
    used = replace(invite, used_s=5.0, key_hash=b"k", node=ANNA.id)
    assert database.read(lambda c: members.invite(c, b"h" * 32)) == used
    assert database.write_now(lambda c: members.forget_invites(c, expired_before_s=100.0)) == 0
    assert database.write_now(lambda c: members.forget_invites(c, expired_before_s=101.0)) == 1
    with pytest.raises(NotFound):
        database.read(lambda c: members.invite(c, b"h" * 32))


def test_unused_invites_are_withdrawn_by_who_made_them(database: InlineDatabase) -> None:
    bob = NodeId("b" * 32)
    for secret, made_by in ((b"1", ANNA.id), (b"2", ANNA.id), (b"3", bob), (b"4", None)):
        invite = Invite(secret, "x@y", "x", "", frozenset({Role.CLIENT}), 0, 1.0, 100.0, invited_by=made_by)
        database.write_now(lambda c, invite=invite: members.add_invite(c, invite))
        assert database.read(lambda c, secret=secret: members.invite(c, secret)) == invite
    database.write_now(lambda c: members.use_invite(c, b"2", key_hash=b"k", node_id=bob, now_s=5.0))
    assert database.write_now(lambda c: members.withdraw_invites(c, ANNA.id)) == 1
    left = database.read(lambda c: c.execute("SELECT secret_hash FROM invite ORDER BY secret_hash").fetchall())
    assert [row[0] for row in left] == [b"2", b"3", b"4"]


def test_a_peer_is_what_its_last_heartbeat_said(database: InlineDatabase) -> None:
    number = database.write_now(lambda c: members.add_peer(c, ANNA.id, now_s=1.0))
    with pytest.raises(Exists):
        database.write_now(lambda c: members.add_peer(c, ANNA.id, now_s=1.0))
    peer = database.read(lambda c: members.peer(c, number))
    assert (peer.state, peer.seen_s, peer.resources, peer.addresses) == (PeerState.DOWN, 0.0, None, [])
    assert (peer.name, peer.owner, peer.zone, peer.capacity_limit) == ("anna@laptop", "anna", "home", 5)
    resources = Resources(1, 2, 3, 4, 5, 0.5, 7, 8)
    beat = Heartbeat(["host:1"], 1000, 100, 10, 3, 44.0, resources, 0, 0, version="1")
    database.write_now(lambda c: members.record_heartbeat(c, number, heartbeat=beat, capacity=900, now_s=50.0))
    database.write_now(lambda c: members.set_peer_state(c, number, state=PeerState.UP, now_s=51.0))
    peer = database.read(lambda c: members.peer(c, number))
    assert (peer.capacity, peer.used, peer.trash, peer.chunks, peer.clock_s) == (900, 100, 10, 3, 44.0)
    assert (peer.addresses, peer.resources, peer.version) == (["host:1"], resources, "1")
    assert (peer.state, peer.state_s, peer.seen_s) == (PeerState.UP, 51.0, 50.0)
    assert database.read(lambda c: members.peer_of_node(c, ANNA.id)) == peer
    assert database.read(lambda c: members.peer_of_node(c, BERT.id)) is None
    assert database.read(members.peers) == [peer]
    with pytest.raises(NotFound):
        database.read(lambda c: members.peer(c, PeerNumber(99)))


@pytest.mark.parametrize(
    ("rooms", "copies", "usable"),
    [
        ([], 1, 0),
        ([10], 1, 10),
        ([10, 20, 30], 1, 60),
        ([10, 10], 2, 10),
        ([100, 10], 2, 10),
        ([100, 10, 10], 2, 20),
        ([10, 10, 10], 2, 15),
        ([100, 100, 10, 10, 10], 3, 30),
        ([5, 5], 3, 0),
        ([-5, 10, 10], 2, 10),
        ([10], 0, 0),
    ],
)
def test_room_after_replication_puts_no_two_copies_in_one_place(rooms: list[int], copies: int, usable: int) -> None:
    assert usable_bytes(rooms, copies) == usable


def test_volumes_are_listed_by_owner(database: InlineDatabase) -> None:
    slots = [KeySlot("passphrase", b"one"), KeySlot("recovery", b"two")]
    first = msgspec.structs.replace(create_volume(), slots=slots)
    second = msgspec.structs.replace(create_volume(), volume=7)
    made = database.write_now(lambda c: volumes.create_volume(c, first, owner="anna", now_s=3.0))
    database.write_now(lambda c: volumes.create_volume(c, second, owner="bert", now_s=4.0))
    assert (made.name, made.owner, made.created_s, made.files, made.bytes, made.dedup) == (
        "home",
        "anna",
        3,
        1,
        0,
        True,
    )
    assert made.check == first.check
    assert [row.volume for row in database.read(volumes.volumes)] == [VOLUME, 7]
    assert database.read(lambda c: volumes.volumes(c, "anna")) == [made]
    assert database.read(lambda c: volumes.volume(c, VOLUME)) == made
    assert database.read(lambda c: volumes.owner_of(c, VolumeId(7))) == "bert"
    assert database.read(lambda c: key_slots.slots(c, VOLUME)) == slots
    for clash in (second, msgspec.structs.replace(first, volume=8)):
        with pytest.raises(Exists):
            database.write_now(lambda c, clash=clash: volumes.create_volume(c, clash, owner="anna", now_s=3.0))  # type: ignore[misc]
    with pytest.raises(Misuse):
        database.write_now(
            lambda c: volumes.create_volume(c, msgspec.structs.replace(first, volume=1 << 63), owner="x", now_s=0)
        )
    with pytest.raises(NotFound):
        database.read(lambda c: volumes.volume(c, VolumeId(99)))
    with pytest.raises(NotFound):
        database.read(lambda c: volumes.owner_of(c, VolumeId(99)))


def test_reservations_come_and_go(database: InlineDatabase) -> None:
    tokens = [Token(number, ANNA.id, VOLUME, 1 + number % 2, 100, 50 + number) for number in range(1, 5)]
    database.write_now(lambda c: reservations.add(c, SESSION, tokens=tokens))
    assert [(kept.session, kept.token) for kept in database.read(reservations.outstanding)] == [
        (SESSION, token) for token in tokens
    ]
    database.write_now(lambda c: reservations.withdraw(c, [1, 1, 99]))
    database.write_now(lambda c: reservations.withdraw(c, [2], is_acknowledged=True))
    flags = {
        kept.token.id: (kept.is_withdrawn, kept.is_acknowledged) for kept in database.read(reservations.outstanding)
    }
    assert flags == {
        1: (True, False),
        2: (True, True),
        3: (False, False),
        4: (False, False),
    }  # each counts until its time
    last_s = 54 + reservations.SETTLED_S  # so long after their end what was stored under them may be in no figure yet
    assert not database.read(lambda c: reservations.lapsed(c, now_s=51 + reservations.SETTLED_S))
    assert database.write_now(lambda c: reservations.expire(c, now_s=51 + reservations.SETTLED_S)) == 0
    assert database.read(lambda c: reservations.lapsed(c, now_s=last_s))
    assert database.write_now(lambda c: reservations.expire(c, now_s=last_s)) == 3
    assert [kept.token.id for kept in database.read(reservations.outstanding)] == [4]


def test_settings_count_and_keep(database: InlineDatabase) -> None:
    assert database.read(settings.incarnation) == 1
    assert [database.write_now(lambda c: settings.raise_by_one(c, "n")) for _ in range(3)] == [1, 2, 3]
    database.write_now(lambda c: settings.write(c, "list", value=["a"]))
    assert database.read(lambda c: settings.read(c, "list", list[str])) == ["a"]
    assert database.read(lambda c: settings.read(c, "none", int)) is None
