"""Commits of a file that is being written: few, and never late for who waits."""

import random
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Released
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import MIB, ROOT_INODE, Buffer, ChunkId, VolumeId
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.storing import GATHER_S
from p2pfs.vfs.tree import Owner
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import Applied, Commit, Operation

pytestmark = pytest.mark.l2


class Counting(MemoryNamespace):
    """Remembers how many chunks each commit named."""

    def __init__(self) -> None:
        volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
        super().__init__(volume, volume.session().number, read_only=False)
        self.commits: list[int] = []
        self.answers = trio.Event()  # commits wait for it
        self.answers.set()

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        self.commits += [len(operation.chunks) for operation in operations if isinstance(operation, Commit)]
        await self.answers.wait()
        return await super().apply(operations)


class Gated(MemoryStore):
    """Each PUT waits until it is let through, in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[trio.Event] = []

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        gate = trio.Event()
        self.waiting.append(gate)
        await gate.wait()
        return await super().put(volume, chunk, parts, released=released)


async def arrived(store: Gated, count: int) -> None:
    """Sealing is in threads, which `wait_all_tasks_blocked` does not see."""
    while len(store.waiting) < count:
        await trio.lowlevel.checkpoint()


async def test_what_is_on_its_way_joins_the_commit(mock_clock: MockClock) -> None:
    namespace, store = Counting(), Gated()
    async with filesystem(namespace, store) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        for index in range(4):
            await fs.write(handle, index * MIB, bytes([index]) * MIB)
        await arrived(store, 4)
        for gate in store.waiting[:3]:
            gate.set()
            await wait_all_tasks_blocked()
        assert namespace.commits == []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.fsync, handle)
            await wait_all_tasks_blocked()
            store.waiting[3].set()
        assert namespace.commits == [4]


async def test_who_waits_does_not_wait_for_what_was_written_later(mock_clock: MockClock) -> None:
    namespace, store = Counting(), Gated()
    async with filesystem(namespace, store) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"a" * MIB)
        await arrived(store, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.fsync, handle)
            await wait_all_tasks_blocked()
            await fs.write(handle, MIB, b"b" * MIB)
            await arrived(store, 2)
            store.waiting[0].set()
        assert namespace.commits == [1]  # and no time passed: the clock stands still
        store.waiting[1].set()
        await fs.fsync(handle)


async def test_what_is_stored_does_not_wait_long(mock_clock: MockClock) -> None:
    namespace, store = Counting(), Gated()
    async with filesystem(namespace, store) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"a" * MIB)
        await arrived(store, 1)
        await fs.write(handle, MIB, b"b" * MIB)
        await arrived(store, 2)
        store.waiting[0].set()
        await wait_all_tasks_blocked()
        mock_clock.jump(2 * GATHER_S)
        await wait_all_tasks_blocked()
        assert namespace.commits == [1]
        store.waiting[1].set()
        await fs.fsync(handle)


async def test_what_is_stored_during_a_commit_gets_none_of_its_own(mock_clock: MockClock) -> None:
    namespace, store = Counting(), Gated()
    async with filesystem(namespace, store) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        namespace.answers = trio.Event()
        async with trio.open_nursery() as nursery:
            for index in range(3):
                await fs.write(handle, index * MIB, bytes([index]) * MIB)
                await arrived(store, index + 1)
                if index == 0:
                    nursery.start_soon(fs.fsync, handle)
                    await wait_all_tasks_blocked()
            store.waiting[0].set()
            await wait_all_tasks_blocked()
            store.waiting[1].set()
            await wait_all_tasks_blocked()
            namespace.answers.set()
        await wait_all_tasks_blocked()
        assert namespace.commits == [1]
        store.waiting[2].set()
        await fs.fsync(handle)
        assert namespace.commits == [1, 2]


@pytest.mark.parametrize("at_once", [MIB // 4, MIB // 2, MIB, 3 * MIB])
@pytest.mark.parametrize("synced", [1, MIB // 2, MIB + 5])
async def test_of_what_is_written_from_start_to_end_a_crash_leaves_a_prefix(
    synced: int, at_once: int, autojump_clock: MockClock
) -> None:
    """Found by a soak: the second half of a MiB whose first half was stored by itself waited to be five seconds old,
    while the MiBs behind it, which were full, were committed: a killed mount left zeros in the middle of a file."""
    volume, store = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), MemoryStore()
    written = random.Random(f"{synced} {at_once}").randbytes(4 * MIB + 100)
    ageless = Limits(WriteLimits(age_s=1e9))
    async with filesystem(volume.session(), store, limits=ageless) as fs, filesystem(volume.session(), store) as others:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, written[:synced])
        await fs.fsync(handle)
        for start in range(synced, len(written), at_once):
            await fs.write(handle, start, written[start : start + at_once])
        while handle.inode.head.size < 4 * MIB:  # noqa: ASYNC110 - sealing is in threads, of which no event tells
            await trio.sleep(GATHER_S)
        assert handle.inode.is_dirty  # its end; else the crash would come too late
        left = await others.open((await others.lookup(ROOT_INODE, b"f")).id, writes=False)
        found = bytes(await others.read(left, 0, len(written)))
        assert len(found) >= 4 * MIB
        assert found == written[: len(found)]


async def test_what_does_not_lead_up_to_a_full_mib_waits_to_be_full_itself() -> None:
    """Else who writes here and there in a file would have it stored in many small chunks."""
    async with filesystem(Counting(), MemoryStore()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"a" * (MIB // 2))
        await fs.write(handle, 2 * MIB - 100, b"b" * 100)
        await fs.write(handle, 2 * MIB, b"c" * MIB)
        assert list(handle.inode.active) == [0]  # a gap is behind its bytes; those of the second one end where c begins
        await fs.fsync(handle)
