"""Patience: who may go on from what is known, and for how long nobody asks again."""

import pytest
import trio
from trio.testing import MockClock

from p2pfs.errors import CoordinatorAway
from p2pfs.vfs.patience import OPEN_S, PAUSE_S, STAT_S, Patience

pytestmark = pytest.mark.l0


async def answer() -> str:
    return "new"


async def silence() -> str:
    await trio.sleep_forever()
    raise AssertionError


async def away() -> str:
    raise CoordinatorAway("nobody answers")


async def test_a_slow_stat_does_not_keep_an_open_from_asking(autojump_clock: MockClock) -> None:
    patience = Patience()
    assert await patience.ask(silence, STAT_S) is None
    assert await patience.ask(answer, STAT_S) is None
    assert await patience.ask(answer, OPEN_S) == "new"


@pytest.mark.parametrize("question", [silence, away])
async def test_after_the_longest_wait_nobody_asks_for_a_while(autojump_clock: MockClock, question: object) -> None:
    patience = Patience()
    assert await patience.ask(question, OPEN_S) is None  # type: ignore[arg-type]
    assert await patience.ask(answer, OPEN_S) is None
    await trio.sleep(PAUSE_S)
    assert await patience.ask(answer, OPEN_S) == "new"


@pytest.mark.parametrize("question", [silence, away])
async def test_a_coordinator_that_was_heard_of_is_asked_at_once(autojump_clock: MockClock, question: object) -> None:
    patience = Patience()
    assert await patience.ask(question, OPEN_S) is None  # type: ignore[arg-type]
    patience.heard()
    assert await patience.ask(answer, STAT_S) == "new"


async def test_a_process_that_was_stopped_meanwhile_asks_again(mock_clock: MockClock) -> None:
    patience = Patience()
    questions = 0

    async def stopped_at_first() -> str:
        nonlocal questions
        questions += 1
        if questions == 1:
            mock_clock.jump(600)
            await trio.sleep_forever()
        return "new"

    assert await patience.ask(stopped_at_first, OPEN_S) == "new"
