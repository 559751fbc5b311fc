"""Writes that come from a kernel which keeps pages: their times and errors are not the program's calls'."""

import os
from typing import Any

import pyfuse3
import pytest
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Unavailable
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.tree import Owner
from p2pfs_mount.operations import Operations

pytestmark = pytest.mark.l2

BY_KERNEL = Limits(WriteLimits(by_kernel=True))


class Context:
    uid = gid = pid = 0
    umask = 0o22


def volume() -> MemoryVolume:
    return MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)


@pytest.mark.parametrize("size", [100, 100_000])
async def test_pages_that_come_do_not_move_the_time_that_the_kernel_sets(size: int) -> None:
    async with filesystem(volume().session(), MemoryStore(), limits=BY_KERNEL) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        made_ns = handle.inode.stat().mtime_ns
        await fs.write(handle, 0, bytes(size))
        assert handle.inode.stat().mtime_ns == made_ns
        assert (await fs.set_attributes(handle.inode.id, mtime_ns=5, ctime_ns=7)).mtime_ns == 5
        assert handle.inode.is_dirty  # nobody else can look: what was written need not be stored for that
        await fs.write(handle, 10, b"later")
        await fs.fsync(handle)
        stat = handle.inode.stat()
        assert (stat.mtime_ns, stat.ctime_ns, stat.size) == (5, 7, size)


async def test_an_earlier_error_does_not_refuse_pages_that_the_kernel_would_lose() -> None:
    async with filesystem(volume().session(), MemoryStore(), limits=BY_KERNEL) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        handle.inode.fail(Unavailable("not stored"))
        await fs.write(handle, 0, b"abc")
        with pytest.raises(Unavailable, match="not stored"):
            await fs.fsync(handle)
        await fs.fsync(handle)
        assert bytes(await fs.read(handle, 0, 10)) == b"abc"


async def test_the_kernel_has_found_the_end_of_the_file_and_its_pages_are_never_dropped() -> None:
    context: Any = Context()
    async with filesystem(volume().session(), MemoryStore(), limits=BY_KERNEL) as fs:
        operations = Operations(fs, io_timeout_s=30.0, writeback_cache=True)
        assert operations.enable_writeback_cache
        flags = os.O_WRONLY | os.O_APPEND
        info, entry = await operations.create(pyfuse3.ROOT_INODE, b"f", 0o644, flags, context)
        assert info.keep_cache
        await operations.write(info.fh, 0, bytes(4096))
        await operations.write(info.fh, 0, b"a page again, longer".ljust(5000))
        opened = await operations.open(entry.st_ino, flags, context)
        assert opened.keep_cache
        await operations.write(opened.fh, 5000, b"end")
        assert bytes(await operations.read(opened.fh, 0, 9000)) == b"a page again, longer".ljust(5000) + b"end"
        await wait_all_tasks_blocked()
