"""Offset arithmetic, against byte-by-byte models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Corrupt
from p2pfs.format.ranges import (
    SEALED_BLOCK_BYTES,
    Piece,
    block_count,
    block_run,
    pieces,
    plain_size,
    sealed_size,
    sealed_span,
)
from p2pfs.types import BLOCK_BYTES, CHUNK_BYTES, MIB, SEALED_CHUNK_BYTES

pytestmark = pytest.mark.l0

BORDERS = [near for full in range(0, CHUNK_BYTES + 1, BLOCK_BYTES) for near in (full - 1, full, full + 1)]


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 0, []),
        (5, 0, []),
        (0, 1, [Piece(0, 0, 1, 0)]),
        (0, MIB, [Piece(0, 0, MIB, 0)]),
        (MIB - 1, 1, [Piece(0, MIB - 1, 1, 0)]),
        (MIB, 1, [Piece(1, 0, 1, 0)]),
        (MIB - 1, 2, [Piece(0, MIB - 1, 1, 0), Piece(1, 0, 1, 1)]),
        (3 * MIB - 7, MIB + 9, [Piece(2, MIB - 7, 7, 0), Piece(3, 0, MIB, 7), Piece(4, 0, 2, MIB + 7)]),
    ],
)
def test_pieces_by_example(offset: int, length: int, expected: list[Piece]) -> None:
    assert list(pieces(offset, length)) == expected


@given(st.integers(0, 1 << 50), st.integers(0, 5 * MIB))
def test_pieces_cover_the_request_exactly_once_and_in_order(offset: int, length: int) -> None:
    at = 0
    for piece in pieces(offset, length):
        assert piece.at == at
        assert piece.length >= 1
        assert piece.off >= 0
        assert piece.off + piece.length <= MIB
        assert piece.index * MIB + piece.off == offset + at
        at += piece.length
    assert at == length


@given(st.integers(0, CHUNK_BYTES - 1), st.data())
def test_a_block_run_holds_the_bytes_and_no_block_more(off: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, CHUNK_BYTES - off))
    first, count = block_run(off, length)
    assert first * BLOCK_BYTES <= off < (first + 1) * BLOCK_BYTES
    last = first + count - 1
    assert last * BLOCK_BYTES <= off + length - 1 < (last + 1) * BLOCK_BYTES


@pytest.mark.parametrize("plain", [size for size in BORDERS if 1 <= size <= CHUNK_BYTES])
def test_sealed_and_plain_size_are_inverse(plain: int) -> None:
    assert sealed_size(plain) == plain + 16 * -(-plain // BLOCK_BYTES)
    assert plain_size(sealed_size(plain)) == plain


def test_the_largest_chunk_has_the_size_the_wire_allows() -> None:
    assert sealed_size(CHUNK_BYTES) == SEALED_CHUNK_BYTES


def test_exactly_the_sizes_of_chunks_are_possible() -> None:
    """Every sealed size around the block borders: possible if and only if some plain size gives it."""
    possible = {sealed_size(plain) for plain in range(1, 2 * BLOCK_BYTES + 3)}
    near = [*range(-2, 40), *range(SEALED_BLOCK_BYTES - 40, SEALED_BLOCK_BYTES + 40)]
    for size in near:
        if size in possible:
            assert sealed_size(plain_size(size)) == size
        else:
            with pytest.raises(Corrupt):
                plain_size(size)
    with pytest.raises(Corrupt):
        plain_size(SEALED_CHUNK_BYTES + 1)
    with pytest.raises(Corrupt):
        plain_size(SEALED_CHUNK_BYTES + 17)


@given(st.integers(1, CHUNK_BYTES))
def test_spans_of_single_blocks_tile_the_sealed_chunk(plain: int) -> None:
    size = sealed_size(plain)
    at = 0
    for block in range(block_count(plain)):
        start, stop = sealed_span(block, 1, size)
        assert start == at
        assert 16 < stop - start <= SEALED_BLOCK_BYTES
        at = stop
    assert at == size
    assert sealed_span(0, block_count(plain), size) == (0, size)
