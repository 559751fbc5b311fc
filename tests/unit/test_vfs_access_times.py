"""atime: what reading does to it, when others hear of it, and what it never touches."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem, ticking

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import ROOT_INODE, DentryId, Kind
from p2pfs.vfs.access_times import DAY_NS, SEND_AFTER_S
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.limits import Limits
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Accessed, Applied, Operation

pytestmark = pytest.mark.l2


class Watched(MemoryNamespace):
    """Counts batches of access times; the coordinator can be away for them."""

    sent = 0
    is_away = False

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if any(isinstance(operation, Accessed) for operation in operations):
            if self.is_away:
                raise CoordinatorAway("away")
            self.sent += 1
        return await super().apply(operations)


def namespace() -> Watched:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    return Watched(volume, volume.session().number, read_only=False)


async def made(fs: Filesystem, name: bytes = b"f") -> Handle:
    handle = await fs.create(ROOT_INODE, name, 0o644, Owner(0, 0))
    await fs.write(handle, 0, b"content")
    await fs.fsync(handle)
    return handle


async def test_the_first_read_after_a_change_counts_and_later_ones_do_not() -> None:
    async with filesystem(namespace(), MemoryStore()) as fs:
        handle = await made(fs)
        written = await fs.stat(handle.inode.id)
        assert written.atime_ns <= written.mtime_ns
        await fs.read(handle, 0, 7)
        first = await fs.stat(handle.inode.id)
        assert first.atime_ns > written.mtime_ns
        await fs.read(handle, 0, 7)
        assert await fs.stat(handle.inode.id) == first
        assert (first.mtime_ns, first.ctime_ns) == (written.mtime_ns, written.ctime_ns)
        await fs.write(handle, 0, b"again")
        await fs.fsync(handle)
        await fs.read(handle, 0, 7)
        assert (await fs.stat(handle.inode.id)).atime_ns > first.atime_ns


async def test_after_a_day_reading_counts_again() -> None:
    clock = ticking()
    ahead = 0
    async with filesystem(namespace(), MemoryStore(), now_ns=lambda: clock() + ahead) as fs:
        handle = await made(fs)
        await fs.read(handle, 0, 7)
        first = await fs.stat(handle.inode.id)
        ahead = DAY_NS
        await fs.read(handle, 0, 7)
        assert (await fs.stat(handle.inode.id)).atime_ns >= first.atime_ns + DAY_NS


async def test_directories_and_symbolic_links_are_read_too() -> None:
    async with filesystem(namespace(), MemoryStore()) as fs:
        link = await fs.tree.make(ROOT_INODE, b"link", Kind.SYMLINK, 0o777, Owner(0, 0), target=b"away")
        before, above = await fs.stat(link.id), await fs.stat(ROOT_INODE)
        assert await fs.target(link.id) == b"away"
        await fs.directory(ROOT_INODE, DentryId(0), 10)
        assert (await fs.stat(link.id)).atime_ns > before.atime_ns
        assert (await fs.stat(ROOT_INODE)).atime_ns > above.mtime_ns


async def test_a_time_a_program_sets_is_not_overtaken_by_a_read_before_it() -> None:
    names = namespace()
    async with filesystem(names, MemoryStore()) as fs:
        handle = await made(fs)
        await fs.read(handle, 0, 7)
        await fs.attributes.set(handle.inode.id, atime_ns=5)
        await fs.settle_all()
        assert (await fs.stat(handle.inode.id)).atime_ns == 5
        assert (await names.attributes(handle.inode.id)).atime_ns == 5


async def test_a_time_a_program_sets_is_not_overtaken_by_one_on_its_way() -> None:
    names = namespace()
    apply, arrived = names.apply, trio.Event()

    async def slow(operations: Sequence[Operation]) -> Applied:
        if any(isinstance(operation, Accessed) for operation in operations):
            await arrived.wait()
        return await apply(operations)

    names.apply = slow  # type: ignore[method-assign]
    async with filesystem(names, MemoryStore()) as fs, trio.open_nursery() as nursery:
        handle = await made(fs)
        await fs.read(handle, 0, 7)
        nursery.start_soon(fs.settle_all)
        await wait_all_tasks_blocked()

        async def utimes() -> None:
            await fs.attributes.set(handle.inode.id, atime_ns=5)

        nursery.start_soon(utimes)
        await wait_all_tasks_blocked()
        arrived.set()
        await wait_all_tasks_blocked()
        assert (await names.attributes(handle.inode.id)).atime_ns == 5
        assert (await fs.stat(handle.inode.id)).atime_ns == 5


async def test_many_reads_are_told_in_one_batch_after_some_seconds(mock_clock: MockClock) -> None:
    names = namespace()
    async with filesystem(names, MemoryStore()) as fs:
        handles = [await made(fs, b"%d" % number) for number in range(20)]
        for handle in handles:
            await fs.read(handle, 0, 7)
        assert names.sent == 0
        mock_clock.jump(SEND_AFTER_S + 1)
        with trio.fail_after(5):
            while not names.sent:
                await wait_all_tasks_blocked()
        assert names.sent == 1
        for handle in handles:
            told = await names.attributes(handle.inode.id)
            assert told.atime_ns == handle.inode.read_ns > told.mtime_ns


async def test_unmounting_tells_what_is_pending_and_an_absent_coordinator_costs_only_the_times() -> None:
    names = namespace()
    async with filesystem(names, MemoryStore()) as fs:
        handle = await made(fs)
        await fs.read(handle, 0, 7)
        names.is_away = True
        await fs.settle_all()
        names.is_away = False
        await fs.write(handle, 0, b"more")
        await fs.read(handle, 0, 7)
        await fs.settle_all()
        assert names.sent == 1


async def test_without_access_times_reading_changes_nothing() -> None:
    names = namespace()
    async with filesystem(names, MemoryStore(), limits=Limits(access_times=False)) as fs:
        handle = await made(fs)
        before = await fs.stat(handle.inode.id)
        await fs.read(handle, 0, 7)
        await fs.settle_all()
        assert await fs.stat(handle.inode.id) == before
        assert not names.sent
