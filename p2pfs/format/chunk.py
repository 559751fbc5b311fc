"""Chunk format 1: sealing file bytes into a chunk, opening any of its blocks, and naming and verifying sealed bytes.

Sealing and opening need keys and happen on clients; `block_hashes`, `chunk_id`, `verify` and `BlockHasher` need none
and serve peers, caches and scrubbers as well. Layout and security argument: docs/format.md. Everything here is
synchronous and may run in threads: the libraries release the GIL while they work on a block.
"""

import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2pfs.errors import Corrupt, Misuse
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.ranges import SEALED_BLOCK_BYTES, block_count, plain_size, sealed_size, sealed_span
from p2pfs.types import BLOCK_BYTES, BLOCKS_PER_CHUNK, CHUNK_BYTES, TAG_BYTES, Buffer, ChunkId, ChunkKey

FORMAT: Final = 1
HASH_BYTES: Final = 32
KEY_BYTES: Final = 32
_KEY_LABEL: Final = bytes((FORMAT,)) + BLOCK_BYTES.to_bytes(4, "big")
_ID_LABEL: Final = b"p2pfs chunk 1\0"
# nonce = a byte that is 1 for the last block ‖ block number: a chunk cannot be cut at a block border unseen.
_MIDDLE: Final = tuple(number.to_bytes(12, "big") for number in range(BLOCKS_PER_CHUNK))
_LAST: Final = tuple(b"\1" + number.to_bytes(11, "big") for number in range(BLOCKS_PER_CHUNK))


@dataclass(frozen=True, slots=True)
class SealedChunk:
    """A chunk ready to be stored; `data` is all of its sealed bytes."""

    id: ChunkId
    key: ChunkKey = field(repr=False)
    data: memoryview = field(repr=False)
    plain_bytes: int

    @property
    def size(self) -> int:
        """Sealed bytes."""
        return len(self.data)


class _Scratch(threading.local):
    """Where parts are joined, one per thread: fresh pages would cost more than the copy."""

    def __init__(self) -> None:
        self.plain = memoryview(bytearray(CHUNK_BYTES))


_scratch = _Scratch()


def seal(
    keys: VolumeKeys, parts: Sequence[Buffer], *, dedup: bool = True, into: bytearray | None = None
) -> SealedChunk:
    """Seal the concatenation of `parts`, 1 byte to 1 MiB.

    With `dedup`, equal bytes of one volume give equal chunks; without, the key is random at every call. `into`, if
    given, has room for the sealed bytes and belongs to the chunk until it is stored.

    Raises:
        Misuse: No bytes, too many, or `into` is too small.
    """
    plain = sum(len(part) for part in parts)
    if not 1 <= plain <= CHUNK_BYTES:
        raise Misuse(f"a chunk has 1 to {CHUNK_BYTES} bytes, not {plain}")
    runs = tuple(_runs(parts))
    key = _content_key(keys, runs) if dedup else ChunkKey(secrets.token_bytes(KEY_BYTES))
    size = sealed_size(plain)
    if into is None:
        into = bytearray(size)
    elif len(into) < size:
        raise Misuse(f"{size} sealed bytes do not fit into {len(into)}")
    data = memoryview(into)[:size]
    cipher = AESGCM(key)
    names = []
    last = block_count(plain) - 1
    blocks = (run[at : at + BLOCK_BYTES] for run in runs for at in range(0, len(run), BLOCK_BYTES))
    for number, block in enumerate(blocks):
        start = number * SEALED_BLOCK_BYTES
        sealed = data[start : start + len(block) + TAG_BYTES]
        cipher.encrypt_into(_MIDDLE[number] if number < last else _LAST[number], block, None, sealed)
        names.append(blake3(sealed).digest())
    return SealedChunk(chunk_id(names), key, data, plain)


def open_blocks(key: ChunkKey, sealed: Buffer, *, first: int, size: int, into: memoryview | None = None) -> memoryview:
    """The plain bytes of the blocks in `sealed`, which begin with block `first` of a chunk of sealed `size`.

    `into`, if given, has room for them; the answer is a view of what was written.

    Raises:
        Corrupt: A block does not open with this key at this place, or `sealed` is not whole blocks of such a chunk.
        Misuse: `into` is too small.
    """
    total = block_count(plain_size(size))
    length = len(sealed)
    count = (length + SEALED_BLOCK_BYTES - 1) // SEALED_BLOCK_BYTES
    end = min((first + count) * SEALED_BLOCK_BYTES, size)
    if first < 0 or not count or first * SEALED_BLOCK_BYTES + length != end:
        raise Corrupt(f"{length} bytes are not whole blocks from {first} on of a chunk of {size}")
    plain = length - count * TAG_BYTES
    if into is None:
        into = memoryview(bytearray(plain))
    elif len(into) < plain:
        raise Misuse(f"{plain} plain bytes do not fit into {len(into)}")
    view, cipher = memoryview(sealed), AESGCM(key)
    try:
        for at in range(count):
            block = view[at * SEALED_BLOCK_BYTES : (at + 1) * SEALED_BLOCK_BYTES]
            start = at * BLOCK_BYTES
            nonce = _MIDDLE[first + at] if first + at < total - 1 else _LAST[first + at]
            cipher.decrypt_into(nonce, block, None, into[start : start + len(block) - TAG_BYTES])
    except InvalidTag:
        # The cipher writes before it knows: nothing of a chunk that does not open stays behind.
        into[:plain] = bytes(plain)
        raise Corrupt(f"block {first + at} of a chunk does not authenticate") from None
    return into[:plain]


