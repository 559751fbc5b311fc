"""A mount with the delegation when its coordinator is odd, slow or away, and what it remembers of failures."""

import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from msgspec import structs
from namespaces import VOLUME, extent, new_chunk
from plugins.checklogs import Claims
from trio.testing import wait_all_tasks_blocked

from p2pfs.errors import CoordinatorAway, Denied, Fenced, Loop, NotFound, PoolError, Semantic
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.meta.protocol import InDoubt
from p2pfs.types import ROOT_INODE, DentryId, Kind
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.delegation.known import KnownTree
from p2pfs.vfs.limits import Durability
from p2pfs.vfs.promises import Promises
from p2pfs.wire.delegations import Delegation
from p2pfs.wire.namespace import (
    RENAME_EXCHANGE,
    Applied,
    Attributes,
    Commit,
    DirectoryPage,
    Entry,
    Link,
    Make,
    Operation,
    Rename,
    SetAttributes,
    Unlink,
)

pytestmark = pytest.mark.l0


class Session(MemoryNamespace):
    """Whose calls tests replace."""

    def __init__(self, volume: MemoryVolume) -> None:
        super().__init__(volume, volume.session().number, read_only=False)
        self.volume = volume
        self.asked = 0
        self.before_apply: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.answer: Callable[[Delegation], Delegation] = lambda told: told

    async def delegate(self, epoch: int) -> Delegation:
        self.asked += 1
        return self.answer(await super().delegate(epoch))

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        await self.before_apply()
        return await super().apply(operations)

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        await self.before_apply()
        return await super().apply_under(epoch, operations)


def fresh(**options: Any) -> tuple[Session, Delegated, Holding]:  # noqa: ANN401 - Delegated's
    session = Session(MemoryVolume(root_head=b"root head", volume=VOLUME, time_ns=1))
    delegated = Delegated(session, now=trio.current_time, io_timeout_s=options.pop("io_timeout_s", 30.0), **options)
    return session, delegated, Holding(delegated, trio.current_time)


@asynccontextmanager
async def holding(holding: Holding) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(holding.hold)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def make(delegated: Delegated, name: bytes) -> Make:
    ids = await delegated.new_ids(2)
    made = Make(ROOT_INODE, name, ids[0], b"t", ids[1], Kind.FILE, 0o644, 1, 2, 0, b"head", 1)
    await delegated.apply([made])
    return made


async def test_a_commit_in_doubt_from_before_the_delegation_is_not_missed(autojump_clock: object) -> None:
    session, delegated, held = fresh()
    file = (await make(delegated, b"file")).inode
    doubts: list[InDoubt] = []

    async def lost() -> None:
        async def again() -> Applied:
            return await MemoryNamespace.apply(session, [commit])

        raise InDoubt("no answer", again, lambda: None)

    change = (await delegated.attributes(file)).change
    commit = Commit(file, change, 9, b"new head", 7, [extent(0, 1, 1)], [new_chunk(1)])
    session.before_apply = lost
    try:
        await delegated.apply([commit])
    except InDoubt as doubt:
        doubts.append(doubt)
    session.before_apply = trio.lowlevel.checkpoint
    async with holding(held):
        assert delegated.holds
        assert (await delegated.attributes(file)).size == 0
        await doubts[0].again()
        with trio.fail_after(5):
            assert (await delegated.attributes(file)).size == 9
            assert (await delegated.extents(file, 0)).attributes.size == 9
            assert (await delegated.apply([SetAttributes(file, 8, mode=0o600)])).attributes[0].size == 9


