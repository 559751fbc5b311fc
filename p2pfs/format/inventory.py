"""The digest of a set of chunks, by which a peer and the coordinator see whether they agree on what the peer holds.

Both sides sum up per *bucket* (first byte of the id), so that where they differ only that bucket is listed. Not secret
and not keyed: a peer may lie about it as it may about a listing; audits are what proves a copy. docs/format.md.
"""

from collections.abc import Iterable
from typing import Final

from blake3 import blake3

from p2pfs.types import ChunkId, VolumeId

BUCKETS: Final = 256
DIGEST_BYTES: Final = 32
EMPTY: Final = bytes(DIGEST_BYTES)
"""Of no chunks."""
_LABEL: Final = b"p2pfs inventory 1\0"


def bucket_of(chunk: ChunkId) -> int:
    """Which of the 256."""
    return chunk[0]


def digest(entries: Iterable[tuple[VolumeId, ChunkId]], start: bytes = EMPTY) -> bytes:
    """The digest of the set behind `start` with these entries added; those that it has already are removed. Order does
    not matter."""
    total = int.from_bytes(start)
    for volume, chunk in entries:
        total ^= int.from_bytes(blake3(_LABEL + volume.to_bytes(8, "big") + chunk).digest())
    return total.to_bytes(DIGEST_BYTES, "big")
