"""Offset arithmetic: file bytes → MiB pieces → blocks → spans of a sealed chunk.

All of it is here, so that no other module divides by a block or chunk size. It knows sizes only: no keys, no content,
no extents. Called by vfs (pieces, blocks), by the chunk stores (spans) and by format.chunk.
"""

from collections.abc import Iterator
from typing import NamedTuple

from p2pfs.errors import Corrupt
from p2pfs.types import BLOCK_BYTES, BLOCKS_PER_CHUNK, CHUNK_BYTES, TAG_BYTES

SEALED_BLOCK_BYTES = BLOCK_BYTES + TAG_BYTES


class Piece(NamedTuple):
    """The part of a request that falls into one MiB."""

    # `index` hides tuple.index, which nobody looks for in a piece.
    index: int  # type: ignore[assignment]  # which MiB of the file
    off: int  # first byte within that MiB
    length: int
    at: int  # first byte within the request


def pieces(offset: int, length: int) -> Iterator[Piece]:
    """`length` bytes of a file from `offset`, cut at MiB borders, ascending. Nothing for a length of 0."""
    index, off = divmod(offset, CHUNK_BYTES)
    at = 0
    while at < length:
        count = min(CHUNK_BYTES - off, length - at)
        yield Piece(index, off, count, at)
        index, off, at = index + 1, 0, at + count


def block_run(off: int, length: int) -> tuple[int, int]:
    """(first, count) of the blocks that hold the plain bytes `off…off+length` of a chunk; length ≥ 1."""
    first = off // BLOCK_BYTES
    return first, (off + length - 1) // BLOCK_BYTES - first + 1


def block_count(plain: int) -> int:
    """Blocks of a chunk with `plain` bytes."""
    return (plain + BLOCK_BYTES - 1) // BLOCK_BYTES


def sealed_size(plain: int) -> int:
    """Sealed bytes of a whole chunk that has `plain` bytes."""
    return plain + TAG_BYTES * block_count(plain)


def plain_size(sealed: int) -> int:
    """Plain bytes of a whole chunk that has `sealed` bytes.

    Raises:
        Corrupt: No chunk has that size.
    """
    blocks = (sealed + SEALED_BLOCK_BYTES - 1) // SEALED_BLOCK_BYTES
    plain = sealed - TAG_BYTES * blocks
    # The last block has at least one plain byte; an empty chunk does not exist.
    if not 1 <= blocks <= BLOCKS_PER_CHUNK or plain <= (blocks - 1) * BLOCK_BYTES:
        raise Corrupt(f"no chunk has {sealed} sealed bytes")
    return plain


def sealed_span(first: int, count: int, size: int) -> tuple[int, int]:
    """[start, stop) of blocks `first…first+count` within a chunk of sealed `size`; `stop` ends with the chunk."""
    return first * SEALED_BLOCK_BYTES, min((first + count) * SEALED_BLOCK_BYTES, size)
