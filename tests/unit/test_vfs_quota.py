"""A mount refuses what would make its volume too large before it takes it in, and counts anew before it refuses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway, OverQuota
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import MIB, ROOT_INODE, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.quota import FOLLOW_S, UNLIMITED_S
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Space
from p2pfs_mount.operations import shown_space

pytestmark = pytest.mark.l2

ME = Owner(0, 0)


class Limited:
    """A volume with a quota; others may use some of it."""

    def __init__(self, *, most_bytes: int = 0, most_files: int = 0) -> None:
        self.volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
        self.most_bytes, self.most_files = most_bytes, most_files
        self.others_bytes = 0
        self.asked = 0
        self.is_away = False

    def open(self) -> MemoryNamespace:
        namespace = self.volume.session()
        space = namespace.space

        async def limited() -> Space:
            self.asked += 1
            if self.is_away:
                raise CoordinatorAway("away")
            found = await space()
            return msgspec.structs.replace(
                found,
                used=found.used + self.others_bytes,
                quota_bytes=self.most_bytes,
                quota_files=self.most_files,
            )

        namespace.space = limited  # type: ignore[method-assign]
        return namespace


@asynccontextmanager
async def mounted(limited: Limited) -> AsyncIterator[Filesystem]:
    async with filesystem(limited.open(), MemoryStore()) as fs:
        await wait_all_tasks_blocked()  # it has heard of the limits
        yield fs


async def test_writing_beyond_it_is_refused_and_nothing_is_taken_in(autojump_clock: MockClock) -> None:
    async with mounted(Limited(most_bytes=3 * MIB)) as fs:
        handle = await fs.create(ROOT_INODE, b"a", 0o644, ME)
        await fs.write(handle, 0, bytes(MIB))
        await fs.write(handle, MIB, bytes(MIB))
        with pytest.raises(OverQuota):
            await fs.write(handle, 2 * MIB, bytes(MIB + 1))
        assert handle.inode.size == 2 * MIB
        await fs.write(handle, 2 * MIB, bytes(MIB))  # just as much as there may be
        await fs.write(handle, MIB, b"x" * MIB)  # what is overwritten takes no more
        with pytest.raises(OverQuota):
            await fs.write(handle, 3 * MIB, b"x")
        await fs.flush(handle)
        await fs.release(handle)
        assert (await fs.space()).used == 3 * MIB


async def test_small_files_and_holes_count(autojump_clock: MockClock) -> None:
    async with mounted(Limited(most_bytes=100)) as fs:
        for name in (b"a", b"b"):
            handle = await fs.create(ROOT_INODE, name, 0o644, ME)
            await fs.write(handle, 0, bytes(50))
            await fs.flush(handle)
            await fs.release(handle)
        handle = await fs.create(ROOT_INODE, b"c", 0o644, ME)
        with pytest.raises(OverQuota):
            await fs.write(handle, 0, b"x")
        with pytest.raises(OverQuota):
            await fs.write(handle, 1 << 30, b"x")
        with pytest.raises(OverQuota):
            await fs.attributes.set(handle.inode.id, size=1)
        await fs.attributes.set(handle.inode.id, size=0)
        await fs.release(handle)


async def test_appending_beyond_it_is_refused(autojump_clock: MockClock) -> None:
    async with mounted(Limited(most_bytes=100)) as fs:
        handle = await fs.create(ROOT_INODE, b"log", 0o644, ME, append=True)
        await fs.write(handle, 0, bytes(99))
        with pytest.raises(OverQuota):
            await fs.write(handle, 99, b"ab")
        await fs.write(handle, 99, b"a")
        await fs.flush(handle)
        await fs.release(handle)


async def test_what_is_removed_makes_room_at_once(autojump_clock: MockClock) -> None:
    async with mounted(Limited(most_bytes=100, most_files=2)) as fs:
        handle = await fs.create(ROOT_INODE, b"a", 0o644, ME)
        await fs.write(handle, 0, bytes(100))
        await fs.flush(handle)
        await fs.release(handle)
        with pytest.raises(OverQuota):
            await fs.create(ROOT_INODE, b"b", 0o644, ME)
        await fs.remove(ROOT_INODE, b"a", directory=False)
        handle = await fs.create(ROOT_INODE, b"b", 0o644, ME)
        await fs.write(handle, 0, bytes(100))
        await fs.flush(handle)
        await fs.release(handle)


async def test_every_kind_of_file_counts_and_another_name_does_not(autojump_clock: MockClock) -> None:
    async with mounted(Limited(most_files=4)) as fs:
        made = await fs.make(ROOT_INODE, b"fifo", Kind.FIFO, 0o644, ME)
        await fs.make(ROOT_INODE, b"directory", Kind.DIRECTORY, 0o755, ME)
        await fs.make_link(ROOT_INODE, b"link", b"target", ME)
        await fs.link(made.id, ROOT_INODE, b"another")
        with pytest.raises(OverQuota):
            await fs.create(ROOT_INODE, b"file", 0o644, ME)
        with pytest.raises(OverQuota):
            await fs.make_link(ROOT_INODE, b"second", b"target", ME)
        with pytest.raises(OverQuota):
            await fs.make(ROOT_INODE, b"second", Kind.DIRECTORY, 0o755, ME)


async def test_what_others_use_and_new_limits_are_heard_of(autojump_clock: MockClock) -> None:
    limited = Limited()
    async with mounted(limited) as fs:
        handle = await fs.create(ROOT_INODE, b"a", 0o644, ME)
        await fs.write(handle, 0, bytes(200))
        asked = limited.asked
        limited.most_bytes, limited.others_bytes = 1000, 700
        await trio.sleep(UNLIMITED_S + 0.1)
        assert limited.asked == asked + 1  # no more often where there is none
        limited.others_bytes = 790
        await trio.sleep(FOLLOW_S + 0.1)
        assert limited.asked == asked + 2
        await fs.write(handle, 200, bytes(10))
        with pytest.raises(OverQuota):
            await fs.write(handle, 210, b"x")
        limited.most_bytes = 0
        await fs.write(handle, 210, b"x")  # asked once more before it was refused
        await fs.flush(handle)
        await fs.release(handle)


async def test_nothing_is_asked_far_from_the_limit_and_old_figures_hold_while_nobody_answers(
    autojump_clock: MockClock,
) -> None:
    limited = Limited(most_bytes=1000)
    async with mounted(limited) as fs:
        asked = limited.asked
        handle = await fs.create(ROOT_INODE, b"a", 0o644, ME)
        for at in range(10):
            await fs.write(handle, 100 * at, bytes(100))
        assert limited.asked == asked
        limited.is_away = True
        with pytest.raises(OverQuota):
            await fs.write(handle, 1000, b"x")
        await fs.flush(handle)
        await fs.release(handle)


def test_statvfs_shows_the_quota_as_the_size() -> None:
    free = shown_space(Space(1 << 40, 1 << 39, 10, 0, 5 << 20))
    assert (free.f_blocks, free.f_bavail) == ((1 << 40) // 4096, (1 << 39) // 4096)
    assert free.f_ffree == 1 << 31
    limited = shown_space(Space(1 << 40, 1 << 39, 10, 0, 5 << 20, 20 << 20, 15))
    assert (limited.f_blocks, limited.f_bfree, limited.f_bavail) == (5120, 3840, 3840)
    assert (limited.f_files, limited.f_ffree) == (15, 5)
    tight = shown_space(Space(1 << 40, 1 << 20, 10, 0, 5 << 20, 20 << 20))
    assert (tight.f_bfree, tight.f_bavail) == (3840, 256)  # the pool has less
    over = shown_space(Space(1 << 40, 1 << 39, 20, 0, 30 << 20, 20 << 20, 15))
    assert (over.f_bfree, over.f_bavail, over.f_ffree, over.f_files) == (0, 0, 0, 20)
