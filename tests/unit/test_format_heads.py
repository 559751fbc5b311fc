"""Inode heads: sealed for one inode; digests are those of exactly the rows that belong."""

import random
from dataclasses import replace

import msgspec
import pytest
from bits import flipped
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Corrupt
from p2pfs.format.extents import Extent, seal_extent
from p2pfs.format.heads import MAX_SIZE, MODULUS, Head, add, inline_digest, open_head, row_digest, seal_head, subtract
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import seal_row
from p2pfs.types import (
    DIGEST_BYTES,
    DIGEST_RANGE_BYTES,
    ChunkId,
    ChunkKey,
    InodeId,
    Kind,
    VolumeId,
    head_limit,
)
from p2pfs.wire.namespace import ExtentRow

pytestmark = pytest.mark.l0

KEYS = VolumeKeys.derive(bytes(range(32)))
VOLUME, INODE = VolumeId(12), InodeId(77)
HEAD = Head(5, 300 << 20, Kind.FILE, (3, MODULUS - 1))


@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        Head(0, 0, Kind.DIRECTORY),
        Head(1, 0, Kind.FILE, (0, 0, 9)),
        Head(2**63, MAX_SIZE, Kind.BLOCK, (1,)),
    ],
)
def test_what_is_sealed_opens(head: Head) -> None:
    assert open_head(KEYS, VOLUME, INODE, seal_head(KEYS, VOLUME, INODE, head)) == head


def test_every_single_bit_matters() -> None:
    sealed = seal_head(KEYS, VOLUME, INODE, HEAD)
    for bit in range(len(sealed) * 8):
        with pytest.raises(Corrupt):
            open_head(KEYS, VOLUME, INODE, flipped(sealed, bit))
    for bit in range(63):
        with pytest.raises(Corrupt):
            open_head(KEYS, VolumeId(VOLUME ^ 1 << bit), INODE, sealed)
        with pytest.raises(Corrupt):
            open_head(KEYS, VOLUME, InodeId(INODE ^ 1 << bit), sealed)


def test_a_head_cannot_be_cut_or_extended() -> None:
    sealed = seal_head(KEYS, VOLUME, INODE, HEAD)
    for length in range(len(sealed)):
        with pytest.raises(Corrupt):
            open_head(KEYS, VOLUME, INODE, sealed[:length])
    with pytest.raises(Corrupt):
        open_head(KEYS, VOLUME, INODE, sealed + bytes(32))


def test_a_head_of_another_kind_of_row_does_not_open() -> None:
    context = VOLUME.to_bytes(8, "big") + INODE.to_bytes(8, "big")
    for siv in (KEYS.names, KEYS.extents, KEYS.values):
        with pytest.raises(Corrupt):
            open_head(KEYS, VOLUME, INODE, seal_row(siv, KEYS.prefix, bytes(17), context))


@pytest.mark.parametrize(
    "plain",
    [
        bytes(1),
        bytes(16),
        bytes(16) + b"\x01" * 32,  # half a digest
        bytes(16) + b"\x00",  # no such kind
        bytes(16) + b"\x09",
        bytes(16) + b"\x01" + bytes(32),  # a trailing zero
        bytes(8) + (MAX_SIZE + 1).to_bytes(8, "big") + b"\x01",
    ],
)
def test_a_sealed_head_that_says_something_impossible_is_corrupt(plain: bytes) -> None:
    context = VOLUME.to_bytes(8, "big") + INODE.to_bytes(8, "big")
    with pytest.raises(Corrupt):
        open_head(KEYS, VOLUME, INODE, seal_row(KEYS.heads, KEYS.prefix, plain, context))


def test_digests_beyond_the_last_are_those_of_nothing() -> None:
    assert HEAD.digest(0) == 3
    assert HEAD.digest(2) == 0
    assert HEAD.digest(10**9) == 0


def test_changing_digests_keeps_the_others_and_trims() -> None:
    grown = HEAD.with_digest(4, 8)
    assert grown.digests == (3, MODULUS - 1, 0, 0, 8)
    assert (grown.change, grown.size, grown.kind) == (HEAD.change, HEAD.size, HEAD.kind)
    assert grown.with_digest(4, 0) == HEAD
    assert HEAD.with_digest(0, 0).digests == (0, MODULUS - 1)
    assert grown.first_ranges(3) == HEAD
    assert grown.first_ranges(0).digests == ()
    assert seal_head(KEYS, VOLUME, INODE, replace(HEAD, digests=(*HEAD.digests, 0))) == seal_head(
        KEYS, VOLUME, INODE, HEAD
    )


