"""Listing through the FUSE handler while names come and go: nothing that stays is skipped, nothing is there twice."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pyfuse3
import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.tree import Owner
from p2pfs_mount.entries import DIRECTORY_BYTES
from p2pfs_mount.operations import Operations

pytestmark = pytest.mark.l2

ROOT = pyfuse3.InodeT(ROOT_INODE)
NOBODY = Owner(0, 0)
ENTRIES = 1500


class Buffer:
    """The kernel's: takes a few entries a call."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: list[tuple[bytes, int, int]] = []

    def take(self, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        if len(self.entries) >= self.room:
            return False
        self.entries.append((name, entry.st_ino, cookie))
        return True


@pytest.fixture(autouse=True)
def _replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", lambda buffer, name, entry, cookie: buffer.take(name, entry, cookie))


@asynccontextmanager
async def volume() -> AsyncIterator[tuple[Filesystem, Operations]]:
    memory = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(memory.session(), MemoryStore()) as fs:
        yield fs, Operations(fs, io_timeout_s=30.0)


async def page(operations: Operations, fh: int, start: int, room: int) -> list[tuple[bytes, int, int]]:
    buffer: Any = Buffer(room)
    await operations.readdir(pyfuse3.FileHandleT(fh), start, buffer)
    entries: list[tuple[bytes, int, int]] = buffer.entries
    return entries


async def rest(operations: Operations, fh: int, start: int = 0, room: int = 97) -> list[tuple[bytes, int, int]]:
    found: list[tuple[bytes, int, int]] = []
    while entries := await page(operations, fh, start, room):
        found += entries
        start = entries[-1][2]
    return found


async def open_root(operations: Operations) -> int:
    return await operations.opendir(ROOT, None)  # type: ignore[arg-type]  # no context is used


@pytest.mark.parametrize("room", [1, 2, 3, 100])
async def test_the_dots_come_first_and_count_as_no_reference(room: int) -> None:
    async with volume() as (fs, operations):
        below = await fs.tree.make(ROOT_INODE, b"below", Kind.DIRECTORY, 0o755, NOBODY)
        deep = await fs.tree.make(below.id, b"deep", Kind.DIRECTORY, 0o755, NOBODY)
        before = (fs._table.references(below.id), fs._table.references(deep.id))
        root = await open_root(operations)
        assert [entry[:2] for entry in await rest(operations, root, room=room)] == [
            (b".", ROOT_INODE), (b"..", ROOT_INODE), (b"below", below.id),
        ]  # fmt: skip
        fh = await operations.opendir(pyfuse3.InodeT(below.id), None)  # type: ignore[arg-type]
        assert [entry[:2] for entry in await rest(operations, fh, room=room)] == [
            (b".", below.id), (b"..", ROOT_INODE), (b"deep", deep.id),
        ]  # fmt: skip
        assert (fs._table.references(below.id), fs._table.references(deep.id)) == (before[0] + 1, before[1] + 1)
        await fs.tree.rename(below.id, b"deep", ROOT_INODE, b"moved", 0)
        fh = await operations.opendir(pyfuse3.InodeT(deep.id), None)  # type: ignore[arg-type]
        assert [entry[:2] for entry in await rest(operations, fh, room=room)] == [(b".", deep.id), (b"..", ROOT_INODE)]


async def test_each_place_can_be_returned_to() -> None:
    async with volume() as (fs, operations):
        file = await fs.tree.make(ROOT_INODE, b"0", Kind.FILE, 0o644, NOBODY)
        for number in range(1, ENTRIES):  # dentries whose numbers have no gaps
            await fs.tree.link(file.id, ROOT_INODE, b"%d" % number)
        fh = await open_root(operations)
        everything = await rest(operations, fh)
        assert len({name for name, _, _ in everything}) == len(everything) == ENTRIES + 2
        cookies = [0, *(cookie for _, _, cookie in everything)]
        assert cookies == sorted(set(cookies))
        chance = random.Random(1)
        for at in [0, 1, 2, 3, *(chance.randrange(len(everything)) for _ in range(30))]:
            assert await page(operations, fh, cookies[at], 5) == everything[at : at + 5]
        assert await rest(operations, await open_root(operations), cookies[700]) == everything[700:]


async def test_names_that_come_and_go_disturb_no_others() -> None:
    async with volume() as (fs, operations):
        for number in range(ENTRIES):
            await fs.tree.make(ROOT_INODE, b"%d" % number, Kind.FILE, 0o644, NOBODY)
        chance = random.Random(2)
        gone, made = set(), 0
        fh = await open_root(operations)
        listed: list[bytes] = []
        start = 0
        while entries := await page(operations, fh, start, chance.randrange(1, 80)):
            listed += [name for name, _, _ in entries]
            start = entries[-1][2]
            for _ in range(20):
                victim = b"%d" % chance.randrange(0, ENTRIES, 3)
                if victim not in gone:
                    gone.add(victim)
                    await fs.tree.remove(ROOT_INODE, victim, directory=False)
                if made < 300:
                    made += 1
                    await fs.tree.make(ROOT_INODE, b"new-%d" % made, Kind.FILE, 0o644, NOBODY)
        assert len(gone) > 100
        assert len(listed) == len(set(listed))
        assert {b"%d" % number for number in range(ENTRIES)} - gone <= set(listed)


async def test_a_rewound_listing_is_as_things_are_now() -> None:
    async with volume() as (fs, operations):
        fh = await open_root(operations)
        assert len(await rest(operations, fh)) == 2
        await fs.tree.make(ROOT_INODE, b"new", Kind.FILE, 0o644, NOBODY)
        assert [name for name, _, _ in await rest(operations, fh)] == [b".", b"..", b"new"]


async def test_numbers_of_a_directory_are_as_on_a_local_disk() -> None:
    async with volume() as (fs, operations):
        below = await fs.tree.make(ROOT_INODE, b"below", Kind.DIRECTORY, 0o755, NOBODY)
        for number in range(3):
            await fs.tree.make(below.id, b"%d" % number, Kind.DIRECTORY, 0o755, NOBODY)
        entry = await operations.getattr(pyfuse3.InodeT(InodeId(below.id)), None)  # type: ignore[arg-type]
        assert (entry.st_nlink, entry.st_size, entry.st_blocks) == (5, DIRECTORY_BYTES, DIRECTORY_BYTES // 512)