@pytest.mark.parametrize("_", range(10))  # who waits for the same goes on in any order
async def test_a_change_that_waited_for_the_queue_while_the_delegation_came_back_is_not_missed(
    _: int, autojump_clock: object
) -> None:
    session, delegated, held = fresh()
    file = (await make(delegated, b"file")).inode
    async with holding(held), trio.open_nursery() as nursery:
        gate = trio.Event()
        session.before_apply = gate.wait
        await make(delegated, b"waits")
        epoch, delegated._until_s = delegated.epoch, -math.inf
        nursery.start_soon(delegated.apply, [SetAttributes(file, 8, mode=0o600)])
        await wait_all_tasks_blocked()
        nursery.start_soon(delegated.hold, epoch, trio.current_time() + 30)
        await wait_all_tasks_blocked()
        session.before_apply = partial(trio.sleep, 1)
        gate.set()
        await trio.sleep(0.5)
        await delegated.attributes(file)
        await trio.sleep(3)
        await delegated.settle()
        assert (await delegated.attributes(file)).mode == 0o600


@pytest.mark.parametrize("method", ["directory", "lookup", "attributes"])
async def test_an_answer_that_a_change_overtook_is_not_believed(
    method: str, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, delegated, held = fresh()
    file = (await make(delegated, b"old")).inode
    chmod = SetAttributes(file, 8, mode=0o600)
    real, gate, waiting = getattr(session, method), trio.Event(), trio.Event()

    async def late(*arguments: Any, **more: Any) -> Any:  # noqa: ANN401
        answer: Any = await outcome(real(*arguments, **more))
        if not waiting.is_set():
            waiting.set()
            await gate.wait()
        if isinstance(answer, PoolError):
            raise answer
        return answer

    async with holding(held), trio.open_nursery() as nursery:
        monkeypatch.setattr(session, method, late)
        if method == "attributes":
            nursery.start_soon(outcome, delegated.attributes(file))
        else:
            nursery.start_soon(outcome, delegated.lookup(ROOT_INODE, b"new"))
        await waiting.wait()
        ids = await session.new_ids(2)  # not through `delegated`: the coordinator has to check them
        new = Make(ROOT_INODE, b"new", ids[0], b"t", ids[1], Kind.FILE, 0o644, 1, 2, 0, b"head", 1)
        await delegated.apply([new])
        doubt = delegated._doubted(InDoubt("", partial(session.apply, [chmod]), lambda: None), [chmod], {file})
        await doubt.again()
        gate.set()
        assert (await delegated.lookup(ROOT_INODE, b"new")).attributes.inode == new.inode
        await trio.sleep(1)
        assert (await delegated.lookup(ROOT_INODE, b"new")).attributes.inode == new.inode
        assert (await delegated.attributes(file)).mode == 0o600


async def outcome(question: Awaitable[object]) -> object:
    try:
        return await question
    except PoolError as error:
        return error


@pytest.mark.parametrize("lasts_s", [math.nan, -1.0, -math.inf, math.inf])
async def test_a_coordinator_that_names_absurd_times_is_asked_again_later(
    lasts_s: float, claim_logs: Claims, autojump_clock: object
) -> None:
    claim_logs("cannot be delegated to this mount")
    session, delegated, held = fresh()
    session.answer = lambda told: Delegation(told.epoch, lasts_s)
    async with holding(held):
        assert not delegated.holds
        asked = session.asked
        await trio.sleep(60)
        assert not delegated.holds
        assert asked < session.asked < 100


async def test_a_coordinator_that_says_to_ask_again_at_once_is_not_asked_without_end(autojump_clock: object) -> None:
    session, _, held = fresh()
    session.answer = lambda _: Delegation(0, 0.0)
    async with holding(held):
        await trio.sleep(10)
        assert session.asked < 200


async def test_two_directories_do_not_get_into_each_other(autojump_clock: object) -> None:
    """One rename is sent through, as it is not known where its directory is; another is judged meanwhile."""
    session, delegated, held = fresh()
    made: dict[bytes, Make] = {}
    for path in (b"p", b"q", b"p/a", b"q/b", b"p/a/1", b"q/b/1", b"q/b/1/x"):
        above, _, name = path.rpartition(b"/")
        parent = made[above].inode if above else ROOT_INODE
        inode, dentry = await delegated.new_ids(2)
        made[path] = Make(parent, name, inode, b"t", dentry, Kind.DIRECTORY, 0o755, 1, 2, 0, b"h", 1)
        await delegated.apply([made[path]])
    a, b, a_1, b_1, x = (made[path] for path in (b"p/a", b"q/b", b"p/a/1", b"q/b/1", b"q/b/1/x"))
    into_b = Rename(a.parent, b"a", a.inode, b_1.inode, b"x", 0, b"r", x.inode, 0, 5, b"back")
    into_a = Rename(b.parent, b"b", b.inode, a_1.inode, b"y", 0, b"r", 0, 0, 5, b"back")
    async with holding(held):
        for step in (made[b"p"], a, a_1):
            await delegated.lookup(step.parent, step.name)
        ids = await delegated.new_ids(2)
        gate = trio.Event()
        session.before_apply = gate.wait
        refused = []

        async def rename(operation: Rename, dentry: int) -> None:
            try:
                await delegated.apply([structs.replace(operation, dentry=dentry)])
            except Semantic as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename, into_b, ids[0])
            await trio.sleep(1)
            nursery.start_soon(rename, into_a, ids[1])
            await trio.sleep(1)
            gate.set()
        await delegated.settle()
        assert len(refused) == 1


