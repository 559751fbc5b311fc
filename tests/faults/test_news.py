"""What one mount changes reaches the other: its kernel forgets, open files live on nameless, nothing is missed."""

from collections.abc import AsyncIterator

import pytest
import trio
from mount_pairs import Two, fail, mounts
from plugins.checklogs import Claims
from trio.testing import MockClock, wait_all_tasks_blocked

from p2pfs.errors import CoordinatorAway, NotFound
from p2pfs.meta import events
from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.vfs.handles import Handle
from p2pfs.wire.events import ChangedInode, ChangedName, Events

pytestmark = pytest.mark.l3


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with mounts() as given:
        yield given


async def test_names_and_contents_that_changed_elsewhere_are_forgotten(two: Two) -> None:
    handle = await two.a.made(b"f", b"one")
    seen = await two.b.opened(b"f")
    await wait_all_tasks_blocked()
    two.b.kernel.names.clear()
    two.b.kernel.inodes.clear()
    await two.a.fs.write(handle, 0, b"two")
    await two.a.fs.fsync(handle)
    await two.a.fs.rename(ROOT_INODE, b"f", ROOT_INODE, b"g", 0)
    await wait_all_tasks_blocked()
    assert (seen.inode.id, True) in two.b.kernel.inodes
    assert (ROOT_INODE, False) in two.b.kernel.inodes or (ROOT_INODE, True) in two.b.kernel.inodes
    assert set(two.b.kernel.names) == {(ROOT_INODE, b"f"), (ROOT_INODE, b"g")}
    assert two.a.kernel.names == []


async def test_a_reader_that_has_the_file_open_gets_the_new_bytes_without_opening_again(two: Two) -> None:
    handle = await two.a.made(b"f", b"one")
    seen = await two.b.opened(b"f")
    assert await two.b.content(seen) == b"one"
    await two.a.fs.write(handle, 0, b"longer")
    await two.a.fs.fsync(handle)
    await wait_all_tasks_blocked()
    assert await two.b.content(seen) == b"longer"


async def test_an_open_asks_again_once_the_coordinator_was_heard_of(two: Two) -> None:
    """Else it would go on, for seconds, from what the news just said is stale."""
    handle = await two.a.made(b"f", b"one")
    await two.b.fs.release(await two.b.opened(b"f"))
    fail(two.b.namespace, CoordinatorAway("no answer"), "lookup")
    await two.b.fs.release(await two.b.opened(b"f"))  # from what is known, which is allowed now
    await two.a.fs.write(handle, 0, b"longer")
    await two.a.fs.fsync(handle)
    await wait_all_tasks_blocked()
    assert await two.b.content(await two.b.opened(b"f")) == b"longer"


@pytest.mark.parametrize("way", ["unlink", "rename"])
async def test_an_open_file_outlives_the_name_another_mount_takes(two: Two, way: str) -> None:
    await two.a.fs.release(await two.a.made(b"f", b"one"))
    seen = await two.b.opened(b"f")
    if way == "unlink":
        await two.a.fs.tree.remove(ROOT_INODE, b"f", directory=False)
    else:
        await two.a.fs.release(await two.a.made(b"other", b"two"))
        await two.a.fs.rename(ROOT_INODE, b"other", ROOT_INODE, b"f", 0)
    await wait_all_tasks_blocked()
    assert await two.b.content(seen) == b"one"
    assert (await two.b.fs.stat(seen.inode.id)).links == 0
    await two.b.fs.write(seen, 3, b" more")
    await two.b.fs.fsync(seen)
    assert await two.b.content(seen) == b"one more"
    await two.b.fs.release(seen)
    await wait_all_tasks_blocked()
    with pytest.raises(NotFound):
        await two.a.namespace.attributes(seen.inode.id)


