"""Which calls wait until what they did is on stable storage: by the mount's durability, and only those that must."""

import dataclasses
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from plugins.checklogs import Claims
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway, Exists, Fenced, NoSpace, PoolError, Unavailable
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import KIB, MIB, ROOT_INODE
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.limits import Durability, Limits, WriteLimits
from p2pfs.vfs.promises import REMOVED_S
from p2pfs.vfs.trash import Restored
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import RENAME_NOREPLACE, Applied, Commit, Operation

pytestmark = pytest.mark.l2

NOBODY = Owner(0, 0)
BIG = b"x" * 100 * KIB
"""Too many bytes to be kept with the metadata."""


class LateNamespace(MemoryNamespace):
    """Acknowledges changes before they are committed, as a delegated volume does."""

    outstanding = settles = 0
    lets_go = trio.Event()
    refuses: Exception | None = None

    @classmethod
    def fresh(cls) -> "LateNamespace":
        volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME, trash_s=3600.0)
        made = cls(volume, volume.session().number, read_only=False)
        made.lets_go = trio.Event()
        made.lets_go.set()
        return made

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if self.refuses is not None and any(isinstance(operation, Commit) for operation in operations):
            raise self.refuses
        applied = await super().apply(operations)
        self.outstanding += 1
        return applied

    async def settle(self) -> None:
        outstanding, self.settles = self.outstanding, self.settles + 1
        await self.lets_go.wait()
        self.outstanding -= outstanding