def rows(count: int) -> list[ExtentRow]:
    return [
        seal_extent(KEYS, VOLUME, INODE, Extent(n, n, 0, 1, ChunkId(bytes([n]) * 32), 0, ChunkKey(bytes(32))))
        for n in range(count)
    ]


def digest_of(some: list[ExtentRow]) -> int:
    total = 0
    for row in some:
        total = add(total, row_digest(KEYS, VOLUME, INODE, row))
    return total


@given(st.randoms(use_true_random=False), st.integers(0, 12))
def test_the_digest_does_not_depend_on_order_and_rows_can_be_taken_out(order: random.Random, taken: int) -> None:
    all_rows = rows(12)
    shuffled = list(all_rows)
    order.shuffle(shuffled)
    assert digest_of(shuffled) == digest_of(all_rows)
    left = digest_of(all_rows)
    for row in shuffled[:taken]:
        left = subtract(left, row_digest(KEYS, VOLUME, INODE, row))
    assert left == digest_of(shuffled[taken:])


def test_a_missing_doubled_or_changed_row_changes_the_digest() -> None:
    all_rows = rows(6)
    right = digest_of(all_rows)
    assert digest_of([]) == 0
    for at, row in enumerate(all_rows):
        others = all_rows[:at] + all_rows[at + 1 :]
        assert row.chunk is not None
        for wrong in (
            others,
            [*all_rows, row],
            [*others, msgspec.structs.replace(row, seq=row.seq + 1)],
            [*others, msgspec.structs.replace(row, index=row.index + 100)],
            [*others, msgspec.structs.replace(row, chunk=flipped(row.chunk, 0))],
            [*others, msgspec.structs.replace(row, chunk=None)],
            [*others, msgspec.structs.replace(row, sealed=flipped(row.sealed, 200))],
        ):
            assert digest_of(wrong) != right


def test_a_row_digest_is_of_one_inode_of_one_volume_under_one_key() -> None:
    row = rows(2)[1]
    made = {
        row_digest(KEYS, VOLUME, INODE, row),
        row_digest(KEYS, VolumeId(13), INODE, row),
        row_digest(KEYS, VOLUME, InodeId(78), row),
        row_digest(VolumeKeys.derive(bytes(32)), VOLUME, INODE, row),
    }
    assert len(made) == 4


def test_where_the_chunk_ends_and_the_sealed_part_begins_matters() -> None:
    hole = ExtentRow(0, 0, None, bytes(32) + b"rest")
    data = ExtentRow(0, 0, bytes(32), b"rest")
    assert row_digest(KEYS, VOLUME, INODE, hole) != row_digest(KEYS, VOLUME, INODE, data)


def test_inline_data_has_a_digest_of_its_own_kind() -> None:
    made = {
        inline_digest(KEYS, VOLUME, INODE, b"sealed"),
        inline_digest(KEYS, VOLUME, INODE, b"sealee"),
        inline_digest(KEYS, VOLUME, InodeId(78), b"sealed"),
        inline_digest(KEYS, VolumeId(13), INODE, b"sealed"),
        row_digest(KEYS, VOLUME, INODE, ExtentRow(0, 0, None, b"sealed")),
    }
    assert len(made) == 5
    assert all(0 < value < MODULUS for value in made)


@given(st.integers(0, MODULUS - 1), st.integers(0, MODULUS - 1))
def test_subtracting_undoes_adding(a: int, b: int) -> None:
    assert subtract(add(a, b), b) == a
    assert 0 <= add(a, b) < MODULUS
    assert 0 <= subtract(a, b) < MODULUS


@pytest.mark.parametrize("size", [0, 1, DIGEST_RANGE_BYTES, DIGEST_RANGE_BYTES + 1, 1000 * DIGEST_RANGE_BYTES])
def test_a_full_head_is_within_what_the_coordinator_takes(size: int) -> None:
    ranges = max(1, -(-size // DIGEST_RANGE_BYTES))
    sealed = seal_head(KEYS, VOLUME, INODE, Head(1, size, Kind.FILE, (MODULUS - 1,) * ranges))
    assert head_limit(size) - DIGEST_BYTES < len(sealed) <= head_limit(size)
