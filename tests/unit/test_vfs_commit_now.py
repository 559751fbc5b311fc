"""Small files under a delegation: committed where they are frozen when nobody has to be waited for, else as always."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Conflict
from p2pfs.meta.engine import check
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import KIB, MAX_LAYERS, MIB, ROOT_INODE, InodeId
from p2pfs.vfs.delegation.changes import LINGER_S, Changes
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.tree import Owner
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import Applied, Commit, ExtentPage, Operation, Released
from p2pfs.wire.search import BATCH_ROWS, IndexName

pytestmark = pytest.mark.l2

NOBODY = Owner(0, 0)


class AtOnce:
    """A namespace whose operations can also be done without waiting, as long as `is_able`."""

    def __init__(self) -> None:
        volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
        self.number = volume.session().number
        self.volume, self.namespace = volume, MemoryNamespace(volume, self.number, read_only=False)
        self.is_able, self.done = True, 0
        self.refusal: Exception | None = None

    def apply_now(self, operations: Sequence[Operation]) -> Applied | None:
        assert all(isinstance(operation, Commit) for operation in operations)
        if self.refusal is not None:
            raise self.refusal
        if not self.is_able:
            return None
        self.done += 1
        return self.volume.apply(self.number, operations)


async def written(fs: Filesystem, data: bytes, name: bytes = b"f") -> Handle:
    handle = await fs.create(ROOT_INODE, name, 0o644, NOBODY)
    await fs.write(handle, 0, data)
    return handle


async def content(fs: Filesystem, handle: Handle) -> bytes:
    return bytes(await fs.read(handle, 0, 1 << 20))


async def test_a_small_file_is_committed_where_it_is_frozen() -> None:
    world = AtOnce()
    async with filesystem(world.namespace, MemoryStore(), apply_now=world.apply_now) as fs:
        handle = await written(fs, b"small")
        fs.writer.freeze(handle.inode)
        assert (handle.inode.is_dirty, world.done, fs.writer.unsaved_bytes()) == (False, 1, 0)
        assert await content(fs, handle) == b"small"
        assert (await world.namespace.attributes(handle.inode.id)).size == 5


@pytest.mark.parametrize("why", ["it has to wait", "it is refused"])
async def test_what_cannot_be_done_at_once_is_stored_in_the_background(why: str) -> None:
    world = AtOnce()
    world.is_able = why != "it has to wait"
    world.refusal = Conflict("somebody else was faster") if why == "it is refused" else None
    async with filesystem(world.namespace, MemoryStore(), apply_now=world.apply_now) as fs:
        handle = await written(fs, b"small")
        await fs.fsync(handle)
        assert (handle.inode.is_dirty, world.done) == (False, 0)
        assert (await world.namespace.attributes(handle.inode.id)).size == 5


async def test_what_is_behind_something_else_waits_for_it() -> None:
    world = AtOnce()
    async with filesystem(world.namespace, MemoryStore(), apply_now=world.apply_now) as fs:
        handle = await written(fs, b"small")
        async with handle.inode.content:  # as while times are set
            fs.writer.freeze(handle.inode)
            await wait_all_tasks_blocked()
            assert (handle.inode.is_dirty, world.done) == (True, 0)
        await fs.fsync(handle)
        big = await written(fs, bytes(100 * KIB), b"big")
        await fs.fsync(big)
        assert world.done == 0
        assert (await world.namespace.attributes(big.inode.id)).size == 100 * KIB


async def test_a_holder_does_at_once_what_it_can_judge_and_nothing_else() -> None:
    world = AtOnce()
    async with trio.open_nursery() as nursery:
        delegated = Delegated(world.namespace, now=trio.current_time, io_timeout_s=10.0)
        assert delegated.apply_now([Released(7)]) is None  # nothing is held
        nursery.start_soon(Holding(delegated, trio.current_time).hold)
        while not delegated.holds:
            await trio.lowlevel.checkpoint()
        async with filesystem(delegated, MemoryStore(), apply_now=delegated.apply_now) as fs:
            handle = await written(fs, b"small")
            fs.writer.freeze(handle.inode)
            assert (handle.inode.is_dirty, delegated.changes.outstanding) == (False, 2)
            await fs.fsync(handle)
            assert delegated.changes.outstanding == 0
            assert (await world.namespace.attributes(handle.inode.id)).size == 5
            delegated.let_go()
            assert delegated.apply_now([Released(handle.inode.id)]) is None
        nursery.cancel_scope.cancel()


class Slow(MemoryStore):
    """Takes its time to store."""

    async def put(self, *args: Any, **kwargs: Any) -> list[Receipt]:  # noqa: ANN401 - as the store's
        await trio.sleep(10)
        return await super().put(*args, **kwargs)


class Watched(MemoryNamespace):
    """Notes when batches came, and what was asked about extents."""

    def __init__(self, volume: MemoryVolume, number: int) -> None:
        super().__init__(volume, number, read_only=False)
        self.came_s: list[float] = []
        self.asked = 0

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        self.came_s.append(trio.current_time())
        return await super().apply_under(epoch, operations)

    async def extents(self, inode: InodeId, range_number: int) -> ExtentPage:
        self.asked += 1
        return await super().extents(inode, range_number)


async def test_a_large_file_is_made_while_its_bytes_are_stored_and_nothing_is_asked_of_it_afterwards(
    autojump_clock: trio.testing.MockClock,
) -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    namespace = Watched(volume, volume.session().number)
    async with trio.open_nursery() as nursery:
        delegated = Delegated(namespace, now=trio.current_time, io_timeout_s=100.0)
        nursery.start_soon(Holding(delegated, trio.current_time).hold)
        while not delegated.holds:
            await trio.lowlevel.checkpoint()
        hurry = delegated.changes.hurry
        async with filesystem(delegated, Slow(), apply_now=delegated.apply_now, hurry=hurry) as fs:
            handle = await written(fs, bytes(100 * KIB))
            began = trio.current_time()
            await fs.flush(handle)
            assert trio.current_time() - began >= 10
            assert (namespace.came_s, namespace.asked) == ([began], 0)
            assert (await namespace.attributes(handle.inode.id)).size == 100 * KIB
        nursery.cancel_scope.cancel()


async def test_a_mib_of_many_layers_is_looked_at_also_behind_the_end() -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    namespace = Watched(volume, volume.session().number)
    async with filesystem(namespace, MemoryStore()) as fs:
        handle = await written(fs, b"")
        for place in range(MAX_LAYERS):
            await fs.write(handle, MIB + place * 8 * KIB, bytes(4 * KIB))
        await fs.flush(handle)
        async with handle.inode.content:  # compaction goes on behind the flush, with this lock
            assert namespace.asked == 1
        assert len((await namespace.extents(handle.inode.id, 0)).extents) == 1


async def test_changes_nobody_waits_for_go_together_and_one_somebody_waits_for_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sent: list[tuple[float, int]] = []

    async def send(operations: Sequence[Operation]) -> Applied:
        sent.append((trio.current_time(), len(operations)))
        return Applied([], [])

    changes = Changes(send, io_timeout_s=10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(changes.run)
        await trio.sleep(1)
        began = trio.current_time()
        changes.put([Released(1)])
        await trio.sleep(LINGER_S / 2)
        changes.put([Released(2)])
        await trio.sleep(1)
        assert sent == [(pytest.approx(began + LINGER_S), 2)]
        changes.put([Released(3)])
        began = trio.current_time()
        await changes.settle()
        await changes.settle()  # for nothing: what comes next waits for company all the same
        changes.put([Released(4)])
        await trio.sleep(1)
        assert sent[1:] == [(began, 1), (pytest.approx(began + LINGER_S), 1)]
        nursery.cancel_scope.cancel()


async def test_a_batch_has_no_more_tokens_than_the_coordinator_takes() -> None:
    sent: list[Sequence[Operation]] = []

    async def send(operations: Sequence[Operation]) -> Applied:
        check(operations)
        sent.append(operations)
        return Applied([], [])

    changes = Changes(send, io_timeout_s=10.0)
    for number in range(260):
        tokens = [bytes(16)] * 224  # a name of 255 bytes, its words and their beginnings
        changes.put([Released(number), IndexName(number, number, tokens)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(changes.run)
        await changes.settle()
        nursery.cancel_scope.cancel()
    assert [len(batch) for batch in sent] == [2 * (BATCH_ROWS // 224), 520 - 2 * (BATCH_ROWS // 224)]
    assert repr(changes) == "Changes(0 outstanding, 0 operations, 0 bytes)"
