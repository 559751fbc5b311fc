"""Inode heads: the sealed statement of what an inode's content is.

A head carries the change, the size and, per 256 MiB of the file, one digest of exactly the extents (or inline data)
that belong there: an additive keyed multiset hash (MSet-Add-Hash: Clarke, Devadas, van Dijk, Gassend, Suh, 2003), so
that a commit adds and subtracts rows without loading the others. A read is served only where the loaded rows add up.
Called by vfs; the coordinator stores heads unread.
"""

from dataclasses import dataclass, replace
from struct import Struct
from typing import Final, Self

from blake3 import blake3

from p2pfs.errors import Corrupt
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import open_row, seal_row
from p2pfs.types import InodeId, Kind, VolumeId
from p2pfs.wire.namespace import ExtentRow

DIGEST_BYTES: Final = 32
MODULUS: Final = 1 << 8 * DIGEST_BYTES
_FIXED: Final = Struct(">QQB")  # change, size, kind
_CONTEXT: Final = Struct(">QQ")  # volume, inode
_ROW: Final = Struct(">BQQQQB")  # what, volume, inode, index, seq, has a chunk
_INLINE: Final = Struct(">BQQ")  # what, volume, inode
_KINDS: Final = {int(kind): kind for kind in Kind}
_WHAT_ROW: Final = 1
_WHAT_INLINE: Final = 2
MAX_SIZE: Final = 1 << 50
"""Most bytes a head may speak of: more than files are let grow to today (types.MAX_FILE_BYTES)."""


@dataclass(frozen=True, slots=True)
class Head:
    """What an inode's content is. `digests[r]` is of 256 MiB range r; trailing zeros are not kept."""

    change: int
    size: int
    kind: Kind
    digests: tuple[int, ...] = ()

    def digest(self, range_number: int) -> int:
        """The digest of one range; 0, that of no rows at all, beyond the last."""
        return self.digests[range_number] if range_number < len(self.digests) else 0

    def with_digest(self, range_number: int, value: int) -> Self:
        """The head with another digest for one range."""
        padding = (0,) * (range_number + 1 - len(self.digests))
        digests = self.digests + padding
        return replace(self, digests=_trimmed((*digests[:range_number], value, *digests[range_number + 1 :])))

    def first_ranges(self, count: int) -> Self:
        """The head with the digests of the first `count` ranges only, as after a truncate."""
        return replace(self, digests=_trimmed(self.digests[:count]))


def seal_head(keys: VolumeKeys, volume: VolumeId, inode: InodeId, head: Head) -> bytes:
    """The sealed head as the coordinator stores it."""
    digests = _trimmed(head.digests)
    plain = b"".join(
        (_FIXED.pack(head.change, head.size, head.kind), *(value.to_bytes(DIGEST_BYTES, "big") for value in digests))
    )
    return seal_row(keys.heads, keys.prefix, plain, _CONTEXT.pack(volume, inode))


def open_head(keys: VolumeKeys, volume: VolumeId, inode: InodeId, sealed: bytes) -> Head:
    """The head of an inode.

    Raises:
        Corrupt: It was not sealed for this inode, or says something impossible.
    """
    plain = open_row(keys.heads, keys.prefix, sealed, _CONTEXT.pack(volume, inode))
    digest_bytes = len(plain) - _FIXED.size
    if digest_bytes < 0 or digest_bytes % DIGEST_BYTES:
        raise Corrupt("a head has a strange length")
    change, size, kind = _FIXED.unpack_from(plain)
    if digest_bytes == DIGEST_BYTES:  # nearly all, and a walk makes very many
        digests: tuple[int, ...] = (int.from_bytes(plain[_FIXED.size :], "big"),)
    else:
        starts = range(_FIXED.size, len(plain), DIGEST_BYTES)
        digests = tuple(int.from_bytes(plain[at : at + DIGEST_BYTES], "big") for at in starts)
    if size > MAX_SIZE or (digests and not digests[-1]):
        raise Corrupt("a head says something impossible")
    known = _KINDS.get(kind)
    if known is None:
        raise Corrupt(f"a head has the unknown kind {kind}")
    return Head(change, size, known, digests)


def row_digest(keys: VolumeKeys, volume: VolumeId, inode: InodeId, row: ExtentRow) -> int:
    """What one extent row adds to the digest of its range.

    Raises:
        Corrupt: No row can have these numbers.
    """
    chunk = row.chunk
    if row.index < 0 or row.seq < 0:
        raise Corrupt("an extent row is malformed")
    fixed = _ROW.pack(_WHAT_ROW, volume, inode, row.index, row.seq, chunk is not None)
    return int.from_bytes(blake3(fixed + (chunk or b"") + row.sealed, key=keys.digest).digest(), "big")


def inline_digest(keys: VolumeKeys, volume: VolumeId, inode: InodeId, sealed: bytes) -> int:
    """The digest of range 0 of a file whose content is inline: its sealed bytes as the coordinator stores them."""
    fixed = _INLINE.pack(_WHAT_INLINE, volume, inode)
    return int.from_bytes(blake3(fixed + sealed, key=keys.digest).digest(), "big")


def add(a: int, b: int) -> int:
    """The digest of the union of two multisets of rows."""
    return (a + b) % MODULUS


def subtract(a: int, b: int) -> int:
    """The digest after rows are taken out."""
    return (a - b) % MODULUS


def _trimmed(digests: tuple[int, ...]) -> tuple[int, ...]:
    count = len(digests)
    while count and not digests[count - 1]:
        count -= 1
    return digests[:count]