async def test_what_is_not_open_here_is_let_go_at_once(two: Two) -> None:
    handle = await two.a.made(b"f", b"one")
    await two.a.fs.release(handle)
    await two.b.fs.release(await two.b.opened(b"f"))
    await two.a.fs.tree.remove(ROOT_INODE, b"f", directory=False)
    await wait_all_tasks_blocked()
    with pytest.raises(NotFound):
        await two.a.namespace.attributes(handle.inode.id)


async def test_a_mount_that_missed_news_distrusts_everything(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LOGGED", 4)
    await two.a.fs.release(await two.a.made(b"kept", b"one"))
    await two.a.fs.release(await two.a.made(b"dropped", b"one"))
    kept, dropped = await two.b.opened(b"kept"), await two.b.opened(b"dropped")
    await two.b.fs.release(dropped)
    await wait_all_tasks_blocked()
    two.b.kernel.inodes.clear()
    for name in (b"kept", b"dropped"):
        operations = two.a.fs.tree.remove(ROOT_INODE, name, directory=False)
        await operations
    for number in range(5):  # more than the queue keeps, before the other mount has its turn
        await two.a.fs.release(await two.a.made(b"%d" % number, b"x"))
    await wait_all_tasks_blocked()
    assert await two.b.content(kept) == b"one"
    await two.b.fs.release(kept)
    await wait_all_tasks_blocked()
    for number in (kept.inode.id, dropped.inode.id):
        with pytest.raises(NotFound):
            await two.a.namespace.attributes(number)


async def test_a_file_removed_while_it_is_being_opened_elsewhere_is_kept(two: Two) -> None:
    await two.a.fs.release(await two.a.made(b"f", b"one"))
    inode = await two.b.fs.lookup(ROOT_INODE, b"f")
    answered, may_go_on = trio.Event(), trio.Event()
    ask = two.b.namespace.attributes

    async def held_up(number: InodeId) -> object:
        attributes = await ask(number)
        answered.set()
        await may_go_on.wait()
        return attributes

    two.b.namespace.attributes = held_up  # type: ignore[method-assign,assignment]
    opened: list[Handle] = []

    async def open_it() -> None:
        opened.append(await two.b.fs.open(inode.id))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_it)
        await answered.wait()
        two.b.namespace.attributes = ask  # type: ignore[method-assign]
        await two.a.fs.tree.remove(ROOT_INODE, b"f", directory=False)
        await wait_all_tasks_blocked()
        may_go_on.set()
    assert await two.b.content(opened[0]) == b"one"
    await two.b.fs.release(opened[0])


async def test_whatever_the_coordinator_says_the_mount_goes_on(
    two: Two, autojump_clock: MockClock, claim_logs: Claims
) -> None:
    handle = await two.a.made(b"f", b"one")
    seen = await two.b.opened(b"f")
    ask = two.b.namespace.events
    lies: list[object] = [
        Events(1, 1, names=[ChangedName(-1, b"x")]),
        Events(1, 1, names=[ChangedName(1, b"no name")] * 1000),
        Events(1, 1, inodes=[ChangedInode(seen.inode.id, 99, 99)] * 20_001),
        Events(1, 1, held=[0, -5, 1 << 62]),
        ValueError("an answer of no shape"),
        Events(1, 1, lost=True),
        Events(1, 1),
    ]

    honest = trio.Event()

    async def lying(wait_s: float) -> Events:
        if not lies:
            honest.set()
            return await ask(wait_s)
        lie = lies.pop(0)
        if isinstance(lie, Exception):
            raise lie
        assert isinstance(lie, Events)
        return lie

    two.b.namespace.events = lying  # type: ignore[method-assign]
    claim_logs("no news of other mounts can be had.*")
    claim_logs("1000 names that another mount changed are none")
    await two.a.fs.write(handle, 0, b"two")  # wakes it
    await two.a.fs.fsync(handle)
    with trio.fail_after(600):
        await honest.wait()
    await two.a.fs.write(handle, 0, b"six")
    await two.a.fs.fsync(handle)
    await wait_all_tasks_blocked()
    assert await two.b.content(seen) == b"six"
