"""What happened to a volume: numbered, coalesced, bounded; where each session is in it; and who is woken."""

import math
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pfs.errors import Fenced, Misuse, Unavailable
from p2pfs.meta import events as module
from p2pfs.meta.events import MAX_WAIT_S, REPEAT_S, SILENT_S, Cursor, EventLog, Held, Listeners, Publication
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import SessionId, VolumeId
from p2pfs.wire.events import REMOVED, ChangedInode, ChangedName, Events, WaitEvents
from p2pfs.wire.namespace import Accessed, AddReplicas, Applied, Opened, Operation, Released, SetAttributes

pytestmark = pytest.mark.l0

VOLUME, OTHER_VOLUME = VolumeId(7), VolumeId(8)
ANNA, BERT, CARL = SessionId("anna"), SessionId("bert"), SessionId("carl")


def inode(number: int, change: int = 0, attr_change: int = 1) -> ChangedInode:
    return ChangedInode(number, change, attr_change)


class Told:
    """Two sessions' places in one log: what BERT does and CARL is told."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.author = Cursor(self.log, BERT, since_opening=True)
        self.reader = Cursor(self.log, CARL, since_opening=True)

    def put(self, *events: ChangedInode | ChangedName | Held) -> None:
        self.author.put(events)


@pytest.fixture
def two() -> Told:
    return Told()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOGGED", 3)


def held(number: int, *keepers: SessionId) -> Held:
    return Held(number, frozenset(keepers or {CARL}))


# ---- a log and who reads it -----------------------------------------------------------------------------------------


def test_events_are_told_in_the_order_they_came(two: Told) -> None:
    two.put(ChangedName(1, b"b"), inode(3), ChangedName(1, b"a"), inode(2), held(9))
    told = two.reader.take(0, 0)
    assert told == Events(
        two.reader.stream, 5, False, [inode(3), inode(2)], [ChangedName(1, b"b"), ChangedName(1, b"a")], [9]
    )


def test_an_answer_is_repeated_until_it_is_acknowledged(two: Told) -> None:
    two.put(inode(2))
    first = two.reader.take(0, 0)
    assert two.reader.take(0, 0) == first
    two.put(inode(3))
    stream = two.reader.stream
    assert two.reader.take(stream, 0).inodes == [inode(2), inode(3)]
    assert two.reader.take(stream, first.last).inodes == [inode(3)]
    assert two.reader.take(stream, 2) == Events(stream, 2)


def test_the_newest_of_each_inode_and_name_is_told_once(two: Told) -> None:
    two.put(inode(2, 1, 1), ChangedName(1, b"a"), inode(3))
    two.put(inode(2, 2, 2), ChangedName(1, b"a"), held(2))
    told = two.reader.take(0, 0)
    assert (told.inodes, told.names, told.held) == ([inode(3), inode(2, 2, 2)], [ChangedName(1, b"a")], [2])
    assert repr(two.log) == "EventLog(4 events after 0)"


def test_batches_told_in_the_wrong_order_do_not_make_an_inode_older(two: Told) -> None:
    two.put(inode(2, 2, 5))
    two.put(inode(2, 1, 4))
    assert two.reader.take(0, 0).inodes == [inode(2, 2, 5)]
    two.put(inode(2, REMOVED, REMOVED))
    two.put(inode(2, 3, 6))
    assert two.reader.take(0, 0).inodes == [inode(2, REMOVED, REMOVED)]


def test_what_changes_again_after_it_was_told_is_told_again(two: Told) -> None:
    two.put(inode(2, 1, 1))
    first = two.reader.take(0, 0)
    two.put(inode(2, 2, 2))
    assert two.reader.take(first.stream, first.last).inodes == [inode(2, 2, 2)]


def test_nobody_is_told_of_its_own_doing_and_everybody_of_all_others(two: Told) -> None:
    two.put(inode(2, 1, 1))
    two.reader.put([inode(2, 2, 2)])
    two.put(inode(2, 3, 3))
    assert two.author.take(0, 0).inodes == [inode(2, 3, 3)]  # for the second
    assert two.author.take(two.author.stream, 2).inodes == []
    assert two.reader.take(two.reader.stream, 2).inodes == [inode(2, 3, 3)]


def test_what_is_kept_for_one_session_is_no_other_ones_business(two: Told) -> None:
    two.put(held(2, ANNA), held(3, ANNA, CARL))
    assert two.reader.take(0, 0).held == [3]
    assert two.author.take(0, 0).held == []


@pytest.mark.usefixtures("small")
def test_who_fell_behind_is_told_that_something_is_lost(two: Told) -> None:
    two.put(inode(2), inode(3), held(4))
    assert not two.reader.take(0, 0).lost
    two.put(ChangedName(1, b"a"))
    assert repr(two.log) == "EventLog(3 events after 1)"
    lost = two.reader.take(0, 0)
    assert lost == Events(two.reader.stream, 4, lost=True)
    two.put(inode(6))
    assert two.reader.take(0, 0) == Events(two.reader.stream, 5, lost=True)  # that answer was lost too
    assert two.reader.take(lost.stream, lost.last) == Events(two.reader.stream, 5, inodes=[inode(6)])


@pytest.mark.usefixtures("small")
def test_who_does_much_itself_misses_nothing_by_it(two: Told) -> None:
    for number in range(2, 12):
        two.put(inode(number))
    assert two.author.take(0, 0) == Events(two.author.stream, 10)
    two.reader.put([inode(20)])
    assert two.author.take(0, 0).inodes == [inode(20)]
    for number in range(2, 12):
        two.put(inode(number))
    assert two.author.take(0, 0).lost  # what the other did is no longer here


@pytest.mark.parametrize(("stream", "after"), [(1, 0), (1, 2), (0, 1), (None, 3), (None, -1)])
def test_who_knows_another_stream_or_number_is_told_that_it_missed_something(
    two: Told, stream: int | None, after: int
) -> None:
    two.put(inode(2), inode(3))
    own = two.reader.stream
    assert two.reader.take(own if stream is None else stream, after) == Events(own, 2, lost=True)
    assert two.reader.take(own, 1).inodes == [inode(3)]  # and nothing was forgotten for it


def test_who_begins_late_is_told_that_something_was_missed(two: Told) -> None:
    two.put(inode(2))
    late = Cursor(two.log, ANNA, since_opening=False)
    told = late.take(0, 0)
    assert told == Events(late.stream, 1, lost=True)
    two.put(inode(3))
    assert late.take(told.stream, told.last).inodes == [inode(3)]
    opened = Cursor(two.log, ANNA, since_opening=True)
    two.put(inode(4))
    assert opened.take(0, 0).inodes == [inode(4)]
    assert opened.take(opened.stream, 1).lost  # a number from before it began


def test_streams_differ_and_fit_63_bits() -> None:
    streams = {Cursor(EventLog(), ANNA, since_opening=True).stream for _ in range(100)}
    assert len(streams) == 100
    assert all(0 < stream < 1 << 63 for stream in streams)


# ---- who is told ----------------------------------------------------------------------------------------------------


def news(volume: VolumeId = VOLUME, **more: object) -> Publication:
    """A batch that changed inode 2."""
    return Publication(volume, [SetAttributes(2, 1)], Applied([], [2]), **more)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def listeners(clock: FakeClock) -> Listeners:
    listeners = Listeners(clock.monotonic)
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
    assert (await told(listeners, ANNA)).inodes == []
    assert (await told(listeners, CARL)).last == 0
    listeners.publish(SessionId("of an older mount"), news(held=[2], keepers=[ANNA]))
    assert (await told(listeners, ANNA)).held == [2]


async def test_what_nobody_else_sees_is_not_told(listeners: Listeners) -> None:
    listeners.publish(
        ANNA, Publication(VOLUME, [Opened(2), AddReplicas([]), Accessed(2, 9), Released(3)], Applied([], [3]))
    )
    assert (await told(listeners, BERT)).last == 0


async def test_nothing_is_looked_at_when_nobody_else_listens(listeners: Listeners) -> None:
    alone = Publication(OTHER_VOLUME, None, None)  # type: ignore[arg-type]  # a look would fail
    listeners.publish(CARL, alone)
    listeners.ended(CARL)
    listeners.publish(CARL, alone)
    assert repr(listeners) == "Listeners(2 sessions of 1 volumes)"


async def test_a_batch_is_written_down_once_however_many_listen(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(64):
        listeners.opened(SessionId(f"session {number}"), VOLUME)
    handled = []
    monkeypatch.setattr(module, "_about", lambda event, about=module._about: handled.append(event) or about(event))
    changed = Applied([], list(range(2, 1002)))
    keepers = [SessionId(f"session {number}") for number in range(64)]
    listeners.publish(ANNA, Publication(VOLUME, [SetAttributes(2, 1)], changed, [2, 3], keepers))
    assert len(handled) == 1002
    last = await told(listeners, SessionId("session 63"))
    assert (len(last.inodes), last.held) == (1000, [2, 3])
    assert (await told(listeners, BERT)).held == []


async def test_who_has_not_asked_for_long_is_told_nothing_and_then_that_it_missed_something(
    listeners: Listeners, clock: FakeClock
) -> None:
    before = await told(listeners, BERT)
    clock.advance(SILENT_S)
    listeners.publish(ANNA, news())
    assert repr(listeners) == "Listeners(3 sessions of 2 volumes)"
    clock.advance(0.1)
    listeners.publish(ANNA, Publication(VOLUME, None, None))  # type: ignore[arg-type]  # nobody listens: a look would fail
    assert repr(listeners) == "Listeners(1 sessions of 1 volumes)"
    again = await listeners.wait(BERT, VOLUME, WaitEvents(before.stream, before.last, 10.0))
    assert again.lost
    listeners.publish(ANNA, news())
    then = await listeners.wait(BERT, VOLUME, WaitEvents(again.stream, again.last, 10.0))
    assert then.inodes == [inode(2, REMOVED, REMOVED)]


async def test_who_waits_is_not_silent(listeners: Listeners, clock: FakeClock) -> None:
    def long_after() -> None:
        clock.advance(SILENT_S - 1)
        listeners.publish(ANNA, news())
        clock.advance(2)

    await waiting(listeners, long_after)
    clock.advance(SILENT_S - 1)
    listeners.publish(SessionId("of an older mount"), news())
    assert (await told(listeners, BERT)).inodes == [inode(2, REMOVED, REMOVED)]


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
        listeners.publish(ANNA, Publication(VOLUME, [operation], Applied([])))
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(10.0)


async def test_the_end_of_the_session_fences_who_waits(listeners: Listeners) -> None:
    assert isinstance(await waiting(listeners, lambda: listeners.ended(BERT)), Fenced)
    assert repr(listeners) == "Listeners(2 sessions of 2 volumes)"
    listeners.ended(BERT)


async def test_a_stop_answers_who_waits_and_refuses_who_comes(listeners: Listeners) -> None:
    events = await waiting(listeners, listeners.stop)
    assert isinstance(events, Events)
    assert (events.last, events.lost) == (0, False)
    with pytest.raises(Unavailable):  # nothing is asked again at once that was refused
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


# ---- recalls --------------------------------------------------------------------------------------------------------


async def test_a_recall_wakes_its_holder_and_nobody_else(listeners: Listeners) -> None:
    events = await waiting(listeners, lambda: listeners.recall(BERT, 5))
    assert isinstance(events, Events)
    assert events.recall == 5
    assert (await told(listeners, ANNA)).recall == 0


async def test_a_recall_is_told_again_every_second_until_the_delegation_was_returned(
    listeners: Listeners, autojump_clock: MockClock
) -> None:
    began_s = trio.current_time()
    listeners.recall(BERT, 5)
    assert (await told(listeners, BERT, 19.0)).recall == 5
    assert trio.current_time() == began_s
    for number in (1, 2):
        assert (await told(listeners, BERT, 19.0)).recall == 5
        assert trio.current_time() == began_s + number * REPEAT_S
    listeners.recall(BERT, 6)  # another one is told at once
    assert (await told(listeners, BERT, 19.0)).recall == 6
    assert trio.current_time() == began_s + 2 * REPEAT_S
    listeners.recall(BERT, 0)
    assert (await told(listeners, BERT, 19.0)).recall == 0
    assert trio.current_time() == began_s + 2 * REPEAT_S + 19.0


async def test_a_recall_travels_with_other_news_and_reaches_who_listens_later(listeners: Listeners) -> None:
    listeners.publish(ANNA, news())
    listeners.recall(BERT, 5)
    answer = await told(listeners, BERT)
    assert answer.recall == 5
    assert answer.inodes
    dora = SessionId("dora")
    listeners.recall(dora, 7)
    assert (await told(listeners, dora)).recall == 7
    listeners.ended(dora)
    assert (await told(listeners, dora)).recall == 0
