"""Filling and emptying a mount's caches on somebody's word: what is there, what is fetched, and what never goes."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.cached import CachedStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway, Denied, Fenced, NotFound, PoolError, Unavailable, Unsupported
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import MIB, ROOT_INODE, ChunkId, InodeId, Kind, VolumeId
from p2pfs.vfs import fetching
from p2pfs.vfs.fetching import Warmth
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l0


async def nobody(_: Warmth) -> None:
    await trio.lowlevel.checkpoint()


class World:
    """A file system behind a disk cache, and what it took from the store behind that."""

    def __init__(self, served: Filesystem, cache: CachedStore, inner: MemoryStore, volume: MemoryVolume) -> None:
        self.fs, self.cache, self.inner, self.volume = served, cache, inner, volume

    async def write(self, name: bytes, data: bytes, parent: InodeId = ROOT_INODE, *, settle: bool = True) -> Handle:
        handle = await self.fs.create(parent, name, 0o644, Owner(0, 0))
        await self.fs.write(handle, 0, data)
        if settle:
            await self.fs.fsync(handle)
        return handle

    async def warm(self, *tops: InodeId, most: int | None = None) -> Warmth:
        return await self.fs.warming.warm(tops or [ROOT_INODE], nobody, most=most)

    async def cool(self, top: InodeId = ROOT_INODE) -> tuple[Warmth, list[InodeId]]:
        forgotten: list[InodeId] = []
        return await self.fs.warming.cool(top, nobody, forgotten.append), forgotten


@asynccontextmanager
async def world(root: Path, *, budget: int = 64 * MIB) -> AsyncIterator[World]:
    volume, inner = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), MemoryStore()
    async with trio.open_nursery() as nursery:
        cache = await CachedStore.open(inner, root, budget=budget, nursery=nursery, keep_free=0)
        async with filesystem(volume.session(), cache) as served:
            yield World(served, cache, inner, volume)


def content(mib: int, seed: int = 1) -> bytes:
    return b"".join(bytes([seed, at]) * (MIB // 2) for at in range(mib))


async def test_what_is_below_is_fetched_once_and_then_read_from_the_disk(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        below = await at.fs.make(ROOT_INODE, b"below", Kind.DIRECTORY, 0o755, Owner(0, 0))
        handle = await at.write(b"file", content(3), below.id)
        await at.write(b"same", content(3))
        await at.write(b"small", b"inline")
        await at.cool()  # the memory that writing filled
        warmth = await at.warm(below.id)
        assert (warmth.files, warmth.of_files, warmth.cached_bytes, warmth.failed) == (1, 1, 0, 0)
        assert 3 * MIB < warmth.fetched_bytes < 3 * MIB + 4096
        fetched = at.cache.bytes_fetched
        again = await at.warm()
        assert (again.files, again.fetched_bytes, again.cached_bytes) == (3, 0, 2 * warmth.fetched_bytes)
        assert bytes(await at.fs.read(handle, 0, 3 * MIB)) == content(3)
        assert at.cache.bytes_fetched == fetched


async def test_no_more_is_fetched_than_asked_for_and_than_the_cache_holds(tmp_path: Path) -> None:
    async with world(tmp_path, budget=5 * MIB) as at:
        await at.write(b"file", content(9))
        await at.cool()
        some = await at.warm(most=2 * MIB)
        assert (some.is_full, some.fetched_bytes // MIB, at.cache.used // MIB) == (True, 1, 1)
        full = await at.warm()
        assert full.is_full
        assert full.fetched_bytes + full.cached_bytes <= 5 * MIB


async def test_what_lies_below_several_is_one_round(tmp_path: Path) -> None:
    """The second of them once let go of what the first had fetched, and a file in both counted twice."""
    async with world(tmp_path, budget=5 * MIB) as at:
        tops = [await at.fs.make(ROOT_INODE, name, Kind.DIRECTORY, 0o755, Owner(0, 0)) for name in (b"one", b"two")]
        for seed, top in enumerate(tops, 1):
            await at.write(b"file", content(3, seed=seed), top.id)
        await at.cool()
        full = await at.warm(tops[0].id, tops[1].id)
        assert (full.of_files, full.is_full) == (2, True)
        assert 4 * MIB <= full.fetched_bytes + full.cached_bytes <= 5 * MIB
        again = await at.warm(tops[0].id, ROOT_INODE)
        assert (again.of_files, again.fetched_bytes, again.cached_bytes) == (2, 0, full.fetched_bytes)


def waits_for(at: World, monkeypatch: pytest.MonkeyPatch, unreachable: Callable[[bytes], bool], wait_s: float) -> None:
    """Chunks that are `unreachable` are waited for in vain; the others come at once. No thread: the clock would jump
    while it works."""
    there = set[ChunkId]()

    async def warm(volume: VolumeId, chunk: ChunkId, size: int) -> bool:
        if unreachable(chunk):
            await trio.sleep(wait_s)
            raise Unavailable("nobody answers")
        await trio.lowlevel.checkpoint()
        there.add(chunk)
        return True

    monkeypatch.setattr(at.cache, "warm", warm)
    monkeypatch.setattr(at.cache, "holds", lambda volume, chunk, size: chunk in there)


async def test_files_that_nobody_gives_are_waited_for_together_and_keep_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async with world(tmp_path) as at:
        held = await at.write(b"held", content(1, seed=99))
        chunk = next(iter((await at.fs._reader.page(held.inode, 0)).sizes))
        for number in range(20):
            await at.write(b"lost %d" % number, content(1, seed=number))
        last = await at.fs.make(ROOT_INODE, b"z", Kind.DIRECTORY, 0o755, Owner(0, 0))
        await at.write(b"held too", content(1, seed=99), last.id)
        await at.cool()
        waits_for(at, monkeypatch, lambda one: one != chunk, 30)
        lacking: list[InodeId] = []
        began_s = trio.current_time()
        warmth = await at.fs.warming.warm([ROOT_INODE], nobody, lacks=lacking.append)
        assert trio.current_time() - began_s <= 60  # one after the other: 600
        assert (warmth.files, warmth.failed, warmth.lacking, warmth.gave_up) == (22, 20, 20, False)
        assert warmth.fetched_bytes == warmth.cached_bytes > MIB
        paths = [await at.fs.warming.path(number) for number in lacking]
        assert sorted(path for path in paths if path) == sorted(b"lost %d" % number for number in range(20))


async def test_when_nothing_comes_for_long_the_rest_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async with world(tmp_path) as at:
        monkeypatch.setattr(fetching, "VAIN_S", 50)
        for number in range(3):
            await at.write(b"%d" % number, content(40, seed=number))
        await at.cool()
        waits_for(at, monkeypatch, lambda _: True, 30)
        began_s = trio.current_time()
        warmth = await at.warm()
        assert trio.current_time() - began_s <= 50 + 30
        assert warmth.gave_up
        assert warmth.files < warmth.of_files
        assert (warmth.fetched_bytes, at.cache.used) == (0, 0)


async def test_going_through_what_is_there_is_no_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """The second time only what nobody gives is missing, and each file's chunks are asked of the coordinator."""
    async with world(tmp_path) as at:
        last = await at.fs.make(ROOT_INODE, b"z", Kind.DIRECTORY, 0o755, Owner(0, 0))
        lost = await at.write(b"lost", content(1, seed=99), last.id)
        chunk = next(iter((await at.fs._reader.page(lost.inode, 0)).sizes))
        for number in range(30):
            await at.write(b"%d" % number, content(1, seed=number))
        waits_for(at, monkeypatch, lambda one: one == chunk, 1)
        assert (await at.warm()).failed == 1
        quick = at.fs.warming._chunks

        async def slow(number: InodeId) -> AsyncGenerator[tuple[ChunkId, int]]:
            await trio.sleep(10)
            async with aclosing(quick(number)) as chunks:
                async for found in chunks:
                    yield found

        monkeypatch.setattr(at.fs.warming, "_chunks", slow)
        warmth = await at.warm()
        assert (warmth.files, warmth.failed, warmth.gave_up) == (31, 1, False)


