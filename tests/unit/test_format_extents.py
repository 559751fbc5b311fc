"""Extents: rows open only where they were sealed; layers resolve as bytes written over bytes."""

import itertools

import msgspec
import pytest
from bits import flipped
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs.errors import Corrupt
from p2pfs.format.extents import Extent, Segment, open_extent, resolve, seal_extent
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.rows import seal_row
from p2pfs.types import CHUNK_BYTES, ChunkId, ChunkKey, InodeId, VolumeId
from p2pfs.wire.namespace import ExtentRow

pytestmark = pytest.mark.l0

KEYS = VolumeKeys.derive(bytes(range(32)))
VOLUME, INODE = VolumeId(0x1122334455667788), InodeId(77)
CHUNK, KEY = ChunkId(b"c" * 32), ChunkKey(b"k" * 32)
DATA = Extent(3, 9, 4096, 8192, CHUNK, 512, KEY)
HOLE = Extent(3, 10, 0, CHUNK_BYTES, None, 0, None)


@pytest.mark.parametrize("extent", [DATA, HOLE, Extent(1 << 30, 1 << 60, 0, CHUNK_BYTES, CHUNK, 0, KEY)])
def test_what_is_sealed_opens(extent: Extent) -> None:
    row = seal_extent(KEYS, VOLUME, INODE, extent)
    assert (row.index, row.seq, row.chunk) == (extent.index, extent.seq, extent.chunk)
    assert open_extent(KEYS, VOLUME, INODE, row) == extent


def test_the_chunk_key_is_not_in_the_row() -> None:
    row = seal_extent(KEYS, VOLUME, INODE, DATA)
    assert row.sealed.find(KEY) < 0
    assert KEY.hex() not in repr(DATA)


@pytest.mark.parametrize("extent", [DATA, HOLE])
def test_every_single_bit_of_a_row_matters(extent: Extent) -> None:
    row = seal_extent(KEYS, VOLUME, INODE, extent)
    for bit in range(len(row.sealed) * 8):
        refuse(msgspec.structs.replace(row, sealed=flipped(row.sealed, bit)))
    for bit in range(63):
        refuse(msgspec.structs.replace(row, index=row.index ^ 1 << bit))
        refuse(msgspec.structs.replace(row, seq=row.seq ^ 1 << bit))
        refuse(row, volume=VolumeId(VOLUME ^ 1 << bit))
        refuse(row, inode=InodeId(INODE ^ 1 << bit))
    if row.chunk is not None:
        for bit in range(256):
            refuse(msgspec.structs.replace(row, chunk=flipped(row.chunk, bit)))


def test_a_hole_is_not_a_chunk_and_a_chunk_is_no_hole() -> None:
    data, hole = seal_extent(KEYS, VOLUME, INODE, DATA), seal_extent(KEYS, VOLUME, INODE, HOLE)
    refuse(msgspec.structs.replace(data, chunk=None))
    refuse(msgspec.structs.replace(hole, chunk=CHUNK))
    refuse(msgspec.structs.replace(hole, chunk=b""))
    refuse(msgspec.structs.replace(data, chunk=CHUNK + b"\0"))


def test_rows_of_another_volume_key_or_epoch_do_not_open() -> None:
    other = VolumeKeys.derive(bytes(32))
    refuse(seal_extent(other, VOLUME, INODE, DATA))
    refuse(seal_extent(VolumeKeys.derive(bytes(range(32)), epoch=2), VOLUME, INODE, DATA))


@pytest.mark.parametrize("length", [0, 1, 3, 18, 19, 20])
def test_short_rows_are_corrupt(length: int) -> None:
    row = seal_extent(KEYS, VOLUME, INODE, DATA)
    refuse(msgspec.structs.replace(row, sealed=row.sealed[:length]))


@pytest.mark.parametrize(
    ("off", "length", "chunk_off"),
    [(0, 0, 0), (1, CHUNK_BYTES, 0), (0, CHUNK_BYTES, 1), (CHUNK_BYTES, 1, 0), (0, 1, CHUNK_BYTES), (0, 2**32 - 1, 0)],
)
def test_an_extent_that_leaves_its_mebibyte_or_chunk_is_corrupt(off: int, length: int, chunk_off: int) -> None:
    """Only a member could seal these; a reader still does not believe them."""
    refuse(seal_extent(KEYS, VOLUME, INODE, Extent(0, 1, off, length, CHUNK, chunk_off, KEY)))


