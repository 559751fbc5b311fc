"""What waits to be copied, without a pool."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from careful import SIZE

from p2pfs.coordinator.upkeep import backlog as backlog_module
from p2pfs.coordinator.upkeep.backlog import Backlog, Task
from p2pfs.coordinator.upkeep.jobs import Jobs
from p2pfs.meta.database import InlineDatabase
from p2pfs.placement.care import Urgency
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import PeerNumber

pytestmark = pytest.mark.l0

TARGET = PeerNumber(2)


@pytest.fixture
def backlog() -> Iterator[Backlog]:
    clock = FakeClock()
    with closing(InlineDatabase()) as database:
        yield Backlog(Jobs(database, clock), clock, str)


def move(number: int) -> Task:
    return Task(number, SIZE, TARGET, Urgency.REBALANCE, 3)


def repair(number: int, copies: int = 1) -> Task:
    return Task(number, SIZE, TARGET, Urgency.REPAIR, copies)


def taken(backlog: Backlog) -> list[tuple[int, int]]:
    return [(task.copies, task.number) for task in backlog.take(TARGET, 1 << 30, moves=1)]


def test_moves_leave_room_for_repairs(backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "MOST", 5)
    for task in [*map(move, range(9)), repair(99)]:
        backlog.add(task)
    assert [task.number for task in backlog.take(TARGET, 2, moves=1)] == [99, 0]


def test_a_target_that_takes_nothing_costs_no_more_memory_the_longer_it_is_asked(
    backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "SPENT", 10)
    for turn in range(100):
        for number in range(20):
            backlog.drop(number)
            backlog.add(repair(number, copies=1 + (turn + number) % 3))
    assert len(backlog._queues[TARGET][Urgency.REPAIR]) <= 2 * 20 + 10
    assert taken(backlog) == sorted((1 + (99 + number) % 3, number) for number in range(20))
    for turn in range(100):  # and with nothing that waits
        backlog.add(repair(1, copies=turn))
        backlog.drop(1)
    assert len(backlog._queues[TARGET][Urgency.REPAIR]) <= 10 + 2
    assert taken(backlog) == []


def test_among_equals_the_owners_that_give_more_come_first_and_fewer_copies_before_all(backlog: Backlog) -> None:
    for number, copies, precedence in ((1, 1, 2), (2, 1, 0), (3, 2, 0), (4, 1, 1)):
        backlog.add(Task(number, SIZE, TARGET, Urgency.REPAIR, copies, precedence=precedence))
    backlog.add(Task(2, SIZE, TARGET, Urgency.REPAIR, 1, precedence=2))  # its owner gives less by now
    assert taken(backlog) == [(1, 4), (1, 1), (1, 2), (2, 3)]