async def test_of_a_file_only_what_it_was_last_asked_for_was_waited_for_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async with world(tmp_path) as at:
        await at.write(b"file", content(3))
        await at.warm()
        quick = at.fs.warming._chunks

        async def cut(number: InodeId) -> AsyncGenerator[tuple[ChunkId, int]]:
            async with aclosing(quick(number)) as chunks:
                async for found in chunks:
                    await trio.sleep(fetching.VAIN_S)
                    yield found
            await trio.sleep(30)
            raise CoordinatorAway("nobody answers")

        monkeypatch.setattr(at.fs.warming, "_chunks", cut)
        warmth = await at.warm()
        assert (warmth.files, warmth.lacking, warmth.gave_up) == (1, 1, False)


async def test_files_that_were_not_tried_lack_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async with world(tmp_path) as at:
        monkeypatch.setattr(fetching, "VAIN_S", 50)
        monkeypatch.setattr(fetching, "MOST_SLOW", 0)
        for number in range(20):
            await at.write(b"%d" % number, content(1, seed=number))
        await at.cool()
        waits_for(at, monkeypatch, lambda _: True, 60)
        lacking: list[InodeId] = []
        warmth = await at.fs.warming.warm([ROOT_INODE], nobody, lacks=lacking.append)
        assert (warmth.files, warmth.failed, warmth.lacking, warmth.gave_up) == (8, 8, 8, True)
        assert len(lacking) == 8


