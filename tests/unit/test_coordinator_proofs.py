"""Receipts and tokens: what was not signed by the right key proves nothing."""

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.coordinator.receipts import ReceiptChecker, receipt_key
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.coordinator.tokens import TokenSigner
from p2pfs.errors import Corrupt, Gone, Misuse
from p2pfs.types import SEALED_CHUNK_BYTES, ChunkId, NodeId, PeerNumber, PoolId, VolumeId
from p2pfs.wire.chunks import Receipt, Token, token_message
from p2pfs.wire.namespace import NewChunk

pytestmark = pytest.mark.l0

POOL, VOLUME, CHUNK = PoolId("ab" * 16), VolumeId(7), ChunkId(bytes(range(32)))
ONE, TWO = PeerNumber(1), PeerNumber(2)
MASTER = bytes(range(32))
KEYS = {peer: receipt_key(MASTER, peer, NodeId(f"{peer:032x}")) for peer in (ONE, TWO)}
CHECKER = ReceiptChecker(POOL, KEYS)


def receipt(peer: PeerNumber = ONE, *, size: int = 1000, put_seq: int = 5) -> Receipt:
    """As the peer daemon makes them."""
    return ReceiptKey(POOL, peer, KEYS[peer]).sign(VOLUME, CHUNK, size, put_seq)


def test_what_a_peer_signs_the_coordinator_accepts() -> None:
    CHECKER.verify(VOLUME, NewChunk(CHUNK, 1000, [receipt(ONE), receipt(TWO)]))


FORGERIES = {
    "another volume": (VolumeId(8), NewChunk(CHUNK, 1000, [receipt()])),
    "another chunk": (VOLUME, NewChunk(bytes(32), 1000, [receipt()])),
    "another size": (VOLUME, NewChunk(CHUNK, 1001, [receipt()])),
    "another put": (VOLUME, NewChunk(CHUNK, 1000, [msgspec.structs.replace(receipt(), put_seq=6)])),
    "another peer": (VOLUME, NewChunk(CHUNK, 1000, [msgspec.structs.replace(receipt(), peer=2)])),
    "no mac": (VOLUME, NewChunk(CHUNK, 1000, [msgspec.structs.replace(receipt(), mac=b"")])),
    "one bit": (VOLUME, NewChunk(CHUNK, 1000, [msgspec.structs.replace(receipt(), mac=bytes(16))])),
    "one of two": (VOLUME, NewChunk(CHUNK, 1000, [receipt(ONE), msgspec.structs.replace(receipt(ONE), peer=2)])),
    "negative": (VOLUME, NewChunk(CHUNK, 1000, [msgspec.structs.replace(receipt(), put_seq=-1)])),
    "huge": (VOLUME, NewChunk(CHUNK, 1000, [msgspec.structs.replace(receipt(), put_seq=1 << 64)])),
    "short id": (VOLUME, NewChunk(CHUNK[:31], 1000, [receipt()])),
    "empty chunk": (VOLUME, NewChunk(CHUNK, 16, [receipt(size=16)])),
    "giant chunk": (VOLUME, NewChunk(CHUNK, SEALED_CHUNK_BYTES + 1, [receipt(size=SEALED_CHUNK_BYTES + 1)])),
}


@pytest.mark.parametrize(("volume", "chunk"), FORGERIES.values(), ids=FORGERIES.keys())
def test_forged_receipts_are_refused(volume: VolumeId, chunk: NewChunk) -> None:
    with pytest.raises(Misuse):
        CHECKER.verify(volume, chunk)


def test_a_peer_that_is_no_longer_known_proves_nothing() -> None:
    keys = dict(KEYS)
    checker = ReceiptChecker(POOL, keys)
    del keys[ONE]
    with pytest.raises(Gone):  # the mount stores the chunk again, elsewhere; it is not its fault
        checker.verify(VOLUME, NewChunk(CHUNK, 1000, [receipt(ONE)]))


def test_every_peer_and_node_has_its_own_key() -> None:
    assert len({receipt_key(MASTER, peer, NodeId(node * 32)) for peer in (ONE, TWO) for node in "ab"}) == 4
    assert receipt_key(MASTER, ONE, NodeId("a" * 32)) != receipt_key(bytes(32), ONE, NodeId("a" * 32))


def test_tokens_are_signed_whole() -> None:
    signer = TokenSigner(POOL, bytes(range(32)))
    token = signer.sign(Token(1, "cd" * 16, 7, 2, 1000, 99))
    public = Ed25519PublicKey.from_public_bytes(signer.public_key)
    public.verify(token.signature, token_message(POOL, token))
    for change in (
        {"id": 2},
        {"sender": "ce" * 16},
        {"volume": 8},
        {"peer": 1},
        {"room_bytes": 1001},
        {"expires_s": 100},
    ):
        with pytest.raises(InvalidSignature):
            public.verify(token.signature, token_message(POOL, msgspec.structs.replace(token, **change)))


def test_secrets_survive_their_file_and_show_nothing() -> None:
    secrets = PoolSecrets.create()
    assert PoolSecrets.decode(secrets.encode()) == secrets
    assert repr(secrets) == "PoolSecrets()"
    assert PoolSecrets.create() != secrets


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data.replace(b'"version":1', b'"version":2')])
def test_damaged_secrets_are_refused(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(Corrupt):
        PoolSecrets.decode(damage(PoolSecrets.create().encode()))
    with pytest.raises(Corrupt):
        PoolSecrets.decode(b'{"version":1,"receipt_master":"00","token_seed":"00"}')