def block_hashes(sealed: Buffer) -> list[bytes]:
    """The hash of each sealed block of a whole chunk, or of a run of blocks."""
    view = memoryview(sealed)
    return [blake3(view[at : at + SEALED_BLOCK_BYTES]).digest() for at in range(0, len(view), SEALED_BLOCK_BYTES)]


def chunk_id(hashes: Sequence[bytes]) -> ChunkId:
    """The name of the chunk whose sealed blocks have these hashes."""
    return ChunkId(blake3(_ID_LABEL + b"".join(hashes)).digest())


def verify(chunk: ChunkId, sealed: Buffer) -> None:
    """Refuse sealed bytes that are not the whole of `chunk`. Needs no key.

    Raises:
        Corrupt: They are not.
    """
    plain_size(len(sealed))
    if chunk_id(block_hashes(sealed)) != chunk:
        raise Corrupt(f"these bytes are not those of chunk {chunk.hex()}")


def check_audit(chunk: ChunkId, size: int, block: int, hashes: Sequence[bytes], data: Buffer) -> None:
    """Refuse what does not prove that somebody has block `block` of a chunk of sealed `size`: the hashes of all blocks,
    which the id commits to, and the bytes of that one. Needs no key, and a sixteenth of the chunk.

    Raises:
        Corrupt: It proves nothing.
        Misuse: No such chunk has such a block.
    """
    count = block_count(plain_size(size))
    if not 0 <= block < count:
        raise Misuse(f"a chunk of {size} sealed bytes has no block {block}")
    if len(hashes) != count or any(len(name) != HASH_BYTES for name in hashes) or chunk_id(hashes) != chunk:
        raise Corrupt(f"these are not the hashes of the blocks of chunk {chunk.hex()}")
    start, stop = sealed_span(block, 1, size)
    if len(data) != stop - start or blake3(data).digest() != hashes[block]:
        raise Corrupt(f"these are not the bytes of block {block} of chunk {chunk.hex()}")


class BlockHasher:
    """Hashes a chunk while its sealed bytes come in, in pieces of any size."""

    __slots__ = ("_current", "_done", "_room", "size")

    def __init__(self) -> None:
        self.size = 0
        self._done: list[bytes] = []
        self._current = blake3()
        self._room = SEALED_BLOCK_BYTES

    def update(self, data: Buffer) -> None:
        """The next bytes."""
        view = memoryview(data)
        self.size += len(view)
        while len(view) >= self._room:
            self._current.update(view[: self._room])
            view = view[self._room :]
            self._done.append(self._current.digest())
            self._current, self._room = blake3(), SEALED_BLOCK_BYTES
        if view:
            self._current.update(view)
            self._room -= len(view)

    def hashes(self) -> list[bytes]:
        """The hashes of the blocks so far; a block that is not full counts as the last."""
        return [*self._done, self._current.digest()] if self._room < SEALED_BLOCK_BYTES else list(self._done)

    def id(self) -> ChunkId:
        """The id of the chunk that ends here."""
        return chunk_id(self.hashes())


def _content_key(keys: VolumeKeys, runs: Sequence[memoryview]) -> ChunkKey:
    # By runs, not by blocks: after the label nothing is aligned to BLAKE3's tree, and short updates cost twice as much.
    hasher = blake3(_KEY_LABEL, key=keys.content)
    for run in runs:
        hasher.update(run)
    return ChunkKey(hasher.digest())


def _runs(parts: Sequence[Buffer]) -> Iterator[memoryview]:
    """The parts as runs of whole blocks; only the last run may end within a block.

    Whole blocks of an immutable part are a view of it. All others are copied first: they straddle parts, or their bytes
    could change between the hash that makes the key and the cipher, and then two different plain texts would share a
    key and a nonce.
    """
    scratch = _scratch.plain
    start = end = 0  # of the run being copied together
    for part in parts:
        view = memoryview(part)
        if type(view.obj) is bytes:
            missing = min((start - end) % BLOCK_BYTES, len(view))  # to the end of the block that earlier parts began
            scratch[end : end + missing] = view[:missing]
            end, view = end + missing, view[missing:]
            whole = len(view) - len(view) % BLOCK_BYTES
            if whole:
                if start < end:
                    yield scratch[start:end]
                yield view[:whole]
                start, view = end, view[whole:]
        scratch[end : end + len(view)] = view
        end += len(view)
    if start < end:
        yield scratch[start:end]