async def test_a_coordinator_that_is_away_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as at:
        await at.write(b"file", content(1))
        await at.cool()

        async def away(_: InodeId) -> Inode:
            await trio.lowlevel.checkpoint()
            raise CoordinatorAway("nobody answers")

        top = at.fs.inode
        monkeypatch.setattr(
            at.fs.warming, "_inode", lambda number: top(number) if number == ROOT_INODE else away(number)
        )
        warmth = await at.warm()
        assert (warmth.lacking, warmth.failed, warmth.files) == (1, 0, 1)


async def test_a_chunk_that_cannot_be_had_keeps_no_other_from_it(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        handle = await at.write(b"file", content(3))
        await at.cool()
        page = await at.fs._reader.page(handle.inode, 0)
        chunk = next(iter(page.sizes))
        await at.inner.delete(VOLUME, chunk, 1 << 60)
        warmth = await at.warm()
        assert (warmth.failed, warmth.fetched_bytes // MIB) == (1, 2)


async def test_what_goes_is_only_what_is_stored(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        stored = await at.write(b"stored", content(2))
        unsaved = await at.write(b"unsaved", b"u" * 100_000, settle=False)  # a full chunk would be on its way
        await at.warm()
        cooled, forgotten = await at.cool()
        assert (cooled.files, at.cache.used) == (2, 0)
        assert cooled.dropped_bytes > 2 * MIB
        assert set(forgotten) == {stored.inode.id, unsaved.inode.id}
        assert not at.fs.may_drop_pages(unsaved.inode.id)  # a program has it open
        before = at.cache.bytes_fetched
        assert bytes(await at.fs.read(unsaved, 0, 2 * MIB)) == b"u" * 100_000
        assert at.cache.bytes_fetched == before
        assert bytes(await at.fs.read(stored, 0, 2 * MIB)) == content(2)
        assert at.cache.bytes_fetched > before
        await at.fs.fsync(unsaved)
        await at.fs.release(unsaved)
        assert at.fs.may_drop_pages(unsaved.inode.id)


async def test_one_file_may_be_named_and_nothing_must_not(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        one = await at.write(b"one", content(1))
        await at.write(b"other", content(1, seed=3))
        await at.cool()
        assert (await at.warm(one.inode.id)).files == 1
        with pytest.raises(NotFound):
            await at.warm(InodeId(4711))


async def test_what_was_removed_meanwhile_keeps_no_other_from_it(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        handle = await here.write(b"f", content(1))
        gone = await here.write(b"gone", b"x")
        await here.fs.release(gone)
        await here.fs.remove(ROOT_INODE, b"gone", directory=False)
        assert (await here.warm(gone.inode.id, handle.inode.id)).files == 1


async def test_without_a_disk_cache_there_is_nothing_to_warm() -> None:
    volume, store = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), MemoryStore()
    async with filesystem(volume.session(), store) as served:
        with pytest.raises(Unsupported, match="disk cache"):
            await served.warming.warm([ROOT_INODE], nobody)
        assert (await served.warming.cool(ROOT_INODE, nobody, lambda _: None)).files == 0


@pytest.mark.parametrize("error", [Fenced("this session is over"), Denied("no member")])
async def test_who_is_refused_hears_of_it_and_the_mount_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: PoolError
) -> None:
    """Nothing but one error comes out: a group of them would end the mount."""
    async with world(tmp_path) as at:
        await at.write(b"file", content(3))
        await at.cool()

        async def refuse(*_: object) -> bool:
            await trio.lowlevel.checkpoint()
            raise error

        monkeypatch.setattr(at.cache, "warm", refuse)
        if isinstance(error, Fenced):
            with pytest.raises(Fenced):
                await at.warm()
        else:
            assert (await at.warm()).failed == 3
        monkeypatch.setattr(at.cache, "drop", refuse)
        with pytest.raises(type(error)):
            await at.cool()
