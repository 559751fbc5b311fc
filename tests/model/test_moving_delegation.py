"""Two mounts that come and go, so that their volume's delegation moves between them, against promise P9.

As `test_two_mounts.py`, with `Delegated` and `Holding` in each mount; answers get lost too. What the holder
acknowledges counts as a state from then on; the other mount may be answered from what was committed. `P2PFS_STEPS`
and `P2PFS_SEED` as there.
"""

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest
import trio
from far_mounts import NAMES, OWNER, USERS, ContentUser, FarNamespace, NameUser, World, seeded, through
from histories import CELLS, Cells, Records, State
from trio.testing import MockClock
from volumes import filesystem

from p2pfs.errors import Exists, Unavailable
from p2pfs.meta.protocol import InDoubt
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.news import NoKernelCache
from p2pfs.wire.namespace import RENAME_EXCHANGE, Applied, Commit, Link, Make, Operation, Rename, Unlink

pytestmark = pytest.mark.l2

STEPS = int(os.environ.get("P2PFS_STEPS", "3000"))
SEED = int(os.environ.get("P2PFS_SEED", "1"))
A_CASE = 600
LIVES = 4
"""How often each mount comes and goes in a case."""
IN_DOUBT = 0.05
LONGEST_S = 600.0
"""Of simulated time; nobody waits for ever."""


class MovingWorld(World):
    """Where the names are what was acknowledged, by the volume or by who holds its delegation."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.volume.delegation.lasts_s = self.chance.choice((1.0, 3.0, 10.0))
        self.places: dict[tuple[int, bytes], int] = {}
        self.queues: dict[int, Queue] = {}
        self.is_old = False

    async def pause(self) -> None:
        if self.chance.random() < 0.5:
            await trio.sleep(self.chance.uniform(0, 1.0))

    def changed(self, operations: Sequence[Operation]) -> None:
        if not self.is_old:
            self.acknowledged(operations)

    def acknowledged(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            self._take(operation)
        self.names.took(self.state())

    def state(self) -> State:
        parents = {ROOT_INODE, *(parent for parent, _ in self.places)}
        found = {(InodeId(p), name): self.places.get((p, self.seal(p, name))) for p in parents for name in NAMES}
        return {place: InodeId(inode) for place, inode in found.items() if inode is not None}

    def _take(self, op: Operation) -> None:
        match op:
            case Make() | Link():
                self.places[op.parent, op.name] = op.inode
            case Unlink():
                del self.places[op.parent, op.name]
            case Rename():
                old, new = (op.parent, op.name), (op.new_parent, op.new_name)
                replaced = self.places.get(new)
                if replaced == self.places[old]:
                    return  # two names of one inode stay
                self.places[new] = self.places.pop(old)
                if op.flags & RENAME_EXCHANGE:
                    assert replaced is not None
                    self.places[old] = replaced

    def first_seen(self, mount: int) -> int:
        return min([self.names.now(), *(queue.first() for other, queue in self.queues.items() if other != mount)])


class Queue:
    """Which states a mount's changes led from that are not committed."""

    def __init__(self, world: MovingWorld, delegated: Delegated) -> None:
        self._changes, self._world = delegated.changes, world
        self._before: list[int] = []
        self._put = delegated.changes.put
        delegated.changes.put = self._noted  # type: ignore[method-assign]

    def _noted(self, operations: Sequence[Operation]) -> None:
        self._put(operations)
        self._before.append(self._world.names.now())
        self._world.acknowledged(operations)

    def first(self) -> int:
        waiting = self._changes.outstanding
        return self._before[-waiting] if waiting else self._world.names.now()


class DoubtfulNamespace(FarNamespace):
    """A far session whose answers to changes get lost sometimes."""

    def __init__(self, world: MovingWorld) -> None:
        super().__init__(world)
        self._moving = world
        for verb in ("delegate", "return_delegation"):
            setattr(self, verb, self._far(getattr(self, verb)))
        self._sure, self._sure_under = self.apply, self._far(super().apply_under)
        self.apply = self._apply  # type: ignore[method-assign]

    async def _apply(self, operations: Sequence[Operation]) -> Applied:
        is_commit = any(isinstance(operation, Commit) for operation in operations)
        return await self._doubtfully(lambda: self._sure(operations), may_doubt=is_commit)

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        async def once() -> Applied:
            await self._world.delay()
            volume = await self._begin()
            volume.delegation.require(self.number, epoch)
            self._moving.is_old = True
            try:
                return volume.apply(self.number, operations)
            finally:
                self._moving.is_old = False

        return await self._doubtfully(once, may_doubt=True)

    async def _doubtfully(self, effort: Callable[[], Awaitable[Applied]], *, may_doubt: bool) -> Applied:
        fate = self._world.chance.random() if may_doubt else 1.0
        if fate >= 2 * IN_DOUBT:
            return await effort()
        done = [await effort()] if fate < IN_DOUBT else []

        asking = trio.Lock()

        async def again() -> Applied:
            await self._world.delay()
            with trio.CancelScope(shield=True):  # by its number a batch is done once, whoever asks again
                async with asking:
                    if not done:
                        done.append(await effort())
            return done[0]

        raise InDoubt("no answer", again, lambda: None)


