"""Inline data kept for files nobody has open stays within its budget, whichever answer brought it."""

from collections.abc import Awaitable, Callable

import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import KIB, ROOT_INODE
from p2pfs.vfs import inode_table
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l2

BUDGET = 64 * KIB


async def chmod(fs: Filesystem, inode: Inode) -> None:
    await fs.attributes.set(inode.id, mode=0o600)


async def setxattr(fs: Filesystem, inode: Inode) -> None:
    await fs.xattrs.set(inode.id, b"user.a", b"1")


async def stat(fs: Filesystem, inode: Inode) -> None:
    await fs.stat(inode.id)


@pytest.mark.parametrize("touch", [chmod, setxattr, stat])
async def test_inline_data_stays_within_its_budget(
    touch: Callable[[Filesystem, Inode], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inode_table, "INLINE_BYTES", BUDGET)
    inodes: list[Inode] = []
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(volume.session(), MemoryStore()) as fs:
        for number in range(20):
            handle = await fs.create(ROOT_INODE, b"%d" % number, 0o644, Owner(0, 0))
            await fs.write(handle, 0, b"x" * 10 * KIB)
            await fs.fsync(handle)
            await fs.release(handle)
            inodes.append(handle.inode)
        for inode in inodes:
            await touch(fs, inode)
        kept = sum(len(inode.attributes.inline or b"") for inode in inodes)
        assert 0 < kept <= BUDGET
        again = await fs.open(inodes[0].id)
        assert bytes(await fs.read(again, 0, KIB)) == b"x" * KIB
