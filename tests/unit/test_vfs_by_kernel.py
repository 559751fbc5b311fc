"""Writes that come from a kernel which keeps pages: their times and errors are not the program's calls'."""

import os
from collections.abc import Sequence
from typing import Any

import pyfuse3
import pytest
import trio
from plugins.checklogs import Claims
from trio.testing import MockClock, wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway, NoSpace, PoolError, Unavailable
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import MIB, ROOT_INODE, Kind
from p2pfs.vfs import inode_table
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.space import EndlessSpace
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Applied, Operation, SetAttributes
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
        assert (await fs.attributes.set(handle.inode.id, mtime_ns=5, ctime_ns=7)).mtime_ns == 5
        assert handle.inode.is_dirty  # nobody else can look: what was written need not be stored for that
        await fs.write(handle, 10, b"later")
        await fs.fsync(handle)
        stat = handle.inode.stat()
        assert (stat.mtime_ns, stat.ctime_ns, stat.size) == (5, 7, size)


@pytest.mark.parametrize(("limits", "waiting"), [(BY_KERNEL, [0]), (Limits(), [])])
async def test_pages_of_a_kernel_come_in_any_order_so_that_a_full_mib_takes_no_half_one_along(
    limits: Limits, waiting: list[int]
) -> None:
    async with filesystem(volume().session(), MemoryStore(), limits=limits) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, MIB // 2, bytes(MIB // 2))
        await fs.write(handle, MIB, bytes(MIB))
        assert list(handle.inode.active) == waiting
        await fs.write(handle, 0, bytes(MIB // 2))
        await fs.fsync(handle)


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


class Promising(EndlessSpace):
    """Promises nothing."""

    def __init__(self, error: PoolError) -> None:
        self.error, self.adopted = error, 0

    async def promise(self, size: int) -> None:
        raise self.error

    def adopt(self, size: int) -> None:
        self.adopted += size


async def test_pages_are_held_that_nobody_can_promise_room_for_now() -> None:
    space = Promising(CoordinatorAway("away"))
    async with filesystem(volume().session(), MemoryStore(), limits=BY_KERNEL, space=space) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, bytes(100_000))
        assert space.adopted == 100_000
        await fs.fsync(handle)
        assert handle.inode.head.size == 100_000


async def test_every_close_tells_of_refused_pages_whoever_closed_before(claim_logs: Claims) -> None:
    """A child that begins another program closes what it inherited, and nobody looks at the answer."""
    claim_logs("gives up what was written to it: full", count=1)
    space = Promising(NoSpace("full"))
    async with filesystem(volume().session(), MemoryStore(), limits=BY_KERNEL, space=space) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        other, reader = await fs.open(handle.inode.id), await fs.open(handle.inode.id, writes=False)
        for _ in range(2):
            with pytest.raises(NoSpace):
                await fs.write(handle, 0, bytes(4096))
        later = await fs.open(handle.inode.id)
        for one in (handle, handle, other, handle):
            with pytest.raises(NoSpace):
                await fs.flush(one)
        await fs.flush(reader)
        await fs.flush(later)
        with pytest.raises(NoSpace):
            await fs.fsync(handle)
        await fs.fsync(handle)  # the program knows
        await fs.flush(handle)
        with pytest.raises(NoSpace):
            await fs.flush(other)


async def test_pages_that_were_not_taken_in_by_the_deadline_count_as_refused(
    claim_logs: Claims, autojump_clock: MockClock
) -> None:
    claim_logs("could not be taken in in time", count=1)
    limits = Limits(WriteLimits(by_kernel=True, dirty_bytes=1 << 20))
    async with filesystem(volume().session(), MemoryStore(), limits=limits) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        taken = fs.writer.unsaved_bytes()
        fs.writer._credits.charge(1 << 20)  # stored by nobody
        with trio.move_on_after(300) as deadline:
            await fs.write(handle, 0, bytes(4096))
        assert deadline.cancelled_caught
        fs.writer._credits.give(1 << 20)
        assert fs.writer.unsaved_bytes() == taken
        with pytest.raises(Unavailable):
            await fs.flush(handle)


class Deaf(MemoryNamespace):
    """Does not answer what sets attributes while it is away."""

    is_away = False

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if self.is_away and any(isinstance(operation, SetAttributes) for operation in operations):
            raise CoordinatorAway("away")
        return await super().apply(operations)


async def test_times_of_pages_that_cannot_be_set_now_are_set_by_the_next_close() -> None:
    names = volume()
    session = Deaf(names, names.session().number, read_only=False)
    async with filesystem(session, MemoryStore(), limits=BY_KERNEL) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, bytes(4096))
        session.is_away = True
        await fs.attributes.set_times_of_pages(handle.inode.id, 5, 7)
        with pytest.raises(CoordinatorAway):
            await fs.flush(handle)
        session.is_away = False
        await fs.flush(handle)
        attributes = await session.attributes(handle.inode.id)
        assert (attributes.mtime_ns, attributes.ctime_ns) == (5, 7)
        await fs.attributes.set(handle.inode.id, mtime_ns=9)
        await fs.flush(handle)
        assert handle.inode.stat().mtime_ns == 9


@pytest.mark.parametrize("goes", ["left", "removed"])
async def test_times_of_pages_of_a_closed_file_are_set_at_unmount(goes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inode_table, "IDLE_INODES", 3)
    names = volume()
    session = Deaf(names, names.session().number, read_only=False)
    async with filesystem(session, MemoryStore(), limits=BY_KERNEL) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        number = handle.inode.id
        await fs.write(handle, 0, bytes(4096))
        await fs.fsync(handle)
        session.is_away = True
        await fs.attributes.set_times_of_pages(number, 5, 7)
        await fs.release(handle)
        for name in (b"1", b"2", b"3", b"4", b"5"):
            await fs.make(ROOT_INODE, name, Kind.FILE, 0o644, Owner(0, 0))
        if goes == "removed":
            await fs.remove(ROOT_INODE, b"f", directory=False)
        else:
            with pytest.raises(CoordinatorAway):
                await fs.settle_all()
            session.is_away = False
        await fs.settle_all()
        if goes == "left":
            attributes = await session.attributes(number)
            assert (attributes.mtime_ns, attributes.ctime_ns) == (5, 7)
