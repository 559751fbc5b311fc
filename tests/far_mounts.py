"""Programs at two mounts of one volume in one process, with random delays and failures, whose answers are checked
against promise P9. Everything follows a seed, on simulated time."""

import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from histories import CELLS, Cells, Names, Records, State
from trio._core import _run
from volumes import KEYS, ROOT_HEAD, VOLUME

from p2pfs.chunks.memory import MemoryStore
from p2pfs.chunks.protocol import Blocks, Check, Released
from p2pfs.errors import Exists, NotFound, PoolError, Unavailable
from p2pfs.format.names import seal_name
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import ROOT_INODE, Buffer, ChunkId, DentryId, InodeId, VolumeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.tree import Owner
from p2pfs.wire.chunks import Receipt
from p2pfs.wire.namespace import Applied, Operation

LONG_S = 2.4
"""There and back this is less than a file's opening waits for news."""
USERS = 3
"""At each mount."""
NAMES = (b"a", b"b", b"c")
OWNER = Owner(0, 0)


class World:
    """The volume, the peers, delays, and what happened."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"two mounts {seed}")
        self.names = Names()
        self.volume = WatchedVolume(self)
        self.store = FarStore(self)
        self.failing = 0.02
        self._ticks = itertools.count(1)
        self.sealed: dict[tuple[InodeId, bytes], bytes] = {}

    def tick(self) -> int:
        return next(self._ticks)

    async def delay(self) -> None:
        """The way to others: mostly short, sometimes long, but not so long that they count as away."""
        long = self.chance.random() < 0.03
        await trio.sleep(self.chance.uniform(0, LONG_S if long else 0.01))

    def seal(self, parent: int, name: bytes) -> bytes:
        place = InodeId(parent), name
        if place not in self.sealed:
            self.sealed[place] = seal_name(KEYS, VOLUME, *place)
        return self.sealed[place]

    async def pause(self) -> None:
        """Between two steps of a program."""

    def changed(self, _operations: Sequence[Operation]) -> None:
        """The volume did these."""
        self.names.took(self.volume.state())

    def first_seen(self, _mount: int) -> int:
        """The oldest state that an answer may show which a mount gets from now on."""
        return self.names.now()


class WatchedVolume(MemoryVolume):
    """Tells each state of its names."""

    def __init__(self, world: World) -> None:
        super().__init__(root_head=ROOT_HEAD, volume=VOLUME)
        self._world = world

    def state(self) -> State:
        return {
            (InodeId(parent), name): InodeId(names[known].inode)
            for parent, names in self._names.items()
            for name in NAMES
            if (known := self._world.seal(parent, name)) in names
        }

    def apply(self, session: int, operations: Sequence[Operation]) -> Applied:
        applied = super().apply(session, operations)
        self._world.changed(operations)
        return applied


class FarNamespace(MemoryNamespace):
    """A session whose questions and answers take their time."""

    def __init__(self, world: World) -> None:
        near = world.volume.session()
        super().__init__(world.volume, near.number, read_only=False)
        self._world = world
        for verb in ("lookup", "attributes", "directory", "extents", "locate", "apply", "new_ids"):
            setattr(self, verb, self._far(getattr(self, verb)))

    def _far(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def far(*args: Any, **more: Any) -> Any:  # noqa: ANN401
            await self._world.delay()
            try:
                return await call(*args, **more)
            finally:
                await self._world.delay()

        return far


class FarStore:
    """Peers that take their time and sometimes fail."""

    def __init__(self, world: World) -> None:
        self._world, self._inner = world, MemoryStore()

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        await self._world.delay()
        if self._world.chance.random() < self._world.failing:
            if released is not None:
                released()
            raise Unavailable("no peer answered")
        return await self._inner.put(volume, chunk, parts, released=released)

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        await self._world.delay()
        return await self._inner.get(volume, chunk, size, blocks, check=check)

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        return await self._inner.has(volume, chunk)

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        await self._inner.delete(volume, chunk, put_seq)


async def through(steps: Callable[[], Awaitable[None]], world: World) -> None:
    """Do something until it does not fail."""
    while True:
        try:
            await steps()
            return
        except Unavailable:
            await world.delay()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """trio's scheduler follows the seed, and threads take no time: else simulated time would run on beside them."""

    async def at_once(function: Callable[..., object], *args: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*args)

    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", at_once)
            yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = False  # type: ignore[misc]


# ---- content --------------------------------------------------------------------------------------------------------


