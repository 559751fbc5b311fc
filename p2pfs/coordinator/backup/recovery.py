"""Makes recovery kits, and keeps the half of one that seals backups.

The kit itself is shown once and kept nowhere here: only its public key, in `coordinator/recovery.json`. Called by
`init`, by `p2pfs coordinator kit`, and by `daemon`, which loads the public half.
"""

import os
import secrets as randomness
import sqlite3
from dataclasses import dataclass
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from p2pfs.coordinator.authority import Authority
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.errors import Corrupt
from p2pfs.format.backups import verify_key
from p2pfs.format.kits import SECRET_BYTES, Kit, box_key, tls_key
from p2pfs.meta import members
from p2pfs.types import NodeId, PoolId, Role

KIT_LIFETIME_S: Final = 20 * 365 * 86400
_VERSION: Final = 1
_SIGNING: Final = "p2pfs 2026 backup signing key"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the coordinator keeps of a kit."""

    box: bytes  # X25519 public key, raw
    serial: str  # of the kit's certificate

    def encode(self) -> bytes:
        """The file's content."""
        return msgspec.json.encode(_File(_VERSION, self.box.hex(), self.serial)) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "Recovery":
        """What `encode` made. Raises Corrupt when it is not that."""
        try:
            file = msgspec.json.decode(data, type=_File)
            found = cls(bytes.fromhex(file.box), file.serial)
        except (msgspec.DecodeError, ValueError):
            raise Corrupt("recovery.json cannot be read: make a new kit with `p2pfs coordinator kit`") from None
        if file.version != _VERSION or len(found.box) != 32:
            raise Corrupt("recovery.json is of another version or cut short")
        return found

    @property
    def key(self) -> X25519PublicKey:
        """What backups are sealed to."""
        return X25519PublicKey.from_public_bytes(self.box)


class _File(msgspec.Struct, frozen=True):
    version: int
    box: str  # hexadecimal
    serial: str


def signing_key(secrets: PoolSecrets) -> Ed25519PrivateKey:
    """What backups are signed with. Derived, so that a restored coordinator signs as before."""
    return Ed25519PrivateKey.from_private_bytes(blake3(secrets.token_seed, derive_key_context=_SIGNING).digest())


def make_kit(
    connection: sqlite3.Connection, authority: Authority, secrets: PoolSecrets, *, coordinator: NodeId, now_s: float
) -> tuple[Kit, Recovery]:
    """A new kit, whose certificate is written down in the caller's transaction."""
    secret, holder = os.urandom(SECRET_BYTES), NodeId(randomness.token_hex(16))
    issued = authority.issue(
        tls_key(secret).public_key(), holder, roles=[Role.RECOVERY], now_s=now_s, lifetime_s=KIT_LIFETIME_S
    )
    members.add_certificate(connection, members.Certificate(issued.serial, holder, now_s, issued.not_after_s))
    kit = Kit(
        PoolId(authority.pool),
        coordinator,
        authority.public_key,
        verify_key(signing_key(secrets)),
        issued.der,
        secret,
    )
    public = box_key(secret).public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return kit, Recovery(raw, issued.serial)


def withdraw(connection: sqlite3.Connection, serial: str, *, now_s: float) -> None:
    """The kit with this certificate opens no peer any more. What it already fetched it can still read."""
    connection.execute("UPDATE certificate SET revoked_s = ? WHERE serial = ? AND revoked_s IS NULL", (now_s, serial))
