"""The queue of notifications to the kernel: bounded, each item once, and somebody told when one hangs."""

import errno
import math
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing
from plugins.checklogs import Claims
from trio.testing import MockClock

from p2pfs_mount.invalidation import KernelCache
from p2pfs_mount.pending import Pending

pytestmark = pytest.mark.l0


class Kernel:
    """Takes notifications, or hangs until it lets go."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.entered = threading.Semaphore(0)
        self.lets_go = threading.Event()
        self.error: OSError | None = None

    def inode(self, number: int, attributes_only: bool) -> None:
        self._take((number, attributes_only))

    def entry(self, parent: int, name: bytes) -> None:
        self._take((parent, name))

    def _take(self, what: object) -> None:
        self.entered.release()
        self.lets_go.wait()
        self.got.append(what)
        if self.error is not None:
            raise self.error

    async def has_one(self) -> None:
        await trio.to_thread.run_sync(self.entered.acquire)


def cache_over(
    kernel: Kernel, *, stuck: Callable[[], None] = lambda: None, most: int = 100, deadline_s: float = 60.0
) -> KernelCache:
    return KernelCache(
        deadline_s=deadline_s, stuck=stuck, most_waiting=most, threads=1,
        invalidate_inode=kernel.inode, invalidate_entry=kernel.entry,
    )  # fmt: skip


async def drained(cache: KernelCache, kernel: Kernel, calls: int) -> None:
    kernel.lets_go.set()
    for _ in range(calls):
        await kernel.has_one()
    await cache.aclose()


async def test_what_waits_is_there_once_and_keeps_that_content_is_stale() -> None:
    kernel = Kernel()
    cache = cache_over(kernel)
    cache.stale_inode(1, content=False)
    await kernel.has_one()
    for _ in range(3):
        cache.stale_name(7, b"name")
        cache.stale_inode(2, content=True)
        cache.stale_inode(2, content=False)
        cache.stale_inode(1, content=False)  # the call under way may have come too early
    assert repr(cache) == "KernelCache(3 waiting, 0 done, 0 overflows)"
    await drained(cache, kernel, 3)
    assert kernel.got == [(1, True), (7, b"name"), (2, False), (1, True)]


async def test_a_kernel_with_unwritten_pages_is_told_only_of_attributes() -> None:
    kernel = Kernel()
    cache = KernelCache(
        deadline_s=60.0, stuck=lambda: None, threads=1, keeps_pages=True,
        invalidate_inode=kernel.inode, invalidate_entry=kernel.entry,
    )  # fmt: skip
    cache.stale_inode(1, content=True)
    await drained(cache, kernel, 1)
    assert kernel.got == [(1, True)]


async def test_an_overflow_drops_what_waits_and_is_counted() -> None:
    kernel = Kernel()
    cache = cache_over(kernel, most=5)
    cache.stale_inode(1, content=False)
    await kernel.has_one()
    for number in range(2, 8):
        cache.stale_inode(number, content=False)
    assert (cache.waiting, cache.overflows) == (1, 1)
    await drained(cache, kernel, 1)
    assert kernel.got == [(1, True), (7, True)]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTCONN])
async def test_what_the_kernel_does_not_know_is_no_error(number: int) -> None:
    kernel = Kernel()
    kernel.error = OSError(number, "unknown")
    cache = cache_over(kernel)
    cache.stale_name(1, b"a")
    await drained(cache, kernel, 1)
    assert cache.done == 1


async def test_other_errors_are_told_and_the_thread_goes_on(claim_logs: Claims) -> None:
    kernel = Kernel()
    kernel.error = OSError(errno.ENOSYS, "no such notification")
    cache = cache_over(kernel)
    cache.stale_name(1, b"a")
    cache.stale_name(1, b"b")
    await drained(cache, kernel, 2)
    assert cache.done == 2
    claim_logs("the kernel was not told of a change", count=2)


async def test_a_call_that_hangs_is_told_of_once_after_the_deadline(autojump_clock: MockClock) -> None:
    kernel, told = Kernel(), []
    cache = cache_over(kernel, stuck=lambda: told.append(trio.current_time()), deadline_s=8.0)
    start = trio.current_time()
    with trio.move_on_after(100):
        await cache.watch()  # nothing hangs: it does not end
        told.append(0.0)
    assert told == []
    cache.stale_inode(1, content=True)
    assert kernel.entered.acquire(timeout=10)
    await cache.watch()
    assert 8.0 <= told[0] - start - 100 <= 10.0
    kernel.lets_go.set()
    await cache.aclose()
    assert len(told) == 1


async def test_calls_that_end_are_never_taken_for_one_that_hangs(autojump_clock: MockClock) -> None:
    kernel, told = Kernel(), []
    kernel.lets_go.set()
    cache = cache_over(kernel, stuck=lambda: told.append(1), deadline_s=8.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.watch)
        for number in range(20):
            cache.stale_inode(number, content=False)
            assert kernel.entered.acquire(timeout=10)
            await trio.sleep(1.9)
        nursery.cancel_scope.cancel()
    await cache.aclose()
    assert told == []


async def test_closing_asks_until_the_kernel_lets_go() -> None:
    kernel = Kernel()
    cache = cache_over(kernel, stuck=kernel.lets_go.set)
    cache.stale_inode(1, content=False)
    cache.stale_inode(2, content=False)
    await kernel.has_one()
    await cache.aclose()
    cache.stale_inode(3, content=False)
    assert (kernel.got, cache.waiting) == ([(1, True)], 0)


async def test_the_newest_of_too_many_that_wait_for_long_end(autojump_clock: MockClock) -> None:
    pending, ended = Pending(math.inf), []

    async def handler(number: int) -> None:
        try:
            with pending.one():
                await trio.sleep_forever()
        except trio.TooSlowError:
            ended.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pending.keep_capped, 30.0, 3)
        for number in range(5):
            nursery.start_soon(handler, number)
            await trio.sleep(5)
        await trio.sleep(22)
        assert ended == [3]  # four are older than 30 s
        await trio.sleep(1000)
        assert ended == [3, 4]
        nursery.cancel_scope.cancel()


async def test_handlers_have_all_their_time_again_as_long_as_bytes_leave(autojump_clock: MockClock) -> None:
    pending, start = Pending(50.0), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pending.excuse, lambda: min(trio.current_time(), start + 1000))
        with pytest.raises(trio.TooSlowError), pending.one():
            await trio.sleep_forever()
        assert trio.current_time() - start == pytest.approx(1000 + 50, abs=6)
        assert pending.oldest_s() == 0
        nursery.cancel_scope.cancel()


async def test_handlers_that_wait_end_when_they_are_released(autojump_clock: MockClock) -> None:
    pending, ended = Pending(50.0), []

    async def handler() -> None:
        try:
            with pending.one():
                await trio.sleep_forever()
        except trio.TooSlowError:
            ended.append(trio.current_time())

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pending) == 1
        await trio.sleep(20)
        pending.release()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(handler)
    assert [at - start for at in ended] == [20.0, 70.0]
    assert len(pending) == 0
