"""Runs of blocks as every store uses them: which there are, and which bytes they cover.

The arithmetic is format.ranges; this adds the refusal of runs that a chunk does not have.
"""

from collections.abc import Sequence

from p2pfs.chunks.protocol import Blocks
from p2pfs.errors import Corrupt, Misuse
from p2pfs.format import ranges
from p2pfs.types import Buffer


def block_count(size: int) -> int:
    """Blocks of a chunk of `size` sealed bytes.

    Raises:
        Misuse: No chunk has that size.
    """
    try:
        return ranges.block_count(ranges.plain_size(size))
    except Corrupt as error:
        raise Misuse(str(error)) from None


def expect_chunk(size: int) -> None:
    """Refuse bytes that cannot be a sealed chunk, by their number. Raises Misuse."""
    block_count(size)


def whole(size: int) -> Blocks:
    """The run of all blocks of a chunk."""
    return Blocks(0, block_count(size))


def span(size: int, blocks: Blocks) -> tuple[int, int]:
    """[start, stop) of a run within the sealed chunk.

    Raises:
        Misuse: No chunk has that size, or it has no such blocks.
    """
    if blocks.first < 0 or blocks.count < 1 or blocks.first + blocks.count > block_count(size):
        raise Misuse(f"a chunk of {size} sealed bytes has no blocks {blocks.first}+{blocks.count}")
    return ranges.sealed_span(blocks.first, blocks.count, size)


def run_of(start: int, stop: int) -> Blocks:
    """The run that covers sealed bytes [start, stop), not empty, of a chunk."""
    first = start // ranges.SEALED_BLOCK_BYTES
    return Blocks(first, (stop - 1) // ranges.SEALED_BLOCK_BYTES - first + 1)


def expect_size(stored: int, size: int) -> None:
    """Refuse to serve a chunk under a size it does not have: the bytes asked for do not exist.

    Raises:
        Corrupt: `stored` is not `size`.
    """
    if stored != size:
        raise Corrupt(f"the chunk has {stored} sealed bytes, not {size}")


def total_bytes(parts: Sequence[Buffer]) -> int:
    """Bytes of all parts together."""
    return sum(memoryview(part).nbytes for part in parts)
