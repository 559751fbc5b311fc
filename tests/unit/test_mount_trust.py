"""What the kernel may believe for long, and that all of it can be taken back."""

import threading
from collections.abc import AsyncIterator

import pyfuse3
import pytest
import trio
import trio.testing
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE
from p2pfs_mount.invalidation import KernelCache
from p2pfs_mount.operations import Operations
from p2pfs_mount.trust import DELIVERY_S, GENERATION_S, KERNEL_CACHE_S, LONGEST_S, PORTION, KernelTrust

pytestmark = pytest.mark.l0

ROOT = pyfuse3.InodeT(ROOT_INODE)


class Word:
    """How long an answer stays right."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def word() -> Word:
    return Word()


class Kernel:
    """Takes notifications while it is let."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.may = threading.Event()
        self.may.set()

    def inode(self, number: int, attributes_only: bool) -> None:
        assert attributes_only
        self.may.wait()
        self.got.append(number)

    def entry(self, parent: int, name: bytes) -> None:
        self.may.wait()
        self.got.append((parent, name))


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
async def cache(kernel: Kernel) -> AsyncIterator[KernelCache]:
    made = KernelCache(
        deadline_s=60.0, stuck=lambda: None, invalidate_inode=kernel.inode, invalidate_entry=kernel.entry
    )
    yield made
    kernel.may.set()
    await made.aclose()


async def test_timeouts_follow_the_word_and_never_exceed_it(word: Word) -> None:
    trust = KernelTrust(word)
    for word.seconds, given in ((0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (7.5, 7.5), (30.0, 30.0), (99.0, 30.0)):
        assert (trust.inode_s(7), trust.name_s(1, b"n")) == (given, given)


async def test_what_is_given_for_a_second_is_not_remembered(word: Word) -> None:
    trust = KernelTrust(word)
    trust.inode_s(7)
    assert (len(trust), trust.longest_s()) == (0, 0.0)


async def test_all_that_was_given_is_withdrawn_names_before_inodes(
    word: Word, cache: KernelCache, kernel: Kernel
) -> None:
    trust, word.seconds = KernelTrust(word), 30.0
    for number in range(PORTION + 10):
        trust.inode_s(number)
        trust.name_s(1, b"%d" % number)
    word.seconds = 0.0
    assert LONGEST_S < trust.longest_s() <= LONGEST_S + DELIVERY_S
    await trust.withdraw(cache)
    names = {(1, b"%d" % number) for number in range(PORTION + 10)}
    assert set(kernel.got[: len(names)]) == names
    assert sorted(kernel.got[len(names) :]) == list(range(PORTION + 10))  # type: ignore[type-var]
    assert (len(trust), trust.longest_s()) == (0, 0.0)


async def test_withdrawing_waits_for_the_kernel_and_may_be_given_up(
    word: Word, cache: KernelCache, kernel: Kernel
) -> None:
    trust, word.seconds = KernelTrust(word), 30.0
    trust.name_s(1, b"n")
    kernel.may.clear()
    with trio.move_on_after(0.01) as waiting:
        await trust.withdraw(cache)
    assert waiting.cancelled_caught
    assert (len(trust), trust.longest_s() > LONGEST_S - 1) == (1, True)
    kernel.may.set()
    await trust.withdraw(cache)
    assert (kernel.got[-1], len(trust), trust.longest_s()) == ((1, b"n"), 0, 0.0)


async def test_what_an_overflow_dropped_is_withdrawn_again(word: Word, kernel: Kernel) -> None:
    cache = KernelCache(
        deadline_s=60.0, stuck=lambda: None, invalidate_inode=kernel.inode, invalidate_entry=kernel.entry,
        most_waiting=10, threads=1,
    )  # fmt: skip
    trust, word.seconds = KernelTrust(word), 30.0
    for number in range(8):
        trust.inode_s(number)
    kernel.may.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trust.withdraw, cache)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(100, 104):  # more than fit: all that wait are dropped
            cache.stale_inode(number, content=False)
        assert cache.overflows == 1
        kernel.may.set()
    assert set(range(8)) <= set(kernel.got)
    await cache.aclose()


async def test_waiting_for_notifications_ends_when_the_mount_does(cache: KernelCache, kernel: Kernel) -> None:
    kernel.may.clear()
    cache.stale_inode(1, content=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.idle)
        await trio.testing.wait_all_tasks_blocked()
        kernel.may.set()
        await cache.aclose()


async def test_no_more_than_so_many_are_trusted_until_they_run_out(
    word: Word, autojump_clock: trio.testing.MockClock
) -> None:
    trust, word.seconds = KernelTrust(word, most=4), 30.0
    given = [trust.inode_s(number) for number in range(6)]
    assert given == [30.0] * 4 + [KERNEL_CACHE_S] * 2
    assert trust.inode_s(0) == 30.0  # known already
    await trio.sleep(GENERATION_S)
    assert trust.inode_s(10) == KERNEL_CACHE_S  # what was given last may not have run out yet
    await trio.sleep(GENERATION_S)
    assert trust.inode_s(10) == 30.0
    assert len(trust) == 1


async def test_what_has_not_run_out_is_never_forgotten(word: Word, autojump_clock: trio.testing.MockClock) -> None:
    trust, word.seconds, until = KernelTrust(word), 30.0, dict[int, float]()
    for number in range(200):
        await trio.sleep(1.7)
        until[number] = trio.current_time() + trust.inode_s(number) + DELIVERY_S
        known = trust._young | trust._old
        assert {n for n, when in until.items() if when > trio.current_time()} <= known
        assert len(known) < 2 * GENERATION_S / 1.7 + 2


class Context:
    uid, gid, pid, umask = 0, 0, 1, 0


async def test_handlers_give_what_they_may_for_long_and_that_a_name_leads_nowhere(word: Word) -> None:
    names = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(names, MemoryStore(), trust=word) as fs:
        operations, context = Operations(fs, io_timeout_s=30.0), Context()

        async def look(name: bytes) -> tuple[bool, float, float]:
            entry = await operations.lookup(ROOT, name, context)  # type: ignore[arg-type]
            return entry.st_ino != 0, entry.entry_timeout, entry.attr_timeout

        word.seconds = 30.0
        made = await operations.mkdir(ROOT, b"d", 0o755, context)  # type: ignore[arg-type]
        assert (made.entry_timeout, made.attr_timeout) == (30.0, 30.0)
        assert await look(b"d") == (True, 30.0, 30.0)
        assert (await look(b"none"))[:2] == (False, 30.0)
        assert len(operations.trust) == 3
        word.seconds = 1.0
        assert await look(b"d") == (True, 1.0, 1.0)
        with pytest.raises(pyfuse3.FUSEError):
            await look(b"none")
