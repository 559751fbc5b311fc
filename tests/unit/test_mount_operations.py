"""The FUSE handlers' contract with pyfuse3: which errno leaves them, and that nothing else does."""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pyfuse3
import pytest
from plugins.checklogs import Claims
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.tree import Owner
from p2pfs_mount.entries import DOTS
from p2pfs_mount.xattrs import XattrOperations

pytestmark = pytest.mark.l2

ROOT, GONE = pyfuse3.InodeT(ROOT_INODE), pyfuse3.InodeT(4711)
Call = Callable[[XattrOperations, Any], Awaitable[object]]


@pytest.fixture
async def fs() -> AsyncIterator[Filesystem]:
    async with filesystem(MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session(), MemoryStore()) as served:
        yield served


@pytest.fixture
def operations(fs: Filesystem) -> XattrOperations:
    return XattrOperations(fs, io_timeout_s=30.0)


def setattr_fields() -> Any:  # noqa: ANN401 - pyfuse3 makes these itself
    class Fields:
        update_mode = update_uid = update_gid = update_size = update_atime = update_mtime = update_ctime = False

    return Fields()


BY_NAME: list[Call] = [
    lambda ops, ctx: ops.lookup(ROOT, b"none", ctx),
    lambda ops, ctx: ops.unlink(ROOT, b"none", ctx),
    lambda ops, ctx: ops.rmdir(ROOT, b"none", ctx),
    lambda ops, ctx: ops.rename(ROOT, b"none", ROOT, b"new", 0, ctx),
]  # fmt: skip
BY_NUMBER: list[Call] = [
    lambda ops, ctx: ops.getattr(GONE, ctx),
    lambda ops, ctx: ops.setattr(GONE, pyfuse3.EntryAttributes(), setattr_fields(), None, ctx),
    lambda ops, ctx: ops.readlink(GONE, ctx),
    lambda ops, ctx: ops.open(GONE, 0, ctx),
    lambda ops, ctx: ops.link(GONE, ROOT, b"new", ctx),
    lambda ops, ctx: ops.listxattr(GONE, ctx),
    lambda ops, ctx: ops.getxattr(GONE, b"user.a", ctx),
    lambda ops, ctx: ops.setxattr(GONE, b"user.a", b"", ctx),
    lambda ops, ctx: ops.removexattr(GONE, b"user.a", ctx),
]  # fmt: skip


class Context:
    uid, gid, pid, umask = 0, 0, 1, 0


async def errno_of(called: Awaitable[object]) -> str:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await called
    return errno.errorcode[caught.value.errno]


@pytest.mark.parametrize("call", BY_NAME)
async def test_a_name_that_is_not_there_is_enoent(operations: XattrOperations, call: Call) -> None:
    assert await errno_of(call(operations, Context())) == "ENOENT"


@pytest.mark.parametrize("call", BY_NUMBER)
async def test_an_inode_that_is_gone_is_estale_so_that_the_kernel_looks_its_name_up_again(
    operations: XattrOperations, call: Call
) -> None:
    assert await errno_of(call(operations, Context())) == "ESTALE"


async def test_listing_a_directory_that_is_gone_is_estale(operations: XattrOperations) -> None:
    fh = await operations.opendir(GONE, Context())  # type: ignore[arg-type]
    reading: Any = operations.readdir(fh, DOTS, None)  # type: ignore[arg-type]
    assert await errno_of(reading) == "ESTALE"
    await operations.releasedir(fh)


async def test_forgetting_never_ends_the_mount_and_loses_no_other_reference(
    fs: Filesystem, operations: XattrOperations, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    inode = await fs.make(ROOT_INODE, b"pipe", Kind.FIFO, 0o644, Owner(0, 0))
    fs.refer(inode)
    forget, forgotten = fs.forget, list[int]()

    def broken(number: InodeId, count: int) -> None:
        if number == GONE:
            raise RuntimeError("a bug")
        forgotten.append(number)
        forget(number, count)

    monkeypatch.setattr(fs, "forget", broken)
    claim_logs("forget failed unexpectedly", count=1)
    await operations.forget([(GONE, 1), (pyfuse3.InodeT(inode.id), 1)])
    assert (forgotten, operations.unexpected) == ([inode.id], 1)


async def test_closing_a_directory_that_is_not_open_is_an_errno(
    operations: XattrOperations, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    monkeypatch.setattr(operations, "_directories", None)
    claim_logs("releasedir failed unexpectedly", count=1)
    assert await errno_of(operations.releasedir(pyfuse3.FileHandleT(1))) == "EIO"


async def test_an_unchanged_file_keeps_its_pages_also_after_own_writes_and_another_mounts_change_drops_them(
    fs: Filesystem, operations: XattrOperations
) -> None:
    context: Any = Context()
    info, entry = await operations.create(ROOT, b"f", 0o644, os.O_RDWR, context)

    async def keeps() -> bool:
        opened = await operations.open(entry.st_ino, os.O_RDONLY, context)
        await operations.flush(opened.fh)
        await operations.release(opened.fh)
        return bool(opened.keep_cache)

    for data in (b"small", bytes(100_000)):
        await operations.write(info.fh, 0, data)
        await operations.flush(info.fh)
        assert await keeps()
    (await fs.inode(InodeId(entry.st_ino))).cached_change -= 1  # as after another mount's commit
    assert [await keeps(), await keeps()] == [False, True]
    await operations.release(info.fh)
