"""What is open here outlives its last name, whatever happens meanwhile; what is not is let go of, however late."""

from collections.abc import AsyncIterator

import pytest
import trio
from mount_pairs import Gate, Mount, Two, fail, interpose, lonely, mounts, record
from plugins.checklogs import Claims
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pfs.errors import Conflict, CoordinatorAway, Misuse, NotFound, PoolError, Unavailable
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs import inode_table, keeping, news
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Commit, Make, Opened, Operation, Released, Rename, Unlink

pytestmark = pytest.mark.l3


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with mounts() as given:
        yield given


@pytest.fixture
async def alone() -> AsyncIterator[Mount]:
    async with lonely() as given:
        yield given


async def take_name(mount: Mount, way: str) -> None:
    """Of the file f."""
    if way == "unlink":
        await mount.remove(b"f")
    else:
        await mount.fs.rename(ROOT_INODE, b"other", ROOT_INODE, b"f", 0)


async def kept_with_a_name(mount: Mount, name: bytes) -> Handle:
    """An open file that lost one of its names here, and has `name` left."""
    handle = await mount.made(name + b".old", name)
    await mount.fs.link(handle.inode.id, ROOT_INODE, name)
    await mount.remove(name + b".old")
    return handle


class Opening:
    """An open in the background."""

    def __init__(self, nursery: trio.Nursery, mount: Mount, number: InodeId, *, truncate: bool = False) -> None:
        self.handle: Handle | None = None
        self.error: PoolError | None = None
        self.is_done = False

        async def run() -> None:
            try:
                self.handle = await mount.fs.open(number, truncate=truncate)
            except PoolError as error:
                self.error = error
            self.is_done = True

        nursery.start_soon(run)


# ---- opening beside removing


@pytest.mark.parametrize("way", ["unlink", "rename"])
@pytest.mark.parametrize("refused", [None, Conflict("it changed"), CoordinatorAway("not now")])
async def test_an_open_waits_for_the_removal_that_did_not_know_of_it(
    alone: Mount, way: str, refused: PoolError | None
) -> None:
    for name in (b"f", b"other"):
        handle = await alone.made(name, name)
        await alone.fs.release(handle)
    number = (await alone.fs.lookup(ROOT_INODE, b"f")).id
    kind = Unlink if way == "unlink" else Rename
    if refused is not None:
        fail(alone.namespace, refused, of=kind, times=20)
    gate = Gate(alone.namespace, of=kind)

    async def take() -> None:
        try:
            await take_name(alone, way)
        except Unavailable:
            assert refused is not None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await gate.reached.wait()
        opening = Opening(nursery, alone, number)
        await wait_all_tasks_blocked()
        assert not opening.is_done
        gate.open()
    if refused is None:
        assert isinstance(opening.error, NotFound)
    else:
        assert opening.handle is not None
        assert await alone.content(opening.handle) == b"f"


@pytest.mark.parametrize("way", ["unlink", "rename"])
async def test_a_removal_knows_of_an_open_that_has_only_begun(alone: Mount, way: str) -> None:
    for name in (b"f", b"other"):
        await alone.fs.release(await alone.made(name, name))
    number = (await alone.fs.lookup(ROOT_INODE, b"f")).id
    gate = Gate(alone.namespace, "attributes", answered=True)
    async with trio.open_nursery() as nursery:
        opening = Opening(nursery, alone, number)
        await gate.reached.wait()
        await take_name(alone, way)
        gate.open()
    assert opening.handle is not None
    await alone.fs.write(opening.handle, 1, b" more")
    await alone.fs.fsync(opening.handle)
    assert await alone.content(opening.handle) == b"f more"
    await alone.fs.release(opening.handle)
    await wait_all_tasks_blocked()
    assert await alone.namespace.held() == []


