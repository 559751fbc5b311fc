"""Chunk format 1: what is sealed opens, what was touched does not, names need no keys."""

from collections.abc import Sequence

import pytest
from bits import flipped
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs.errors import Corrupt, Misuse
from p2pfs.format import chunk as chunks
from p2pfs.format.chunk import BlockHasher, SealedChunk, block_hashes, chunk_id, open_blocks, seal, verify
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.ranges import SEALED_BLOCK_BYTES, block_count, block_run, sealed_size, sealed_span
from p2pfs.types import BLOCK_BYTES, CHUNK_BYTES, TAG_BYTES, Buffer, ChunkKey

pytestmark = pytest.mark.l0

KEYS = VolumeKeys.derive(bytes(range(32)))
OTHER_KEYS = VolumeKeys.derive(bytes(32))
CONTENT = blake3(b"content").digest(CHUNK_BYTES)
SIZES = sorted(
    {1, 2, 15, 16, 17, CHUNK_BYTES}
    | {full + near for full in range(BLOCK_BYTES, CHUNK_BYTES, BLOCK_BYTES) for near in (-1, 0, 1)}
    | {CHUNK_BYTES - 1}
)


def open_all(chunk: SealedChunk) -> bytes:
    return bytes(open_blocks(chunk.key, chunk.data, first=0, size=chunk.size))


@pytest.mark.parametrize("size", SIZES)
def test_every_size_around_the_block_borders_opens_whole_and_block_by_block(size: int) -> None:
    sealed = seal(KEYS, [CONTENT[:size]])
    assert sealed.plain_bytes == size
    assert sealed.size == len(sealed.data) == sealed_size(size)
    assert open_all(sealed) == CONTENT[:size]
    verify(sealed.id, sealed.data)
    for block in range(block_count(size)):
        start, stop = sealed_span(block, 1, sealed.size)
        plain = open_blocks(sealed.key, sealed.data[start:stop], first=block, size=sealed.size)
        assert plain == CONTENT[block * BLOCK_BYTES : min((block + 1) * BLOCK_BYTES, size)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, CHUNK_BYTES), st.data())
def test_any_byte_range_is_in_the_blocks_its_run_names(size: int, data: st.DataObject) -> None:
    sealed = seal(KEYS, [CONTENT[:size]], dedup=False)
    off = data.draw(st.integers(0, size - 1))
    length = data.draw(st.integers(1, size - off))
    first, count = block_run(off, length)
    start, stop = sealed_span(first, count, sealed.size)
    plain = open_blocks(sealed.key, sealed.data[start:stop], first=first, size=sealed.size)
    skip = off - first * BLOCK_BYTES
    assert plain[skip : skip + length] == CONTENT[off : off + length]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_how_the_bytes_are_cut_into_parts_does_not_matter(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([5, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES - 1, 5 * BLOCK_BYTES]))
    near = st.builds(lambda block, by: block * BLOCK_BYTES + by, st.integers(0, 5), st.integers(-2, 2))
    cuts = data.draw(st.lists(st.one_of(st.integers(0, size), near.filter(lambda cut: 0 <= cut <= size)), max_size=8))
    borders = [0, *sorted(cuts), size]
    kinds = data.draw(st.lists(st.sampled_from([bytes, bytearray, memoryview]), min_size=9, max_size=9))
    parts: list[Buffer] = [
        kind(CONTENT[start:stop]) for kind, start, stop in zip(kinds, borders, borders[1:], strict=False)
    ]
    whole, cut = seal(KEYS, [CONTENT[:size]]), seal(KEYS, parts)
    assert (cut.id, cut.key, cut.data) == (whole.id, whole.key, whole.data)


def test_the_layout_is_the_documented_one() -> None:
    """Written again from docs/format.md, with nothing of the implementation."""
    plain = CONTENT[: 2 * BLOCK_BYTES + 100]
    key = blake3(b"\x01\x00\x01\x00\x00" + plain, key=KEYS.content).digest()
    blocks = [
        AESGCM(key).encrypt(bytes(12), plain[:BLOCK_BYTES], None),
        AESGCM(key).encrypt(bytes(11) + b"\x01", plain[BLOCK_BYTES : 2 * BLOCK_BYTES], None),
        AESGCM(key).encrypt(b"\x01" + bytes(10) + b"\x02", plain[2 * BLOCK_BYTES :], None),
    ]
    name = blake3(b"p2pfs chunk 1\0" + b"".join(blake3(block).digest() for block in blocks)).digest()
    sealed = seal(KEYS, [plain])
    assert (sealed.key, bytes(sealed.data), sealed.id) == (key, b"".join(blocks), name)


