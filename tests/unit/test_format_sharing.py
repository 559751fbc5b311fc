"""A slot for another user opens for that user alone, for that volume, and says who signed it and with which rights."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from p2pfs.errors import Corrupt, Invalid
from p2pfs.format import sharing
from p2pfs.format.sharing import Identity, PublicKey
from p2pfs.types import NodeId, PoolId, VolumeId
from p2pfs.wire.volumes import KeySlot

pytestmark = pytest.mark.l0

VOLUME = VolumeId(0x0123456789ABCDEF)
MASTER = bytes(range(32))
ANNA, BOB, EVE = (Identity(bytes((number,)) * 32) for number in (1, 2, 3))
POOL, NODE = PoolId("ab" * 16), NodeId("cd" * 16)


def changed(slot: KeySlot, at: int) -> KeySlot:
    data = bytearray(slot.wrapped)
    data[at] ^= 1
    return KeySlot(slot.kind, bytes(data))


@pytest.mark.parametrize("read_only", [True, False])
def test_whom_it_was_made_for_opens_it_and_knows_who_made_it(read_only: bool) -> None:
    slot = sharing.wrap_for(BOB.public, MASTER, VOLUME, ANNA, read_only=read_only)
    shared = sharing.open_for(BOB, slot, VOLUME)
    assert (shared.master, shared.read_only, shared.signer) == (MASTER, read_only, ANNA.public)
    assert sharing.recipient_of(slot) == BOB.public.fingerprint
    assert sharing.is_read_only(slot) == read_only
    assert MASTER not in slot.wrapped
    assert sharing.wrap_for(BOB.public, MASTER, VOLUME, ANNA, read_only=read_only) != slot


def test_nobody_else_opens_it_nor_as_another_volume() -> None:
    slot = sharing.wrap_for(BOB.public, MASTER, VOLUME, ANNA, read_only=True)
    for who in (EVE, ANNA):
        with pytest.raises(Corrupt):
            sharing.open_for(who, slot, VOLUME)
    with pytest.raises(Corrupt):
        sharing.open_for(BOB, slot, VolumeId(VOLUME + 1))
    renamed = slot.wrapped[:1] + EVE.public.fingerprint + slot.wrapped[21:]
    with pytest.raises(Corrupt):
        sharing.open_for(EVE, KeySlot(slot.kind, renamed), VOLUME)


def test_no_bit_of_it_can_be_changed() -> None:
    """Rights, signer and key included: a coordinator that makes "ro" of "rw", or the reverse, is found out."""
    slot = sharing.wrap_for(BOB.public, MASTER, VOLUME, ANNA, read_only=True)
    for at in range(len(slot.wrapped)):
        with pytest.raises(Corrupt):
            sharing.open_for(BOB, changed(slot, at), VOLUME)
    for wrapped in (b"", slot.wrapped[:-1], slot.wrapped + b"\0"):
        with pytest.raises(Corrupt):
            sharing.open_for(BOB, KeySlot(slot.kind, wrapped), VOLUME)
    with pytest.raises(Corrupt):
        sharing.open_for(BOB, KeySlot("passphrase", slot.wrapped), VOLUME)


def test_who_signs_anew_is_seen_to_be_another() -> None:
    """Who knows the key of a volume can share it; whose signature it is, people compare."""
    forged = sharing.wrap_for(BOB.public, MASTER, VOLUME, EVE, read_only=False)
    assert sharing.open_for(BOB, forged, VOLUME).signer.fingerprint != ANNA.public.fingerprint


def test_a_signature_belongs_to_the_key_in_the_slot() -> None:
    one = sharing.wrap_for(BOB.public, MASTER, VOLUME, ANNA, read_only=True).wrapped
    two = sharing.wrap_for(BOB.public, bytes(32), VOLUME, ANNA, read_only=True).wrapped
    with pytest.raises(Corrupt):
        sharing.open_for(BOB, KeySlot("shared", one[:-64] + two[-64:]), VOLUME)


def test_a_key_that_agrees_with_everybody_is_refused() -> None:
    weak = PublicKey(b"\1" + bytes(32) + BOB.public.encoded[33:])
    with pytest.raises(Corrupt):
        sharing.wrap_for(weak, MASTER, VOLUME, ANNA, read_only=True)
    for encoded in (b"", b"\2" + BOB.public.encoded[1:], BOB.public.encoded + b"\0"):
        with pytest.raises(Corrupt):
            PublicKey(encoded)


def test_fingerprints_are_read_as_they_are_written_and_only_whole() -> None:
    shown = sharing.shown(BOB.public.fingerprint)
    assert len(shown) == 39
    for text in (shown, shown.lower(), shown.replace("-", ""), f" {shown.replace('-', ' ')}\n"):
        assert sharing.parse_fingerprint(text) == BOB.public.fingerprint
    for text in ("", shown[:-1], shown + "A", shown.replace(shown[0], "1"), shown[:35]):
        with pytest.raises(Invalid):
            sharing.parse_fingerprint(text)
    assert ANNA.public.fingerprint != BOB.public.fingerprint


def test_a_proof_is_of_one_key_for_one_node_of_one_pool() -> None:
    proof = sharing.prove(BOB, POOL, NODE)
    sharing.check_proof(BOB.public, proof, POOL, NODE)
    for public, pool, node in (
        (EVE.public, POOL, NODE),
        (BOB.public, PoolId("00" * 16), NODE),
        (BOB.public, POOL, NodeId("00" * 16)),
    ):
        with pytest.raises(Corrupt):
            sharing.check_proof(public, proof, pool, node)


def test_an_identity_is_kept_as_text_and_never_shown() -> None:
    assert Identity.parse(BOB.written()).public == BOB.public
    assert "02" * 32 in BOB.written()
    assert "02" * 8 not in repr(BOB)
    for text in ("", "p2pfs-identity-1", "p2pfs-identity-1 00", "p2pfs-identity-2 " + "00" * 32, "x" * 100):
        with pytest.raises(Corrupt):
            Identity.parse(text)


def test_it_is_made_as_ever() -> None:
    """The golden vector that docs/format.md gives."""
    ephemeral = X25519PrivateKey.from_private_bytes(bytes((4,)) * 32)
    slot = sharing._wrap_for(BOB.public, MASTER, VOLUME, ANNA, True, ephemeral)
    assert sharing.shown(BOB.public.fingerprint) == FINGERPRINT
    assert slot.wrapped.hex() == WRAPPED
    assert sharing.open_for(BOB, slot, VOLUME).master == MASTER


FINGERPRINT = "VI52-VFW3-LBV3-USUP-MWHT-4QZV-MT3O-X3DQ"
WRAPPED = (
    "01aa3baa96db586bba4a8f658f3e433564f6ebec7001d0a32b5d35b4eb341412f78ab0bfd099210352892defeba0dbcb3e9e"
    "88be380845ed5de6a9d43cd2d11251d43b57fb3154e18cc790b11124a1487cd3efd0848200ac01b2209e86354fb853237b5d"
    "e0f4fab13c7fcbf433a61c019369617fecf10bdedb4be9471077371d0c0eac6a9e1d582884b839640b7aad9414bc0331dfbf"
    "f5c563c8212ebe3bf8bc4abe930bff875d6e29161b48326db5904222ceef9b18c616cb0f9b37012d3471c46142921c03387f"
    "d96d8c9f631e23b0eaf46b0e87f1fd06c9f7b1edf6dac58d4e6aac9d894c0f"
)