@pytest.fixture
def lost(claim_logs: Claims) -> None:
    claim_logs("changes of this mount are lost")


@pytest.mark.usefixtures("lost")
async def test_a_lost_queue_is_told_again_and_again_without_growing(autojump_clock: object) -> None:
    session, delegated, held = fresh()
    async with holding(held):
        session.volume.delegation.revoke()
        await make(delegated, b"lost")
        lengths = []
        for _ in range(3):
            with pytest.raises(Fenced) as told:
                await delegated.settle()
            lengths.append(len(told.traceback))
    assert len(set(lengths)) == 1


@pytest.mark.usefixtures("lost")
async def test_what_is_lost_is_not_answered_as_if_it_were_there(autojump_clock: object) -> None:
    session, delegated, held = fresh()
    async with holding(held):
        session.volume.delegation.revoke()
        await make(delegated, b"lost")
        with pytest.raises(Fenced):
            await delegated.settle()
        assert not delegated.holds
        for question in (lambda: delegated.lookup(ROOT_INODE, b"lost"), lambda: make(delegated, b"more")):
            with pytest.raises(Fenced):
                await question()


async def test_a_recalled_holder_with_a_long_queue_is_renewed_while_it_sends(autojump_clock: object) -> None:
    session, delegated, held = fresh(io_timeout_s=math.inf)
    async with holding(held):
        gate = trio.Event()
        session.before_apply = gate.wait
        await make(delegated, b"one")
        asked = session.asked
        delegated.recalled.set()
        await trio.sleep(25)
        assert session.asked >= asked + 3
        gate.set()
        await trio.sleep(1)
        assert session.volume._names[ROOT_INODE].keys() == {b"one"}


async def test_a_mount_that_is_never_idle_gets_the_delegation_too(autojump_clock: object) -> None:
    session, delegated, held = fresh()
    session.before_apply = partial(trio.sleep, 0.01)

    async def busy(number: int) -> None:
        await trio.sleep(number / 300)  # so that one is always under way
        while not delegated.holds:
            await make(delegated, b"%d" % session.volume.grant_ids(1)[0])

    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            async with trio.open_nursery() as programs:
                for number in range(3):
                    programs.start_soon(busy, number)
                await trio.sleep(0.1)
                nursery.start_soon(held.hold)
        nursery.cancel_scope.cancel()


