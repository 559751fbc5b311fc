"""Receipts that prove nothing any more, because a peer is about to leave: what was stored by them is stored again."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Released
from p2pfs.errors import Gone, NotFound
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import MIB, ROOT_INODE, Buffer, ChunkId, VolumeId
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.tree import Owner
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import Applied, Commit, Operation

pytestmark = pytest.mark.l2

ENDLESS = Limits(write=WriteLimits(io_timeout_s=1e6))


class Leaving(MemoryStore):
    """The peer's first receipts are void. A small chunk is stored before a whole one."""

    def __init__(self) -> None:
        super().__init__()
        self.void: set[int] = set()
        self._small_is_stored = trio.Event()

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        if sum(map(len, parts)) >= MIB:
            await self._small_is_stored.wait()
            await wait_all_tasks_blocked()  # until the small one's task has found that it must wait for this one
            return await super().put(volume, chunk, parts, released=released)
        receipts = await super().put(volume, chunk, parts, released=released)
        if not self.void:
            self.void = {receipt.put_seq for receipt in receipts}
        self._small_is_stored.set()
        return receipts


class Strict(MemoryNamespace):
    """Takes no void receipt, and loses patience."""

    store: Leaving
    refusals = 0

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        commits = [operation for operation in operations if isinstance(operation, Commit)]
        named = {receipt.put_seq for commit in commits for new in commit.chunks for receipt in new.receipts}
        if named & self.store.void:
            self.refusals += 1
            if self.refusals > 2:
                raise NotFound("enough")
            raise Gone("store it again")
        return await super().apply(operations)


async def test_all_that_a_refused_commit_named_is_stored_again(mock_clock: MockClock) -> None:
    """Whoever commits does so for what was frozen later too, and that may be what the coordinator did not take."""
    mock_clock.rate = 100.0
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    namespace = Strict(volume, volume.session().number, read_only=False)
    namespace.store = Leaving()
    async with filesystem(namespace, namespace.store, limits=ENDLESS) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        content = bytes(MIB) + b"more"
        await fs.write(handle, 0, content)
        await fs.fsync(handle)
        assert namespace.refusals == 1
        assert bytes(await fs.read(handle, MIB, 4)) == b"more"
