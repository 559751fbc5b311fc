"""Seals and opens the parts of a backup: encrypted to the recovery kit, signed by the coordinator, chained.

Whoever keeps a part learns its size and times. Only the kit opens it, and it opens nothing that the coordinator did not
sign, under another number, in another generation or after another part. Pure; made by `coordinator.backup`, read by
`coordinator.restore`.
"""

import os
import zlib
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2pfs.errors import Corrupt, Misuse
from p2pfs.types import MIB, Buffer, PoolId
from p2pfs.wire import codec
from p2pfs.wire.backups import IMAGE, LOG, MAX_PARTS, PART_VERSION, Content, Part

FIRST: Final = bytes(32)
"""What number 0 names as the part before it."""
MAX_CONTENT_BYTES: Final = 16 * MIB
"""Most bytes a part may open to."""
_SIGNED: Final = b"p2pfs backup part 1\0"
_SEALED: Final = b"p2pfs backup key 1"
_NONCE: Final = bytes(12)  # every key seals one message
_LEVEL: Final = 1  # of zlib: sealed rows do not shrink, and the rest already does
_SEALED_SHARE: Final = 0.7
"""What runs of one byte leave more than this of is sealed, for the most part: looking for repetitions in that takes
three times as long (17 ms for a MiB of a database, where runs take 6) and leaves 2 % less."""


def verify_key(signing: Ed25519PrivateKey) -> bytes:
    """The raw public half, as the kit pins it."""
    return signing.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def seal_part(
    blank: Part, content: Content, *, box: X25519PublicKey, signing: Ed25519PrivateKey, entropy: bytes | None = None
) -> bytes:
    """The encoded part with the header of `blank`, whose last three fields are filled in. `entropy` (32 bytes) is for
    golden vectors."""
    ephemeral = X25519PrivateKey.from_private_bytes(entropy or os.urandom(32))
    public = _raw(ephemeral.public_key())
    header = msgspec.structs.replace(blank, version=PART_VERSION, ephemeral=public, sealed=b"", signature=b"")
    key = _key(ephemeral.exchange(box), public, _raw(box))
    plain = _deflated(codec.encode(content))
    unsigned = msgspec.structs.replace(header, sealed=AESGCM(key).encrypt(_NONCE, plain, codec.encode(header)))
    signature = signing.sign(_SIGNED + codec.encode(unsigned))
    return codec.encode(msgspec.structs.replace(unsigned, signature=signature))


def decode_part(data: Buffer) -> Part:
    """The part as it says it is; nothing is proved yet.

    Raises:
        Misuse: It is none.
    """
    part = codec.decode(data, Part)
    if part.version != PART_VERSION or part.kind not in (IMAGE, LOG):
        raise Misuse("this part of a backup is of another version")
    if not (0 <= part.number < MAX_PARTS and 0 <= part.generation < 1 << 63) or len(part.previous) != len(FIRST):
        raise Misuse("this part of a backup is numbered impossibly")
    return part


def check_part(part: Part, *, pool: PoolId, generation: int, number: int, previous: bytes, verify: bytes) -> None:
    """Whether the part is the coordinator's, in its place.

    Raises:
        Corrupt: It is not.
    """
    if (part.pool, part.generation, part.number, part.previous) != (pool, generation, number, previous):
        raise Corrupt("a part of a backup stands in the place of another one")
    try:
        unsigned = msgspec.structs.replace(part, signature=b"")
        Ed25519PublicKey.from_public_bytes(verify).verify(part.signature, _SIGNED + codec.encode(unsigned))
    except (InvalidSignature, ValueError):
        raise Corrupt("a part of a backup is not signed by the coordinator") from None


def open_part(part: Part, box: X25519PrivateKey) -> Content:
    """What a checked part holds.

    Raises:
        Corrupt: It was not sealed to this kit.
    """
    header = msgspec.structs.replace(part, sealed=b"", signature=b"")
    try:
        shared = box.exchange(X25519PublicKey.from_public_bytes(part.ephemeral))
        key = _key(shared, part.ephemeral, _raw(box.public_key()))
        plain = AESGCM(key).decrypt(_NONCE, part.sealed, codec.encode(header))
        inflating = zlib.decompressobj()
        data = inflating.decompress(plain, MAX_CONTENT_BYTES)
        if inflating.unconsumed_tail or not inflating.eof:
            raise Corrupt("a part of a backup holds more than it may")
        return codec.decode(data, Content)
    except (InvalidTag, ValueError, zlib.error, Misuse):
        raise Corrupt("a part of a backup was not sealed to this recovery kit") from None


def part_hash(data: Buffer) -> bytes:
    """What the next part names this one by."""
    return blake3(data).digest()


def _deflated(data: bytes) -> bytes:
    by_runs = zlib.compressobj(_LEVEL, strategy=zlib.Z_RLE)
    deflated = by_runs.compress(data) + by_runs.flush()
    return deflated if len(deflated) > _SEALED_SHARE * len(data) else zlib.compress(data, _LEVEL)


def _key(shared: bytes, ephemeral: bytes, box: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=ephemeral + box, info=_SEALED).derive(shared)


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