class SlowStore(MemoryStore):
    """Stores when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lets_go = trio.Event()
        self.begun = trio.Event()
        self.stored = 0

    async def put(self, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401 - as MemoryStore
        self.begun.set()
        await self.lets_go.wait()
        self.stored += 1
        return await super().put(*arguments, **more)


def limits(durability: Durability) -> Limits:
    return Limits(WriteLimits(), durability=durability)


async def make(fs: Filesystem, name: bytes = b"f", data: bytes = b"") -> Handle:
    handle = await fs.create(ROOT_INODE, name, 0o644, NOBODY)
    if data:
        await fs.write(handle, 0, data)
    return handle


async def close(fs: Filesystem, handle: Handle) -> None:
    await fs.flush(handle)
    await fs.release(handle)


async def is_waiting(nursery: trio.Nursery, call: Callable[[], Awaitable[object]]) -> trio.Event:
    """Begin a call that cannot end yet; the event says when it did."""
    ended = trio.Event()

    async def run() -> None:
        await call()
        ended.set()

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    assert not ended.is_set()
    return ended


# ---- durability=close


async def test_closing_a_file_just_made_waits_for_its_name() -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore()) as fs:
        await close(fs, await make(fs))
        assert names.outstanding == 0


async def test_closing_waits_for_what_was_written_or_set_though_a_commit_in_the_background_was_acknowledged() -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore()) as fs:
        handle = await make(fs, data=b"small")
        fs.writer.freeze(handle.inode)
        await wait_all_tasks_blocked()
        assert (handle.inode.is_dirty, names.outstanding) == (False, 2)
        await fs.flush(handle)
        assert names.outstanding == 0
        await fs.attributes.set(handle.inode.id, mode=0o600)
        await fs.flush(handle)
        assert names.outstanding == 0


async def test_closing_a_file_that_was_only_read_waits_for_nothing() -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore()) as fs:
        await close(fs, await make(fs, data=b"small"))
        settles = names.settles
        await make(fs, b"other")  # something else is outstanding
        handle = await fs.open((await fs.lookup(ROOT_INODE, b"f")).id)
        await fs.read(handle, 0, 5)
        await close(fs, handle)
        assert (names.settles, names.outstanding) == (settles, 1)


async def test_every_descriptor_of_a_file_waits_and_not_only_the_first() -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore()) as fs, trio.open_nursery() as nursery:
        handle = await make(fs, data=b"small")
        names.lets_go = trio.Event()
        first = await is_waiting(nursery, lambda: fs.flush(handle))
        second = await is_waiting(nursery, lambda: fs.flush(handle))
        names.lets_go.set()
        await first.wait()
        await second.wait()


async def test_a_close_that_could_not_wait_waits_again_the_next_time() -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore()) as fs:
        handle, settle = await make(fs), names.settle

        async def away() -> None:
            raise CoordinatorAway("nobody answers")

        names.settle = away  # type: ignore[method-assign]
        with pytest.raises(CoordinatorAway):
            await fs.flush(handle)
        names.settle = settle  # type: ignore[method-assign]
        await fs.flush(handle)
        assert names.outstanding == 0


@pytest.mark.parametrize("durability", Durability)
async def test_fsync_of_a_file_or_a_directory_waits_for_every_name(durability: Durability) -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore(), limits=limits(durability)) as fs:
        handle = await make(fs, data=BIG)
        await fs.fsync(handle)
        assert (names.outstanding, handle.inode.is_dirty) == (0, False)
        await fs.remove(ROOT_INODE, b"f", directory=False)
        await fs.promises.committed()
        assert names.outstanding == 0


@pytest.mark.parametrize("durability", Durability)
async def test_unmounting_stores_and_commits_everything(durability: Durability) -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore(), limits=limits(durability)) as fs:
        await make(fs, data=BIG)
        await fs.settle_all()
        assert (names.outstanding, fs.writer.unsaved_bytes()) == (0, 0)


async def test_unmounting_gives_up_when_nothing_is_committed(autojump_clock: trio.testing.MockClock) -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore()) as fs:
        await make(fs)
        names.lets_go = trio.Event()
        with pytest.raises(Unavailable):
            await fs.settle_all()
        assert trio.current_time() < 1000


async def test_what_is_lost_for_good_is_told_and_keeps_nobody_from_unmounting() -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore()) as fs:
        await make(fs)

        async def lost() -> None:
            raise Fenced("2 changes of this mount were lost")

        assert fs.promises.losses() == ""
        names.settle = lost  # type: ignore[method-assign]
        await fs.settle_all()
        assert fs.promises.losses() == "2 changes of this mount were lost"


# ---- durability=fsync


async def test_without_waiting_close_answers_at_once_and_what_was_written_is_on_its_way() -> None:
    store = SlowStore()
    async with filesystem(LateNamespace.fresh(), store, limits=limits(Durability.FSYNC)) as fs:
        handle = await make(fs, data=BIG)
        await close(fs, handle)
        await store.begun.wait()
        assert store.stored == 0
        store.lets_go.set()
        await fs.settle_all()
        assert not handle.inode.is_dirty


async def test_open_files_are_on_their_way_in_time(autojump_clock: trio.testing.MockClock) -> None:
    store = SlowStore()
    prompt = Limits(WriteLimits(age_s=3.0), durability=Durability.FSYNC)
    async with filesystem(LateNamespace.fresh(), store, limits=prompt) as fs:
        handle = await make(fs, data=BIG)
        await trio.sleep(4.5)
        assert (handle.inode.active, len(handle.inode.frozen)) == ({}, 1)


async def test_an_error_in_the_background_meets_the_next_who_closes_the_file() -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore(), limits=limits(Durability.FSYNC)) as fs:
        handle = await make(fs, data=b"small")
        names.refuses = NoSpace("full")
        await close(fs, handle)
        await wait_all_tasks_blocked()
        assert (fs.storer.failures, fs.storer.lost_bytes) == (1, 0)
        again = await fs.open(handle.inode.id)
        with pytest.raises(NoSpace):
            await fs.flush(again)
        await fs.flush(again)
        names.refuses = None
        await fs.settle_all()
        assert fs.writer.unsaved_bytes() == 0


async def test_what_had_to_be_given_up_is_counted(claim_logs: Claims) -> None:
    claim_logs("5 unsaved bytes are given up", count=1)
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore(), limits=limits(Durability.FSYNC)) as fs:
        handle = await make(fs, data=b"small")
        names.refuses = Fenced("over")
        await close(fs, handle)
        await wait_all_tasks_blocked()
        assert (fs.storer.failures, fs.storer.lost_bytes) == (1, 5)
        await fs.settle_all()
        assert fs.promises.losses() == "5 B written to files were given up"


async def test_removing_what_cannot_be_stored_now_waits_once_and_drops_its_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore()
    async with filesystem(LateNamespace.fresh(), store, limits=limits(Durability.FSYNC)) as fs:
        for number in range(20):
            await close(fs, await make(fs, b"%d" % number, BIG))
        await store.begun.wait()
        began_s = trio.current_time()
        for number in range(20):
            await fs.remove(ROOT_INODE, b"%d" % number, directory=False)
        assert trio.current_time() - began_s <= REMOVED_S + 1
        assert fs.writer.unsaved_bytes() == 0
        store.lets_go.set()
        await trio.sleep(10)
        assert store.stored == 0


@pytest.mark.parametrize("data", [BIG, b"small"])
@pytest.mark.parametrize("way", ["unlink", "rename"])
async def test_what_was_closed_and_lost_its_name_at_once_is_whole_in_the_trash(
    autojump_clock: trio.testing.MockClock, way: str, data: bytes
) -> None:
    async with filesystem(LateNamespace.fresh(), MemoryStore(), limits=limits(Durability.FSYNC)) as fs:
        await close(fs, await make(fs, b"other"))
        handle = await make(fs, b"f", data)
        await close(fs, handle)
        if way == "unlink":
            await fs.remove(ROOT_INODE, b"f", directory=False)
        else:
            await fs.rename(ROOT_INODE, b"other", ROOT_INODE, b"f", 0)
        assert await brought_back(fs, b"f") == data


class FailingStore(MemoryStore):
    """Fails so often, after two seconds each, with this error."""

    def __init__(self, error: PoolError, times: float = math.inf) -> None:
        super().__init__()
        self.error, self.times = error, times

    async def put(self, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401 - as MemoryStore
        if self.times <= 0:
            return await super().put(*arguments, **more)
        self.times -= 1
        await trio.sleep(2)
        raise self.error


async def test_a_tree_of_files_that_cannot_be_stored_is_removed_soon(autojump_clock: trio.testing.MockClock) -> None:
    store = FailingStore(Unavailable("no peer answers"))
    async with filesystem(LateNamespace.fresh(), store, limits=limits(Durability.FSYNC)) as fs:
        for number in range(20):
            handle = await make(fs, b"%d" % number, BIG)
            with suppress(Unavailable):  # of the background
                await fs.flush(handle)
            await fs.release(handle)
        began_s = trio.current_time()
        for number in range(20):
            await fs.remove(ROOT_INODE, b"%d" % number, directory=False)
        assert trio.current_time() - began_s <= REMOVED_S + 1


async def test_what_could_not_be_stored_at_first_is_whole_in_the_trash(autojump_clock: trio.testing.MockClock) -> None:
    store = FailingStore(NoSpace("full"), times=1)
    async with filesystem(LateNamespace.fresh(), store, limits=limits(Durability.FSYNC)) as fs:
        await close(fs, await make(fs, b"f", BIG))
        await trio.sleep(2.1)
        await fs.remove(ROOT_INODE, b"f", directory=False)
        assert await brought_back(fs, b"f") == BIG


async def test_an_error_that_is_kept_keeps_no_chunk_in_memory(autojump_clock: trio.testing.MockClock) -> None:
    """By the frames of its traceback; a full pool fails many files."""
    store = FailingStore(NoSpace("full"), times=1)
    async with filesystem(LateNamespace.fresh(), store, limits=limits(Durability.FSYNC)) as fs:
        handle = await make(fs, b"f", BIG)
        await fs.flush(handle)
        await trio.sleep(2.1)
        error = handle.inode.error
        assert isinstance(error, NoSpace)
        assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)


async def test_taking_a_name_takes_nobodys_error(autojump_clock: trio.testing.MockClock) -> None:
    """As when the file has another name by then, or the name is kept."""
    store = FailingStore(Unavailable("no peer answers"), times=4)
    async with filesystem(LateNamespace.fresh(), store, limits=limits(Durability.FSYNC)) as fs:
        handle = await make(fs, b"f", BIG)
        await fs.flush(handle)
        await trio.sleep(2.1)
        assert handle.inode.error is not None
        await fs.promises.unnamed(handle.inode)
        with pytest.raises(Unavailable):
            await fs.flush(handle)


@pytest.mark.parametrize("what", ["open", "kept", "no trash"])
async def test_nothing_is_waited_for_in_vain_that_the_trash_will_not_get(
    autojump_clock: trio.testing.MockClock, what: str
) -> None:
    store = SlowStore()
    some = dataclasses.replace(limits(Durability.FSYNC), has_trash=what != "no trash")
    async with filesystem(LateNamespace.fresh(), store, limits=some) as fs:
        await close(fs, await make(fs, b"other"))
        handle = await make(fs, b"f", BIG)
        if what == "open":
            fs.writer.freeze(handle.inode)  # on its way, as it got old
        else:
            await close(fs, handle)
        began_s = trio.current_time()
        if what == "kept":
            with pytest.raises(Exists):
                await fs.rename(ROOT_INODE, b"other", ROOT_INODE, b"f", RENAME_NOREPLACE)
        else:
            await fs.remove(ROOT_INODE, b"f", directory=False)
        assert trio.current_time() == began_s
        store.lets_go.set()


async def test_a_name_that_another_mount_left_to_be_the_last_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore(), limits=limits(Durability.FSYNC)) as fs:
        handle = await make(fs, b"f", BIG)
        await fs.link(handle.inode.id, ROOT_INODE, b"g")
        other = names._volume.session()
        async with filesystem(other, MemoryStore()) as another:
            await another.remove(ROOT_INODE, b"g", directory=False)
        await close(fs, handle)
        await fs.remove(ROOT_INODE, b"f", directory=False)
        assert await brought_back(fs, b"f") == BIG


@pytest.mark.parametrize("durability", [Durability.CLOSE, Durability.SYNC])
async def test_where_every_close_stores_taking_a_name_asks_no_more_questions(durability: Durability) -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore(), limits=limits(durability)) as fs:
        await close(fs, await make(fs, b"new"))
        handle = await make(fs, b"open")
        await fs.write(handle, 0, b"unsaved")
        asked = 0
        real = names.lookup

        async def lookup(*arguments: Any) -> Any:  # noqa: ANN401 - as it is
            nonlocal asked
            asked += 1
            return await real(*arguments)

        names.lookup = lookup  # type: ignore[method-assign]
        await fs.rename(ROOT_INODE, b"new", ROOT_INODE, b"old", 0)
        assert asked <= 1  # whether something has the new name


async def test_what_was_given_up_with_its_name_comes_back_as_it_was_stored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """And never with a size that has no bytes."""
    store = SlowStore()
    store.lets_go.set()
    async with filesystem(LateNamespace.fresh(), store, limits=limits(Durability.FSYNC)) as fs:
        handle = await make(fs, b"f", BIG)
        await fs.fsync(handle)
        store.lets_go = trio.Event()
        await fs.write(handle, len(BIG), BIG)
        await close(fs, handle)
        await fs.remove(ROOT_INODE, b"f", directory=False)
        assert await brought_back(fs, b"f") == BIG


async def brought_back(fs: Filesystem, name: bytes) -> bytes:
    """The content of what had this name, from the trash."""
    places: list[bytes] = []

    async def show(back: Restored) -> None:
        places.append(back.path)

    await fs.trash.restore((await fs.trash.find(name)).entry.attributes.inode, show)
    inode = await fs.lookup(ROOT_INODE, places[0])
    handle = await fs.open(inode.id, writes=False)
    try:
        return bytes(await fs.read(handle, 0, inode.size))
    finally:
        await fs.release(handle)


@pytest.mark.parametrize("data", [BIG, b"small"])
async def test_a_name_is_replaced_only_behind_the_bytes_of_what_replaces_it(data: bytes) -> None:
    store, names = SlowStore(), LateNamespace.fresh()
    async with (
        filesystem(names, store, limits=limits(Durability.FSYNC)) as fs,
        trio.open_nursery() as nursery,
    ):
        await make(fs, b"old")
        handle = await make(fs, b"new", data)
        await close(fs, handle)

        async def rename() -> None:
            await fs.rename(ROOT_INODE, b"new", ROOT_INODE, b"old", 0)

        if data is BIG:
            ended = await is_waiting(nursery, rename)
            store.lets_go.set()
            await ended.wait()
        else:
            await rename()
        assert (await names.attributes(handle.inode.id)).size == len(data)


async def test_many_small_files_on_their_way_are_bounded_by_what_each_takes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = LateNamespace.fresh()
    small = Limits(WriteLimits(dirty_bytes=4 * MIB), durability=Durability.FSYNC)
    async with filesystem(names, MemoryStore(), limits=small) as fs:
        names.refuses = CoordinatorAway("nobody answers")
        made = 0
        with trio.move_on_after(1) as waiting:
            while True:
                await close(fs, await make(fs, b"%d" % made, b"x"))
                made += 1
        assert waiting.cancelled_caught
        assert made < 4 * MIB / (6 * KIB)
        names.refuses = None
        await fs.settle_all()
        assert fs.writer.unsaved_bytes() == 0


async def test_truncating_waits_for_earlier_bytes() -> None:
    store = SlowStore()
    async with (
        filesystem(LateNamespace.fresh(), store, limits=limits(Durability.FSYNC)) as fs,
        trio.open_nursery() as nursery,
    ):
        handle = await make(fs, data=BIG)
        await close(fs, handle)
        ended = await is_waiting(nursery, lambda: fs.attributes.set(handle.inode.id, size=10))
        store.lets_go.set()
        await ended.wait()


async def test_before_others_may_open_them_closed_files_are_stored_and_open_ones_are_not_waited_for() -> None:
    store, names = SlowStore(), LateNamespace.fresh()
    async with (
        filesystem(names, store, limits=limits(Durability.FSYNC)) as fs,
        trio.open_nursery() as nursery,
    ):
        closed, opened = await make(fs, b"closed", BIG), await make(fs, b"open", BIG)
        await close(fs, closed)
        ended = await is_waiting(nursery, fs.recalled)
        store.lets_go.set()
        await ended.wait()
        assert (closed.inode.is_dirty, opened.inode.is_dirty) == (False, True)


async def test_an_error_met_for_others_is_still_told_to_the_next_who_uses_the_file() -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore(), limits=limits(Durability.FSYNC)) as fs:
        handle = await make(fs, data=b"small")
        names.refuses = NoSpace("full")
        await close(fs, handle)
        await fs.recalled()
        names.refuses = None
        await fs.recalled()
        assert not handle.inode.is_dirty
        with pytest.raises(NoSpace):
            await fs.flush(handle)


# ---- durability=sync


async def write(fs: Filesystem, handle: Handle) -> None:
    await fs.write(handle, 0, BIG)


async def truncate(fs: Filesystem, handle: Handle) -> None:
    await fs.attributes.set(handle.inode.id, size=7)


async def open_truncated(fs: Filesystem, handle: Handle) -> None:
    await fs.open(handle.inode.id, truncate=True)


async def chmod(fs: Filesystem, handle: Handle) -> None:
    await fs.attributes.set(handle.inode.id, mode=0o600)


async def create(fs: Filesystem, _: Handle) -> None:
    await make(fs, b"new")


async def make_link(fs: Filesystem, _: Handle) -> None:
    await fs.make_link(ROOT_INODE, b"new", b"target", NOBODY)


async def link(fs: Filesystem, handle: Handle) -> None:
    await fs.link(handle.inode.id, ROOT_INODE, b"new")


async def rename(fs: Filesystem, _: Handle) -> None:
    await fs.rename(ROOT_INODE, b"f", ROOT_INODE, b"new", 0)


async def remove(fs: Filesystem, _: Handle) -> None:
    await fs.remove(ROOT_INODE, b"f", directory=False)


@pytest.mark.parametrize(
    "change",
    [write, truncate, open_truncated, chmod, create, make_link, link, rename, remove],
    ids=lambda f: f.__name__,
)
async def test_under_sync_every_change_is_committed_when_its_call_returns(
    change: Callable[[Filesystem, Handle], Awaitable[None]],
) -> None:
    names = LateNamespace.fresh()
    async with filesystem(names, MemoryStore(), limits=limits(Durability.SYNC)) as fs:
        handle = await make(fs)
        await change(fs, handle)
        assert (names.outstanding, handle.inode.is_dirty) == (0, False)
