"""What a session is yet to be told: numbered, coalesced, bounded, kept until it is acknowledged; and who is woken."""

import math
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pfs.errors import Fenced, Misuse
from p2pfs.meta import events as module
from p2pfs.meta.events import MAX_WAIT_S, EventQueue, Listeners, News
from p2pfs.types import SessionId, VolumeId
from p2pfs.wire.events import REMOVED, ChangedInode, ChangedName, Events, WaitEvents
from p2pfs.wire.namespace import Accessed, AddReplicas, Applied, Opened, Operation, Released, SetAttributes

pytestmark = pytest.mark.l0

VOLUME, OTHER_VOLUME = VolumeId(7), VolumeId(8)
ANNA, BERT, CARL = SessionId("anna"), SessionId("bert"), SessionId("carl")


def inode(number: int, change: int = 0, attr_change: int = 1) -> ChangedInode:
    return ChangedInode(number, change, attr_change)


@pytest.fixture
def queue() -> EventQueue:
    return EventQueue(since_opening=True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 3)


# ---- a queue --------------------------------------------------------------------------------------------------------


def test_events_are_told_in_the_order_they_came(queue: EventQueue) -> None:
    queue.put([ChangedName(1, b"b"), inode(3), ChangedName(1, b"a"), inode(2), 9])
    told = queue.take(0, 0)
    assert told == Events(
        queue.stream, 5, False, [inode(3), inode(2)], [ChangedName(1, b"b"), ChangedName(1, b"a")], [9]
    )


def test_an_answer_is_repeated_until_it_is_acknowledged(queue: EventQueue) -> None:
    queue.put([inode(2)])
    first = queue.take(0, 0)
    assert queue.take(0, 0) == first
    queue.put([inode(3)])
    assert queue.take(queue.stream, 0).inodes == [inode(2), inode(3)]
    assert queue.take(queue.stream, first.last).inodes == [inode(3)]
    assert queue.take(queue.stream, 2) == Events(queue.stream, 2)
    assert repr(queue) == "EventQueue(0 events after 2)"


def test_the_newest_of_each_inode_and_name_is_told_once(queue: EventQueue) -> None:
    queue.put([inode(2, 1, 1), ChangedName(1, b"a"), inode(3)])
    queue.put([inode(2, 2, 2), ChangedName(1, b"a"), 2])
    told = queue.take(0, 0)
    assert (told.inodes, told.names, told.held) == ([inode(3), inode(2, 2, 2)], [ChangedName(1, b"a")], [2])


def test_batches_told_in_the_wrong_order_do_not_make_an_inode_older(queue: EventQueue) -> None:
    queue.put([inode(2, 2, 5)])
    queue.put([inode(2, 1, 4)])
    assert queue.take(0, 0).inodes == [inode(2, 2, 5)]
    queue.put([inode(2, REMOVED, REMOVED)])
    queue.put([inode(2, 3, 6)])
    assert queue.take(0, 0).inodes == [inode(2, REMOVED, REMOVED)]


def test_what_changes_again_after_it_was_told_is_told_again(queue: EventQueue) -> None:
    queue.put([inode(2, 1, 1)])
    first = queue.take(0, 0)
    queue.put([inode(2, 2, 2)])
    assert queue.take(first.stream, first.last).inodes == [inode(2, 2, 2)]


@pytest.mark.usefixtures("small")
def test_what_does_not_fit_is_lost_and_said_to_be(queue: EventQueue) -> None:
    queue.put([inode(2), inode(3), 4])
    assert not queue.take(0, 0).lost
    queue.put([ChangedName(1, b"a")])
    assert repr(queue) == "EventQueue(0 events after 4, overflowed)"
    queue.put([inode(5)])  # while everything is lost anyway nothing is kept
    assert repr(queue) == "EventQueue(0 events after 4, overflowed)"
    lost = queue.take(0, 0)
    assert lost == Events(queue.stream, 4, lost=True)
    queue.put([inode(6)])
    assert queue.take(0, 0) == Events(queue.stream, 5, lost=True)  # that answer was lost too
    assert queue.take(lost.stream, lost.last) == Events(queue.stream, 5, inodes=[inode(6)])


@pytest.mark.parametrize(("stream", "after"), [(1, 0), (1, 2), (0, 1), (None, 3), (None, 0)])
def test_who_knows_another_stream_or_number_is_told_that_it_missed_something(
    queue: EventQueue, stream: int | None, after: int
) -> None:
    queue.put([inode(2), inode(3)])
    queue.take(queue.stream, 1)
    assert queue.take(queue.stream if stream is None else stream, after) == Events(queue.stream, 2, lost=True)
    assert queue.take(queue.stream, 1).inodes == [inode(3)]  # and nothing else was forgotten for it


def test_a_queue_that_began_late_says_that_something_was_missed() -> None:
    queue = EventQueue(since_opening=False)
    told = queue.take(0, 0)
    assert told.lost
    queue.put([inode(2)])
    assert queue.take(told.stream, told.last).inodes == [inode(2)]


def test_streams_differ_and_fit_63_bits() -> None:
    streams = {EventQueue(since_opening=True).stream for _ in range(100)}
    assert len(streams) == 100
    assert all(0 < stream < 1 << 63 for stream in streams)


