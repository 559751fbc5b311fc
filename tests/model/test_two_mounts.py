"""Two mounts of one volume under random delays and failures, against promise P9.

Everything runs in one process on simulated time, so that a seed repeats. `P2PFS_STEPS` is how many operations (200 000
by command: P2PFS_STEPS=200000 pytest tests/model/test_two_mounts.py), `P2PFS_SEED` the first seed.
"""

import os
from collections.abc import Iterator

import pytest
import trio
from far_mounts import OWNER, USERS, ContentUser, FarNamespace, NameUser, World, seeded
from histories import CELLS, END, Cells, Records
from trio.testing import MockClock
from volumes import filesystem

from p2pfs.types import ROOT_INODE, Kind
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.news import NoKernelCache

pytestmark = pytest.mark.l2

STEPS = int(os.environ.get("P2PFS_STEPS", "3000"))
SEED = int(os.environ.get("P2PFS_SEED", "1"))
A_CASE = 500
"""Operations of one pair of mounts, by six users at once."""


def cases() -> Iterator[tuple[int, int]]:
    for number, at in enumerate(range(0, STEPS, A_CASE)):
        yield SEED + number, min(A_CASE, STEPS - at)


async def contents(seed: int, count: int) -> None:
    world = World(seed)
    files = {name: Cells(name.decode()) for name in (b"f", b"g")}
    log = Records()
    limits = Limits(WriteLimits(dirty_bytes=8 << 20), memory_cache=1 << 20)
    async with (
        filesystem(FarNamespace(world), world.store, limits=limits) as first,
        filesystem(FarNamespace(world), world.store, limits=limits) as second,
        trio.open_nursery() as background,
    ):
        both = (first, second)
        for fs in both:
            background.start_soon(fs.follow, NoKernelCache())
        for name in (*files, b"log"):
            await first.release(await first.create(ROOT_INODE, name, 0o644, OWNER))
        async with trio.open_nursery() as nursery:
            users = [ContentUser(world, mount, fs, files, log) for mount, fs in enumerate(both) for _ in range(USERS)]
            for user in users:
                nursery.start_soon(user.work, count // len(users))
        world.failing = 0
        for mount, fs in enumerate(both):
            await fs.settler.settle_all()
            for cells in files.values():
                cells.commit(mount, world.tick(), world.tick())
        seen = []
        for user in (users[0], users[-1]):
            handle, _ = await user.opened(b"log")
            seen.append(Records.parsed(bytes(await user.fs.read(handle, 0, 256 << 20))))
            assert sorted(seen[-1]) == sorted(log.begun), f"mount {user.mount}"
            for name in files:
                handle, opened = await user.opened(name)
                for cell in range(len(CELLS)):
                    await user.check(name, cell, handle, opened)
                seen.append((handle.inode.size, bytes(await user.fs.read(handle, 0, END))))
        assert seen[:3] == seen[3:], "the mounts do not agree in the end"
        background.cancel_scope.cancel()


@pytest.mark.parametrize(("seed", "count"), list(cases()))
def test_content_of_two_mounts_is_what_close_to_open_allows(seed: int, count: int) -> None:
    with seeded(seed):
        trio.run(contents, seed, count, clock=MockClock(autojump_threshold=0))


async def names(seed: int, count: int) -> None:
    world = World(seed)
    async with (
        filesystem(FarNamespace(world), world.store) as first,
        filesystem(FarNamespace(world), world.store) as second,
        trio.open_nursery() as background,
    ):
        users = [NameUser(world, mount, fs) for mount, fs in enumerate((first, second)) for _ in range(USERS)]
        for fs in (first, second):
            background.start_soon(fs.follow, NoKernelCache())
        below = (await first.tree.make(ROOT_INODE, b"below", Kind.DIRECTORY, 0o755, OWNER)).id
        async with trio.open_nursery() as nursery:
            for user in users:
                user.parents.append(below)
                nursery.start_soon(user.work, count // len(users))
        background.cancel_scope.cancel()


@pytest.mark.parametrize(("seed", "count"), list(cases()))
def test_names_of_two_mounts_are_those_of_some_moment(seed: int, count: int) -> None:
    with seeded(seed):
        trio.run(names, seed, count, clock=MockClock(autojump_threshold=0))
