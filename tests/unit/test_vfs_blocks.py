"""Plain blocks kept in memory: found by any of their bytes, within a budget that counts the memory they take."""

import secrets

import pytest

from p2pfs.chunks.pages import room
from p2pfs.types import BLOCK_BYTES, KIB, MIB, ChunkId
from p2pfs.vfs.blocks import MOST_MEMORY, BlockCache, PlainRun

pytestmark = pytest.mark.l0

CHUNK = ChunkId(bytes(32))


def lent(size: int) -> memoryview:
    """Memory of the pool, as a reader opens chunks into, with something in it."""
    memory = room(size)
    memory[:] = secrets.token_bytes(size)
    return memory


def test_what_is_kept_is_found_by_any_of_its_bytes_until_it_is_dropped() -> None:
    cache, data = BlockCache(MIB), memoryview(secrets.token_bytes(2 * BLOCK_BYTES))
    cache.put(CHUNK, PlainRun(BLOCK_BYTES, data))
    assert cache.get(CHUNK, BLOCK_BYTES + 5, BLOCK_BYTES) == data[5 : BLOCK_BYTES + 5]
    assert cache.get(CHUNK, 0, 1) is None
    assert (cache.hits, cache.misses) == (1, 1)
    cache.drop(CHUNK)
    assert cache.get(CHUNK, BLOCK_BYTES, 1) is None
    assert cache.bytes == 0


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = BlockCache(2 * BLOCK_BYTES)
    for block in (0, 1):
        cache.put(CHUNK, PlainRun(block * BLOCK_BYTES, memoryview(bytes(BLOCK_BYTES))))
    assert cache.get(CHUNK, 0, 1) is not None
    cache.put(CHUNK, PlainRun(2 * BLOCK_BYTES, memoryview(bytes(BLOCK_BYTES))))
    assert [cache.get(CHUNK, block * BLOCK_BYTES, 1) is not None for block in (0, 1, 2)] == [True, False, True]


@pytest.mark.parametrize("size", [700, 60 * KIB, 265 * KIB, 300 * KIB, 500 * KIB, 900 * KIB, MIB])
def test_a_run_takes_little_more_memory_than_it_has_bytes(size: int) -> None:
    """Found: 300 KiB kept the MiB they had been opened into, and the whole cache three times its budget."""
    cache, memory = BlockCache(4 * MIB), lent(size)
    expected = bytes(memory)
    cache.put(CHUNK, PlainRun(0, memory))
    kept = cache.get(CHUNK, 0, size)
    assert kept is not None
    assert kept == expected
    assert memoryview(kept.obj).nbytes <= MOST_MEMORY * size
    assert cache.bytes == memoryview(kept.obj).nbytes
    cache.drop(CHUNK)
    assert cache.bytes == 0


def test_the_budget_is_of_memory_not_of_the_bytes_in_it() -> None:
    """Found: a cache of runs that each fill four fifths of what they lie in took a quarter more than it may."""
    cache = BlockCache(4 * MIB)
    for number in range(20):
        cache.put(ChunkId(number.to_bytes(32, "big")), PlainRun(0, lent(900 * KIB)))
        assert memory_of(cache) <= 4 * MIB
    assert memory_of(cache) > 3 * MIB


def memory_of(cache: BlockCache) -> int:
    return sum(memoryview(run.data.obj).nbytes for run in cache._runs.values())
