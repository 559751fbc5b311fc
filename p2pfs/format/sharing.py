"""Sharing a volume: the key pair of a node's user, its fingerprint, and the key slot that only that pair opens.

A fingerprint is read out by one person to another. The public key that belongs to it may then come from anywhere, the
coordinator included: what does not have the fingerprint is not used. Nothing here stores or sends anything.
"""

import base64
import hmac
import secrets
from dataclasses import dataclass
from typing import Final, Self

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2pfs.errors import Corrupt, Invalid
from p2pfs.format import rows
from p2pfs.format.keys import MASTER_BYTES, VolumeKeys
from p2pfs.types import NodeId, PoolId, VolumeId
from p2pfs.wire.volumes import KeySlot

SHARED: Final = "shared"
"""The kind of such a slot."""
SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 65
FINGERPRINT_BYTES: Final = 20
PROOF_BYTES: Final = 64
_VERSION: Final = 1
_SIV_KEY_BYTES: Final = 64
_HEAD_BYTES: Final = 1 + FINGERPRINT_BYTES + PUBLIC_BYTES + 1 + 32
SLOT_BYTES: Final = _HEAD_BYTES + rows.SIV_BYTES + MASTER_BYTES + PROOF_BYTES
_LETTERS: Final = FINGERPRINT_BYTES * 8 // 5
_KEY_WORD: Final = "p2pfs-identity-1"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What others know of a user: to encrypt to, and to check signatures by."""

    encoded: bytes

    def __post_init__(self) -> None:
        if len(self.encoded) != PUBLIC_BYTES or self.encoded[0] != _VERSION:
            raise Corrupt("this is no public key of a user, or of a newer version")

    @property
    def fingerprint(self) -> bytes:
        """What people compare: 160 bits."""
        return blake3(b"p2pfs identity 1\0" + self.encoded).digest(FINGERPRINT_BYTES)

    def encryption(self) -> X25519PublicKey:
        """To which a secret is encrypted."""
        return X25519PublicKey.from_public_bytes(self.encoded[1:33])

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises Corrupt: it is not this user's."""
        try:
            Ed25519PublicKey.from_public_bytes(self.encoded[33:]).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise Corrupt("the signature is not that of the key it names") from None


class Identity:
    """A user's private keys, of one seed. Never shown."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise Corrupt("the seed of a user's keys has 32 bytes")
        self._seed = seed
        self._encryption = X25519PrivateKey.from_private_bytes(_of_seed(seed, b"encryption"))
        self._signing = Ed25519PrivateKey.from_private_bytes(_of_seed(seed, b"signing"))
        self.public = PublicKey(
            bytes((_VERSION,))
            + self._encryption.public_key().public_bytes_raw()
            + self._signing.public_key().public_bytes_raw()
        )

    @classmethod
    def make(cls) -> Self:
        """A new one."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `written` made. Raises Corrupt."""
        word, _, digits = text.strip().partition(" ")
        try:
            seed = bytes.fromhex(digits)
        except ValueError:
            seed = b""
        if word != _KEY_WORD or len(seed) != SEED_BYTES:
            raise Corrupt("this is no identity of a user, or of a newer version")
        return cls(seed)

    def written(self) -> str:
        """One line of text, a secret."""
        return f"{_KEY_WORD} {self._seed.hex()}\n"

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._signing.sign(message)

    def agree(self, ephemeral: X25519PublicKey) -> bytes:
        """The shared secret. Raises ValueError for a key that agrees with everybody."""
        return self._encryption.exchange(ephemeral)

    def __repr__(self) -> str:
        return f"Identity({shown(self.public.fingerprint)})"


@dataclass(frozen=True, slots=True, repr=False)
class Shared:
    """What a slot says to whom it was made for."""

    master: bytes
    read_only: bool
    signer: PublicKey


def shown(fingerprint: bytes) -> str:
    """As people read it out: eight groups of four letters and digits."""
    text = base64.b32encode(fingerprint).decode()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def parse_fingerprint(text: str) -> bytes:
    """What `shown` made, written with or without dashes and in any case. Raises Invalid: also of a part of one."""
    letters = "".join(text.split()).replace("-", "").upper()
    try:
        if len(letters) != _LETTERS:
            raise ValueError
        return base64.b32decode(letters)
    except ValueError:
        raise Invalid(
            f"“{text[:80]}” is no fingerprint: it has {_LETTERS} letters and digits, all of which count"
        ) from None


