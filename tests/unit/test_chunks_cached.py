"""The disk cache beyond the conformance suite: what it saves, what it bounds, what it never believes."""

import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from bits import flipped
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.cached import CachedStore
from p2pfs.chunks.cachefiles import Run
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.faulty import FaultyStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.pages import PAGE, PagePool
from p2pfs.chunks.protocol import Blocks, Check
from p2pfs.errors import Corrupt, NotFound
from p2pfs.types import GIB, KIB, MIB, Buffer

pytestmark = pytest.mark.l0

BLOCK = 64 * KIB + 16


@dataclass
class Cache:
    store: CachedStore
    inner: MemoryStore
    fetched: list[str]

    async def read(self, chunk: Sealed, blocks: Blocks | None = None) -> bytes:
        wanted = blocks or chunk.whole
        view = await self.store.get(VOLUME, chunk.id, chunk.size, wanted, check=checked(chunk, wanted))
        await self.filled()
        return bytes(view)

    async def filled(self) -> None:
        with trio.fail_after(5):
            while self.store._filling:
                await trio.lowlevel.checkpoint()


def checked(chunk: Sealed, blocks: Blocks) -> Check:
    """What opening the blocks would find out."""
    start, stop = runs.span(chunk.size, blocks)

    def check(view: memoryview) -> None:
        if view != chunk.data[start:stop]:
            raise Corrupt("these blocks do not open")

    return check


@asynccontextmanager
async def cache_at(
    root: Path, *, budget: int = GIB, disk: Disk | None = None, keep_free: int = 0
) -> AsyncIterator[Cache]:
    inner = MemoryStore()
    fetched: list[str] = []

    def note(call: str, *_: object) -> None:
        fetched.append(call)

    async with trio.open_nursery() as nursery:
        store = await CachedStore.open(
            FaultyStore(inner, note), root, budget=budget, nursery=nursery, disk=disk, keep_free=keep_free
        )
        yield Cache(store, inner, fetched)
        nursery.cancel_scope.cancel()


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_the_second_read_does_not_use_the_network(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        for _ in range(3):
            assert await cache.read(chunk) == chunk.data
        assert cache.fetched == ["get"]
        assert (cache.store.hits, cache.store.misses, cache.store.bytes_fetched) == (2, 1, chunk.size)


async def test_a_part_of_a_chunk_is_kept_the_second_time(tmp_path: Path) -> None:
    """What random reads fetch once costs no file."""
    async with cache_at(tmp_path) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk, Blocks(4, 1))
        assert files(tmp_path) == []
        await cache.read(chunk, Blocks(5, 1))
        assert files(tmp_path) == []
        for _ in range(3):
            assert await cache.read(chunk, Blocks(4, 1)) == chunk.data[4 * BLOCK : 5 * BLOCK]
        assert len(files(tmp_path)) == 1
        assert cache.fetched == 3 * ["get"]


