"""The header page of a chunk file: what a peer must know to serve and verify single blocks without keys. Pure.

    offset  bytes  field
         0      8  magic "p2pfsCHK"
         8      2  version (1)
        10      2  number of blocks, n
        12      4  sealed size
        16      8  volume
        24      8  put_seq
        32     32  chunk id
        64   32 n  BLAKE3 of each sealed block
      4064     32  BLAKE3 of bytes 0…4063

Integers are big-endian; the rest of the page is zero. The sealed bytes follow at offset 4096.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import blake3

from p2pfs.errors import Corrupt
from p2pfs.format import ranges
from p2pfs.format.chunk import chunk_id
from p2pfs.types import Buffer, ChunkId, VolumeId

HEADER_BYTES: Final = 4096
HASH_BYTES: Final = 32
_MAGIC: Final = b"p2pfsCHK"
_VERSION: Final = 1
_FIXED: Final = struct.Struct(">8sHHIQQ32s")
_SUM_AT: Final = HEADER_BYTES - HASH_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """Whose bytes follow, and how each block is recognised."""

    volume: VolumeId
    chunk: ChunkId
    size: int  # sealed bytes
    put_seq: int
    hashes: tuple[bytes, ...]


def pack(header: Header, page: memoryview) -> None:
    """Write the header page in place."""
    hashes = b"".join(header.hashes)
    head = _FIXED.pack(_MAGIC, _VERSION, len(header.hashes), header.size, header.volume, header.put_seq, header.chunk)
    page[:_SUM_AT] = (head + hashes).ljust(_SUM_AT, b"\0")
    page[_SUM_AT:] = blake3.blake3(page[:_SUM_AT]).digest()


def unpack(page: Buffer) -> Header:
    """The header in a page, with its hashes checked against the chunk id.

    Raises:
        Corrupt: It is no header page, of another version, or damaged.
    """
    if len(page) != HEADER_BYTES:
        raise Corrupt("the chunk file is shorter than its header")
    magic, version, count, size, volume, put_seq, chunk = _FIXED.unpack_from(page)
    if magic != _MAGIC or version != _VERSION:
        raise Corrupt("this is no chunk file of a version this program reads")
    if blake3.blake3(page[:_SUM_AT]).digest() != bytes(page[_SUM_AT:]):
        raise Corrupt("the header of the chunk file is damaged")
    hashes = _split(bytes(page[_FIXED.size : _FIXED.size + HASH_BYTES * count]))
    if count != ranges.block_count(ranges.plain_size(size)) or chunk_id(hashes) != chunk:
        raise Corrupt("the hashes of the chunk file are not those of its chunk")
    return Header(VolumeId(volume), ChunkId(chunk), size, put_seq, hashes)


def _split(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES))


def check_blocks(hashes: Sequence[bytes], found: Sequence[bytes]) -> None:
    """Compare the hashes of blocks as read with those expected.

    Raises:
        Corrupt: They differ.
    """
    if list(hashes) != list(found):
        raise Corrupt("a stored block is damaged")