class ContentUser:
    """Writes and reads cells and appends records at one mount."""

    def __init__(self, world: World, mount: int, fs: Filesystem, files: dict[bytes, Cells], log: Records) -> None:
        self.world, self.mount, self.fs, self.files, self.log = world, mount, fs, files, log
        self.chance = world.chance

    async def work(self, count: int) -> None:
        for _ in range(count):
            step = self.chance.choices((self.writes, self.reads, self.cuts, self.appends, self.stats), (5, 5, 1, 3, 1))[
                0
            ]
            await step()
            await self.world.pause()

    async def opened(self, name: bytes, *, append: bool = False) -> tuple[Handle, int]:
        inode = await self.fs.lookup(ROOT_INODE, name)
        while True:
            tick = self.world.tick()
            try:
                return await self.fs.open(inode.id, append=append), tick
            except Unavailable:  # it may store what was appended before
                await self.world.delay()

    async def closed(self, handle: Handle, cells: Cells | None) -> None:
        """close(2): what the mount had written before is committed, unless it fails; then it is not known."""
        tick = self.world.tick()
        try:
            await self.fs.flush(handle)
            if cells is not None:
                cells.commit(self.mount, tick, self.world.tick())
        except Unavailable:
            pass
        await self.fs.release(handle)

    async def writes(self) -> None:
        name = self.chance.choice(list(self.files))
        cells = self.files[name]
        handle, _ = await self.opened(name)
        for _ in range(self.chance.choice((1, 1, 3))):
            cell = self.chance.randrange(len(CELLS))
            offset, length = CELLS[cell]
            write = cells.begin(cell, self.mount, self.world.tick())
            data = bytes([write.value]) * length
            await through(lambda offset=offset, data=data: self.fs.write(handle, offset, data), self.world)  # type: ignore[misc]
            write.returned = self.world.tick()
        await self.closed(handle, cells)

    async def cuts(self) -> None:
        name = self.chance.choice(list(self.files))
        inode = await self.fs.lookup(ROOT_INODE, name)
        cell = self.chance.randrange(len(CELLS))
        cuts = self.files[name].cut(cell, self.mount, self.world.tick())
        await through(lambda: self.fs.attributes.set(inode.id, size=CELLS[cell][0]), self.world)  # type: ignore[arg-type,return-value]
        Cells.was_cut(cuts, self.world.tick())

    async def reads(self) -> None:
        name = self.chance.choice(list(self.files))
        handle, opened = await self.opened(name)
        for _ in range(self.chance.choice((1, 4))):
            await self.check(name, self.chance.randrange(len(CELLS)), handle, opened)
        await self.closed(handle, self.files[name])

    async def stats(self) -> None:
        """As the kernel does between reads; a slow answer must not spoil what is opened next."""
        handle, _ = await self.opened(self.chance.choice(list(self.files)))
        await self.fs.stat(handle.inode.id)
        await self.fs.release(handle)

    async def check(self, name: bytes, cell: int, handle: Handle, opened: int) -> None:
        offset, length = CELLS[cell]
        start = self.world.tick()
        data = bytes(await self.fs.read(handle, offset, length)).ljust(length, b"\0")
        end = self.world.tick()
        allowed = self.files[name].allowed(cell, self.mount, opened, start, end)
        assert set(data) <= allowed, (
            f"mount {self.mount}, {name!r}, cell {cell}, ticks {opened} {start}-{end}: {set(data)}, not of {allowed}: "
            f"{self.files[name].writes[cell]}"
        )

    async def appends(self) -> None:
        """What readers see while records are on their way is not promised; in the end each is there once, whole."""
        handle, _ = await self.opened(b"log", append=True)
        for _ in range(self.chance.choice((0, 1, 2))):
            number = len(self.log.begun)
            self.log.begun.add(number)
            data = self.log.record(number, self.chance.choice((1, 100, 4080, 20_000, 300_000)))
            await through(lambda data=data: self.fs.write(handle, handle.inode.kernel_size.newest, data), self.world)  # type: ignore[misc]
        with contextlib.suppress(Unavailable):  # it is tried again
            await self.fs.flush(handle)
        await self.fs.release(handle)


# ---- names ----------------------------------------------------------------------------------------------------------


