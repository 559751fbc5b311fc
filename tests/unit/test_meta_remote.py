"""The mount's side of a session: retries, absence, fencing, shared requests, numbers ahead."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pfs.chunks.traffic import Traffic
from p2pfs.errors import (
    Conflict,
    CoordinatorAway,
    Fenced,
    Gone,
    Misuse,
    NotFound,
    Overruled,
    Recalling,
    Unavailable,
    Unsupported,
)
from p2pfs.meta import calls, flights, outstanding, remote
from p2pfs.meta.flights import Flights
from p2pfs.meta.outstanding import OutstandingBatches
from p2pfs.meta.protocol import InDoubt
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.net.client import Endpoint, Reply
from p2pfs.types import ChunkId, InodeId, NodeId, PeerNumber, Role, VolumeId
from p2pfs.wire import answers, codec
from p2pfs.wire.answers import Answer
from p2pfs.wire.chunks import Token
from p2pfs.wire.delegations import AskDelegation, Delegation, ReturnDelegation
from p2pfs.wire.namespace import (
    Applied,
    Attributes,
    Batch,
    Commit,
    GetAttributes,
    Question,
    ReadExtents,
    Released,
)
from p2pfs.wire.volumes import (
    GrantIds,
    IdBlock,
    OpenSession,
    RenewedSession,
    RenewSession,
    Reserve,
    Reserved,
    SessionGrant,
)

pytestmark = pytest.mark.l0

COORDINATOR = Endpoint(NodeId("c" * 32), Role.COORDINATOR, ("127.0.0.1:1",))
GRANT = SessionGrant("5" * 32, 1, 30.0, 10, 19)
IO_TIMEOUT_S = 30.0


def row(inode: int) -> Attributes:
    return Attributes(inode, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, b"head")


class FakeCoordinator:
    """Stands where Client does. `reactions` are called one after the other, the last one for ever; each returns a
    message or raises."""

    def __init__(self, *reactions: Callable[[str, Any], Any]) -> None:
        self.reactions = list(reactions)
        self.requests: list[tuple[str, str, Any]] = []

    async def request(
        self, endpoint: Endpoint, method: str, path: str, *, parts: Sequence[bytes] = (), timeout_s: float
    ) -> Reply:
        assert endpoint is COORDINATOR
        assert 0 < timeout_s <= IO_TIMEOUT_S
        await trio.lowlevel.checkpoint()
        message = codec.decode(parts[0], KINDS[path.rsplit("/", 1)[-1]]) if parts else None
        self.requests.append((method, path, message))
        react = self.reactions.pop(0) if len(self.reactions) > 1 else self.reactions[0]
        with trio.move_on_after(timeout_s):
            answer = react(path, message)
            if hasattr(answer, "__await__"):
                answer = await answer
            return Reply(200, {}, memoryview(b"" if answer is None else codec.encode(answer)))
        raise Unavailable("too late")


KINDS: dict[str, Any] = {
    "batches": Batch,
    "questions": list[Question],
    "ids": GrantIds,
    "renew": RenewSession,
    "reservations": Reserve,
    "sessions": OpenSession,
    "delegation": AskDelegation,
    "return": ReturnDelegation,
}


def refuse(error: Exception) -> Callable[[str, Any], Any]:
    def react(path: str, message: Any) -> Any:  # noqa: ANN401
        raise error

    return react


def work(path: str, message: Any) -> Any:  # noqa: ANN401
    """A coordinator that answers everything."""
    match message:
        case Batch():
            return Applied([row(message.seq)])
        case GrantIds():
            return IdBlock(1000, 1000 + message.count - 1)
        case RenewSession():
            return RenewedSession(message.map_version + 1)
        case Reserve():
            return Reserved([Token(1, "n" * 32, 2, 3, message.room_bytes, 5)])
        case OpenSession():
            return GRANT
        case AskDelegation():
            return Delegation(3, 30.0)
        case ReturnDelegation():
            return Delegation(0, 10.0)
        case None:
            return None
    return [answers.answer(row(question.inode)) for question in message]


async def hang(_path: str, _message: Any) -> Any:  # noqa: ANN401
    await trio.sleep_forever()


away = refuse(Unavailable("nobody there"))


def namespace(coordinator: FakeCoordinator, **options: Any) -> RemoteNamespace:  # noqa: ANN401
    return RemoteNamespace(
        coordinator,  # type: ignore[arg-type]  # all of Client that is used
        COORDINATOR,
        GRANT,
        VolumeId(0xAB),
        io_timeout_s=IO_TIMEOUT_S,
        **options,
    )


def seqs(coordinator: FakeCoordinator) -> list[tuple[int, int]]:
    return [(message.seq, message.acked) for _, _, message in coordinator.requests if isinstance(message, Batch)]


async def test_addresses_are_those_of_the_route_table() -> None:
    coordinator = FakeCoordinator(work)
    opened = await RemoteNamespace.open(
        coordinator,  # type: ignore[arg-type]
        COORDINATOR,
        VolumeId(0xAB),
        request=OpenSession("host", "/mnt"),
        io_timeout_s=IO_TIMEOUT_S,
    )
    await opened.attributes(InodeId(1))
    await opened.apply([Released(1)])
    await opened.new_ids(100)
    await opened.renew()
    assert (await opened.reserve(77, [5]))[0].room_bytes == 77
    assert await opened.delegate(0) == Delegation(3, 30.0)
    await opened.return_delegation(3, 1.5)
    await opened.aclose()
    volume, session = "/volumes/00000000000000ab", f"/sessions/{'5' * 32}"
    assert [request[:2] for request in coordinator.requests] == [
        ("POST", f"{volume}/sessions"),
        ("POST", f"{volume}/questions"),
        ("POST", f"{session}/batches"),
        ("POST", f"{session}/ids"),
        ("POST", f"{session}/renew"),
        ("POST", f"{session}/reservations"),
        ("POST", f"{session}/delegation"),
        ("POST", f"{session}/delegation/return"),
        ("DELETE", session),
    ]


async def test_a_session_that_is_not_alone_as_it_should_be_is_closed() -> None:
    coordinator = FakeCoordinator(work)  # of a version that knows nothing of it
    with pytest.raises(Unsupported, match="alone"):
        await RemoteNamespace.open(
            coordinator,  # type: ignore[arg-type]
            COORDINATOR,
            VolumeId(0xAB),
            request=OpenSession("host", "/mnt", exclusive=True),
            io_timeout_s=IO_TIMEOUT_S,
        )
    assert coordinator.requests[-1][:2] == ("DELETE", f"/sessions/{'5' * 32}")


async def test_a_lost_answer_is_asked_for_again_under_the_same_number(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(away, hang, work)
    names = namespace(coordinator)
    applied = await names.apply([Released(1)])
    assert applied.attributes[0].inode == 1
    assert seqs(coordinator) == [(1, 1)] * 3
    await names.apply([Released(1)])
    assert seqs(coordinator)[-1] == (2, 2)
    assert not names.is_away


COMMIT = Commit(5, 0, 1, b"head", 1, inline=b"x")


@pytest.mark.parametrize("end", [work, refuse(Conflict("moved on"))])
async def test_a_commit_in_doubt_keeps_its_number_until_it_was_asked_for_again(
    autojump_clock: MockClock, end: Callable[[str, Any], Any]
) -> None:
    coordinator = FakeCoordinator(away)
    names = namespace(coordinator)
    with pytest.raises(InDoubt) as doubt:
        await names.apply([COMMIT])
    with pytest.raises(CoordinatorAway):
        await doubt.value.again()
    coordinator.reactions = [work]
    await names.apply([Released(1)])
    assert seqs(coordinator)[-1] == (2, 1)  # the coordinator keeps the answer to 1
    coordinator.reactions = [end]
    with contextlib.suppress(Conflict):
        await doubt.value.again()
    assert seqs(coordinator)[-1] == (1, 1)
    coordinator.reactions = [work]
    await names.apply([Released(1)])
    assert seqs(coordinator)[-1] == (3, 3)


async def test_a_doubt_given_up_frees_its_number(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(away)
    names = namespace(coordinator)
    with pytest.raises(InDoubt) as doubt:
        await names.apply([COMMIT])
    doubt.value.give_up()
    doubt.value.give_up()
    coordinator.reactions = [work]
    await names.apply([Released(1)])
    assert seqs(coordinator)[-1] == (2, 2)


async def test_refusals_are_not_tried_again() -> None:
    coordinator = FakeCoordinator(refuse(NotFound("no")))
    with pytest.raises(NotFound):
        await namespace(coordinator).apply([Released(1)])
    assert len(coordinator.requests) == 1


async def test_endless_calls_repeat_the_same_batch_until_it_is_answered(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(away, hang, away)
    names = namespace(coordinator, endless=True)
    answered: list[Applied] = []

    async def change() -> None:
        answered.append(await names.apply([Released(1)]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await trio.sleep(100 * IO_TIMEOUT_S)
        assert names.is_away
        assert answered == []
        coordinator.reactions = [work]
        await trio.sleep(IO_TIMEOUT_S)
    assert len(answered) == 1
    assert set(seqs(coordinator)) == {(1, 1)}
    assert not names.is_away
    coordinator.reactions = [refuse(NotFound("an answer"))]
    with pytest.raises(NotFound):
        await names.apply([Released(1)])


async def test_after_io_timeout_the_coordinator_is_away_until_it_answers(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(away)
    names = namespace(coordinator)
    began = trio.current_time()
    with pytest.raises(CoordinatorAway):
        await names.apply([Released(1)])
    assert IO_TIMEOUT_S - 2 <= trio.current_time() - began <= IO_TIMEOUT_S
    assert names.is_away
    began = trio.current_time()
    for _ in range(3):
        with pytest.raises(CoordinatorAway):
            await names.attributes(InodeId(1))
    assert trio.current_time() - began == 0
    coordinator.reactions = [hang]
    with pytest.raises(CoordinatorAway):
        await names.attributes(InodeId(1))
    assert trio.current_time() - began <= 1
    coordinator.reactions = [refuse(NotFound("an answer too"))]
    with pytest.raises(NotFound):
        await names.attributes(InodeId(1))
    assert not names.is_away


async def test_who_asked_while_it_was_away_does_not_say_so_after_another_got_an_answer(
    autojump_clock: MockClock,
) -> None:
    coordinator = FakeCoordinator(away)
    names = namespace(coordinator)
    with pytest.raises(CoordinatorAway):
        await names.attributes(InodeId(1))
    coordinator.reactions = [hang, work]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.apply, [Released(1)])
        await trio.sleep(0.5)
        await names.attributes(InodeId(1))
    assert not names.is_away


async def test_it_is_not_away_because_one_got_no_answer_while_another_did(autojump_clock: MockClock) -> None:
    async def half(path: str, message: Any) -> Any:  # noqa: ANN401
        return await hang(path, message) if isinstance(message, Batch) else work(path, message)

    names = namespace(FakeCoordinator(half))
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            while True:
                await names.attributes(InodeId(1))
                await trio.sleep(0.5)

        nursery.start_soon(ask)
        with pytest.raises(CoordinatorAway):
            await names.apply([Released(1)])
        assert not names.is_away
        nursery.cancel_scope.cancel()


async def test_a_hung_connection_is_not_all_of_the_timeout(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(hang, work)
    began = trio.current_time()
    await namespace(coordinator).apply([Released(1)])
    assert trio.current_time() - began < IO_TIMEOUT_S / 2


async def test_a_fenced_session_asks_no_more() -> None:
    coordinator = FakeCoordinator(refuse(Fenced("over")), work)
    names = namespace(coordinator)
    with pytest.raises(Fenced):
        await names.apply([Released(1)])
    for call in (names.apply([Released(1)]), names.attributes(InodeId(1)), names.renew()):
        with pytest.raises(Fenced):
            await call
    assert names.is_fenced
    assert len(coordinator.requests) == 1


async def test_a_delegation_that_is_over_does_not_end_the_session() -> None:
    coordinator = FakeCoordinator(refuse(Overruled("over")), work)
    one = namespace(coordinator)
    with pytest.raises(Overruled):
        await one.apply_under(3, [Released(1)])
    assert not one.is_fenced
    await one.apply([Released(1)])
    assert [message.epoch for _, _, message in coordinator.requests] == [3, 0]


@pytest.mark.parametrize("recalled_s", [20.0, 80.0])
async def test_a_change_is_sent_again_until_its_turn_comes(recalled_s: float, autojump_clock: MockClock) -> None:
    async def react(path: str, message: Any) -> Any:  # noqa: ANN401
        await trio.sleep(0.8)
        if trio.current_time() < began_s + recalled_s:
            raise Recalling("soon")
        return work(path, message)

    coordinator, began_s = FakeCoordinator(react), trio.current_time()
    one = namespace(coordinator)
    await one.apply([Released(1)])
    assert recalled_s <= trio.current_time() - began_s < recalled_s + 2
    assert set(seqs(coordinator)) == {(1, 1)}
    assert not one.is_away


async def test_a_change_whose_turn_does_not_come_is_refused_and_the_coordinator_is_not_away(
    autojump_clock: MockClock,
) -> None:
    began_s = trio.current_time()
    one = namespace(FakeCoordinator(refuse(Recalling("soon"))))
    one.calls.is_away = True
    with pytest.raises(Recalling):
        await one.apply([Commit(1, 0, 0, b"head", 1)])
    assert trio.current_time() - began_s == pytest.approx(calls.TURN_S, abs=1)
    assert not one.is_away


async def test_a_coordinator_that_falls_silent_while_a_change_waits_is_away(autojump_clock: MockClock) -> None:
    one = namespace(FakeCoordinator(*[refuse(Recalling("soon"))] * 9, away))
    with pytest.raises(CoordinatorAway):
        await one.apply([Released(1)])
    assert one.is_away


async def test_answers_are_acknowledged_up_to_the_oldest_one_missing() -> None:
    gate = trio.Event()

    async def slow(_path: str, message: Batch) -> Applied:
        await gate.wait()
        return Applied([row(message.seq)])

    coordinator = FakeCoordinator(slow, work)
    names = namespace(coordinator)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.apply, [Released(1)])
        await wait_all_tasks_blocked()
        await names.apply([Released(2)])
        await names.apply([Released(3)])
        gate.set()
    await names.apply([Released(4)])
    assert seqs(coordinator) == [(1, 1), (2, 1), (3, 1), (4, 4)]


async def test_batches_do_not_run_away_from_the_oldest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outstanding, "MAX_AHEAD", 2)
    batches, gate, begun = OutstandingBatches(), trio.Event(), []

    async def one(wait: bool) -> None:
        async with batches.number() as (seq, _):
            begun.append(seq)
            if wait:
                await gate.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, True)
        await wait_all_tasks_blocked()
        await one(False)
        nursery.start_soon(one, False)
        await wait_all_tasks_blocked()
        assert begun == [1, 2]
        gate.set()
    assert begun == [1, 2, 3]


# ---- numbers --------------------------------------------------------------------------------------------------------


async def test_numbers_come_from_the_grant_first_and_then_in_blocks() -> None:
    coordinator = FakeCoordinator(work)
    names = namespace(coordinator)
    assert await names.new_ids(4) == range(10, 14)
    assert await names.new_ids(6) == range(14, 20)
    assert coordinator.requests == []
    assert await names.new_ids(2) == range(1000, 1002)
    assert await names.new_ids(2) == range(1002, 1004)
    assert await names.new_ids(50_000) == range(1000, 51_000)
    assert len(coordinator.requests) == 2


async def test_numbers_are_fetched_ahead(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(away, work)
    names = namespace(coordinator)

    def asked_for_numbers() -> list[object]:
        return [message for _, path, message in coordinator.requests if path.endswith("/ids")]  # renewals come between

    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.maintain)
        await names.new_ids(1)
        await trio.sleep(5)
        assert asked_for_numbers() == [GrantIds(remote.ID_BLOCK)] * 2
        assert await names.new_ids(9) == range(11, 20)
        assert await names.new_ids(3) == range(1000, 1003)
        nursery.cancel_scope.cancel()
    assert len(asked_for_numbers()) == 2


# ---- the session ----------------------------------------------------------------------------------------------------


async def test_what_was_read_is_told_until_it_is_heard_and_at_the_end(autojump_clock: MockClock) -> None:
    traffic = Traffic[PeerNumber](lambda: 86400.0 * 20_000)
    coordinator = FakeCoordinator(work)
    names = namespace(coordinator, traffic=traffic)

    def fetched() -> list[list[tuple[int, int, int]]]:
        return [message.fetched for _, path, message in coordinator.requests if path.endswith("/renew")]

    traffic.count(PeerNumber(3), VolumeId(7), ChunkId(bytes(32)), 1000)
    coordinator.reactions = [away]
    with pytest.raises(CoordinatorAway):
        await names.renew()
    coordinator.reactions = [work]
    coordinator.requests.clear()
    await names.renew()
    await names.renew()
    assert fetched() == [[(20_000, 3, 1000)], []]
    traffic.count(PeerNumber(3), VolumeId(7), ChunkId(b"c" * 32), 500)
    await names.aclose()
    assert fetched()[-1] == [(20_000, 3, 1500)]


async def test_a_session_is_renewed_every_five_seconds_and_tells_of_new_maps(autojump_clock: MockClock) -> None:
    seen: list[int] = []
    coordinator = FakeCoordinator(work)
    names = namespace(coordinator, on_map_version=seen.append, map_version=7)
    with trio.move_on_after(16):
        await names.maintain()
    assert seen == [8, 9, 10]


async def test_after_a_chunk_was_gone_a_new_map_is_asked_for_at_once(autojump_clock: MockClock) -> None:
    """It may be on a peer that leaves, and by the old map it would be stored there again."""
    seen: list[int] = []
    coordinator = FakeCoordinator(refuse(Gone("store it again")), work)
    names = namespace(coordinator, on_map_version=seen.append, map_version=7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.maintain)
        with pytest.raises(Gone):
            await names.apply([COMMIT])
        await trio.sleep(1)
        assert seen == [8]
        nursery.cancel_scope.cancel()


async def test_maintaining_goes_on_through_an_absence_and_ends_with_the_session(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(away)
    names = namespace(coordinator)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.maintain)
        await trio.sleep(100)
        assert names.is_away
        coordinator.reactions = [work]
        await trio.sleep(20)
        assert not names.is_away
        coordinator.reactions = [refuse(Fenced("over"))]
        nursery.cancel_scope.deadline = trio.current_time() + 20
    assert not nursery.cancel_scope.cancelled_caught
    assert names.is_fenced


async def test_closing_ends_whatever_the_coordinator_does(autojump_clock: MockClock) -> None:
    for reaction in (hang, away, refuse(Fenced("over")), work):
        began = trio.current_time()
        await namespace(FakeCoordinator(reaction)).aclose()
        assert trio.current_time() - began <= 5


# ---- flights --------------------------------------------------------------------------------------------------------


async def test_questions_asked_at_the_same_time_travel_together() -> None:
    coordinator = FakeCoordinator(work)
    names = namespace(coordinator)
    found: dict[int, int] = {}

    async def ask(inode: int) -> None:
        found[inode] = (await names.attributes(InodeId(inode))).inode

    async with trio.open_nursery() as nursery:
        for inode in range(50):
            nursery.start_soon(ask, inode)
    assert found == {inode: inode for inode in range(50)}
    assert len(coordinator.requests) == 1


async def test_each_question_gets_its_own_refusal() -> None:
    def react(_path: str, message: list[Any]) -> list[Answer]:
        return [
            answers.refusal(NotFound("gone")) if question.inode % 2 else answers.answer(row(question.inode))
            for question in message
        ]

    names = namespace(FakeCoordinator(react))
    missing = []

    async def ask(inode: int) -> None:
        try:
            await names.attributes(InodeId(inode))
        except NotFound:
            missing.append(inode)

    async with trio.open_nursery() as nursery:
        for inode in range(6):
            nursery.start_soon(ask, inode)
    assert sorted(missing) == [1, 3, 5]


async def test_a_few_requests_are_under_way_and_none_is_too_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "MAX_FLIGHTS", 1)
    sent: list[list[Question]] = []
    gate = trio.Event()

    async def send(questions: list[Question]) -> list[Answer]:
        sent.append(questions)
        await gate.wait()
        return [answers.answer(0)] * len(questions)

    group = Flights(send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.ask, GetAttributes(0))
        await wait_all_tasks_blocked()
        for number in range(20):
            nursery.start_soon(group.ask, ReadExtents(number, 0))
        await wait_all_tasks_blocked()
        assert len(sent) == 1
        gate.set()
    assert [len(questions) for questions in sent] == [1, 8, 8, 4]


@pytest.mark.parametrize("is_sent", [False, True])
async def test_a_carrier_that_is_cancelled_takes_nobody_down_with_it(
    monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    monkeypatch.setattr(flights, "MAX_FLIGHTS", 1)
    gates = [trio.Event(), trio.Event(), trio.Event()]
    gates[2].set()
    sent: list[int] = []

    async def send(questions: list[Question]) -> list[Answer]:
        sent.append(len(questions))
        await gates[len(sent) - 1 if is_sent or len(sent) == 1 else 2].wait()
        return [answers.answer(question.inode) for question in questions]  # type: ignore[union-attr]

    group = Flights(send)
    got: list[int] = []

    async def ask(number: int) -> None:
        got.append(answers.unwrap(await group.ask(GetAttributes(number)), int))

    async with trio.open_nursery() as nursery, trio.open_nursery() as carrier:
        nursery.start_soon(ask, 0)
        await wait_all_tasks_blocked()
        carrier.start_soon(ask, 1)
        await wait_all_tasks_blocked()
        nursery.start_soon(ask, 2)
        nursery.start_soon(ask, 3)
        await wait_all_tasks_blocked()
        if is_sent:
            gates[0].set()
            await wait_all_tasks_blocked()
        carrier.cancel_scope.cancel()
        gates[0].set()
    assert sorted(got) == [0, 2, 3]
    assert sent == ([1, 3, 2] if is_sent else [1, 2])


async def test_a_wrong_number_of_answers_is_misuse() -> None:
    async def send(_questions: list[Question]) -> list[Answer]:
        return []

    with pytest.raises(Misuse):
        await Flights(send).ask(GetAttributes(0))
