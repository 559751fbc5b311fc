"""The walk through everything below a directory."""

from contextlib import aclosing

import pytest
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.below import pages_below
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l0


async def make(fs: Filesystem, parent: int, name: bytes, kind: Kind) -> InodeId:
    return (await fs.make(InodeId(parent), name, kind, 0o755, Owner(0, 0))).id


async def test_directories_are_told_before_what_is_in_them_page_by_page() -> None:
    namespace = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME, wanted_min=0).session()
    async with filesystem(namespace, MemoryStore()) as fs:
        top = await make(fs, ROOT_INODE, b"top", Kind.DIRECTORY)
        inner = await make(fs, top, b"inner", Kind.DIRECTORY)
        files = [await make(fs, top, b"%d" % at, Kind.FILE) for at in range(3)]
        deep = await make(fs, inner, b"deep", Kind.FILE)
        async with aclosing(pages_below(namespace, top, limit=2)) as pages:
            told = [([entry.attributes.inode for entry in entries], waiting) async for entries, waiting in pages]
        assert told == [([inner, files[0]], 1), (files[1:], 1), ([deep], 0)]


async def test_what_is_removed_meanwhile_is_left_out() -> None:
    namespace = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME, wanted_min=0).session()
    async with filesystem(namespace, MemoryStore()) as fs:
        gone = await make(fs, ROOT_INODE, b"gone", Kind.DIRECTORY)
        stays = await make(fs, ROOT_INODE, b"stays", Kind.DIRECTORY)
        file = await make(fs, stays, b"file", Kind.FILE)
        told: list[int] = []
        async with aclosing(pages_below(namespace, ROOT_INODE, limit=10)) as pages:
            async for entries, _ in pages:
                told += [entry.attributes.inode for entry in entries]
                if gone in told[-2:]:
                    await fs.remove(ROOT_INODE, b"gone", directory=True)
        assert told == [gone, stays, file]


async def test_a_directory_met_twice_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that lies must not make the walk endless."""
    namespace = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME, wanted_min=0).session()
    async with filesystem(namespace, MemoryStore()) as fs:
        await make(fs, ROOT_INODE, b"inner", Kind.DIRECTORY)
        page = await namespace.directory(ROOT_INODE, 0, 10)  # type: ignore[arg-type]
        asked: list[int] = []

        async def same(directory: InodeId, *_: object) -> object:
            asked.append(directory)
            assert len(asked) < 10
            return page

        monkeypatch.setattr(namespace, "directory", same)
        async with aclosing(pages_below(namespace, ROOT_INODE, limit=10)) as pages:
            async for _ in pages:
                pass
        assert len(asked) == 2
