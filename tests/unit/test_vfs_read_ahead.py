"""When a mount fetches ahead: for readers that go on where they were, and not for those that jump."""

import itertools
import random
from typing import Any

import pytest
import trio
import trio.testing
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import BLOCK_BYTES, MIB, ROOT_INODE
from p2pfs.vfs.limits import Limits
from p2pfs.vfs.reader import MOST_AHEAD, ReadAhead
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l0


def windows(*reads: tuple[int, int]) -> list[int]:
    """The window after each read (offset, length) of one handle."""
    ahead, found = ReadAhead(), []
    for offset, length in reads:
        ahead.note(offset, length)
        found.append(ahead.window)
    return found


def test_large_reads_in_order_fetch_ahead_from_the_first_on_and_ever_more() -> None:
    found = windows(*((at * MIB, MIB) for at in range(6)))
    assert found == [1, 2, 4, MOST_AHEAD, MOST_AHEAD, MOST_AHEAD]


def test_small_reads_in_order_fetch_ahead_from_the_second_on() -> None:
    assert windows((0, 4096), (4096, 4096), (8192, 4096)) == [0, 1, 1]


def test_reads_a_little_out_of_order_are_in_order() -> None:
    step = 2 * BLOCK_BYTES
    assert min(windows((0, step), (2 * step, step), (step, step), (3 * step, step))) == 1


def test_a_jump_ends_it() -> None:
    assert windows((0, MIB), (MIB, MIB), (64 * MIB, 4096), (10 * MIB, 4096)) == [1, 2, 0, 0]


def test_random_reads_that_happen_to_be_close_fetch_nothing_ahead() -> None:
    chance = random.Random(1)
    reads = [(chance.randrange(256 * 256) * 4096, 4096) for _ in range(2000)]
    near = sum(abs(one[0] - other[0]) <= MIB for one, other in itertools.pairwise(reads))
    assert near > 10
    assert sum(windows(*reads)) <= 1


class Counted(MemoryStore):
    """Knows how often it was asked for something."""

    gets = 0

    async def get(self, *asked: Any, **more: Any) -> memoryview:  # noqa: ANN401 - as that one
        self.gets += 1
        return await super().get(*asked, **more)


@pytest.mark.parametrize("memory_mib", [1, 2, 3, 4, 8, 16, 64])
async def test_what_is_fetched_ahead_is_still_there_when_it_is_read(memory_mib: int) -> None:
    volume, store = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), Counted()
    size, step = 32 * MIB, 2 * BLOCK_BYTES
    async with filesystem(volume.session(), store, limits=Limits(memory_cache=memory_mib * MIB)) as served:
        handle = await served.create(ROOT_INODE, b"file", 0o644, Owner(0, 0))
        for at in range(0, size, MIB):
            await served.write(handle, at, bytes([at // MIB]) * MIB)
        await served.fsync(handle)
        page = await served._reader.page(handle.inode, 0)
        for chunk in page.sizes:
            served._reader.drop(chunk)
        for at in range(0, size, step):
            assert await served.read(handle, at, step) == bytes([at // MIB]) * step
            await trio.testing.wait_all_tasks_blocked()  # what is fetched ahead comes in time
        assert size // MIB <= store.gets <= size // MIB + 1  # the first may be had before its task begins
