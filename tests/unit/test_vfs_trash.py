"""The trash as a mount shows it: paths, trees, what was there at a time, names that are taken. Nothing is shown that
was not sealed by a member."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Corrupt, NotFound
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.paths import LOST
from p2pfs.vfs.trash import Discarded, Restored
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Opened

pytestmark = pytest.mark.l0

ME = Owner(0, 0)


class Clocked(MemoryVolume):
    """Its trash knows when something came into it: each thing a minute after the one before."""

    def __init__(self) -> None:
        super().__init__(root_head=ROOT_HEAD, volume=VOLUME, wanted_min=0, trash_s=3600.0)
        self.removed: dict[int, float] = {}

    def _trash_row(self, inode: int):  # noqa: ANN202
        return replace(super()._trash_row(inode), removed_s=self.removed[inode])

    def apply(self, session, operations):  # noqa: ANN001, ANN201
        applied = super().apply(session, operations)
        self.now_s += 60.0
        for inode in self._trash:
            self.removed.setdefault(inode, self.now_s)
        for inode in self.removed.keys() - self._trash.keys():
            del self.removed[inode]
        return applied


@asynccontextmanager
async def volume() -> AsyncIterator[tuple[Filesystem, Clocked]]:
    model = Clocked()
    async with filesystem(model.session(), MemoryStore()) as fs:
        yield fs, model


async def make(fs: Filesystem, path: bytes, kind: Kind = Kind.FILE) -> InodeId:
    parent, _, name = path.rpartition(b"/")
    return (await fs.make(await number(fs, parent), name, kind, 0o755, ME)).id


async def number(fs: Filesystem, path: bytes) -> InodeId:
    at = ROOT_INODE
    for name in filter(None, path.split(b"/")):
        at = (await fs.lookup(at, name)).id
    return at


async def remove(fs: Filesystem, path: bytes, *, directory: bool = False) -> None:
    parent, _, name = path.rpartition(b"/")
    await fs.remove(await number(fs, parent), name, directory=directory)


async def tree(fs: Filesystem, at: InodeId = ROOT_INODE, path: bytes = b"") -> list[bytes]:
    found = []
    for name, _, inode in (await fs.directory(at, 0, 1000))[0]:  # type: ignore[arg-type]
        found.append(path + name)
        if inode.kind is Kind.DIRECTORY:
            found += await tree(fs, inode.id, path + name + b"/")
    return sorted(found)


async def listed(fs: Filesystem, below: bytes = b"") -> dict[bytes, Discarded]:
    found: dict[bytes, Discarded] = {}

    async def show(one: Discarded) -> None:
        found[one.path] = one

    await fs.trash.look(below, show)
    return found


async def undelete(fs: Filesystem, path: bytes, at_s: float | None = None) -> list[tuple[bytes, bytes]]:
    row = await fs.trash.find(path, at_s)
    return await restore(fs, row.entry.attributes.inode, at_s)


async def restore(fs: Filesystem, inode: int, at_s: float | None = None) -> list[tuple[bytes, bytes]]:
    found = []

    async def show(back: Restored) -> None:
        found.append((back.path, back.was))

    await fs.trash.restore(inode, show, at_s)
    return found


async def planted(fs: Filesystem) -> list[bytes]:
    """A tree, and its paths."""
    await make(fs, b"top", Kind.DIRECTORY)
    await make(fs, b"top/sub", Kind.DIRECTORY)
    await make(fs, b"top/sub/leaf")
    await make(fs, b"top/file")
    return await tree(fs)


async def felled(fs: Filesystem) -> None:
    """As rm -r does it."""
    await remove(fs, b"top/sub/leaf")
    await remove(fs, b"top/sub", directory=True)
    await remove(fs, b"top/file")
    await remove(fs, b"top", directory=True)


async def test_a_removed_tree_is_listed_with_its_paths_and_comes_back_whole() -> None:
    async with volume() as (fs, _):
        before = await planted(fs)
        await felled(fs)
        assert await tree(fs) == []
        assert sorted(await listed(fs)) == sorted(before)
        assert sorted(await listed(fs, b"top/sub")) == [b"top/sub", b"top/sub/leaf"]
        assert {back for back, was in await undelete(fs, b"top") if back == was} == set(before)
        assert await tree(fs) == before
        assert await listed(fs) == {}


async def test_one_file_of_it_brings_the_directories_it_was_in_back_and_nothing_else() -> None:
    async with volume() as (fs, _):
        await planted(fs)
        await felled(fs)
        assert await undelete(fs, b"top/sub/leaf") == [(b"top/sub/leaf", b"top/sub/leaf")]
        assert await tree(fs) == [b"top", b"top/sub", b"top/sub/leaf"]


async def test_what_takes_its_name_meanwhile_keeps_it() -> None:
    async with volume() as (fs, _):
        for _ in range(3):
            await make(fs, b"file")
            await remove(fs, b"file")
        await make(fs, b"file")
        paths = [(await undelete(fs, b"file"))[0][0] for _ in range(3)]
        assert paths == [b"file (restored 1970-01-01)", *(b"file (restored 1970-01-01 %d)" % at for at in (2, 3))]
        assert await tree(fs) == sorted([b"file", *paths])


async def test_a_long_name_is_cut_for_that() -> None:
    async with volume() as (fs, _):
        name = b"n" * 255
        await make(fs, name)
        await remove(fs, name)
        await make(fs, name)
        ((path, _),) = await undelete(fs, name)
        assert len(path) == 255
        assert path.endswith(b"n (restored 1970-01-01)")


async def test_a_time_chooses_what_was_there_then() -> None:
    async with volume() as (fs, model):
        first = await make(fs, b"file")
        await make(fs, b"new")
        await fs.rename(ROOT_INODE, b"new", ROOT_INODE, b"file", 0)
        first_gone_s = model.removed[first]
        second = await number(fs, b"file")
        await remove(fs, b"file")
        assert (await fs.trash.find(b"file")).entry.attributes.inode == second
        assert (await fs.trash.find(b"file", first_gone_s - 1)).entry.attributes.inode == first
        assert (await fs.trash.find(b"file", first_gone_s)).entry.attributes.inode == second
        with pytest.raises(NotFound):
            await fs.trash.find(b"file", model.removed[second])


async def test_what_was_in_an_earlier_directory_of_that_name_is_found_too() -> None:
    async with volume() as (fs, model):
        await make(fs, b"dir", Kind.DIRECTORY)
        first = await make(fs, b"dir/file")
        await remove(fs, b"dir/file")
        await remove(fs, b"dir", directory=True)
        await make(fs, b"dir", Kind.DIRECTORY)
        assert (await fs.trash.find(b"dir/file")).entry.attributes.inode == first
        second = await make(fs, b"dir/file")
        await remove(fs, b"dir/file")
        assert (await fs.trash.find(b"dir/file")).entry.attributes.inode == second
        assert (await fs.trash.find(b"dir/file", model.removed[first] - 1)).entry.attributes.inode == first


async def test_a_tree_comes_back_without_what_was_replaced_in_it_or_as_it_was_at_a_time() -> None:
    async with volume() as (fs, model):
        await make(fs, b"top", Kind.DIRECTORY)
        old = await make(fs, b"top/file")
        new = await make(fs, b"new")
        await fs.rename(ROOT_INODE, b"new", await number(fs, b"top"), b"file", 0)
        replaced_s = model.removed[old]
        await remove(fs, b"top/file")
        await remove(fs, b"top", directory=True)
        assert len(await undelete(fs, b"top")) == 2
        assert await number(fs, b"top/file") == new
        await remove(fs, b"top/file")
        await remove(fs, b"top", directory=True)
        await undelete(fs, b"top", replaced_s - 1)
        assert await number(fs, b"top/file") == old


async def test_what_was_in_a_directory_that_is_gone_for_good_comes_to_the_root() -> None:
    async with volume() as (fs, _):
        await planted(fs)
        top = await number(fs, b"top")
        await felled(fs)
        assert await fs.trash.purge([top, top]) == 1
        found = await listed(fs)
        assert "…/file".encode() in found
        assert await restore(fs, found["…/file".encode()].inode) == [(b"file", "…/file".encode())]
        assert await tree(fs) == [b"file"]


async def test_what_was_let_go_is_not_there_any_more() -> None:
    async with volume() as (fs, _):
        inodes = [await make(fs, b"%d" % at) for at in range(5)]
        for at in range(5):
            await remove(fs, b"%d" % at)
        assert await fs.trash.purge(inodes[:4]) == 4
        assert (await listed(fs)).keys() == {b"4"}
        with pytest.raises(NotFound):
            await undelete(fs, b"0")


async def test_many_files_of_one_directory_come_back() -> None:
    async with volume() as (fs, _):
        await make(fs, b"top", Kind.DIRECTORY)
        names = [b"top/%03d" % at for at in range(250)]
        for name in names:
            await make(fs, name)
        for name in names:
            await remove(fs, name)
        await remove(fs, b"top", directory=True)
        assert len(await undelete(fs, b"top")) == 251
        assert await tree(fs) == [b"top", *names]


async def test_what_is_let_go_while_its_directory_comes_back_does_not_keep_the_others() -> None:
    async with volume() as (fs, _):
        await make(fs, b"top", Kind.DIRECTORY)
        names = [b"top/%03d" % at for at in range(250)]
        inodes = [await make(fs, name) for name in names]
        for name in names:
            await remove(fs, name)
        await remove(fs, b"top", directory=True)
        row = await fs.trash.find(b"top", None)
        shown = 0

        async def show(_back: Restored) -> None:
            nonlocal shown
            shown += 1
            if shown == 2:
                assert await fs.trash.purge([inodes[249]]) == 1

        await fs.trash.restore(row.entry.attributes.inode, show)
        assert shown == 250
        assert await tree(fs) == [b"top", *names[:249]]


async def test_a_name_that_no_member_sealed_is_not_shown() -> None:
    async with volume() as (fs, model):
        await make(fs, b"one")
        await make(fs, b"two")
        await remove(fs, b"one")
        await remove(fs, b"two")
        one, two = sorted(model._trash)
        other = model._trash[two]
        model._trash[one] = dataclasses.replace(model._trash[one], name=other.name, known=other.known)
        with pytest.raises(Corrupt):
            await listed(fs)
        with pytest.raises(Corrupt):
            await fs.trash.find(b"two")


@pytest.mark.parametrize("trash_s", [0.0, 3600.0])
async def test_what_was_in_a_directory_that_is_gone_but_kept_open_is_shown(trash_s: float) -> None:
    async with volume() as (fs, model):
        top = await make(fs, b"top", Kind.DIRECTORY)
        await make(fs, b"top/file")
        await fs.remove(top, b"file", directory=False)
        await model.session().apply([Opened(top)])
        model.trash_s = trash_s
        await fs.remove(ROOT_INODE, b"top", directory=True)
        assert await model.session().names(top) == []
        assert set(await listed(fs)) == ({b"top", b"top/file"} if trash_s else {LOST + b"/file"})
