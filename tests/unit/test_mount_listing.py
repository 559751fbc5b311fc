"""Directories through the FUSE handlers while the mount holds the delegation: what is known is not asked for again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pyfuse3
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import ROOT_INODE, DentryId, InodeId, Kind
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import DirectoryPage
from p2pfs_mount.operations import Operations

pytestmark = pytest.mark.l2

ROOT = pyfuse3.InodeT(ROOT_INODE)
NOBODY = Owner(0, 0)
ROOM = 40


class Session(MemoryNamespace):
    """Counts the directory pages it is asked for."""

    def __init__(self, volume: MemoryVolume) -> None:
        super().__init__(volume, volume.session().number, read_only=False)
        self.pages: list[tuple[int, int]] = []

    async def directory(self, inode: InodeId, after: DentryId, limit: int) -> DirectoryPage:
        self.pages.append((inode, after))
        return await super().directory(inode, after, limit)


class Buffer:
    """The kernel's: takes a few entries a call."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: list[tuple[bytes, Any, int]] = []

    def take(self, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        if len(self.entries) >= self.room:
            return False
        told = (entry.st_ino, entry.st_size, entry.st_mode, entry.entry_timeout, entry.attr_timeout)
        self.entries.append((name, told, cookie))
        return True


@pytest.fixture(autouse=True)
def _replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", lambda buffer, name, entry, cookie: buffer.take(name, entry, cookie))


@asynccontextmanager
async def mounted(files: int) -> AsyncIterator[tuple[Session, Filesystem, Operations]]:
    """A volume with some files that another mount made, delegated to this one."""
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    maker = volume.session()
    async with filesystem(maker, MemoryStore()) as other:
        for number in range(files):
            await other.make(ROOT_INODE, b"%d" % number, Kind.FILE, 0o644, NOBODY)
    volume.end(maker.number)
    session = Session(volume)
    delegated = Delegated(session, now=trio.current_time, io_timeout_s=30.0)
    async with (
        filesystem(delegated, MemoryStore(), trust=delegated.trust_s) as fs,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(Holding(delegated, trio.current_time).hold)
        await wait_all_tasks_blocked()
        assert delegated.holds
        yield session, fs, Operations(fs, io_timeout_s=30.0)
        nursery.cancel_scope.cancel()


async def listing(operations: Operations, number: int = ROOT) -> dict[bytes, Any]:
    """What the kernel is told, without the dots."""
    fh = await operations.opendir(pyfuse3.InodeT(number), None)  # type: ignore[arg-type]  # no context is used
    found: list[tuple[bytes, Any, int]] = []
    while True:
        buffer: Any = Buffer(ROOM)
        await operations.readdir(fh, found[-1][2] if found else 0, buffer)
        if not buffer.entries:
            break
        found += buffer.entries
    await operations.releasedir(fh)
    assert [entry[0] for entry in found[:2]] == [b".", b".."]
    return {name: told for name, told, _ in found[2:]}


async def test_a_directory_that_was_listed_is_known(autojump_clock: object) -> None:
    async with mounted(100) as (session, _, operations):
        first = await listing(operations)
        assert sorted(first) == sorted(b"%d" % number for number in range(100))
        session.pages.clear()
        assert await listing(operations) == first
        assert session.pages == []