def test_equal_chunks_of_one_volume_are_one_and_of_two_volumes_never() -> None:
    first, again, elsewhere = seal(KEYS, [b"same"]), seal(KEYS, [b"same"]), seal(OTHER_KEYS, [b"same"])
    assert first.id == again.id
    assert first.key == again.key
    assert elsewhere.key != first.key
    assert elsewhere.id != first.id


def test_without_dedup_every_seal_has_its_own_key() -> None:
    sealed = [seal(KEYS, [b"same"], dedup=False) for _ in range(20)]
    assert len({chunk.key for chunk in sealed}) == len({chunk.id for chunk in sealed}) == 20
    assert all(open_all(chunk) == b"same" for chunk in sealed)


def test_a_buffer_that_changes_while_it_is_sealed_never_shares_a_key_with_other_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key is the hash of exactly the bytes that are encrypted, whatever the caller does to his buffer."""
    buffer = bytearray(CONTENT[: BLOCK_BYTES + 7])
    make_key = chunks._content_key

    def then_change(keys: VolumeKeys, runs: Sequence[memoryview]) -> ChunkKey:
        key = make_key(keys, runs)
        buffer[:] = bytes(len(buffer))
        return key

    monkeypatch.setattr(chunks, "_content_key", then_change)
    sealed = seal(KEYS, [buffer])
    assert open_all(sealed) == CONTENT[: BLOCK_BYTES + 7]


def test_sealing_into_a_buffer_again_reuses_it() -> None:
    into = bytearray(sealed_size(CHUNK_BYTES))
    seal(KEYS, [CONTENT], into=into)
    sealed = seal(KEYS, [b"short"], into=into)
    assert sealed.data.obj is into
    assert sealed.size == 5 + TAG_BYTES
    assert open_all(sealed) == b"short"


def test_opening_into_a_buffer_writes_only_the_plain_bytes() -> None:
    sealed = seal(KEYS, [CONTENT[: BLOCK_BYTES + 1]])
    room = bytearray(b"\xee" * (BLOCK_BYTES + 3))
    plain = open_blocks(sealed.key, sealed.data, first=0, size=sealed.size, into=memoryview(room))
    assert plain.obj is room
    assert plain == CONTENT[: BLOCK_BYTES + 1]
    assert room[-2:] == b"\xee\xee"


def test_nothing_of_a_damaged_chunk_is_left_in_the_buffer() -> None:
    sealed = seal(KEYS, [CONTENT[: BLOCK_BYTES + 100]])
    room = bytearray(b"\xee" * (BLOCK_BYTES + 101))
    touched = flipped(bytes(sealed.data), 8 * SEALED_BLOCK_BYTES)
    with pytest.raises(Corrupt):
        open_blocks(sealed.key, touched, first=0, size=sealed.size, into=memoryview(room))
    assert room == bytes(BLOCK_BYTES + 100) + b"\xee"


@pytest.mark.parametrize("parts", [[], [b""], [CONTENT, b"x"]])
def test_a_chunk_is_neither_empty_nor_larger_than_a_mebibyte(parts: list[bytes]) -> None:
    with pytest.raises(Misuse):
        seal(KEYS, parts)


def test_buffers_that_are_too_small_are_refused() -> None:
    with pytest.raises(Misuse):
        seal(KEYS, [b"abc"], into=bytearray(18))
    sealed = seal(KEYS, [b"abc"])
    with pytest.raises(Misuse):
        open_blocks(sealed.key, sealed.data, first=0, size=sealed.size, into=memoryview(bytearray(2)))


def test_every_single_bit_of_a_small_chunk_matters() -> None:
    sealed = seal(KEYS, [CONTENT[:40]])
    for bit in range(sealed.size * 8):
        touched = flipped(bytes(sealed.data), bit)
        with pytest.raises(Corrupt):
            open_blocks(sealed.key, touched, first=0, size=sealed.size)
        with pytest.raises(Corrupt):
            verify(sealed.id, touched)


def test_a_bit_anywhere_in_a_large_chunk_matters() -> None:
    """A bit in each place of the last bytes and tags, and one in every 997th byte between."""
    sealed = seal(KEYS, [CONTENT[: 2 * BLOCK_BYTES + 20]])
    whole = bytes(sealed.data)
    near = {border + by for border in (0, SEALED_BLOCK_BYTES, 2 * SEALED_BLOCK_BYTES) for by in range(-20, 20)}
    places = sorted({at for at in near if 0 <= at < len(whole)} | set(range(0, len(whole), 997)))
    for at in places:
        touched = flipped(whole, at * 8 + at % 8)
        with pytest.raises(Corrupt):
            open_blocks(sealed.key, touched, first=0, size=sealed.size)
        with pytest.raises(Corrupt):
            verify(sealed.id, touched)


def test_every_single_bit_of_the_key_matters() -> None:
    sealed = seal(KEYS, [b"abc"])
    for bit in range(256):
        with pytest.raises(Corrupt):
            open_blocks(ChunkKey(flipped(sealed.key, bit)), sealed.data, first=0, size=sealed.size)


def test_blocks_cannot_be_swapped_repeated_cut_or_extended() -> None:
    size = 3 * BLOCK_BYTES
    sealed = seal(KEYS, [CONTENT[:size]])
    one, two, three = (bytes(sealed.data[at * SEALED_BLOCK_BYTES : (at + 1) * SEALED_BLOCK_BYTES]) for at in range(3))
    for wrong in (two + one + three, one + one + three, one + two + two, three + two + one):
        with pytest.raises(Corrupt):
            open_blocks(sealed.key, wrong, first=0, size=sealed.size)
    for cut in (one, one + two):  # at a block border, with the size to match
        with pytest.raises(Corrupt):
            open_blocks(sealed.key, cut, first=0, size=len(cut))
    with pytest.raises(Corrupt):
        open_blocks(sealed.key, one + two + three + three, first=0, size=sealed.size + SEALED_BLOCK_BYTES)
    with pytest.raises(Corrupt):
        open_blocks(sealed.key, two, first=0, size=sealed.size)


@pytest.mark.parametrize(
    ("first", "length"),
    [
        (0, 0),
        (0, 1),
        (0, SEALED_BLOCK_BYTES - 1),
        (0, SEALED_BLOCK_BYTES + 1),
        (1, 36),
        (2, 36),
        (-1, 36),
        (1, SEALED_BLOCK_BYTES),
        (0, 2 * SEALED_BLOCK_BYTES),
    ],
)
def test_anything_but_whole_blocks_in_their_place_is_corrupt(first: int, length: int) -> None:
    sealed = seal(KEYS, [CONTENT[: BLOCK_BYTES + 21]])
    data = (bytes(sealed.data) * 2)[:length]
    with pytest.raises(Corrupt):
        open_blocks(sealed.key, data, first=first, size=sealed.size)


@pytest.mark.parametrize("size", [-1, 0, 16, SEALED_BLOCK_BYTES + 16, 1 << 30])
def test_an_impossible_chunk_size_is_corrupt(size: int) -> None:
    with pytest.raises(Corrupt):
        open_blocks(ChunkKey(bytes(32)), bytes(40), first=0, size=size)


@pytest.mark.parametrize("size", [0, 16, SEALED_BLOCK_BYTES + 3])
def test_verify_refuses_sizes_no_chunk_has_even_if_the_name_fits(size: int) -> None:
    data = bytes(size)
    with pytest.raises(Corrupt):
        verify(chunk_id(block_hashes(data)), data)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SIZES), st.lists(st.integers(0, 2 * SEALED_BLOCK_BYTES), max_size=30))
def test_hashing_while_receiving_gives_the_same_name(size: int, cuts: list[int]) -> None:
    data = memoryview(CONTENT)[:size]
    hasher, rest = BlockHasher(), data
    for cut in cuts:
        hasher.update(rest[:cut])
        rest = rest[cut:]
    hasher.update(rest)
    assert hasher.hashes() == block_hashes(data)
    assert hasher.id() == chunk_id(block_hashes(data))
    assert hasher.size == size
    assert hasher.id() == hasher.id()


def test_neither_key_nor_content_is_shown() -> None:
    sealed = seal(KEYS, [b"abc"])
    assert sealed.key.hex() not in repr(sealed)
    assert repr(sealed.key) not in repr(sealed)
