"""The rate limit: no faster than told, in order, cancellable, and it may change while somebody waits."""

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pfs.errors import Misuse
from p2pfs.net.pace import BURST_S
from p2pfs.runtime.clocks import SimulatedClock
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import MIB

pytestmark = pytest.mark.l0


async def took_s(limit: RateLimit, *amounts: int) -> float:
    began = trio.current_time()
    for amount in amounts:
        await limit.take(amount)
    return trio.current_time() - began


async def test_a_burst_is_free_and_then_the_rate_holds(autojump_clock: MockClock) -> None:
    limit = RateLimit(100, SimulatedClock())
    assert await took_s(limit, 60, 40) == 0
    assert await took_s(limit, *[10] * 50) == pytest.approx(5, abs=0.01)
    await trio.sleep(1000)  # saves up one burst and no more
    assert await took_s(limit, 100, 100) == pytest.approx(1, abs=0.01)


async def test_more_than_a_burst_is_granted_and_paid_off_by_those_behind(autojump_clock: MockClock) -> None:
    limit = RateLimit(100, SimulatedClock())
    assert await took_s(limit, 1000) == 0
    assert await took_s(limit, 1000) == pytest.approx(10, abs=0.01)
    assert await took_s(limit, 1) == pytest.approx(9.01, abs=0.01)


@pytest.mark.parametrize("rate", [3.7, 16 * 2**20, 1e12])
async def test_odd_rates_end_waiting(rate: float, autojump_clock: MockClock) -> None:
    """Rounding must not leave a hair of a token to wait for, for ever."""
    limit = RateLimit(rate, SimulatedClock())
    amounts = [math.ceil(rate / 3)] * 30
    assert await took_s(limit, *amounts) == pytest.approx(sum(amounts) / rate - 1, rel=0.05)


async def test_without_a_limit_nobody_waits(autojump_clock: MockClock) -> None:
    limit = RateLimit(None, SimulatedClock())
    assert await took_s(limit, 10**15, 10**15) == 0
    limit.rate = 100
    assert await took_s(limit, 200) == pytest.approx(1, abs=0.01)  # neither a debt from before nor savings


async def test_who_came_first_is_served_first(autojump_clock: MockClock) -> None:
    limit = RateLimit(100, SimulatedClock())
    await limit.take(100)
    order: list[int] = []

    async def taker(amount: int) -> None:
        await limit.take(amount)
        order.append(amount)

    async with trio.open_nursery() as nursery:
        for amount in (90, 1, 50, 2):
            nursery.start_soon(taker, amount)
            await wait_all_tasks_blocked()
    assert order == [90, 1, 50, 2]


async def test_a_cancelled_waiter_took_nothing_and_holds_nobody_up(autojump_clock: MockClock) -> None:
    limit = RateLimit(100, SimulatedClock())
    await limit.take(100)
    began = trio.current_time()
    with trio.move_on_after(0.5):
        await limit.take(100)
    assert trio.current_time() - began == 0.5
    assert await took_s(limit, 100) == pytest.approx(0.5, abs=0.01)


async def test_a_new_rate_counts_at_once_for_those_who_wait(autojump_clock: MockClock) -> None:
    limit = RateLimit(1, SimulatedClock())
    await limit.take(1)
    times: list[float] = []

    async def taker() -> None:
        times.append(await took_s(limit, 1, 1000, 1000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(taker)
        await trio.sleep(100)  # the second thousand would take a quarter of an hour
        limit.rate = 1000
    assert times == [pytest.approx(101.9, abs=0.1)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(took_s, limit, 10**6, 1)
        await trio.sleep(1)
        began = trio.current_time()
        limit.rate = None
    assert trio.current_time() == began


async def test_a_slower_rate_takes_the_savings_away(autojump_clock: MockClock) -> None:
    limit = RateLimit(1000, SimulatedClock())
    limit.rate = 10
    assert await took_s(limit, 10, 10) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [0, -1, math.nan])
async def test_no_rate_is_zero(rate: float) -> None:
    with pytest.raises(Misuse):
        RateLimit(rate, SimulatedClock())
    limit = RateLimit(1, SimulatedClock())
    with pytest.raises(Misuse):
        limit.rate = rate


@pytest.mark.parametrize("rate", [MIB, 8 * MIB, 64 * MIB])
async def test_repair_keeps_its_limit_within_five_percent(rate: int, autojump_clock: MockClock) -> None:
    """As a peer copies: whole chunks, four at once, as fast as it is let; from a pause on, and over a minute."""
    limit, copied = RateLimit(rate, SimulatedClock(), burst_s=BURST_S), 0
    await trio.sleep(3600)

    async def copy() -> None:
        nonlocal copied
        while True:
            await limit.take(MIB)
            copied += MIB

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(copy)
    assert copied / 60 == pytest.approx(rate, rel=0.05)
