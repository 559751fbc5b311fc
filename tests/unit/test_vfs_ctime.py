"""ctime and mtime of files with unsaved writes: what changes names or attributes waits for no store, and no commit of
earlier writes moves ctime back."""

from collections.abc import Awaitable, Callable, Sequence

import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Denied, NoSpace
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import KIB, ROOT_INODE
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import RENAME_EXCHANGE, Applied, Operation

pytestmark = pytest.mark.l2


class FullStore(MemoryStore):
    """A pool that takes nothing."""

    async def put(self, *_: object, **__: object) -> list:  # type: ignore[override,type-arg]
        raise NoSpace("the pool is full")


def namespace() -> MemoryNamespace:
    return MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()


async def written(fs: Filesystem) -> Inode:
    """A file f, also linked as g, beside h, with unsaved bytes of too many to be kept inline."""
    await fs.release(await fs.create(ROOT_INODE, b"h", 0o644, Owner(0, 0)))
    handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
    await fs.link(handle.inode.id, ROOT_INODE, b"g")
    await fs.write(handle, 0, b"x" * 100 * KIB)
    return handle.inode


async def chmod(fs: Filesystem, inode: Inode) -> None:
    await fs.attributes.set(inode.id, mode=0o600)


async def chown(fs: Filesystem, inode: Inode) -> None:
    await fs.attributes.set(inode.id, uid=7)


async def touch_atime(fs: Filesystem, inode: Inode) -> None:
    await fs.attributes.set(inode.id, atime_ns=5)


async def setxattr(fs: Filesystem, inode: Inode) -> None:
    await fs.xattrs.set(inode.id, b"user.a", b"1")


async def link(fs: Filesystem, inode: Inode) -> None:
    await fs.link(inode.id, ROOT_INODE, b"another")


async def unlink(fs: Filesystem, inode: Inode) -> None:
    await fs.remove(ROOT_INODE, b"g", directory=False)


async def replace(fs: Filesystem, inode: Inode) -> None:
    await fs.rename(ROOT_INODE, b"h", ROOT_INODE, b"g", 0)


CHANGES = [chmod, chown, touch_atime, setxattr, link, unlink, replace]
Change = Callable[[Filesystem, Inode], Awaitable[None]]


@pytest.mark.parametrize("change", CHANGES)
async def test_no_commit_of_earlier_writes_moves_ctime_back(change: Change) -> None:
    names = namespace()
    async with filesystem(names, MemoryStore()) as fs:
        inode = await written(fs)
        unsaved = await fs.stat(inode.id)
        await change(fs, inode)
        assert inode.is_dirty
        before = await fs.stat(inode.id)
        assert (before.mtime_ns, before.ctime_ns > unsaved.ctime_ns) == (unsaved.mtime_ns, True)
        await fs.settler.settle(inode)
        after = await names.attributes(inode.id)
        assert (after.mtime_ns, after.ctime_ns) == (before.mtime_ns, before.ctime_ns)
        assert (inode.stat().mtime_ns, inode.stat().ctime_ns) == (before.mtime_ns, before.ctime_ns)


@pytest.mark.parametrize("change", CHANGES)
async def test_names_and_attributes_of_a_dirty_file_change_in_a_full_pool(change: Change) -> None:
    async with filesystem(namespace(), FullStore()) as fs:
        inode = await written(fs)
        fs.writer.freeze(inode)
        await change(fs, inode)


async def test_setting_mtime_stores_earlier_writes_first() -> None:
    names = namespace()
    async with filesystem(names, MemoryStore()) as fs:
        inode = await written(fs)
        await fs.attributes.set(inode.id, mtime_ns=5)
        await fs.settler.settle(inode)
        assert (await names.attributes(inode.id)).mtime_ns == inode.stat().mtime_ns == 5


class Refusing(MemoryNamespace):
    refuses = False

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if self.refuses:
            raise Denied("no")
        return await super().apply(operations)


async def test_while_nobody_else_can_look_setting_mtime_waits_for_no_store_and_no_earlier_write_moves_it() -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    names, store = Refusing(volume, volume.session().number, read_only=False), FullStore()
    async with filesystem(names, store, trust=lambda: 30.0) as fs:
        inode = await written(fs)
        unsaved = inode.stat()
        await fs.attributes.set(inode.id, mtime_ns=5)
        now = inode.stat()
        assert (now.mtime_ns, now.ctime_ns > unsaved.ctime_ns, inode.is_dirty) == (5, True, True)
        names.refuses = True
        with pytest.raises(Denied):
            await fs.attributes.set(inode.id, mtime_ns=7)
        names.refuses = False
        store.put = MemoryStore().put  # type: ignore[method-assign]
        inode.error = None
        await fs.settler.settle(inode)
        assert inode.stat() == now._replace(change=inode.head.change)
        assert (await names.attributes(inode.id)).mtime_ns == 5
        handle = await fs.open(inode.id)
        await fs.write(handle, 0, b"later")
        later = inode.stat().mtime_ns
        await fs.fsync(handle)
        assert (await names.attributes(inode.id)).mtime_ns == inode.stat().mtime_ns == later > 5


async def test_a_time_that_was_refused_leaves_that_of_the_writes() -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    names = Refusing(volume, volume.session().number, read_only=False)
    async with filesystem(names, MemoryStore(), trust=lambda: 30.0) as fs:
        inode = await written(fs)
        unsaved = inode.stat()
        names.refuses = True
        with pytest.raises(Denied):
            await fs.attributes.set(inode.id, mtime_ns=7)
        names.refuses = False
        inode.error = None
        await fs.settler.settle(inode)
        assert (await names.attributes(inode.id)).mtime_ns == inode.stat().mtime_ns == unsaved.mtime_ns


@pytest.mark.parametrize("names", [(b"f", b"h"), (b"h", b"f")])
async def test_exchanging_stores_what_was_written_to_either(names: tuple[bytes, bytes]) -> None:
    async with filesystem(namespace(), MemoryStore()) as fs:
        inode = await written(fs)
        await fs.rename(ROOT_INODE, names[0], ROOT_INODE, names[1], RENAME_EXCHANGE)
        assert not inode.is_dirty
