"""Keyed locks: exclusion, order, forgetting, cancellation."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2pfs.runtime.locks import KeyedLocks

pytestmark = pytest.mark.l0


async def test_equal_keys_exclude_each_other_and_others_do_not() -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    order: list[str] = []
    release = trio.Event()

    async def first() -> None:
        async with locks("a"):
            await release.wait()
            order.append("first")

    async def second() -> None:
        async with locks("a"):
            order.append("second")

    async def other() -> None:
        async with locks("b"):
            order.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        nursery.start_soon(second)
        nursery.start_soon(other)
        await wait_all_tasks_blocked()
        assert order == ["other"]
        assert locks.is_held("a")
        assert not locks.is_held("b")
        release.set()
    assert order == ["other", "first", "second"]
    assert len(locks) == 0


async def test_waiters_go_in_order_of_arrival() -> None:
    locks: KeyedLocks[int] = KeyedLocks()
    order: list[int] = []

    async def wait(number: int) -> None:
        async with locks(1):
            order.append(number)

    async with trio.open_nursery() as nursery, locks(1):
        for number in range(5):
            nursery.start_soon(wait, number)
            await wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3, 4]


async def test_a_cancelled_waiter_leaves_and_the_next_goes() -> None:
    locks: KeyedLocks[int] = KeyedLocks()
    went: list[str] = []

    async def wait(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with locks(1):
                went.append(name)

    scopes = [trio.CancelScope(), trio.CancelScope()]
    async with trio.open_nursery() as nursery, locks(1):
        for name, scope in zip("xy", scopes, strict=True):
            nursery.start_soon(wait, name, scope)
            await wait_all_tasks_blocked()
        scopes[0].cancel()
        await wait_all_tasks_blocked()
    assert went == ["y"]
    assert len(locks) == 0


async def test_a_cancelled_holder_gives_the_key_back() -> None:
    locks: KeyedLocks[int] = KeyedLocks()
    with trio.CancelScope() as scope:
        async with locks(1):
            scope.cancel()
            await trio.sleep_forever()
    assert not locks.is_held(1)
    assert len(locks) == 0


async def test_an_error_inside_gives_the_key_back() -> None:
    locks: KeyedLocks[int] = KeyedLocks()
    with pytest.raises(ValueError, match="x"):
        async with locks(1):
            raise ValueError("x")
    assert len(locks) == 0
