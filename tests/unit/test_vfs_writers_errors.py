"""An error of storing in the background: who needs the bytes stored gets it, and their writer does all the same."""

from collections.abc import Awaitable, Callable, Sequence

import pytest
from plugins.checklogs import Claims
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Fenced, NotFound
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Applied, Commit, Operation

pytestmark = pytest.mark.l2


class Refusing(MemoryNamespace):
    """Refuses one commit for good."""

    refuses = True

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if self.refuses and any(isinstance(operation, Commit) for operation in operations):
            self.refuses = False
            raise NotFound("gone")
        return await super().apply(operations)


async def truncate(fs: Filesystem, number: InodeId) -> None:
    await fs.attributes.set(number, size=0)


async def utimes(fs: Filesystem, number: InodeId) -> None:
    await fs.attributes.set(number, mtime_ns=5)


async def rename(fs: Filesystem, number: InodeId) -> None:
    await fs.rename(ROOT_INODE, b"f", ROOT_INODE, b"g", 0)


@pytest.mark.parametrize("call", [truncate, utimes, rename])
@pytest.mark.parametrize("is_told_before", [True, False])
async def test_a_call_that_needs_the_bytes_does_not_take_the_error_from_their_writer(
    call: Callable[[Filesystem, InodeId], Awaitable[None]], is_told_before: bool
) -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(Refusing(volume, volume.session().number, read_only=False), MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"one")
        if is_told_before:  # then nothing is unsaved: the bytes were given up
            fs.writer.freeze(handle.inode)
            await wait_all_tasks_blocked()
        if not is_told_before or call is truncate:
            with pytest.raises(NotFound):
                await call(fs, handle.inode.id)
        with pytest.raises(NotFound):
            await fs.fsync(handle)
        await fs.fsync(handle)


async def test_who_only_reads_does_not_take_the_error_from_the_writer() -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(Refusing(volume, volume.session().number, read_only=False), MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"one")
        fs.writer.freeze(handle.inode)
        await wait_all_tasks_blocked()
        reader = await fs.open(handle.inode.id, writes=False)
        await fs.flush(reader)
        with pytest.raises(NotFound):
            await fs.flush(handle)


class Over(MemoryNamespace):
    """The session is over when content comes."""

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if any(isinstance(operation, Commit) for operation in operations):
            raise Fenced("over")
        return await super().apply(operations)


async def test_every_close_tells_of_bytes_that_were_lost_whoever_closed_before(claim_logs: Claims) -> None:
    claim_logs("3 unsaved bytes are given up: over", count=1)
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(Over(volume, volume.session().number, read_only=False), MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"one")
        for call in (fs.flush, fs.flush, fs.fsync):
            with pytest.raises(Fenced):
                await call(handle)
        await fs.fsync(handle)