async def test_what_is_known_stays_within_its_bound_while_many_change_without_pause(autojump_clock: object) -> None:
    session, delegated, held = fresh(known_bytes=100_000)
    session.before_apply = partial(trio.sleep, 0.01)
    most = 0

    async def busy(number: int) -> None:
        nonlocal most
        for at in range(400):
            name = b"%d %d" % (number, at)
            made = await make(delegated, name)
            await delegated.apply([Unlink(ROOT_INODE, name, made.inode, False, 1)])
            most = max(most, delegated._known.bytes)
            await trio.sleep(number / 1000)

    async with holding(held):
        async with trio.open_nursery() as nursery:
            for number in range(7):
                nursery.start_soon(busy, number)
        await delegated.settle()
    assert most < 300_000
    with pytest.raises(NotFound):
        await delegated.lookup(ROOT_INODE, b"0 0")


async def test_a_coordinator_that_refuses_the_return_does_not_end_the_mount(
    claim_logs: Claims, autojump_clock: object
) -> None:
    claim_logs("cannot be returned, and runs out", count=1)
    session, delegated, held = fresh()

    async def refuse(epoch: int, timeouts_s: float) -> None:
        raise Denied("this node is revoked")

    session.return_delegation = refuse  # type: ignore[method-assign]
    async with holding(held):
        assert delegated.holds
        session.volume.delegation.recall(0)
        delegated.recalled.set()
        await trio.sleep(5)
        assert not delegated.holds


@pytest.mark.parametrize("numbers", [[[2, 3], [5, 9], [10, 11]], [[3, 2], [9, 5], [11, 10]]])
def test_pages_of_a_directory_are_given_away_in_the_order_of_their_numbers(numbers: list[list[int]]) -> None:
    """A coordinator need not keep to it."""
    known = KnownTree()
    known.take_row(_row(ROOT_INODE, Kind.DIRECTORY), known.moment)
    after = 0
    for at, page in enumerate(numbers, 1):
        entries = [Entry(number, b"%d" % number, b"tag", _row(100 + number, Kind.FILE)) for number in page]
        after = int(known.take_page(ROOT_INODE, after, DirectoryPage(entries, False), known.moment))
        found, lacking = known.between(ROOT_INODE, 0, after, 10)
        assert [entry.dentry for entry in found] == sorted(itertools.chain(*numbers[:at]))
        assert not lacking


@pytest.mark.parametrize("change", ["mode", "exchange", "link", "unlink"])
async def test_a_page_that_was_given_is_not_given_again_after_a_change(change: str, autojump_clock: object) -> None:
    session, delegated, held = fresh()
    async with holding(held):
        one, two = [await make(delegated, name) for name in (b"one", b"two")]
        before = await delegated.directory(ROOT_INODE, DentryId(0), 10)
        assert await delegated.directory(ROOT_INODE, DentryId(0), 10) is before
        (number,) = await delegated.new_ids(1)
        operations: dict[str, Operation] = {
            "mode": SetAttributes(one.inode, 8, mode=0o600),
            "exchange": Rename(
                ROOT_INODE, b"one", one.inode, ROOT_INODE, b"two", 0, b"A", two.inode, RENAME_EXCHANGE, 8, b"B"
            ),
            "link": Link(ROOT_INODE, b"more", number, b"tag", one.inode, 8),
            "unlink": Unlink(ROOT_INODE, b"two", two.inode, False, 8),
        }
        await delegated.apply([operations[change]])
        after = await delegated.directory(ROOT_INODE, DentryId(0), 10)
        await delegated.settle()
        assert after == await session.directory(ROOT_INODE, DentryId(0), 10) != before


def _row(inode: int, kind: Kind) -> Attributes:
    return Attributes(inode, kind, 0o644, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, b"head")


def test_directories_that_are_told_to_go_round_in_a_circle_are_for_the_coordinator() -> None:
    known = KnownTree()
    known.take_row(_row(ROOT_INODE, Kind.DIRECTORY), known.moment)
    for number in (5, 6, 7):
        known.take_row(_row(number, Kind.DIRECTORY), known.moment)
    for parent, number in ((ROOT_INODE, 7), (5, 6), (6, 5)):
        known.take_entry(parent, Entry(number + 10, b"%d" % number, b"tag", _row(number, Kind.DIRECTORY)), known.moment)
    move = Rename(ROOT_INODE, b"7", 7, 6, b"7", 30, b"tag", 0, 0, 8)
    assert not known.can_judge(move)
    with pytest.raises(Loop):
        known.apply([move])


