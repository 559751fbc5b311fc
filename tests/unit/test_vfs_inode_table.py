"""Which inodes stay in memory: what nobody can find again does not."""

import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE
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


async def test_a_file_with_a_name_stays_when_the_kernel_has_let_go() -> None:
    session = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(session, MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        fs.refer(handle.inode)
        await fs.flush(handle)
        await fs.release(handle)
        fs.forget(handle.inode.id, 1)
        assert fs._table.glimpse(handle.inode.id) is handle.inode
