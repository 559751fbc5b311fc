"""A delegated namespace against one that is not: the same random operations and questions, the same answers.

Under the delegated one the volume answers late, forgets to answer, is changed by another session and takes the
delegation away, all by the seed; memory is so small that it forgets what it knew. In the end both volumes are equal.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from namespaces import VOLUME, extent, new_chunk

from p2pfs.errors import PoolError
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.meta.protocol import InDoubt
from p2pfs.types import DentryId, InodeId, Kind
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.wire.delegations import Delegation
from p2pfs.wire.namespace import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    UNTOLD,
    Accessed,
    Applied,
    Attributes,
    Commit,
    Entry,
    Link,
    Make,
    Opened,
    Operation,
    Released,
    RemoveXattr,
    Rename,
    SetAttributes,
    SetXattr,
    Unlink,
    XattrPage,
)

pytestmark = pytest.mark.l2

SEEDS = 120
STEPS = 150
NAMES = [b"a", b"b", b"c", b"d", b"e", b"f"]


def volume() -> MemoryVolume:
    return MemoryVolume(root_head=b"root head", volume=VOLUME, time_ns=1)


class Far:
    """A session that answers after a while; a change is sometimes done without an answer."""

    def __init__(self, inner: MemoryNamespace, chance: random.Random) -> None:
        self._inner, self._chance = inner, chance
        self.asking = 0

    async def delegate(self, epoch: int) -> Delegation:
        self.asking += 1
        try:
            await self._delay()
            told = await self._inner.delegate(epoch)
            await self._delay()
            return told
        finally:
            self.asking -= 1

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the session has
        call: Callable[..., Awaitable[Any]] = getattr(self._inner, name)

        async def far(*arguments: Any, **more: Any) -> Any:  # noqa: ANN401
            await self._delay()
            try:
                return await call(*arguments, **more)
            finally:
                await self._delay()

        return far

    async def _delay(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 3, 20))):
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        return await self._doubtfully(lambda: self._inner.apply_under(epoch, operations), may_doubt=True)

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        return await self._doubtfully(lambda: self._inner.apply(operations), may_doubt=False)

    async def _doubtfully(self, effort: Callable[[], Awaitable[Applied]], *, may_doubt: bool) -> Applied:
        await self._delay()
        fate = self._chance.random() if may_doubt else 1.0
        if fate > 0.2:
            return await effort()
        done: list[Applied] = [await effort()] if fate < 0.1 else []

        async def again() -> Applied:
            await self._delay()
            if not done:
                done.append(await effort())
            return done[0]

        raise InDoubt("no answer", again, lambda: None)


class Script:
    """Draws what is done next from what the plain volume holds."""

    def __init__(self, seed: int, plain: MemoryVolume) -> None:
        self.chance = random.Random(seed)
        self.plain = plain
        self._time = 100

    def time(self) -> int:
        self._time += 1
        return self._time

    def inode(self, *kinds: Kind) -> int:
        there = [row.inode for row in self.plain._inodes.values() if not kinds or row.kind in kinds]
        return self.chance.choice(there) if there and self.chance.random() < 0.97 else 999_999

    def place(self) -> tuple[int, bytes, int]:
        """A directory, a name in it, and what that leads to (0: nothing)."""
        parent = self.inode(Kind.DIRECTORY) if self.chance.random() < 0.97 else self.inode()
        name = self.chance.choice(NAMES)
        known = self.plain._names.get(parent, {}).get(name)
        return parent, name, known.inode if known else 0

    def operation(self, ids: range) -> list[Operation]:
        draw, (parent, name, found) = self.chance.choice, self.place()
        kind = draw([Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK])
        target = b"target" if kind == Kind.SYMLINK else None
        inode = found if found and self.chance.random() < 0.9 else self.inode()
        other_parent, other, replaced = self.place()
        file = self.inode(Kind.FILE)
        change = self.plain._inodes[file].change if file in self.plain._inodes else 0
        time = self.time()
        make = Make(parent, name, ids[0], b"t", ids[1], kind, 0o644, 1, 2, 0, b"head", time, target)
        unlink = Unlink(parent, name, inode, self.chance.random() < 0.4, time)
        flags = draw([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])
        expected = replaced if self.chance.random() < 0.9 else 0
        rename = Rename(parent, name, inode, other_parent, other, ids[0], b"r", expected, flags, time, b"back")
        inline = Commit(file, change, 3, b"head %d" % time, time, inline=b"new")
        chunk = new_chunk(time)
        chunks = Commit(file, change, 9, b"c %d" % time, time, [extent(0, time, time)], [chunk], clear_inline=True)
        return draw(
            [
                [make], [make], [make], [make], [unlink], [unlink], [rename], [rename], [rename],
                [Link(parent, name, ids[0], b"l", inode, time)],
                [SetAttributes(self.inode(), time, mode=time & 0o777)],
                [inline], [inline], [chunks],
                [Opened(inode), unlink], [Opened(inode)], [Released(inode)], [Accessed(inode, time)],
                [SetXattr(inode, b"x", b"v", 0, time)], [RemoveXattr(inode, b"x", time)],
                [make, SetXattr(make.inode, b"x", b"v", 0, time)],
                [make, Commit(make.inode, 0, 3, b"h", time, inline=b"abc")],
            ]
        )  # fmt: skip


async def outcome(effort: Awaitable[Any]) -> Any:  # noqa: ANN401
    """The answer, or the kind of its refusal."""
    try:
        return await effort
    except PoolError as error:
        return type(error)


def shown(answer: Any) -> Any:  # noqa: ANN401
    """What does not depend on order."""
    if isinstance(answer, Applied):
        return {row.inode: row for row in answer.attributes}, sorted(answer.removed)
    return answer


class Run:
    def __init__(self, seed: int, nursery: trio.Nursery) -> None:
        self.nursery, self.plain, self.under = nursery, volume(), volume()
        self.script = Script(seed, self.plain)
        self.chance = self.script.chance
        self.direct = self.plain.session()
        self.session = self.under.session()
        self.far = Far(self.session, self.chance)
        self.delegated = Delegated(
            self.far,  # type: ignore[arg-type]
            now=trio.current_time, io_timeout_s=math.inf, known_bytes=self.chance.choice([3000, 20_000, 1 << 20]),
        )  # fmt: skip
        self.plain.awake = lambda but: set()  # type: ignore[method-assign]  # the others look, and hold nothing
        self.under.awake = lambda but: set()  # type: ignore[method-assign]
        nursery.start_soon(Holding(self.delegated, trio.current_time).hold)

    async def step(self) -> None:
        fate = self.chance.random()
        if fate < 0.6:
            await self.change()
        elif fate < 0.96:
            await self.ask()
        elif fate < 0.98:
            await self.another()
        else:
            await self.delegated.settle()
            if (
                self.delegated.holds and not self.far.asking
            ):  # the coordinator counts from its answer, so it never ends what it just renewed
                self.under.delegation.revoke()
                self.delegated._until_s = -math.inf

    async def change(self) -> None:
        ids = await self.direct.new_ids(2)
        assert await self.delegated.new_ids(2) == ids
        operations = self.script.operation(ids)
        expected = shown(await outcome(self.direct.apply(operations)))
        given = shown(await outcome(self.delegated.apply(operations)))
        assert given == expected, (operations, given, expected)

    async def ask(self) -> None:
        parent, name, _ = self.script.place()
        inode = InodeId(self.script.inode())
        after = DentryId(self.chance.randint(0, 400))
        limit = self.chance.choice((1, 3, 1000))
        question: Callable[[Any], Awaitable[Any]] = self.chance.choice(
            [
                lambda namespace: _entry(namespace, InodeId(parent), name),
                lambda namespace: _row(namespace, inode),
                lambda namespace: namespace.content(inode),
                lambda namespace: _listing(namespace, InodeId(parent), after, limit),
                lambda namespace: namespace.extents(inode, 0),
                lambda namespace: _xattrs(namespace, inode),
            ]
        )
        expected = await outcome(question(self.direct))
        assert await outcome(question(self.delegated)) == expected

    async def another(self) -> None:
        """Another session changes something: what this one holds is recalled first."""
        ids = await self.direct.new_ids(2)
        assert await self.delegated.new_ids(2) == ids
        operations = self.script.operation(ids)
        epoch = self.delegated.epoch
        while epoch and self.delegated.epoch == epoch:
            self.delegated.recalled.set()  # said until it is returned
            await trio.sleep(0.1)
        for either in (self.plain, self.under):
            other = either.session()
            await outcome(other.apply(operations))
            either.end(other.number)

    async def compare(self) -> None:
        await self.delegated.settle()
        assert self.under._inodes == self.plain._inodes
        assert self.under._names == self.plain._names
        assert self.under._extents.keys() == self.plain._extents.keys()
        assert self.under._xattrs == self.plain._xattrs


async def _listing(namespace: Any, parent: InodeId, after: DentryId, limit: int) -> list[tuple[bytes, Attributes]]:  # noqa: ANN401
    """The rest of a directory, in pages."""
    found: list[Any] = []
    while True:
        page = await namespace.directory(parent, after, limit)
        assert len(page.entries) <= limit
        found += page.entries
        if page.complete:
            return [(entry.name, _untold(entry.attributes)) for entry in found]
        after = page.entries[-1].dentry


async def _entry(namespace: Any, parent: InodeId, name: bytes) -> Entry:  # noqa: ANN401
    found = await namespace.lookup(parent, name)
    return replace(found, attributes=_untold(found.attributes))


async def _row(namespace: Any, inode: InodeId) -> Attributes:  # noqa: ANN401
    return _untold(await namespace.attributes(inode))


async def _xattrs(namespace: Any, inode: InodeId) -> XattrPage:  # noqa: ANN401
    page = await namespace.xattrs(inode)
    return replace(page, attributes=_untold(page.attributes))


def _untold(row: Attributes) -> Attributes:
    """Whoever is not asked for content may tell it or not, but always whether there is some."""
    return row if row.inline is None else replace(row, inline=UNTOLD)


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
async def test_it_answers_as_the_coordinator_would(
    first: int, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(first, first + 10):
        monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
        async with trio.open_nursery() as nursery:
            run = Run(seed, nursery)
            for _ in range(STEPS):
                await run.step()
            await run.compare()
            nursery.cancel_scope.cancel()
