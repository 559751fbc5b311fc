"""A file system beyond a thin uplink, in simulated time: `fsync` and `write` wait for as long as bytes leave."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from far_pool import Link, far_pool
from trio.testing import MockClock
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.limited import LimitedStore
from p2pfs.errors import Unavailable
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import KIB, MIB, ROOT_INODE, Distribution
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l2

IO_TIMEOUT_S = 10.0


async def write(fs: Filesystem, mib: int) -> None:
    handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
    content = random.Random(1).randbytes(mib * MIB)
    for at in range(0, len(content), MIB):
        await fs.write(handle, at, content[at : at + MIB])
    await fs.fsync(handle)


@asynccontextmanager
async def mounted(link: Link, dirty_bytes: int) -> AsyncIterator[Filesystem]:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    limits = Limits(WriteLimits(dirty_bytes=dirty_bytes, io_timeout_s=IO_TIMEOUT_S))
    async with far_pool(Distribution.DIRECT, link, replicas=2, peers=2, io_timeout_s=IO_TIMEOUT_S) as (store, _):
        limited = LimitedStore(store, requests=64, bytes_held=48 * MIB)
        async with filesystem(volume.session(), limited, limits=limits, moved_s=store.uplink.moved_s) as fs:
            yield fs


@pytest.mark.parametrize("dirty_bytes", [2 * MIB, 64 * MIB])
async def test_a_chunk_that_takes_longer_than_every_patience_is_no_error(
    dirty_bytes: int, autojump_clock: MockClock
) -> None:
    rate = 32 * KIB
    async with mounted(Link(rate), dirty_bytes) as fs:
        began_s = trio.current_time()
        await write(fs, 4)
        assert trio.current_time() - began_s == pytest.approx(4 * 2 * MIB / rate, rel=0.05)


@pytest.mark.parametrize("dirty_bytes", [2 * MIB, 64 * MIB])
async def test_where_nothing_moves_that_is_one_in_time(dirty_bytes: int, autojump_clock: MockClock) -> None:
    async with mounted(Link(1 * MIB, {1: 0.0, 2: 0.0}), dirty_bytes) as fs:
        began_s = trio.current_time()
        with pytest.raises(Unavailable):
            await write(fs, 4)
        assert trio.current_time() - began_s < 4 * IO_TIMEOUT_S
