"""Signs reservation tokens, proof to a peer that the coordinator promised the sender room there, and lists of members.

Peers check them with the public key they get in heartbeat answers and count the bytes stored under each; what is
promised to whom is `ledger`'s business. Called by `reservations` and `pulse`.
"""

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pfs.types import PoolId
from p2pfs.wire.chunks import Token, token_message
from p2pfs.wire.fellows import SignedRoll, roll_message


class TokenSigner:
    """Holds the Ed25519 key."""

    def __init__(self, pool: PoolId, seed: bytes) -> None:
        self._pool = pool
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @property
    def public_key(self) -> bytes:
        """Raw, as heartbeat answers carry it."""
        return self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    def sign(self, token: Token) -> Token:
        """The token with its signature."""
        return msgspec.structs.replace(token, signature=self._key.sign(token_message(self._pool, token)))

    def sign_roll(self, body: bytes) -> SignedRoll:
        """An encoded wire.fellows.Roll with its signature."""
        return SignedRoll(body, self._key.sign(roll_message(self._pool, body)))