class NameUser:
    """Makes, links, moves, removes and lists names at one mount; each answer must fit a state there was meanwhile."""

    def __init__(self, world: World, mount: int, fs: Filesystem) -> None:
        self.world, self.mount, self.fs, self.chance = world, mount, fs, world.chance
        self.parents: list[InodeId] = [ROOT_INODE]
        self.changes = 0

    async def work(self, count: int) -> None:
        for _ in range(count):
            verb = self.chance.choices(("create", "unlink", "rename", "link", "lookup", "listed"), (4, 2, 6, 2, 4, 1))[
                0
            ]
            first = self.world.first_seen(self.mount)
            place = self.chance.choice(self.parents), self.chance.choice(NAMES)
            other = self.chance.choice(self.parents), self.chance.choice(NAMES)
            flags = self.chance.choice((0, 0, 1, 2))
            try:
                answer: object = await getattr(self, verb)(place, other, flags)
            except PoolError as error:
                answer = type(error)
            states = self.world.names.since(first)
            fits = getattr(self, f"{verb}_fits")(first, place, other, flags, answer)
            assert fits, f"mount {self.mount}: {verb} {place} {other} {flags} gave {answer}, while {states}"
            await self.world.pause()

    async def create(self, place: Any, *_: Any) -> InodeId:  # noqa: ANN401
        handle = await self.fs.create(*place, 0o644, OWNER)
        await self.fs.release(handle)
        return handle.inode.id

    def create_fits(self, first: int, place: Any, _other: Any, _flags: int, answer: Any) -> bool:  # noqa: ANN401
        if answer is Exists:
            return any(place in state for state in self.world.names.since(first))
        return any(
            place not in before and after.get(place) == answer for before, after in self.world.names.steps(first)
        )

    async def unlink(self, place: Any, *_: Any) -> None:  # noqa: ANN401
        await self.fs.remove(*place, directory=False)

    def unlink_fits(self, first: int, place: Any, _other: Any, _flags: int, answer: Any) -> bool:  # noqa: ANN401
        if answer is NotFound:
            return any(place not in state for state in self.world.names.since(first))
        return any(place in before and place not in after for before, after in self.world.names.steps(first))

    async def rename(self, place: Any, other: Any, flags: int) -> None:  # noqa: ANN401
        await self.fs.rename(*place, *other, flags)

    def rename_fits(self, first: int, place: Any, other: Any, flags: int, answer: Any) -> bool:  # noqa: ANN401
        states = self.world.names.since(first)
        if answer is NotFound:
            return any(place not in state or (flags == 2 and other not in state) for state in states)
        if answer is Exists:
            return flags == 1 and any(other in state for state in states)
        if answer is not None:
            return answer is Unavailable  # it kept changing
        if any(state.get(place, 0) == state.get(other, 1) for state in states):
            return True  # two names of one inode, or the same: nothing is done
        return any(
            place in before
            and after.get(other) == before[place]
            and after.get(place) == (before.get(other) if flags == 2 else None)
            for before, after in self.world.names.steps(first)
        )

    async def link(self, place: Any, other: Any, _flags: int) -> InodeId:  # noqa: ANN401
        inode = await self.fs.lookup(*place)
        await self.fs.link(inode.id, *other)
        return inode.id

    def link_fits(self, first: int, place: Any, other: Any, _flags: int, answer: Any) -> bool:  # noqa: ANN401
        states = self.world.names.since(first)
        if answer is NotFound:  # also when the inode lost its last name in between
            return any(place not in state for state in states) or len(states) > 1
        if answer is Exists:
            return any(other in state for state in states)
        return any(
            other not in before and after.get(other) == answer for before, after in self.world.names.steps(first)
        )

    async def lookup(self, place: Any, *_: Any) -> InodeId:  # noqa: ANN401
        return (await self.fs.lookup(*place)).id

    def lookup_fits(self, first: int, place: Any, _other: Any, _flags: int, answer: Any) -> bool:  # noqa: ANN401
        found = None if answer is NotFound else answer
        return any(state.get(place) == found for state in self.world.names.since(first))

    async def listed(self, place: Any, *_: Any) -> list[tuple[bytes, InodeId]]:  # noqa: ANN401
        found, after, complete = [], DentryId(0), False
        while not complete:
            page, complete = await self.fs.directory(place[0], after, 1)
            found += [(entry.name, entry.inode.id) for entry in page]
            after = page[-1].cookie if page else after
        return found

    def listed_fits(self, first: int, place: Any, _other: Any, _flags: int, answer: Any) -> bool:  # noqa: ANN401
        states = self.world.names.since(first)
        places = {(place[0], name): inode for name, inode in answer if name in NAMES}
        all_the_time = {key for key in states[0] if key[0] == place[0] and all(key in state for state in states)}
        unmoved = {key for key in all_the_time if len({state[key] for state in states}) == 1}
        names = [name for name, _ in answer]  # one that went and came back may be met twice
        return all(names.count(name) == 1 for _, name in unmoved) and all(
            any(state.get(key) == inode for state in states) for key, inode in places.items()
        )
