"""Byte credits: never overdrawn, fair, cancellable, and no request waits for ever."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2pfs.errors import Misuse
from p2pfs.runtime.credits import ByteCredits

pytestmark = pytest.mark.l0


async def test_taking_waits_for_giving() -> None:
    credits = ByteCredits(10)
    await credits.take(8)
    got: list[int] = []

    async def taker() -> None:
        await credits.take(5)
        got.append(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(taker)
        await wait_all_tasks_blocked()
        assert repr(credits) == "ByteCredits(8 of 10 taken, 1 waiting)"
        credits.give(2)
        await wait_all_tasks_blocked()
        assert got == []
        credits.give(6)
    assert got == [5]
    assert credits.available == 5


async def test_small_requests_do_not_overtake_a_large_one() -> None:
    credits = ByteCredits(10)
    await credits.take(6)
    order: list[int] = []

    async def taker(n: int) -> None:
        await credits.take(n)
        order.append(n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(taker, 9)
        await wait_all_tasks_blocked()
        nursery.start_soon(taker, 2)
        await wait_all_tasks_blocked()
        assert not credits.take_nowait(1)
        assert order == []
        credits.give(6)
        await wait_all_tasks_blocked()
        assert order == [9]
        credits.give(9)
    assert order == [9, 2]


async def test_more_than_everything_is_granted_when_all_is_free() -> None:
    credits = ByteCredits(10)
    await credits.take(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(credits.take, 100)
        await wait_all_tasks_blocked()
        assert credits.taken == 1
        credits.give(1)
    assert credits.taken == 100
    assert credits.available == 0
    credits.give(100)
    assert credits.available == 10


async def test_a_cancelled_waiter_has_taken_nothing_and_lets_the_next_go() -> None:
    credits = ByteCredits(10)
    await credits.take(5)
    scope = trio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await credits.take(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled)
        await wait_all_tasks_blocked()
        nursery.start_soon(credits.take, 5)
        await wait_all_tasks_blocked()
        scope.cancel()
    assert credits.taken == 10
    assert credits.waiting == 0


async def test_taking_under_a_cancelled_scope_takes_nothing() -> None:
    credits = ByteCredits(10)
    with trio.CancelScope() as scope:
        scope.cancel()
        await credits.take(3)
    assert scope.cancelled_caught
    assert credits.taken == 0


async def test_leaving_the_block_returns_the_bytes() -> None:
    credits = ByteCredits(10)
    await credits.take(4)
    with pytest.raises(ValueError, match="x"), credits.returned(4):
        raise ValueError("x")
    assert credits.taken == 0


def test_impossible_amounts_are_refused() -> None:
    credits = ByteCredits(10)
    with pytest.raises(Misuse):
        credits.give(1)
    with pytest.raises(Misuse):
        credits.take_nowait(-1)
    with pytest.raises(Misuse):
        ByteCredits(0)


async def test_nobody_else_runs_where_nothing_is_waited_for() -> None:
    """Each turn of the scheduler costs a small read as much as its request does."""
    credits = ByteCredits(10)
    ran = False

    async def other() -> None:
        nonlocal ran
        ran = True

    async with trio.open_nursery() as nursery:
        for _ in range(64):  # in any order, and so would this task be
            nursery.start_soon(other)
        await credits.take(10)
        assert not ran
    with trio.move_on_after(0) as scope:
        await credits.take(1)
    assert scope.cancelled_caught
    assert credits.taken == 10
