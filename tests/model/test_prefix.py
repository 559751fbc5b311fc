"""A mount with the delegation that is killed at any moment leaves a prefix of what it had acknowledged, and all of what
was settled: over the dictionaries and over the SQL engine.

One program does random operations; requests take their time, answers get lost, what is on its way when the mount dies
still arrives or does not. Then the volume is compared with one to which the operations were done one by one.
`P2PFS_STEPS` is how many runs.
"""

import os
import random
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from namespaces import VOLUME, SqlWorld, extent, new_chunk, verify

from p2pfs.errors import Overruled, Semantic
from p2pfs.meta.database import InlineDatabase
from p2pfs.meta.memory import MemoryVolume
from p2pfs.meta.protocol import InDoubt, Namespace
from p2pfs.types import ROOT_INODE, DentryId, InodeId, Kind
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.wire.delegations import Delegation
from p2pfs.wire.namespace import (
    RENAME_EXCHANGE,
    Applied,
    Commit,
    Link,
    Make,
    Operation,
    Rename,
    SetAttributes,
    SetXattr,
    Unlink,
)

pytestmark = pytest.mark.l2

RUNS = int(os.environ.get("P2PFS_STEPS", "150"))
OPERATIONS = 80
NAMES = [b"a", b"b", b"c", b"d"]
LOST = 0.05


class Way:
    """To a coordinator that outlives the mount: what has set out may arrive after its death."""

    def __init__(self, inner: Namespace, chance: random.Random, nursery: trio.Nursery) -> None:
        self._inner, self._chance, self._nursery = inner, chance, nursery
        self._seq = 0

    async def delegate(self, epoch: int) -> Delegation:
        return Delegation(epoch or 1, 30.0)

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        return await self._changed(operations, 0)

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        return await self._changed(operations, epoch)

    async def _changed(self, operations: Sequence[Operation], epoch: int) -> Applied:
        answer: list[Applied | Exception] = []
        arrived = trio.Event()

        async def travel() -> None:
            await self._delay()
            if self._chance.random() < LOST / 2:  # and comes again
                await trio.sleep(1)
            try:
                answer.append(await self._inner.apply(operations))
            except (Semantic, Overruled) as error:
                answer.append(error)
            arrived.set()

        async def again() -> Applied:
            await arrived.wait()
            await self._delay()
            if isinstance(answer[0], Exception):
                raise answer[0]
            return answer[0]

        self._nursery.start_soon(travel)
        if epoch and self._chance.random() < LOST:
            await self._delay()
            raise InDoubt("no answer", again, lambda: None)
        return await again()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the session has
        call: Callable[..., Awaitable[Any]] = getattr(self._inner, name)

        async def far(*arguments: Any, **more: Any) -> Any:  # noqa: ANN401
            await self._delay()
            return await call(*arguments, **more)

        return far

    async def _delay(self) -> None:
        await trio.sleep(self._chance.choice((0.0, 0.001, 0.01, 0.1, 0.5)))


async def memory() -> Namespace:
    return MemoryVolume(root_head=b"root head", volume=VOLUME, time_ns=1, verify=verify, wanted_min=2).session()


async def sql() -> Namespace:
    database = InlineDatabase()
    world = SqlWorld(database)
    await world.prepare()
    namespace = await world.mount()
    weakref.finalize(namespace, database.close)
    return namespace


async def picture(namespace: Namespace) -> dict[tuple[bytes, ...], Any]:
    """Everything below the root, by path."""
    found: dict[tuple[bytes, ...], Any] = {(): await namespace.attributes(ROOT_INODE)}
    directories: list[tuple[tuple[bytes, ...], InodeId]] = [((), ROOT_INODE)]
    for path, directory in directories:
        page = await namespace.directory(directory, DentryId(0), 1000)
        assert page.complete
        for entry in page.entries:
            here, row = (*path, entry.name), entry.attributes
            found[here] = (
                entry.dentry,
                await namespace.attributes(row.inode),
                (await namespace.xattrs(row.inode)).xattrs,
            )
            if row.kind == Kind.DIRECTORY:
                directories.append((here, row.inode))
    return found