async def test_a_run_within_a_cached_one_is_a_hit(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        for _ in range(2):
            await cache.read(chunk, Blocks(4, 8))
        assert await cache.read(chunk, Blocks(6, 3)) == chunk.data[6 * BLOCK : 9 * BLOCK]
        assert cache.fetched == 2 * ["get"]
        assert await cache.read(chunk, Blocks(11, 2)) == chunk.data[11 * BLOCK : 13 * BLOCK]
        assert cache.fetched == 3 * ["get"]


async def test_the_cache_outlives_the_process(tmp_path: Path) -> None:
    chunk = sealed(1)
    async with cache_at(tmp_path) as cache:
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
    (tmp_path / "3.tmp").write_bytes(b"left by a crash")
    async with cache_at(tmp_path) as cache:
        assert await cache.read(chunk) == chunk.data
        assert cache.fetched == []
        assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("bit", [0, 8 * PAGE, 8 * 70_000, 8 * (2 * BLOCK - 1)])
async def test_a_damaged_file_is_dropped_and_fetched_again(bit: int, tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        chunk = sealed(1, 128 * KIB)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
        (path,) = files(tmp_path)
        path.write_bytes(flipped(path.read_bytes(), bit))
        assert await cache.read(chunk) == chunk.data
        assert cache.fetched == ["get", "get"]
        assert await cache.read(chunk) == chunk.data
        assert cache.fetched == ["get", "get"]


async def test_a_damaged_file_goes_even_if_nobody_else_has_the_chunk(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        chunk = sealed(1, 128 * KIB)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
        (path,) = files(tmp_path)
        path.write_bytes(flipped(path.read_bytes(), 8 * 70_000))
        cache.inner.chunks.clear()
        with pytest.raises(NotFound):
            await cache.read(chunk)
        assert files(tmp_path) == []


async def test_who_checks_nothing_gets_nothing_unchecked(tmp_path: Path) -> None:
    """A whole chunk is what its name says; of a part nobody could tell."""
    async with cache_at(tmp_path) as cache:
        chunk, part = sealed(1, 128 * KIB), Blocks(1, 1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        for _ in range(3):
            await cache.store.get(VOLUME, chunk.id, chunk.size, part)
            await cache.filled()
        assert files(tmp_path) == []
        await cache.store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
        await cache.filled()
        (path,) = files(tmp_path)
        path.write_bytes(flipped(path.read_bytes(), 8 * 70_000))
        assert await cache.store.get(VOLUME, chunk.id, chunk.size, part) == chunk.data[BLOCK : 2 * BLOCK]
        assert await cache.store.get(VOLUME, chunk.id, chunk.size, chunk.whole) == chunk.data
        assert cache.fetched == 6 * ["get"]


async def test_a_file_has_the_sealed_blocks_and_nothing_else(tmp_path: Path) -> None:
    """What is received into memory that had other content is written as it lies there."""
    async with cache_at(tmp_path) as cache:
        chunk, other = sealed(1, 300_000), sealed(2, 1000)
        memory = PagePool().lend(chunk.size)
        memory[:] = b"\xff" * len(memory)
        memory[: chunk.size] = chunk.data
        run = Run(VOLUME, chunk.id, 0, 5)
        cache.store._files.write(run, memory[: chunk.size])
        cache.store._files.write(Run(VOLUME, other.id, 0, 1), memoryview(other.data))
        sizes = {path.name.split("-")[0]: path.read_bytes() for path in files(tmp_path)}
        for each in (chunk, other):
            written = sizes[each.id.hex()[1:]]
            assert written[: each.size] == each.data
            assert len(written) % PAGE == 0
            assert not any(written[each.size :])
        assert cache.store._files.read(run, chunk.size, Blocks(1, 2)) == chunk.data[BLOCK : 3 * BLOCK]


async def test_directories_are_spread_over_the_disk(tmp_path: Path) -> None:
    """Before any file is made in them: else each new one would pass over those that were evicted."""
    made: list[str] = []

    class Watched(Disk):
        def make_directory(self, path: Path) -> None:
            made.append(f"make {path.relative_to(tmp_path)}")
            super().make_directory(path)

        def spread(self, directory: Path) -> None:
            made.append(f"spread {directory.relative_to(tmp_path)}")
            super().spread(directory)

    async with cache_at(tmp_path, disk=Watched()) as cache:
        chunk = sealed(1, 1000)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
    volume = f"{VOLUME:016x}"
    assert made == [f"make {volume}", f"spread {volume}", f"make {volume}/{chunk.id.hex()[0]}"]


async def test_files_of_an_older_layout_go_at_the_start(tmp_path: Path) -> None:
    """They began with a page of hashes, which is no part of any block."""
    name = sealed(1).id.hex()
    path = tmp_path / f"{VOLUME:016x}" / name[:2] / f"{name[2:]}-0-17"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(2 * PAGE))
    async with cache_at(tmp_path) as cache:
        assert files(tmp_path) == []
        assert cache.store.used == 0


@pytest.mark.parametrize("change", [b"", b"short", None], ids=["empty", "short", "gone"])
async def test_a_torn_or_missing_file_is_fetched_again(change: bytes | None, tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        chunk = sealed(1, 128 * KIB)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
        (path,) = files(tmp_path)
        path.unlink() if change is None else path.write_bytes(change)
        assert await cache.read(chunk) == chunk.data
        assert cache.fetched == ["get", "get"]


async def test_a_cached_copy_that_does_not_open_is_dropped(tmp_path: Path) -> None:
    """It has the length of the one that was cached: only the caller can tell."""
    async with cache_at(tmp_path) as cache:
        chunk, other = sealed(1, 1000), sealed(2, 1000)
        for each in (chunk, other):
            await cache.inner.put(VOLUME, each.id, [each.data])
        await cache.read(other)
        (path,) = files(tmp_path)
        forged = path.read_bytes()
        await cache.read(chunk)
        for each in files(tmp_path):
            each.write_bytes(forged)

        def check(view: memoryview) -> None:
            if bytes(view) != chunk.data:
                raise Corrupt("does not open")

        view = await cache.store.get(VOLUME, chunk.id, chunk.size, chunk.whole, check=check)
        assert view == chunk.data


async def test_the_budget_holds_and_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    async with cache_at(tmp_path, budget=5 * (MIB + 8 * KIB)) as cache:
        chunks = [sealed(seed) for seed in range(8)]
        for chunk in chunks:
            await cache.inner.put(VOLUME, chunk.id, [chunk.data])
            await cache.read(chunk)
            await cache.read(chunks[0])
            assert sum(path.stat().st_size for path in files(tmp_path)) <= 5 * (MIB + 8 * KIB)
        assert cache.store.used == sum(path.stat().st_size for path in files(tmp_path))
        assert cache.fetched == ["get"] * 8
        cache.fetched.clear()
        await cache.read(chunks[0])
        await cache.read(chunks[7])
        assert cache.fetched == []
        await cache.read(chunks[1])
        assert cache.fetched == ["get"]


async def test_a_smaller_budget_is_obeyed_at_the_next_start(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        for seed in range(4):
            chunk = sealed(seed)
            await cache.inner.put(VOLUME, chunk.id, [chunk.data])
            await cache.read(chunk)
    async with cache_at(tmp_path, budget=2 * (MIB + 8 * KIB)) as cache:
        assert len(files(tmp_path)) == 2
        assert cache.store.used <= 2 * (MIB + 8 * KIB)


async def test_what_another_mount_removes_meanwhile_does_not_stop_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cache_at(tmp_path) as cache:
        for seed in range(3):
            chunk = sealed(seed)
            await cache.inner.put(VOLUME, chunk.id, [chunk.data])
            await cache.read(chunk)
    victim, scandir = files(tmp_path)[0], os.scandir

    @contextmanager
    def then_removed(path: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as entries:
            found = list(entries)
        if victim.name in [entry.name for entry in found]:
            victim.unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", then_removed)
    async with cache_at(tmp_path) as cache:
        monkeypatch.undo()
        assert not victim.exists()
        assert cache.store.used == sum(path.stat().st_size for path in files(tmp_path)) > 0


async def test_the_owner_keeps_his_free_space(tmp_path: Path) -> None:
    async with cache_at(tmp_path, keep_free=1 << 60) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        assert await cache.read(chunk) == chunk.data
        assert files(tmp_path) == []


@pytest.mark.parametrize("call", ["create", "write", "make_directory"])
async def test_a_full_disk_only_means_no_cache(call: str, tmp_path: Path) -> None:
    class FullDisk(Disk):
        full = True

        def refuse(self, name: str) -> None:
            if self.full and name == call:
                raise OSError(errno.ENOSPC, "full")

        def create(self, path: Path, *, direct: bool = False) -> int:
            self.refuse("create")
            return super().create(path, direct=direct)

        def write(self, fd: int, data: Buffer) -> None:
            self.refuse("write")
            super().write(fd, data)

        def make_directory(self, path: Path) -> None:
            self.refuse("make_directory")
            super().make_directory(path)

    disk = FullDisk()
    async with cache_at(tmp_path, disk=disk) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        for _ in range(2):
            assert await cache.read(chunk) == chunk.data
        assert files(tmp_path) == []
        assert cache.store.used == 0
        disk.full = False
        await cache.read(chunk)
        await cache.read(chunk)
        assert cache.fetched == ["get"] * 3


async def test_a_file_that_nobody_knows_of_is_replaced(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
        (path,) = files(tmp_path)
        content = path.read_bytes()
        cache.store._files._forget(next(iter(cache.store._files._sizes)))  # as after a crash of another mount
        path.write_bytes(b"torn")
        await cache.read(chunk)
        assert path.read_bytes() == content
        cache.fetched.clear()
        assert await cache.read(chunk) == chunk.data
        assert cache.fetched == []


async def test_a_cache_that_somebody_emptied_is_filled_again(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        chunks = [sealed(seed, 1000) for seed in range(3)]
        assert len({chunk.id[0] for chunk in chunks}) == 3  # each in a directory of its own
        for chunk in chunks:
            await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunks[0])
        shutil.rmtree(tmp_path / f"{VOLUME:016x}")
        for _ in range(2):
            await cache.read(chunks[1])
            await cache.read(chunks[2])
        cache.fetched.clear()
        for chunk in chunks[1:]:
            assert await cache.read(chunk) == chunk.data
        assert cache.fetched == []


async def test_a_run_that_is_kept_is_not_written_under_its_readers(tmp_path: Path) -> None:
    """Its reader gave up on a slow disk and fetched it; another one may be about to open the file."""
    async with cache_at(tmp_path) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
        (path,) = files(tmp_path)
        (run,) = cache.store._files._sizes
        with path.open() as reader:
            cache.store._files.write(run, memoryview(chunk.data))
            assert os.path.samestat(path.stat(), os.fstat(reader.fileno()))


async def test_a_file_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    class Failing(Disk):
        fails = False

        def open(self, path: Path, *, direct: bool = False) -> int:
            if self.fails:
                raise OSError(errno.EIO, "bad sector")
            return super().open(path, direct=direct)

    disk = Failing()
    async with cache_at(tmp_path, disk=disk) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
        inode = files(tmp_path)[0].stat().st_ino
        disk.fails = True
        with files(tmp_path)[0].open():  # its inode number is not given to the new file
            assert await cache.read(chunk) == chunk.data
            assert files(tmp_path)[0].stat().st_ino != inode
        disk.fails = False
        assert await cache.read(chunk) == chunk.data
        assert cache.fetched == ["get", "get"]


async def test_a_cached_run_longer_than_the_chunk_is_said_to_be_is_a_miss(tmp_path: Path) -> None:
    async with cache_at(tmp_path) as cache:
        chunk, cut = sealed(1), sealed(2, 70_000)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.read(chunk)
        with pytest.raises(Corrupt):  # as the inner store says: it has another size
            await cache.store.get(VOLUME, chunk.id, cut.size, Blocks(0, 1), check=checked(chunk, Blocks(0, 1)))
        assert files(tmp_path) == []
        assert await cache.read(chunk) == chunk.data
        assert cache.fetched == ["get", "get", "get"]


async def test_no_file_is_removed_in_the_event_loop(tmp_path: Path) -> None:
    """A disk that stalls would stall everything."""
    removed: list[str] = []
    may_write = threading.Event()

    class Watched(Disk):
        def rename(self, old: Path, new: Path) -> None:
            assert may_write.wait(20)
            super().rename(old, new)

        def remove(self, path: Path) -> None:
            removed.append("loop" if threading.current_thread() is threading.main_thread() else "thread")
            super().remove(path)

    def refuse(view: object) -> None:
        raise Corrupt("not what was asked for")

    async with cache_at(tmp_path, disk=Watched()) as cache:
        chunk = sealed(1)
        await cache.inner.put(VOLUME, chunk.id, [chunk.data])
        await cache.store.get(VOLUME, chunk.id, chunk.size, chunk.whole)
        cache.store._filling.clear()  # as if it were deleted during the fill
        may_write.set()
        while cache.store._nursery.child_tasks:
            await trio.lowlevel.checkpoint()
        assert files(tmp_path) == []
        await cache.read(chunk)
        with pytest.raises(Corrupt):
            await cache.store.get(VOLUME, chunk.id, chunk.size, chunk.whole, check=refuse)
        assert files(tmp_path) == []
    assert set(removed) == {"thread"}
