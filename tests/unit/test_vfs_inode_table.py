"""Which inodes stay in memory: what nobody can find again does not."""

import pytest
import trio
import trio.testing
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, Kind
from p2pfs.vfs.news import NoKernelCache
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l2


async def test_a_removed_file_leaves_memory_when_the_kernel_and_the_last_program_have_let_go() -> None:
    session = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(session, MemoryStore()) as fs:
        for at in range(20):
            handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
            fs.refer(handle.inode)
            await fs.write(handle, 0, b"abc")
            await fs.remove(ROOT_INODE, b"f", directory=False)
            if at % 2:  # while the release is under way
                fs.forget(handle.inode.id, 1)
            assert bytes(await fs.read(handle, 0, 3)) == b"abc"
            await fs.release(handle)
            if not at % 2:
                fs.forget(handle.inode.id, 1)
        assert [inode.id for inode in fs._table.all()] == [ROOT_INODE]


@pytest.mark.parametrize("is_first", [False, True], ids=["the name goes first", "the kernel is first"])
async def test_a_closed_file_that_is_removed_leaves_memory(is_first: bool) -> None:
    session = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(session, MemoryStore()) as fs:
        for _ in range(3):
            handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
            fs.refer(handle.inode)
            await fs.write(handle, 0, b"abc")
            await fs.flush(handle)
            await fs.release(handle)
            if is_first:
                fs.forget(handle.inode.id, 1)
            await fs.remove(ROOT_INODE, b"f", directory=False)
            if not is_first:
                fs.forget(handle.inode.id, 1)
        assert [inode.id for inode in fs._table.all()] == [ROOT_INODE]


async def test_a_removed_directory_and_a_replaced_file_leave_memory() -> None:
    session = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(session, MemoryStore()) as fs:
        await fs.make(ROOT_INODE, b"d", Kind.DIRECTORY, 0o755, Owner(0, 0))
        await fs.remove(ROOT_INODE, b"d", directory=True)
        for name in (b"a", b"b"):
            handle = await fs.create(ROOT_INODE, name, 0o644, Owner(0, 0))
            await fs.release(handle)
        await fs.rename(ROOT_INODE, b"b", ROOT_INODE, b"a", 0)
        assert [inode.id for inode in fs._table.all()] == [ROOT_INODE, handle.inode.id]


async def test_a_file_that_another_mount_removed_leaves_memory() -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(volume.session(), MemoryStore()) as fs, filesystem(volume.session(), MemoryStore()) as other:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.release(handle)
        await other.lookup(ROOT_INODE, b"f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.follow, NoKernelCache())
            await other.remove(ROOT_INODE, b"f", directory=False)
            with trio.fail_after(5):
                while fs._table.glimpse(handle.inode.id) is not None:
                    await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_a_file_with_a_name_stays_when_the_kernel_has_let_go() -> None:
    session = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(session, MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        fs.refer(handle.inode)
        await fs.flush(handle)
        await fs.release(handle)
        fs.forget(handle.inode.id, 1)
        assert fs._table.glimpse(handle.inode.id) is handle.inode
