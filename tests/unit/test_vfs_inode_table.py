"""Which inodes stay in memory: what nobody can find again does not."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from volumes import KEYS, ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import NotFound
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.news import NoKernelCache
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Applied, Operation

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


async def test_a_file_that_another_mount_removed_leaves_memory_once_the_kernel_has_forgotten_it() -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(volume.session(), MemoryStore()) as fs, filesystem(volume.session(), MemoryStore()) as other:
        handles = [await fs.create(ROOT_INODE, name, 0o644, Owner(0, 0)) for name in (b"told", b"known")]
        told, known = (handle.inode.id for handle in handles)
        fs.refer(handles[0].inode)
        for handle in handles:
            await fs.release(handle)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.follow, NoKernelCache())
            for name in (b"told", b"known"):
                await other.remove(ROOT_INODE, name, directory=False)
            with trio.fail_after(5):
                while fs._table.glimpse(known) is not None:
                    await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert fs._table.glimpse(told) is not None, "a program may be about to change it by its number"
        fs.forget(told, 1)
        assert fs._table.glimpse(told) is None


async def test_a_file_with_a_name_stays_when_the_kernel_has_let_go() -> None:
    session = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(session, MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        fs.refer(handle.inode)
        await fs.flush(handle)
        await fs.release(handle)
        fs.forget(handle.inode.id, 1)
        assert fs._table.glimpse(handle.inode.id) is handle.inode


async def test_extents_are_read_for_an_inode_that_left_memory_meanwhile() -> None:
    """Whoever goes through a long file without a handle may hold one that another mount has renamed and changed."""
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    store = MemoryStore()
    async with filesystem(volume.session(), store) as fs, filesystem(volume.session(), store) as other:
        await write(other, b"long", b"a" * 100_000)
        inode = await fs.lookup(ROOT_INODE, b"long")
        assert isinstance(inode, Inode)
        fs._table.lost_name(inode.id)
        await write(other, b"long", b"b" * 200_000)
        page = await fs._reader.page(inode, 0)
        assert sum(extent.length for extent in page.layers(KEYS, VOLUME, inode.id, 0)) >= 200_000


async def write(fs: Filesystem, name: bytes, data: bytes) -> None:
    try:
        inode = await fs.lookup(ROOT_INODE, name)
    except NotFound:
        handle = await fs.create(ROOT_INODE, name, 0o644, Owner(0, 0))
    else:
        handle = await fs.open(inode.id)
    await fs.write(handle, 0, data)
    await fs.flush(handle)
    await fs.release(handle)


@pytest.mark.parametrize("change", ["mode", "size", "times of pages"])
async def test_a_change_of_attributes_is_told_also_of_an_inode_that_left_memory_meanwhile(change: str) -> None:
    session = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(session, MemoryStore()) as fs:
        await write(fs, b"f", b"abc")
        inode = await fs.lookup(ROOT_INODE, b"f")
        apply = session.apply

        async def evicting(operations: Sequence[Operation]) -> Applied:
            applied = await apply(operations)
            inode.times_of_pages = None  # others were set meanwhile: it is not kept for these
            fs._table.lost_name(inode.id)
            return applied

        session.apply = evicting  # type: ignore[method-assign]
        if change == "mode":
            assert (await fs.attributes.set(inode.id, mode=0o600)).mode == 0o600
        elif change == "size":  # the same: only times move
            before_ns = inode.stat().mtime_ns
            assert (await fs.attributes.set(inode.id, size=3)).mtime_ns > before_ns
        else:
            assert (await fs.attributes.set_times_of_pages(inode.id, 7, 8)).mtime_ns == 7
        assert fs._table.glimpse(inode.id) is None