def test_a_malformed_row_is_corrupt_not_a_crash() -> None:
    refuse(ExtentRow(-1, 1, None, b""))
    hole_with_offset = Extent(0, 1, 0, 1, None, 5, None)
    refuse(seal_extent(KEYS, VOLUME, INODE, hole_with_offset))
    context = VOLUME.to_bytes(8, "big") + INODE.to_bytes(8, "big") + bytes(8) + b"\0"
    refuse(ExtentRow(0, 1, None, seal_row(KEYS.extents, KEYS.prefix, b"odd", context)))


# ---- layers ---------------------------------------------------------------------------------------------------------

WIDTH = 48  # resolve knows no unit: a small "MiB" meets every way in which layers overlap


@st.composite
def layers(draw: st.DrawFn) -> list[Extent]:
    count = draw(st.integers(0, 16))
    seqs = draw(st.permutations(range(1, count + 1)))
    made = []
    for seq in seqs:
        off = draw(st.integers(0, WIDTH - 1))
        length = draw(st.integers(1, WIDTH - off))
        hole = draw(st.booleans()) and draw(st.booleans())
        chunk = None if hole else ChunkId(bytes([draw(st.integers(1, 3))]) * 32)
        chunk_off = 0 if hole else draw(st.integers(0, 100))
        made.append(Extent(0, seq, off, length, chunk, chunk_off, None if hole else KEY))
    return made


def written(made: list[Extent]) -> list[tuple[int, int] | None]:
    """The model: an array in which each layer, oldest first, writes (seq, byte of its chunk)."""
    cells: list[tuple[int, int] | None] = [None] * WIDTH
    for layer in sorted(made, key=lambda layer: layer.seq):
        for at in range(layer.length):
            cells[layer.off + at] = None if layer.chunk is None else (layer.seq, layer.chunk_off + at)
    return cells


@settings(max_examples=500)
@given(layers(), st.integers(0, WIDTH), st.integers(0, WIDTH))
def test_resolving_reads_what_writing_in_order_wrote(made: list[Extent], one: int, other: int) -> None:
    off, stop = sorted((one, other))
    segments = resolve(made, off, stop - off)
    cells = written(made)
    at = off
    for segment in segments:
        assert segment.off == at
        assert segment.length >= 1
        for step in range(segment.length):
            read = None if segment.extent is None else (segment.extent.seq, segment.chunk_off + step)
            assert read == cells[at + step]
        at += segment.length
    assert at == stop
    assert all(segment.extent is None or segment.extent.chunk is not None for segment in segments)
    assert all(one.extent is not two.extent for one, two in itertools.pairwise(segments))


def test_nothing_asked_is_nothing_and_no_layers_are_zeros() -> None:
    assert resolve([DATA], 0, 0) == []
    assert resolve([], 5, 7) == [Segment(5, 7, None, 0)]


def test_a_write_into_the_middle_of_a_chunk() -> None:
    base = Extent(0, 1, 0, 100, CHUNK, 0, KEY)
    patch = Extent(0, 2, 40, 10, ChunkId(b"d" * 32), 7, KEY)
    assert resolve([base, patch], 10, 60) == [
        Segment(10, 30, base, 10),
        Segment(40, 10, patch, 7),
        Segment(50, 20, base, 50),
    ]
    assert resolve([patch, base], 42, 3) == [Segment(42, 3, patch, 9)]


def test_holes_and_nothing_are_one_stretch_of_zeros() -> None:
    base = Extent(0, 1, 0, 100, CHUNK, 0, KEY)
    punched = Extent(0, 2, 60, 40, None, 0, None)
    assert resolve([base, punched], 50, 100) == [Segment(50, 10, base, 50), Segment(60, 90, None, 0)]


def refuse(row: ExtentRow, *, volume: VolumeId = VOLUME, inode: InodeId = INODE) -> None:
    with pytest.raises(Corrupt):
        open_extent(KEYS, volume, inode, row)
