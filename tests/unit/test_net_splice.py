"""Two streams joined, over memory and with a clock that jumps."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, MockClock, memory_stream_pair, wait_all_tasks_blocked

from p2pfs.net.splice import LINGER_S, splice

pytestmark = pytest.mark.l0

IDLE_S = 60.0
End = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


class Joined:
    """Two outer ends, and what is known of the splice between them."""

    def __init__(self, left: End, right: End) -> None:
        self.left, self.right = left, right
        self.moved = 0
        self.over = trio.Event()

    def count(self, size: int) -> None:
        self.moved += size


@asynccontextmanager
async def joined(pair: Callable[[], tuple[End, End]] = memory_stream_pair) -> AsyncIterator[Joined]:
    left, near = pair()
    far, right = pair()
    both = Joined(left, right)

    async def run() -> None:
        await splice(near, far, idle_s=IDLE_S, moved=both.count)
        both.over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield both
        nursery.cancel_scope.cancel()


async def test_what_one_sends_the_other_receives_both_ways_and_it_is_counted() -> None:
    async with joined() as both:
        await both.left.send_all(b"question")
        assert await both.right.receive_some() == b"question"
        await both.right.send_all(b"answer!")
        assert await both.left.receive_some() == b"answer!"
        await wait_all_tasks_blocked()
        assert both.moved == 15
        assert not both.over.is_set()


async def test_the_end_of_one_reaches_the_other_which_may_still_answer(autojump_clock: MockClock) -> None:
    async with joined() as both:
        await both.left.send_all(b"last")
        await both.left.send_eof()
        assert await both.right.receive_some() == b"last"
        assert await both.right.receive_some() == b""
        await both.right.send_all(b"bye")
        assert await both.left.receive_some() == b"bye"
        await both.right.send_eof()
        await both.over.wait()


async def test_an_end_that_does_not_follow_is_waited_for_a_little(autojump_clock: MockClock) -> None:
    async with joined() as both:
        began = trio.current_time()
        await both.left.send_eof()
        await both.over.wait()
        assert trio.current_time() - began == pytest.approx(LINGER_S)


async def test_a_splice_in_which_nothing_moves_ends_and_each_byte_prolongs_it(autojump_clock: MockClock) -> None:
    async with joined() as both:
        await trio.sleep(IDLE_S - 1)
        await both.left.send_all(b"x")
        await trio.sleep(IDLE_S - 1)
        assert not both.over.is_set()
        await trio.sleep(2)
        assert both.over.is_set()


async def test_a_break_ends_it_at_once() -> None:
    async with joined() as both:
        await both.right.receive_stream.aclose()  # and what it could still send is no reason to wait
        await both.left.send_all(b"into the void")
        with trio.fail_after(1):
            await both.over.wait()


async def test_who_does_not_take_holds_up_who_sends() -> None:
    def narrow() -> tuple[End, End]:
        return trio.testing.lockstep_stream_pair()

    sent = 0

    async with joined(narrow) as both, trio.open_nursery() as nursery:

        async def send() -> None:
            nonlocal sent
            while True:
                await both.left.send_all(bytes(1000))
                sent += 1000

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert sent <= 2000  # one piece is held, and a stream in lockstep holds nothing
        assert len(await both.right.receive_some(1000)) == 1000
        nursery.cancel_scope.cancel()