def away_for_good(session: Session, io_timeout_s: float) -> None:
    """From now on no change is answered: the first is told so after a while, and what asks again after a second."""

    async def again() -> Applied:
        await trio.sleep(1)
        raise CoordinatorAway("still no answer")

    async def lost() -> None:
        await trio.sleep(io_timeout_s)
        raise InDoubt("no answer", again, lambda: None)

    session.before_apply = lost


async def test_a_coordinator_that_is_away_costs_io_timeout_once(autojump_clock: object) -> None:
    session, delegated, held = fresh(io_timeout_s=30.0)
    async with holding(held):
        file = (await make(delegated, b"file")).inode
        await delegated.settle()
        away_for_good(session, 30.0)
        await make(delegated, b"acknowledged")
        delegated._until_s = -math.inf
        session.answer = lambda told: Delegation(0, 60.0)
        began_s = trio.current_time()
        for _ in range(5):
            with pytest.raises(CoordinatorAway):
                await delegated.apply([SetAttributes(file, 8, mode=0o600)])
        assert trio.current_time() - began_s <= 30 + 5 * 3


async def test_changes_that_wait_behind_one_another_hear_together_that_the_coordinator_is_away(
    autojump_clock: object,
) -> None:
    session, delegated, held = fresh(io_timeout_s=30.0)
    refused: list[float] = []
    async with holding(held):
        file = (await make(delegated, b"file")).inode
        await delegated.settle()
        away_for_good(session, 30.0)
        began_s = trio.current_time()

        async def change() -> None:
            row = await delegated.attributes(file)
            with pytest.raises(CoordinatorAway):
                await delegated.apply([Commit(file, row.change, 9, b"head", 7, [extent(0, 1, 1)], [new_chunk(1)])])
            refused.append(trio.current_time() - began_s)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(change)
        assert max(refused) <= 31


async def test_who_leaves_waits_for_a_coordinator_that_is_known_to_be_away(autojump_clock: object) -> None:
    session, delegated, held = fresh(io_timeout_s=30.0)
    async with holding(held):
        gone = trio.Event()

        async def again() -> Applied:
            if trio.current_time() < back_s:
                raise CoordinatorAway("still no answer")
            return Applied([])

        async def lost() -> None:
            gone.set()
            raise InDoubt("no answer", again, lambda: None)

        back_s = trio.current_time() + 50
        session.before_apply = lost
        await make(delegated, b"acknowledged")
        await gone.wait()
        leaving = Promises(
            delegated,
            writer=NotImplemented,
            storer=NotImplemented,
            settler=NotImplemented,
            durability=Durability.FSYNC,
            journal=NotImplemented,
            hard=False,
        )
        await leaving.committed_at_last(60)
        assert trio.current_time() >= back_s


async def test_numbers_that_nobody_uses_are_not_remembered_for_ever(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfs.vfs.delegation.delegated.MOST_UNUSED", 10)
    session, delegated, held = fresh()
    async with holding(held):
        early = await delegated.new_ids(2)
        for _ in range(50):
            await delegated.new_ids(2)
        assert len(delegated._granted) <= 12
        made = await make(delegated, b"late")
        assert made.inode not in delegated._granted
        await delegated.apply(
            [Make(ROOT_INODE, b"early", early[0], b"t", early[1], Kind.FILE, 0o644, 1, 2, 0, b"h", 1)]
        )
        await delegated.settle()
    assert {entry.name for entry in (await session.directory(ROOT_INODE, DentryId(0), 9)).entries} == {
        b"late",
        b"early",
    }
