"""When a mount fetches ahead: for readers that go on where they were, and not for those that jump."""

import itertools
import random

import pytest

from p2pfs.types import BLOCK_BYTES, MIB
from p2pfs.vfs.reader import MOST_AHEAD, ReadAhead

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
