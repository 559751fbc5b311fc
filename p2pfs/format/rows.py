"""What every sealed row has in common: format version ‖ key epoch ‖ AES-SIV, all authenticated.

A row is a few dozen bytes of metadata (extent, head, name, value). AES-SIV is deterministic: no small secret depends on
a nonce, and a sealed name can be looked up. Used only inside `format`; the layouts are in docs/format.md.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from p2pfs.errors import Corrupt

VERSION: Final = 1
PREFIX_BYTES: Final = 3
"""Format version (1) and key epoch (2)."""
SIV_BYTES: Final = 16
OVERHEAD: Final = PREFIX_BYTES + SIV_BYTES


def prefix(epoch: int) -> bytes:
    """What a row sealed under the keys of `epoch` begins with."""
    return bytes((VERSION,)) + epoch.to_bytes(2, "big")


def seal_row(siv: AESSIV, start: bytes, plain: bytes, context: bytes) -> bytes:
    """`start` (the prefix) ‖ synthetic IV ‖ ciphertext. `plain` is never empty."""
    return start + siv.encrypt(plain, [start + context])


def open_row(siv: AESSIV, start: bytes, sealed: bytes, context: bytes) -> bytes:
    """The plain bytes of a row.

    Raises:
        Corrupt: Another version, another epoch, or not sealed for this context by these keys.
    """
    if sealed[:PREFIX_BYTES] != start:
        raise Corrupt(_strange(sealed, start))
    if len(sealed) <= OVERHEAD:
        raise Corrupt("a sealed row is too short")
    try:
        return siv.decrypt(sealed[PREFIX_BYTES:], [start + context])
    except InvalidTag:
        raise Corrupt("a sealed row does not authenticate") from None


def _strange(sealed: bytes, start: bytes) -> str:
    if not sealed:
        return "a sealed row is empty"
    if sealed[0] != VERSION:
        return f"a sealed row has format version {sealed[0]}, this program knows {VERSION}"
    return f"a sealed row has key epoch {sealed[1:3].hex()}, the volume is open at {start[1:3].hex()}"