class Program:
    """Draws operations that are mostly fine."""

    def __init__(self, chance: random.Random, first_id: int) -> None:
        self.chance, self.next, self.time = chance, first_id, 10
        self.files, self.directories = [0], [int(ROOT_INODE)]
        self.names: dict[tuple[int, bytes], int] = {}

    def draw(self, changes: dict[int, int]) -> list[Operation]:
        chance = self.chance
        self.time, self.next = self.time + 1, self.next + 2
        parent, name, new_parent, new_name = (
            chance.choice(self.directories), chance.choice(NAMES), chance.choice(self.directories), chance.choice(NAMES)
        )  # fmt: skip
        found, other, inode = self.names.get((parent, name), 0), self.names.get((new_parent, new_name), 0), self.next
        file = chance.choice(self.files)
        kind = chance.choice((Kind.FILE, Kind.FILE, Kind.DIRECTORY))
        make = Make(parent, name, inode, b"t", inode + 1, kind, 0o644, 1, 2, 0, b"head", self.time)
        flags = RENAME_EXCHANGE if other and chance.random() < 0.3 else 0
        rename = Rename(parent, name, found, new_parent, new_name, inode, b"r", other, flags, self.time, b"back")
        chunks = Commit(
            file, changes.get(file, 0), 9, b"head", self.time, [extent(0, self.time, self.time)],
            [new_chunk(self.time)], clear_inline=True,
        )  # fmt: skip
        steps: list[Operation] = [
            make, make, make, rename, rename, rename,
            Unlink(parent, name, found, found in self.directories, self.time),
            Link(parent, name, inode, b"l", file, self.time),
            SetAttributes(chance.choice([*self.files, *self.directories]), self.time, mode=0o600 + self.time % 64),
            Commit(file, changes.get(file, 0), 3, b"h%d" % self.time, self.time, inline=b"%d" % self.time),
        ]  # fmt: skip
        if chance.random() < 0.02:  # these are sent at once, behind all others
            return [chance.choice((chunks, SetXattr(file, b"x", b"%d" % self.time, 0, self.time)))]
        return [chance.choice(steps)]

    def did(self, operation: Operation) -> None:
        match operation:
            case Make():
                (self.directories if operation.kind == Kind.DIRECTORY else self.files).append(operation.inode)
                self.names[operation.parent, operation.name] = operation.inode
            case Link():
                self.names[operation.parent, operation.name] = operation.inode
            case Unlink():
                del self.names[operation.parent, operation.name]
            case Rename() if operation.inode != operation.replaced:
                old, new = (operation.parent, operation.name), (operation.new_parent, operation.new_name)
                self.names[new] = self.names.pop(old)
                if operation.flags & RENAME_EXCHANGE:
                    self.names[old] = operation.replaced


async def run(seed: int, make_world: Callable[[], Awaitable[Namespace]]) -> bool:
    """Whether something acknowledged was lost."""
    chance = random.Random(f"prefix {seed}")
    volume, plain = await make_world(), await make_world()
    done: list[list[Operation]] = []
    settled = acknowledged = 0
    async with trio.open_nursery() as world:
        delegated = Delegated(
            Way(volume, chance, world),  # type: ignore[arg-type]
            now=trio.current_time, io_timeout_s=30.0, known_bytes=chance.choice((5000, 1 << 20)),
        )  # fmt: skip

        async def settle() -> None:
            nonlocal settled
            position = acknowledged
            await delegated.settle()
            settled = max(settled, position)

        async def work() -> None:
            nonlocal acknowledged
            ids = await delegated.new_ids(2 * OPERATIONS + 2)
            assert [*await plain.new_ids(len(ids))] == [*ids]
            program = Program(chance, ids[0] - 2)
            changes: dict[int, int] = {}
            for _ in range(OPERATIONS):
                operations = program.draw(changes)
                done.append(operations)  # its answer may come too late
                try:
                    applied = await delegated.apply(operations)
                except Semantic:
                    done.pop()
                    continue
                changes.update({row.inode: row.change for row in applied.attributes})
                acknowledged = len(done)
                program.did(operations[0])
                if chance.random() < 0.1:
                    world_or_mount.start_soon(settle)
                if chance.random() < 0.1:
                    await trio.sleep(chance.uniform(0, 0.05))
            await delegated.settle()

        with trio.move_on_after(chance.uniform(0.0, 6.0)):  # then it is killed
            async with trio.open_nursery() as world_or_mount:
                world_or_mount.start_soon(Holding(delegated, trio.current_time).hold)
                await work()
                world_or_mount.cancel_scope.cancel()
    left, states = await picture(volume), [await picture(plain)]
    for number, operations in enumerate(done):
        try:
            await plain.apply(operations)
        except Semantic:  # it would have been refused
            assert number == acknowledged
            break
        states.append(await picture(plain))
    assert left in states, f"seed {seed}: no prefix of {len(done)} operations"
    last = len(states) - 1 - states[::-1].index(left)
    assert last >= settled, f"seed {seed}: {settled} of {acknowledged} were promised, {last} are there"
    return last < acknowledged


@pytest.mark.parametrize("make_world", [memory, sql])
async def test_what_a_killed_mount_leaves_is_a_prefix(
    make_world: Callable[[], Awaitable[Namespace]], autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy = 0
    for seed in range(RUNS):
        monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
        lossy += await run(seed, make_world)
    assert lossy > RUNS / 20, "hardly anything was under way when the mounts were killed"
