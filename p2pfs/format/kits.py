"""Recovery kits: what restores a pool whose coordinator's disk is gone, as a few lines of text.

Whoever holds a kit can fetch and read every backup of the coordinator, the authority's key among it: it is to be kept
like the key to a house, on paper or another machine. All private keys come from one secret. Pure; made by
`coordinator.recovery`, read by `p2pfs coordinator restore`.
"""

import base64
import binascii
import textwrap
from dataclasses import dataclass, field
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2pfs.errors import Invalid, Misuse
from p2pfs.types import NodeId, PoolId
from p2pfs.wire import codec

SECRET_BYTES: Final = 32
KIT_VERSION: Final = 1
_BEGIN: Final = "-----BEGIN P2PFS RECOVERY KIT-----"
_END: Final = "-----END P2PFS RECOVERY KIT-----"
_CHECKSUM_BYTES: Final = 4
_MOST_TEXT: Final = 16384
_SALT: Final = b"p2pfs recovery kit 1"
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class Kit:
    """What `p2pfs init` prints once."""

    pool: PoolId
    coordinator: NodeId
    ca_key: bytes  # compressed P-256 public key of the pool's certificate authority
    verify_key: bytes  # Ed25519, raw: what signs backups
    certificate: bytes  # DER, for `tls_key`, with the role recovery
    secret: bytes = field(repr=False)

    @property
    def box_key(self) -> X25519PrivateKey:
        """Opens backups."""
        return box_key(self.secret)

    @property
    def tls_key(self) -> ec.EllipticCurvePrivateKey:
        """The certificate's."""
        return tls_key(self.secret)


class _Body(msgspec.Struct, frozen=True, array_like=True):
    version: int
    pool: str
    coordinator: str
    ca_key: bytes
    verify_key: bytes
    certificate: bytes
    secret: bytes


def box_key(secret: bytes) -> X25519PrivateKey:
    """What opens backups sealed to the kit of this secret."""
    return X25519PrivateKey.from_private_bytes(_derive(secret, b"box", 32))


def tls_key(secret: bytes) -> ec.EllipticCurvePrivateKey:
    """What the certificate of the kit of this secret is for."""
    scalar = int.from_bytes(_derive(secret, b"tls", 48), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def encode_kit(kit: Kit) -> str:
    """The kit as lines of text."""
    body = codec.encode(
        _Body(KIT_VERSION, kit.pool, kit.coordinator, kit.ca_key, kit.verify_key, kit.certificate, kit.secret)
    )
    lines = textwrap.wrap(base64.b64encode(body + _checksum(body)).decode("ascii"), 64)
    return "\n".join((_BEGIN, *lines, _END, ""))


def decode_kit(text: str) -> Kit:
    """The kit in `text`; what stands around it does not matter, nor white space in it.

    Raises:
        Invalid: There is none, with a sentence that says what to do.
    """
    _, begin, rest = text[:_MOST_TEXT].partition(_BEGIN)
    letters, end, _ = rest.partition(_END)
    if not begin or not end:
        raise Invalid("there is no recovery kit in this: it begins with -----BEGIN P2PFS and ends with -----END P2PFS")
    try:
        raw = base64.b64decode("".join(letters.split()), validate=True)
        body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        if checksum != _checksum(body):
            raise Invalid("the recovery kit is damaged: some letters differ from what was printed")
        found = codec.decode(body, _Body)
    except (binascii.Error, ValueError, Misuse):
        raise Invalid("the recovery kit is damaged: some letters differ from what was printed") from None
    sizes = (len(found.pool), len(found.coordinator), len(found.ca_key), len(found.verify_key), len(found.secret))
    if found.version != KIT_VERSION or sizes != (32, 32, 33, 32, SECRET_BYTES):
        raise Invalid("this recovery kit was made by another version of p2pfs")
    return Kit(
        PoolId(found.pool),
        NodeId(found.coordinator),
        found.ca_key,
        found.verify_key,
        found.certificate,
        found.secret,
    )


def _derive(secret: bytes, label: bytes, size: int) -> bytes:
    return HKDF(hashes.SHA256(), size, salt=_SALT, info=label).derive(secret)


def _checksum(body: bytes) -> bytes:
    return blake3(body).digest(_CHECKSUM_BYTES)
