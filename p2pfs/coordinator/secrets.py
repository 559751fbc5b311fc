"""The coordinator's two secrets: the master of the peers' receipt keys and the key that signs reservations.

Neither can read anything: who steals them can invent replica locations and store chunks. Kept in one file of mode 0600
beside the authority's key; `init` makes it, `daemon` loads it, `receipts` and `tokens` use it.
"""

import os
from dataclasses import dataclass, field
from typing import Final

import msgspec

from p2pfs.errors import Corrupt

SECRET_BYTES: Final = 32
_VERSION: Final = 1


class _File(msgspec.Struct, frozen=True):
    version: int
    receipt_master: str  # hexadecimal
    token_seed: str  # hexadecimal


@dataclass(frozen=True, slots=True)
class PoolSecrets:
    """Both secrets; never shown by repr."""

    receipt_master: bytes = field(repr=False)
    token_seed: bytes = field(repr=False)  # Ed25519 private key, raw

    @classmethod
    def create(cls) -> "PoolSecrets":
        return cls(os.urandom(SECRET_BYTES), os.urandom(SECRET_BYTES))

    def encode(self) -> bytes:
        """The file's content."""
        return msgspec.json.encode(_File(_VERSION, self.receipt_master.hex(), self.token_seed.hex()))

    @classmethod
    def decode(cls, data: bytes) -> "PoolSecrets":
        """What `encode` made.

        Raises:
            Corrupt: It is not that.
        """
        try:
            file = msgspec.json.decode(data, type=_File)
            secrets = cls(bytes.fromhex(file.receipt_master), bytes.fromhex(file.token_seed))
        except (msgspec.DecodeError, ValueError):
            raise Corrupt("the coordinator's file of secrets cannot be read") from None
        if file.version != _VERSION or {len(secrets.receipt_master), len(secrets.token_seed)} != {SECRET_BYTES}:
            raise Corrupt("the coordinator's file of secrets is of another version or cut short")
        return secrets
