"""What is stored in the background while the coordinator is known to be away, so that each call fails within seconds:
nothing is given up for that, and no program is told of it when it is over. In virtual time."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.meta.protocol import InDoubt
from p2pfs.types import ROOT_INODE
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.limits import Durability, Limits, WriteLimits
from p2pfs.vfs.tree import Owner
from p2pfs.wire.delegations import Delegation
from p2pfs.wire.namespace import Applied, Operation

pytestmark = pytest.mark.l3

IO_TIMEOUT_S = 30.0
DATA = b"x" * 200_000


class Leaving(MemoryNamespace):
    """A coordinator that does not answer before `back_s`; each request notices within a second."""

    back_s = -math.inf

    async def _answer(self, effort: Callable[[], Awaitable[Applied]]) -> Applied:
        if trio.current_time() < self.back_s:
            await trio.sleep(1)
            raise InDoubt("no answer", partial(self._answer, effort), lambda: None)
        return await effort()

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        return await self._answer(partial(super().apply, operations))

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        return await self._answer(partial(super().apply_under, epoch, operations))

    async def delegate(self, epoch: int) -> Delegation:
        if trio.current_time() < self.back_s:
            raise CoordinatorAway("no answer")
        return await super().delegate(epoch)


@dataclass
class Mount:
    """With a file that is there, and changes that a coordinator which is known to be away has not heard of."""

    coordinator: Leaving
    fs: Filesystem
    file: Handle

    def back_in(self, seconds: float) -> None:
        self.coordinator.back_s = trio.current_time() + seconds


@asynccontextmanager
async def mounted(kind: str, durability: Durability = Durability.FSYNC) -> AsyncIterator[Mount]:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME, time_ns=1)
    coordinator = Leaving(volume, volume.session().number, read_only=False)
    delegated = Delegated(coordinator, now=trio.current_time, io_timeout_s=IO_TIMEOUT_S)
    limits = Limits(WriteLimits(io_timeout_s=IO_TIMEOUT_S), durability=durability)
    async with trio.open_nursery() as nursery:
        if kind == "delegated":
            nursery.start_soon(Holding(delegated, trio.current_time).hold)
            await wait_all_tasks_blocked()
        namespace = delegated if kind == "delegated" else coordinator
        async with filesystem(namespace, MemoryStore(), limits=limits) as fs:
            file = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
            await fs.fsync(file)
            coordinator.back_s = math.inf
            if kind == "delegated":
                await fs.attributes.set(file.inode.id, mode=0o600)
                delegated.changes.hurry()
                await trio.sleep(2)  # the second try of the change is vain too
            yield Mount(coordinator, fs, file)
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time would jump while a thread seals."""

    async def here(function: Callable[..., object], *arguments: object, **_options: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", here)


KINDS = pytest.mark.parametrize("kind", ["delegated", "shared"])


@KINDS
async def test_who_leaves_waits_for_it_with_what_was_written(kind: str, autojump_clock: MockClock) -> None:
    async with mounted(kind) as mount:
        await mount.fs.write(mount.file, 0, DATA)
        await mount.fs.flush(mount.file)
        await mount.fs.release(mount.file)
        mount.back_in(IO_TIMEOUT_S + 20)
        await mount.fs.settle_all()
        assert (mount.file.inode.is_dirty, mount.fs.promises.losses()) == (False, "")


@KINDS
async def test_who_leaves_does_not_wait_without_end(kind: str, autojump_clock: MockClock) -> None:
    async with mounted(kind) as mount:
        await mount.fs.write(mount.file, 0, DATA)
        began_s = trio.current_time()
        with pytest.raises(CoordinatorAway):
            await mount.fs.settler.settle_all()
        assert 2 * IO_TIMEOUT_S <= trio.current_time() - began_s <= 2 * IO_TIMEOUT_S + 10
        assert mount.file.inode.is_dirty


@KINDS
async def test_what_is_stored_after_all_leaves_no_error(kind: str, autojump_clock: MockClock) -> None:
    async with mounted(kind, Durability.CLOSE) as mount:
        await mount.fs.write(mount.file, 0, DATA)
        mount.fs.writer.freeze(mount.file.inode)
        mount.back_in(IO_TIMEOUT_S - 10)
        await trio.sleep(2 * IO_TIMEOUT_S)
        assert (mount.file.inode.is_dirty, mount.fs.storer.failures) == (False, 0)
        await mount.fs.flush(mount.file)


@KINDS
async def test_who_waits_for_others_bytes_leaves_their_writer_no_error(kind: str, autojump_clock: MockClock) -> None:
    async with mounted(kind) as mount:
        await mount.fs.write(mount.file, 0, DATA)
        mount.fs.writer.freeze(mount.file.inode)
        mount.back_in(IO_TIMEOUT_S - 10)
        await mount.fs.settler.stored(mount.file.inode, mount.file.inode.freezes)
        assert (mount.file.inode.is_dirty, mount.fs.storer.failures) == (False, 0)


@KINDS
async def test_a_longer_outage_is_told_once(kind: str, autojump_clock: MockClock) -> None:
    async with mounted(kind) as mount:
        await mount.fs.write(mount.file, 0, DATA)
        mount.fs.writer.freeze(mount.file.inode)
        await trio.sleep(2 * IO_TIMEOUT_S)
        with pytest.raises(CoordinatorAway):
            await mount.fs.write(mount.file, 0, DATA)


@KINDS
async def test_who_waits_hears_of_it_within_seconds_and_nobody_after(kind: str, autojump_clock: MockClock) -> None:
    async with mounted(kind) as mount:
        for _ in range(3):
            began_s = trio.current_time()
            await mount.fs.write(mount.file, 0, DATA)
            with pytest.raises(CoordinatorAway):
                await mount.fs.fsync(mount.file)
            assert trio.current_time() - began_s <= 5
        mount.back_in(1)
        await trio.sleep(IO_TIMEOUT_S)
        assert not mount.file.inode.is_dirty
        await mount.fs.fsync(mount.file)
