"""Sealed chunks for tests of the layers that hold no keys: random bytes with the id that fits them."""

import random
from dataclasses import dataclass

from p2pfs.chunks.protocol import Blocks
from p2pfs.format.chunk import block_hashes, chunk_id
from p2pfs.format.ranges import block_count, plain_size, sealed_size
from p2pfs.types import MIB, ChunkId, VolumeId

VOLUME = VolumeId(0x1234_5678_9ABC_DEF0 >> 1)
OTHER_VOLUME = VolumeId(7)


@dataclass(frozen=True)
class Sealed:
    """A chunk as stores see it."""

    id: ChunkId
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def whole(self) -> Blocks:
        return Blocks(0, block_count(plain_size(self.size)))


def sealed(seed: int = 0, plain: int = MIB) -> Sealed:
    """A chunk of `plain` bytes; equal arguments give equal chunks."""
    data = random.Random(f"{seed} {plain}").randbytes(sealed_size(plain))
    return Sealed(chunk_id(block_hashes(data)), data)