def prove(identity: Identity, pool: PoolId, node: NodeId) -> bytes:
    """A node's word that the key is its user's."""
    return identity.sign(_proof_message(pool, node))


def check_proof(public: PublicKey, proof: bytes, pool: PoolId, node: NodeId) -> None:
    """Raises Corrupt."""
    public.verify(proof, _proof_message(pool, node))


def recipient_of(slot: KeySlot) -> bytes:
    """The fingerprint for which it was made, as it says. Raises Invalid."""
    if slot.kind != SHARED or len(slot.wrapped) != SLOT_BYTES or slot.wrapped[0] != _VERSION:
        raise Invalid("this is no key slot for another user")
    return slot.wrapped[1 : 1 + FINGERPRINT_BYTES]


def is_read_only(slot: KeySlot) -> bool:
    """Whether it says so. Only after `recipient_of`."""
    return slot.wrapped[_HEAD_BYTES - 33] == 0


def wrap_for(recipient: PublicKey, master: bytes, volume: VolumeId, signer: Identity, *, read_only: bool) -> KeySlot:
    """A slot that only `recipient` opens, signed by `signer`. Raises Corrupt: nobody can encrypt to that key."""
    ephemeral = X25519PrivateKey.generate()
    return _wrap_for(recipient, master, volume, signer, read_only, ephemeral)


def _wrap_for(
    recipient: PublicKey,
    master: bytes,
    volume: VolumeId,
    signer: Identity,
    read_only: bool,
    ephemeral: X25519PrivateKey,
) -> KeySlot:
    head = b"".join(
        (
            bytes((_VERSION,)),
            recipient.fingerprint,
            signer.public.encoded,
            bytes((0 if read_only else 1,)),
            ephemeral.public_key().public_bytes_raw(),
        )
    )
    try:
        secret = ephemeral.exchange(recipient.encryption())
    except ValueError:
        raise Corrupt("nobody can encrypt to that public key") from None
    body = head + _cipher(secret, head, recipient, volume).encrypt(master, [head])
    return KeySlot(SHARED, body + signer.sign(_slot_message(volume, VolumeKeys.derive(master).check, body)))


def open_for(identity: Identity, slot: KeySlot, volume: VolumeId) -> Shared:
    """What is in a slot made for this user, its signature checked; whether the signer is who should sign, the caller
    knows.

    Raises:
        Corrupt: It is another user's or volume's, was changed, or is of a newer version.
    """
    try:
        recipient = recipient_of(slot)
    except Invalid as error:
        raise Corrupt(str(error)) from None
    if not hmac.compare_digest(recipient, identity.public.fingerprint):
        raise Corrupt("this key slot was made for another user")
    body, signature = slot.wrapped[:-PROOF_BYTES], slot.wrapped[-PROOF_BYTES:]
    head, sealed = body[:_HEAD_BYTES], body[_HEAD_BYTES:]
    signer = PublicKey(head[1 + FINGERPRINT_BYTES : 1 + FINGERPRINT_BYTES + PUBLIC_BYTES])
    try:
        secret = identity.agree(X25519PublicKey.from_public_bytes(head[-32:]))
        master = _cipher(secret, head, identity.public, volume).decrypt(sealed, [head])
    except (InvalidTag, ValueError):
        raise Corrupt("the key slot does not open: it was damaged, or made for another volume") from None
    signer.verify(signature, _slot_message(volume, VolumeKeys.derive(master).check, body))
    return Shared(master, is_read_only(slot), signer)


def _of_seed(seed: bytes, label: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, b"p2pfs identity 1", label).derive(seed)


def _cipher(secret: bytes, head: bytes, recipient: PublicKey, volume: VolumeId) -> AESSIV:
    """By both public keys and the volume too, so that the secret means this slot and no other."""
    info = b"p2pfs shared slot 1\0" + recipient.encoded + volume.to_bytes(8, "big")
    return AESSIV(HKDF(hashes.SHA256(), _SIV_KEY_BYTES, head[-32:], info).derive(secret))


def _slot_message(volume: VolumeId, check: bytes, body: bytes) -> bytes:
    return b"p2pfs shared slot signature 1\0" + volume.to_bytes(8, "big") + check + body


def _proof_message(pool: PoolId, node: NodeId) -> bytes:
    return b"p2pfs identity of node 1\0" + pool.encode() + b"\0" + node.encode()
