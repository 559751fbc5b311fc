"""With `-o hard` programs wait until the pool answers; without it they get an error in time. Both in virtual time."""

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
from trio.testing import MockClock
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Blocks, Check, Released
from p2pfs.errors import NoSpace, Unavailable
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import KIB, MIB, ROOT_INODE, Buffer, ChunkId, VolumeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.tree import Owner
from p2pfs.wire.chunks import Receipt

pytestmark = pytest.mark.l3

IO_TIMEOUT_S = 30.0
LONG_S = 3600.0
SIZE = 100_000


class LeavingStore(MemoryStore):
    """A store of peers that go away and come back."""

    is_away = False

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        if self.is_away:
            if released is not None:
                released()
            raise Unavailable("no peer answers")
        return await super().put(volume, chunk, parts, released=released)

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        if self.is_away:
            raise Unavailable("no peer answers")
        return await super().get(volume, chunk, size, blocks, check=check)


def limits(*, hard: bool) -> Limits:
    write = WriteLimits(dirty_bytes=MIB, io_timeout_s=IO_TIMEOUT_S, hard=hard)
    return Limits(write=write, memory_cache=KIB)


async def made(fs: Filesystem) -> Handle:
    return await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))


def volume() -> MemoryVolume:
    return MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)


async def read(fs: Filesystem, handle: Handle) -> None:
    assert bytes(await fs.read(handle, 0, SIZE)) == b"x" * SIZE


async def fsync(fs: Filesystem, handle: Handle) -> None:
    await fs.write(handle, 0, b"y" * SIZE)
    await fs.fsync(handle)


async def truncate(fs: Filesystem, handle: Handle) -> None:
    await fs.write(handle, 0, b"y" * SIZE)
    await fs.attributes.set(handle.inode.id, size=SIZE // 2)


async def write_much(fs: Filesystem, handle: Handle) -> None:
    for number in range(8):
        await fs.write(handle, number * MIB // 2, b"y" * (MIB // 2))


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time would jump while a thread seals."""

    async def here(function: Callable[..., object], *arguments: object, **_options: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", here)


Program = Callable[[Filesystem, Handle], Awaitable[None]]
PROGRAMS = pytest.mark.parametrize("program", [read, fsync, truncate, write_much])


@PROGRAMS
async def test_a_program_waits_in_a_hard_mount(program: Program, autojump_clock: MockClock) -> None:
    store, ended = LeavingStore(), trio.Event()
    async with filesystem(volume().session(), store, limits=limits(hard=True)) as fs, trio.open_nursery() as nursery:
        handle = await made(fs)
        await fs.write(handle, 0, b"x" * SIZE)
        await fs.fsync(handle)
        store.is_away = True

        async def run() -> None:
            await program(fs, handle)
            ended.set()

        nursery.start_soon(run)
        await trio.sleep(LONG_S)
        assert not ended.is_set()
        store.is_away = False
        with trio.fail_after(2 * IO_TIMEOUT_S):  # storing is tried again every 15 s
            await ended.wait()
        await fs.fsync(handle)  # no error is left over


@PROGRAMS
async def test_without_it_a_program_is_told_in_time(program: Program, autojump_clock: MockClock) -> None:
    store = LeavingStore()
    async with filesystem(volume().session(), store, limits=limits(hard=False)) as fs:
        handle = await made(fs)
        await fs.write(handle, 0, b"x" * SIZE)
        await fs.fsync(handle)
        store.is_away = True
        with trio.fail_after(4 * IO_TIMEOUT_S), pytest.raises(Unavailable):
            await program(fs, handle)


async def test_storing_everything_at_the_end_does_not_wait_without_end(autojump_clock: MockClock) -> None:
    store = LeavingStore()
    async with filesystem(volume().session(), store, limits=limits(hard=True)) as fs:
        handle = await made(fs)
        store.is_away = True
        await fs.write(handle, 0, b"x" * SIZE)
        start = trio.current_time()
        with pytest.raises(Unavailable):
            await fs.settler.settle_all()
        assert trio.current_time() - start == 2 * IO_TIMEOUT_S
        store.is_away = False
        await fs.settler.settle_all()


async def test_a_full_pool_is_an_answer(autojump_clock: MockClock) -> None:
    store = LeavingStore(capacity=0)
    async with filesystem(volume().session(), store, limits=limits(hard=True)) as fs:
        handle = await made(fs)
        await fs.write(handle, 0, b"x" * SIZE)
        with pytest.raises(NoSpace):
            await fs.fsync(handle)
        store.capacity = None
        await fs.fsync(handle)
