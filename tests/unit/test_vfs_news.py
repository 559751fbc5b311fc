"""Following other mounts through trouble: how often it is tried, and what the log says."""

import logging
from collections.abc import Sequence

import pytest
import trio
from plugins.checklogs import Claims
from trio.testing import MockClock
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway, Denied, Fenced, PoolError
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.vfs.news import LONGEST_PAUSE_S, PAUSE_S, NoKernelCache
from p2pfs.wire.events import Events

pytestmark = pytest.mark.l2

CLAIM = "no news of other mounts can be had"
NONE = Events(1, 0)


class Troubled(MemoryNamespace):
    """Answers as it is told to, in order, then ends the session; remembers when it was asked."""

    def __init__(self, answers: Sequence[PoolError | Events]) -> None:
        volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
        super().__init__(volume, volume.session().number, read_only=False)
        self.answers, self.asked = list(answers), list[float]()

    async def events(self, wait_s: float) -> Events:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        answer = self.answers.pop(0) if self.answers else Fenced("over")
        if isinstance(answer, PoolError):
            raise answer
        return answer


async def pauses(answers: Sequence[PoolError | Events]) -> list[float]:
    """Between the questions of a mount that gets these answers."""
    names = Troubled(answers)
    async with filesystem(names, MemoryStore()) as fs:
        await fs.follow(NoKernelCache())
    return [later - earlier for earlier, later in zip(names.asked, names.asked[1:], strict=False)]


async def test_a_revoked_node_asks_ever_less_often_and_says_so_once(
    autojump_clock: MockClock, claim_logs: Claims
) -> None:
    claim_logs(CLAIM, count=1)
    waited = await pauses([Denied("revoked")] * 20)
    assert waited[0] <= PAUSE_S
    assert max(waited) <= LONGEST_PAUSE_S
    assert min(waited[10:]) >= LONGEST_PAUSE_S / 2


async def test_a_coordinator_that_is_away_is_asked_each_second_and_warned_of_never(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "p2pfs.vfs.news")
    waited = await pauses([CoordinatorAway("away")] * 20)
    assert max(waited) <= PAUSE_S
    assert [record.levelname for record in caplog.records if CLAIM in record.message] == ["INFO"]


async def test_trouble_that_ended_is_told_of_again_and_paused_for_from_the_beginning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, claim_logs: Claims
) -> None:
    claim_logs(CLAIM, count=2)
    caplog.set_level(logging.INFO, "p2pfs.vfs.news")
    waited = await pauses([*[Denied("revoked")] * 10, NONE, Denied("again")])
    assert waited[-1] <= PAUSE_S
    assert "news of other mounts come through again" in caplog.text