async def test_a_file_not_in_memory_that_is_removed_elsewhere_while_it_is_opened_is_kept(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (b"f", b"other"):
        await two.a.fs.release(await two.a.made(name, name))
    number = (await two.b.fs.lookup(ROOT_INODE, b"f")).id
    monkeypatch.setattr(inode_table, "IDLE_INODES", 1)
    await two.b.fs.lookup(ROOT_INODE, b"other")
    assert two.b.fs._table.get(number) is None
    gate = Gate(two.b.namespace, "attributes", answered=True)
    async with trio.open_nursery() as nursery:
        opening = Opening(nursery, two.b, number)
        await gate.reached.wait()
        await two.a.remove(b"f")
        await wait_all_tasks_blocked()
        gate.open()
    assert opening.handle is not None
    await two.b.fs.write(opening.handle, 1, b" more")
    await two.b.fs.fsync(opening.handle)
    assert await two.b.content(opening.handle) == b"f more"


async def test_a_file_being_opened_stays_in_memory(alone: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = await alone.made(b"f", b"one")
    await alone.fs.release(handle)
    inode = handle.inode
    fail(alone.namespace, CoordinatorAway("not now"), "attributes")
    gate = Gate(alone.namespace, "attributes")
    async with trio.open_nursery() as nursery:
        opening = Opening(nursery, alone, inode.id)
        await gate.reached.wait()
        monkeypatch.setattr(inode_table, "IDLE_INODES", 1)
        await alone.made(b"other", b"two")
        gate.open()
    assert opening.handle is not None
    assert alone.fs._table.get(inode.id) is opening.handle.inode is inode


async def test_a_file_removed_elsewhere_before_its_maker_has_the_answer_is_kept(two: Two) -> None:
    gate = Gate(two.a.namespace, of=Make, answered=True)
    made: list[Handle] = []

    async def make() -> None:
        made.append(await two.a.fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        await gate.reached.wait()
        await two.b.remove(b"f")
        await wait_all_tasks_blocked()
        gate.open()
    await two.a.fs.write(made[0], 0, b"one")
    await two.a.fs.fsync(made[0])
    assert await two.a.content(made[0]) == b"one"


# ---- opening without a name


@pytest.mark.parametrize("remover", ["this mount", "another"])
@pytest.mark.parametrize("told", [False, True])
async def test_after_its_last_close_a_nameless_file_cannot_be_opened(two: Two, remover: str, told: bool) -> None:
    await two.a.fs.release(await two.a.made(b"f", b"one"))
    handle = await two.b.opened(b"f")
    await (two.b if remover == "this mount" else two.a).remove(b"f")
    await wait_all_tasks_blocked()
    again = await two.b.fs.open(handle.inode.id)  # as /proc/self/fd does
    assert await two.b.content(again) == b"one"
    await two.b.fs.release(handle)
    await wait_all_tasks_blocked()
    assert await two.b.content(again) == b"one"
    await two.b.fs.release(again)
    if told:
        await wait_all_tasks_blocked()
    with pytest.raises(NotFound):
        await two.b.fs.open(handle.inode.id)
    await wait_all_tasks_blocked()
    assert await two.b.namespace.held() == []


async def test_a_file_kept_for_another_mount_alone_cannot_be_opened_here(two: Two) -> None:
    handle = await two.a.made(b"f", b"one")
    number = (await two.b.fs.lookup(ROOT_INODE, b"f")).id
    gate = Gate(two.b.namespace, of=Unlink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.b.remove, b"f")
        await gate.reached.wait()
        opening = Opening(nursery, two.b, number)
        await wait_all_tasks_blocked()
        gate.open()
    assert isinstance(opening.error, NotFound)
    assert await two.a.content(handle) == b"one"


@pytest.mark.parametrize("way", ["unlink", "rename"])
async def test_a_kernel_is_not_told_that_a_file_has_no_names_left_which_nobody_here_has_open(
    two: Two, way: str
) -> None:
    """It would not link it any more, by a name that leads to another file by now, and not look that up again."""
    for name in (b"f", b"other"):
        await two.a.fs.release(await two.a.made(name, name))
    handle = await two.b.opened(b"f")
    number = handle.inode.id
    gate = Gate(two.b.namespace, of=Released)
    await take_name(two.a, way)
    assert (await two.b.fs.stat(number)).links == 0
    assert (await two.b.fs.attributes.set(number, mode=0o600)).links == 0
    await two.b.fs.release(handle)
    await gate.reached.wait()
    assert await two.b.namespace.held() == [number]
    for asked in (lambda: two.b.fs.stat(number), lambda: two.b.fs.attributes.set(number, mode=0o644)):
        with pytest.raises(NotFound):
            await asked()
    gate.open()


# ---- letting go


@pytest.mark.parametrize("kind", [Kind.DIRECTORY, Kind.FIFO])
async def test_what_is_no_file_is_kept_while_the_kernel_refers_to_it(two: Two, kind: Kind) -> None:
    await two.a.fs.make(ROOT_INODE, b"d", kind, 0o755, Owner(0, 0))
    inode = await two.b.fs.lookup(ROOT_INODE, b"d")
    two.b.fs.refer(inode)
    await two.a.fs.remove(ROOT_INODE, b"d", directory=kind is Kind.DIRECTORY)
    await wait_all_tasks_blocked()
    assert await two.b.namespace.held() == [inode.id]
    two.b.fs.forget(inode.id, 1)
    await wait_all_tasks_blocked()
    assert await two.b.namespace.held() == []


async def test_a_file_closed_while_its_last_name_is_taken_is_let_go(alone: Mount) -> None:
    handle = await alone.made(b"f", b"one")
    gate = Gate(alone.namespace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alone.remove, b"f")
        await gate.reached.wait()
        await alone.fs.release(handle)
        await wait_all_tasks_blocked()
        gate.open()
    await wait_all_tasks_blocked()
    assert await alone.namespace.held() == []


async def test_nothing_is_let_go_while_a_name_of_it_is_taken(alone: Mount) -> None:
    handle = await kept_with_a_name(alone, b"f")
    gate = Gate(alone.namespace, of=Unlink)
    sent = record(alone.namespace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alone.remove, b"f")
        await gate.reached.wait()
        await alone.fs.release(handle)
        await wait_all_tasks_blocked()
        gate.open()
    await wait_all_tasks_blocked()
    assert [[type(operation) for operation in batch] for batch in sent] == [[Opened, Unlink], [Released]]
    assert await alone.namespace.held() == []


@pytest.mark.parametrize("outcome", [CoordinatorAway("the answer was lost"), None])
async def test_a_file_whose_removal_has_no_known_outcome_is_let_go_when_it_is_closed(
    alone: Mount, outcome: PoolError | None
) -> None:
    handle = await alone.made(b"f", b"one")
    if outcome is not None:
        fail(alone.namespace, outcome, of=Unlink, done=True)
        with pytest.raises(CoordinatorAway):
            await alone.remove(b"f")
    else:
        gate = Gate(alone.namespace, of=Unlink, answered=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alone.remove, b"f")
            await gate.reached.wait()
            nursery.cancel_scope.cancel()
    assert await alone.namespace.held() == [handle.inode.id]
    assert await alone.content(handle) == b"one"
    await alone.fs.release(handle)
    await wait_all_tasks_blocked()
    assert await alone.namespace.held() == []


async def test_an_open_that_fails_after_the_file_was_kept_for_it_lets_it_go(two: Two) -> None:
    await two.a.fs.release(await two.a.made(b"f", b"one"))
    number = (await two.b.fs.lookup(ROOT_INODE, b"f")).id
    fail(two.b.namespace, Unavailable("no peers"), of=Commit)
    gate = Gate(two.b.namespace, of=Commit)
    async with trio.open_nursery() as nursery:
        opening = Opening(nursery, two.b, number, truncate=True)
        await gate.reached.wait()
        await two.a.remove(b"f")
        await wait_all_tasks_blocked()
        assert await two.b.namespace.held() == [number]
        gate.open()
    assert isinstance(opening.error, Unavailable)
    await wait_all_tasks_blocked()
    assert await two.b.namespace.held() == []


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize("done", [False, True])
async def test_letting_go_is_repeated_until_the_coordinator_has_heard_it(
    alone: Mount, times: int, done: bool, autojump_clock: MockClock
) -> None:
    handle = await alone.made(b"f", b"one")
    await alone.remove(b"f")
    sent = record(alone.namespace)
    fail(alone.namespace, CoordinatorAway("restarting"), times=times, done=done)
    await alone.fs.release(handle)
    await trio.sleep(3600)
    assert await alone.namespace.held() == []
    assert len(sent) == (times + 1 if done else 1)


async def test_what_the_coordinator_refuses_to_let_go_is_not_asked_for_ever(
    alone: Mount, autojump_clock: MockClock, claim_logs: Claims
) -> None:
    handle = await alone.made(b"f", b"one")
    await alone.remove(b"f")
    fail(alone.namespace, Misuse("what is this?"))
    sent = record(alone.namespace)
    await alone.fs.release(handle)
    await trio.sleep(3600)
    assert len(sent) == 1
    claim_logs("1 inodes are kept until the session ends: what is this?", count=1)


async def test_many_are_let_go_in_few_batches(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST_RELEASED", 10)
    names = [b"%d" % number for number in range(30)]
    for name in names:
        await two.a.fs.release(await two.a.made(name, b"x"))
    sent = record(two.b.namespace)
    gate = Gate(two.b.namespace)
    for name in names:
        await two.a.remove(name)
    await gate.reached.wait()
    await wait_all_tasks_blocked()
    gate.open()
    await wait_all_tasks_blocked()
    assert await two.b.namespace.held() == []
    assert len(sent) <= 4
    assert max(len(batch) for batch in sent) == 10


async def test_a_mount_that_is_alone_pays_for_nothing(alone: Mount) -> None:
    sent = record(alone.namespace)
    handle = await alone.made(b"f", b"one")
    await alone.fs.release(handle)
    again = await alone.fs.open(handle.inode.id)
    await alone.fs.release(again)
    await alone.remove(b"f")
    await wait_all_tasks_blocked()
    assert [[type(operation) for operation in batch] for batch in sent] == [[Make], [Commit], [Unlink]]


# ---- using again what is let go of


@pytest.mark.parametrize("removed", [False, True])
async def test_opening_and_removing_wait_until_a_release_is_answered(alone: Mount, removed: bool) -> None:
    handle = await kept_with_a_name(alone, b"f")
    gate = Gate(alone.namespace, of=Released)
    await alone.fs.release(handle)
    await gate.reached.wait()
    async with trio.open_nursery() as nursery:
        opening = Opening(nursery, alone, handle.inode.id)
        await wait_all_tasks_blocked()
        if removed:
            nursery.start_soon(alone.remove, b"f")
            await wait_all_tasks_blocked()
        assert not opening.is_done
        assert (await alone.namespace.attributes(handle.inode.id)).links == 1
        gate.open()
    if not removed:
        await alone.remove(b"f")
    assert opening.handle is not None
    await alone.fs.write(opening.handle, 0, b"F")
    await alone.fs.fsync(opening.handle)
    assert await alone.content(opening.handle) == b"F"


@pytest.mark.parametrize("answer", ["given", "lost"])
async def test_what_is_used_again_before_its_turn_is_not_let_go(
    alone: Mount, answer: str, autojump_clock: MockClock
) -> None:
    first, second = await kept_with_a_name(alone, b"first"), await kept_with_a_name(alone, b"second")
    released: list[int] = []

    async def note(call: object, operations: list[Operation]) -> object:
        released.extend(operation.inode for operation in operations if isinstance(operation, Released))
        return await call()  # type: ignore[operator]

    interpose(alone.namespace, "apply", note)
    if answer == "lost":
        fail(alone.namespace, CoordinatorAway("not now"), of=Released)
    gate = Gate(alone.namespace, of=Released)
    await alone.fs.release(first)
    await gate.reached.wait()
    await alone.fs.release(second)
    question = Gate(alone.namespace, "attributes")
    async with trio.open_nursery() as nursery:
        opening = Opening(nursery, alone, second.inode.id)
        await question.reached.wait()
        gate.open()
        await trio.sleep(1)  # of the mock clock: less than the open waits for an answer
        question.open()
    await trio.sleep(100)
    assert released == [first.inode.id]
    await alone.remove(b"second")
    assert opening.handle is not None
    assert await alone.content(opening.handle) == b"second"
    await alone.fs.release(opening.handle)
    await trio.sleep(100)
    assert released == [first.inode.id, second.inode.id]
    assert await alone.namespace.held() == []


# ---- news that was lost


async def test_news_that_could_not_be_taken_in_is_made_up_for(two: Two, autojump_clock: MockClock) -> None:
    handle = await two.a.made(b"f", b"one")
    seen = await two.b.opened(b"f")
    assert await two.b.content(seen) == b"one"
    await wait_all_tasks_blocked()
    two.b.kernel.inodes.clear()
    fail(two.b.namespace, CoordinatorAway("a moment"), "attributes", times=3)
    await two.a.fs.write(handle, 0, b"two")
    await two.a.fs.fsync(handle)
    await trio.sleep(1.5)
    assert two.b.fs.tree.known(ROOT_INODE, b"f") is seen.inode  # while the coordinator is away, that is better
    await trio.sleep(5)
    assert await two.b.content(seen) == b"two"
    assert (seen.inode.id, True) in two.b.kernel.inodes


async def test_what_is_held_is_asked_for_until_it_is_answered(two: Two, autojump_clock: MockClock) -> None:
    handle = await two.a.made(b"f", b"one")
    await two.a.fs.release(handle)

    async def lose(call: object, wait_s: float) -> object:
        events = await call()  # type: ignore[operator]
        return type(events)(events.stream, events.last, lost=True)

    interpose(two.b.namespace, "events", lose)
    fail(two.b.namespace, CoordinatorAway("a moment"), "held", times=3)
    await two.a.fs.make(ROOT_INODE, b"wake", Kind.FIFO, 0o644, Owner(0, 0))
    await two.a.remove(b"f")
    await trio.sleep(60)
    with pytest.raises(NotFound):
        await two.a.namespace.attributes(handle.inode.id)


async def test_all_that_is_held_is_sorted_however_much_it_is(
    two: Two, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(news, "MAX_HELD", 2)
    names = [b"%d" % number for number in range(7)]
    for name in names:
        await two.a.fs.release(await two.a.made(name, b"x"))
    seen = await two.b.opened(names[3])

    async def lose(call: object, wait_s: float) -> object:
        events = await call()  # type: ignore[operator]
        return type(events)(events.stream, events.last, lost=True)

    async def some(call: object) -> object:
        return (await call())[:2]  # type: ignore[operator]

    whole = two.b.namespace.held
    interpose(two.b.namespace, "held", some)
    gate = Gate(two.b.namespace, "events", answered=True)
    interpose(two.b.namespace, "events", lose)
    await two.a.fs.make(ROOT_INODE, b"wake", Kind.FIFO, 0o644, Owner(0, 0))
    await trio.sleep(30)
    await gate.reached.wait()
    for name in names:
        await two.a.remove(name)
    gate.open()
    await trio.sleep(60)
    assert await whole() == [seen.inode.id]
    assert await two.b.content(seen) == b"x"


# ---- claiming


@pytest.mark.parametrize("times", [0, 1, 5])
async def test_an_open_file_is_claimed_before_the_coordinator_lets_it_go(
    two: Two, times: int, autojump_clock: MockClock
) -> None:
    await two.a.fs.release(await two.a.made(b"f", b"one"))
    seen = await two.b.opened(b"f")
    if times:
        fail(two.b.namespace, CoordinatorAway("restarting"), times=times, of=Opened)
    await two.a.remove(b"f")
    await trio.sleep(60)
    two.volume.lapse()
    assert await two.b.content(seen) == b"one"
    await two.b.fs.stat(seen.inode.id)
    await two.b.fs.release(seen)
    await wait_all_tasks_blocked()
    with pytest.raises(NotFound):
        await two.a.namespace.attributes(seen.inode.id)


async def test_one_that_is_gone_costs_the_claims_of_the_others_nothing(two: Two, autojump_clock: MockClock) -> None:
    handles = []
    for number in range(5):
        await two.a.fs.release(await two.a.made(b"%d" % number, b"one"))
        handles.append(await two.b.opened(b"%d" % number))
    gate = Gate(two.b.namespace, of=Opened)
    for number in range(5):
        await two.a.remove(b"%d" % number)
    await gate.reached.wait()
    await wait_all_tasks_blocked()
    gone = handles.pop(2).inode.id  # of those that are claimed together when the first was
    await two.b.namespace.apply([Released(gone)])
    gate.open()
    await wait_all_tasks_blocked()
    two.volume.lapse()
    for handle in handles:
        await two.b.namespace.attributes(handle.inode.id)
    with pytest.raises(NotFound):
        await two.b.namespace.attributes(gone)


async def test_what_is_closed_before_its_turn_is_let_go_and_not_claimed(two: Two) -> None:
    await two.a.fs.release(await two.a.made(b"f", b"one"))
    seen = await two.b.opened(b"f")
    gate = Gate(two.b.namespace, of=Opened)
    await two.a.remove(b"f")
    await gate.reached.wait()
    await two.b.fs.release(seen)
    gate.open()
    await wait_all_tasks_blocked()
    assert await two.b.namespace.held() == []
    with pytest.raises(NotFound):
        await two.a.namespace.attributes(seen.inode.id)


async def test_what_is_opened_again_before_it_is_let_go_is_claimed(two: Two) -> None:
    handle = await two.a.made(b"x", b"hello")
    number = handle.inode.id
    other = await two.a.made(b"y", b"other")
    await two.a.fs.release(handle)
    release = Gate(two.a.namespace, of=Released)
    await two.a.remove(b"y")
    await two.a.fs.release(other)
    await release.reached.wait()
    ask = Gate(two.a.namespace, "attributes")
    await two.b.remove(b"x")
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        opening = Opening(nursery, two.a, number)
        await wait_all_tasks_blocked()
        ask.open()
        release.open()
    await wait_all_tasks_blocked()
    assert opening.handle is not None
    two.volume.lapse()
    assert await two.a.content(opening.handle) == b"hello"
    await two.a.namespace.attributes(number)