Work = Callable[[int, Filesystem], Awaitable[None]]


async def lives(world: MovingWorld, mount: int, work: Work, limits: Limits) -> None:
    """A mount comes, works, stores everything and goes, several times."""
    for _ in range(LIVES):
        await trio.sleep(world.chance.uniform(0, 30))
        session = DoubtfulNamespace(world)
        delegated = Delegated(session, now=trio.current_time, io_timeout_s=30.0, known_bytes=20_000)
        world.queues[mount] = Queue(world, delegated)
        async with filesystem(delegated, world.store, limits=limits) as fs, trio.open_nursery() as background:
            background.start_soon(fs.follow, NoKernelCache())
            background.start_soon(Holding(delegated, trio.current_time, fs.recalled).hold)
            await work(mount, fs)
            while True:
                try:
                    await fs.settle_all()
                    break
                except Unavailable:
                    await world.delay()
            assert not fs.promises.losses()
            background.cancel_scope.cancel()
        world.volume.end(session.number)


async def both(world: MovingWorld, work: Work, limits: Limits | None = None) -> None:
    with trio.fail_after(LONGEST_S):
        async with trio.open_nursery() as nursery:
            for mount in (0, 1):
                nursery.start_soon(lives, world, mount, work, limits or Limits())
    assert world.volume.delegation.epoch > LIVES, "the delegation hardly moved"
    assert world.state() == world.volume.state(), "what was acknowledged is not what there is"


def cases() -> Iterator[tuple[int, int]]:
    for number, at in enumerate(range(0, STEPS, A_CASE)):
        yield SEED + number, min(A_CASE, STEPS - at)


async def names(seed: int, count: int) -> None:
    world = MovingWorld(seed)

    async def work(mount: int, fs: Filesystem) -> None:
        try:
            below = (await fs.tree.make(ROOT_INODE, b"below", Kind.DIRECTORY, 0o755, OWNER)).id
        except Exists:
            below = (await fs.lookup(ROOT_INODE, b"below")).id
        async with trio.open_nursery() as nursery:
            for _ in range(USERS):
                user = NameUser(world, mount, fs)
                user.parents.append(below)
                nursery.start_soon(user.work, count // USERS // LIVES // 2)

    await both(world, work)


@pytest.mark.parametrize(("seed", "count"), list(cases()))
def test_names_are_those_of_some_moment(seed: int, count: int) -> None:
    with seeded(seed):
        trio.run(names, seed, count, clock=MockClock(autojump_threshold=0))


async def contents(seed: int, count: int) -> None:
    world = MovingWorld(seed)
    files = {name: Cells(name.decode()) for name in (b"f", b"g")}
    log = Records()

    async def work(mount: int, fs: Filesystem) -> None:
        for name in (*files, b"log"):
            try:
                await fs.release(await fs.create(ROOT_INODE, name, 0o644, OWNER))
            except Exists:
                continue
        async with trio.open_nursery() as nursery:
            users = [ContentUser(world, mount, fs, files, log) for _ in range(USERS)]
            for user in users:
                nursery.start_soon(user.work, count // USERS // LIVES // 2)
        world.failing, before = 0.0, world.failing
        await through(fs.settler.settle_all, world)
        for cells in files.values():
            cells.commit(mount, world.tick(), world.tick())
        world.failing = before
        if world.volume.delegation.holder is not None:
            handle, opened = await users[0].opened(b"f")
            for cell in range(len(CELLS)):
                await users[0].check(b"f", cell, handle, opened)
            await fs.release(handle)

    await both(world, work, Limits(WriteLimits(dirty_bytes=8 << 20), memory_cache=1 << 20))
    session = world.volume.session()
    async with filesystem(session, world.store) as fs:
        handle = await fs.open((await fs.lookup(ROOT_INODE, b"log")).id)
        found = Records.parsed(bytes(await fs.read(handle, 0, 256 << 20)))
        assert sorted(found) == sorted(log.begun)


@pytest.mark.parametrize(("seed", "count"), list(cases()))
def test_content_is_what_close_to_open_allows(seed: int, count: int) -> None:
    with seeded(seed):
        trio.run(contents, seed, count, clock=MockClock(autojump_threshold=0))