# ---- who is told ----------------------------------------------------------------------------------------------------


def news(volume: VolumeId = VOLUME, **more: object) -> News:
    """A batch that changed inode 2."""
    return News(volume, [SetAttributes(2, 1)], Applied([], [2]), **more)  # type: ignore[arg-type]


@pytest.fixture
def listeners() -> Listeners:
    listeners = Listeners()
    for session in (ANNA, BERT):
        listeners.opened(session, VOLUME)
    listeners.opened(CARL, OTHER_VOLUME)
    return listeners


async def told(listeners: Listeners, session: SessionId, wait_s: float = 0.0) -> Events:
    return await listeners.wait(session, OTHER_VOLUME if session == CARL else VOLUME, WaitEvents(0, 0, wait_s))


async def test_every_other_session_of_the_volume_is_told(listeners: Listeners) -> None:
    listeners.publish(ANNA, news(held=[2], keepers=[ANNA, SessionId("dead")]))
    assert (await told(listeners, BERT)).inodes == [inode(2, REMOVED, REMOVED)]
    assert (await told(listeners, BERT)).held == []
    assert (await told(listeners, ANNA)).last == (await told(listeners, CARL)).last == 0
    listeners.publish(SessionId("of an older mount"), news(held=[2], keepers=[ANNA]))
    assert (await told(listeners, ANNA)).held == [2]


async def test_what_nobody_else_sees_is_not_told(listeners: Listeners) -> None:
    listeners.publish(ANNA, News(VOLUME, [Opened(2), AddReplicas([]), Accessed(2, 9), Released(3)], Applied([], [3])))
    assert (await told(listeners, BERT)).last == 0


async def test_nothing_is_looked_at_when_nobody_else_listens(listeners: Listeners) -> None:
    alone = News(OTHER_VOLUME, None, None)  # type: ignore[arg-type]  # a look would fail
    listeners.publish(CARL, alone)
    listeners.ended(CARL)
    listeners.publish(CARL, alone)
    assert repr(listeners) == "Listeners(2 sessions of 1 volumes)"


async def waiting(listeners: Listeners, then: Callable[[], object]) -> Events | Exception:
    """What becomes of a request that waits when `then` happens."""
    outcome: list[Events | Exception] = []

    async def wait() -> None:
        try:
            outcome.append(await told(listeners, BERT, 10.0))
        except (Fenced, Misuse) as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert outcome == []
        then()
        await wait_all_tasks_blocked()
        assert len(outcome) == 1
    return outcome[0]


async def test_a_change_wakes_who_waits(listeners: Listeners) -> None:
    events = await waiting(listeners, lambda: listeners.publish(ANNA, news()))
    assert isinstance(events, Events)
    assert events.inodes == [inode(2, REMOVED, REMOVED)]


@pytest.mark.parametrize("operation", [Accessed(2, 9), Opened(2), SetAttributes(2, 9)])
async def test_who_waits_is_not_woken_for_nothing(
    autojump_clock: MockClock, listeners: Listeners, operation: Operation
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told, listeners, BERT, 10.0)
        await wait_all_tasks_blocked()
        listeners.publish(ANNA, News(VOLUME, [operation], Applied([])))
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(10.0)


async def test_the_end_of_the_session_fences_who_waits(listeners: Listeners) -> None:
    assert isinstance(await waiting(listeners, lambda: listeners.ended(BERT)), Fenced)
    assert repr(listeners) == "Listeners(2 sessions of 2 volumes)"
    listeners.ended(BERT)


async def test_a_stop_answers_who_waits_and_who_comes(listeners: Listeners) -> None:
    events = await waiting(listeners, listeners.stop)
    assert isinstance(events, Events)
    assert (events.last, events.lost) == (0, False)
    with trio.fail_after(1):
        await told(listeners, BERT, 10.0)


async def test_the_newest_request_of_a_session_waits_and_the_older_gets_nothing(listeners: Listeners) -> None:
    got: dict[str, Events] = {}

    async def wait(name: str) -> None:
        got[name] = await told(listeners, BERT, 10.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "older")
        await wait_all_tasks_blocked()
        nursery.start_soon(wait, "newer")
        await wait_all_tasks_blocked()
        assert list(got) == ["older"]
        listeners.publish(ANNA, news())
    assert (got["older"].inodes, got["older"].last, got["older"].lost) == ([], 0, False)
    assert got["newer"].inodes == [inode(2, REMOVED, REMOVED)]


@pytest.mark.parametrize(("wait_s", "took_s"), [(5.0, 5.0), (1e9, MAX_WAIT_S), (math.inf, MAX_WAIT_S), (0.0, 0.0)])
async def test_nothing_is_answered_when_the_time_is_over(
    autojump_clock: MockClock, listeners: Listeners, wait_s: float, took_s: float
) -> None:
    before = trio.current_time()
    events = await told(listeners, BERT, wait_s)
    assert trio.current_time() - before == pytest.approx(took_s)
    assert (events.last, events.lost, events.inodes) == (0, False, [])


@pytest.mark.parametrize("wait_s", [-1.0, math.nan])
async def test_nobody_waits_for_less_than_nothing(listeners: Listeners, wait_s: float) -> None:
    with pytest.raises(Misuse):
        await told(listeners, BERT, wait_s)
