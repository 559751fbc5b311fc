"""Bytes of closed files that a mount had not stored when it died: the next one stores them, or keeps them aside."""

import copy
import errno
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from plugins.checklogs import Claims
from volumes import KEYS, ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Fenced, NoSpace, Overruled
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import KIB, MIB, ROOT_INODE, DentryId
from p2pfs.vfs.delegation.changes import Changes
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.journal.journal import Journal, NoJournal
from p2pfs.vfs.journal.recovery import Recovery, recovering
from p2pfs.vfs.journal.segments import Segments
from p2pfs.vfs.limits import Durability, Limits, WriteLimits
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import Applied, Batch, Commit, Operation, Released, SetAttributes

pytestmark = pytest.mark.l3

NOBODY = Owner(0, 0)
BIG = os.urandom(100 * KIB)
LIMITS = Limits(WriteLimits(age_s=3.0), durability=Durability.FSYNC)


class World:
    """A volume, its chunks, and the homes of mounts that come and go."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
        self.chunks = MemoryStore()
        self.refuses = False
        self.sent: list[tuple[str, list[Operation]]] = []  # in sessions of dead mounts

    async def send(self, session: str, batch: Batch) -> Applied:
        if self.refuses:
            raise Overruled("somebody else was here")
        self.sent.append((session, batch.operations))
        return Applied([])

    async def end(self, session: str) -> None:
        if self.refuses:
            raise Fenced("this session is over")

    @asynccontextmanager
    async def mount(
        self,
        home: str = "home",
        *,
        store: MemoryStore | None = None,
        namespace: MemoryNamespace | None = None,
        limits: Limits = LIMITS,
        trust_s: float = 0.0,
    ) -> AsyncIterator[tuple[Filesystem, Recovery]]:
        keeps = limits.durability is Durability.FSYNC
        async with (
            recovering(
                self.root / home,
                KEYS,
                VOLUME,
                keeps=keeps,
                budget_bytes=4 * MIB,
                send=self.send,
                end=self.end,
                open_namespace=self.namespace,
            ) as recovery,
            filesystem(
                namespace or self.session(),
                store or self.chunks,
                limits=limits,
                journal=recovery.journal,
                trust=lambda: trust_s,
            ) as fs,
        ):
            await recovery.restore(fs)
            yield fs, recovery

    @asynccontextmanager
    async def namespace(self) -> AsyncIterator[MemoryNamespace]:
        yield self.session()

    def session(self) -> MemoryNamespace:
        return MemoryNamespace(self.volume, self.volume.session().number, read_only=False)

    def die(self, fs: Filesystem, home: str = "dead") -> None:
        """What is on the disk now is what the next mount will find in that home."""
        assert isinstance(fs.journal, Journal)
        shutil.rmtree(self.root / home, ignore_errors=True)
        shutil.copytree(fs.journal.segments.current.path.parents[2], self.root / home)

    def records(self, home: str = "dead") -> list[Path]:
        return list((self.root / home / "journal").glob("*/*.journal"))


class DeadStore(MemoryStore):
    """Never stores."""

    async def put(self, *arguments: object, **more: object) -> None:  # type: ignore[override]
        await trio.sleep_forever()


class Held(MemoryStore):
    """Stores nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lets_go = trio.Event()

    async def put(self, *arguments: object, **more: object) -> object:  # type: ignore[override]
        await self.lets_go.wait()
        return await super().put(*arguments, **more)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def write(fs: Filesystem, name: bytes, data: bytes, offset: int = 0) -> Handle:
    handle = await fs.create(ROOT_INODE, name, 0o644, NOBODY)
    await fs.write(handle, offset, data)
    return handle


async def close(fs: Filesystem, handle: Handle) -> None:
    await fs.flush(handle)
    await fs.release(handle)


async def content(fs: Filesystem, name: bytes = b"f") -> bytes:
    handle = await fs.open((await fs.lookup(ROOT_INODE, name)).id, writes=False)
    found = bytes(await fs.read(handle, 0, handle.inode.size))
    await close(fs, handle)
    return found


async def test_closed_files_outlive_their_mount_and_are_stored_by_the_next(world: World) -> None:
    data = {b"%d" % number: os.urandom(100 * KIB + number) for number in range(5)}
    async with world.mount(store=DeadStore()) as (fs, _):
        for name, one in data.items():
            await close(fs, await write(fs, name, one))
        world.die(fs)
    for _ in range(2):  # the second dies as well
        async with world.mount("dead", store=DeadStore()) as (fs, recovery):
            assert {name: await content(fs, name) for name in data} == data
            world.die(fs, "next")
        shutil.rmtree(world.root / "dead")
        (world.root / "next").rename(world.root / "dead")
    async with world.mount("dead") as (fs, recovery):
        await fs.settle_all()
        assert recovery.journal.rejected == 0
    assert world.records() == []
    async with world.mount("empty") as (fs, _):
        assert {name: await content(fs, name) for name in data} == data


async def test_what_was_only_partly_committed_is_completed(world: World) -> None:
    data = os.urandom(3 * MIB + 5)
    async with world.mount() as (fs, _):
        handle = await write(fs, b"f", data[: 2 * MIB])
        await fs.fsync(handle)
        fs.storer._uploader._store = DeadStore()
        await fs.write(handle, 2 * MIB, data[2 * MIB :])
        await fs.write(handle, 7, b"later")
        await close(fs, handle)
        world.die(fs)
    async with world.mount("dead") as (fs, recovery):
        await fs.settle_all()
        assert recovery.journal.rejected == 0
    async with world.mount("empty") as (fs, _):
        assert await content(fs) == data[:7] + b"later" + data[12:]


class Unanswered(MemoryNamespace):
    """Commits are done, and nobody hears of it."""

    done: trio.Event

    @classmethod
    def of(cls, world: World) -> "Unanswered":
        made = cls(world.volume, world.volume.session().number, read_only=False)
        made.done = trio.Event()
        return made

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        applied = await super().apply(operations)
        if any(isinstance(operation, Commit) for operation in operations):
            self.done.set()
            await trio.sleep_forever()
        return applied


@pytest.mark.parametrize("closes_first", [True, False])
async def test_a_commit_that_was_done_and_not_answered_is_not_done_again(world: World, closes_first: bool) -> None:
    names = Unanswered.of(world)
    async with world.mount(namespace=names) as (fs, _):
        handle = await write(fs, b"f", BIG)
        if not closes_first:
            fs.writer.freeze(handle.inode)
            await names.done.wait()
        await fs.flush(handle)
        await names.done.wait()
        world.die(fs)
        number = handle.inode.id
    before = (await names.attributes(number)).change
    assert before == 1
    async with world.mount("dead") as (fs, recovery):
        assert not fs.writer.unsaved_bytes()
        assert await content(fs) == BIG
        assert recovery.journal.rejected == 0
    assert (await names.attributes(number)).change == before


async def recovered(fs: Filesystem, found: Recovery) -> dict[str, bytes]:
    """What is given back, by what its name begins with."""
    await found.salvage(fs)
    return {
        name.split(".recovered-")[0]: await content(fs, name.encode())
        for name in [one.name.decode() for one in (await fs.directory(ROOT_INODE, DentryId(0), 100))[0]]
        if ".recovered-" in name
    }


async def test_bytes_in_conflict_with_what_others_wrote_since_are_given_back_in_a_file_beside(
    world: World, claim_logs: Claims
) -> None:
    claim_logs("102400 bytes written before a crash are in conflict", count=2)
    async with world.mount(store=DeadStore()) as (fs, _):
        handle = await write(fs, b"f", BIG)
        await close(fs, handle)
        world.die(fs)
    async with world.mount("other") as (fs, _):
        other = await fs.open(handle.inode.id)
        await fs.write(other, 0, b"theirs")
        await fs.fsync(other)
    shutil.copytree(world.root / "dead", world.root / "again")
    async with world.mount("dead") as (fs, recovery):
        assert recovery.journal.rejected == 1
        assert await recovered(fs, recovery) == {"f": BIG}
        assert await content(fs) == b"theirs"
    assert world.records() == []
    async with world.mount("dead") as (fs, recovery):
        assert recovery.journal.rejected == 0
    async with world.mount("again") as (fs, recovery):  # it died before it could forget them
        assert await recovered(fs, recovery) == {"f": BIG}
        assert len((await fs.directory(ROOT_INODE, DentryId(0), 100))[0]) == 3


class Ahead(MemoryNamespace):
    """Acknowledges what nobody hears of."""

    journal: NoJournal

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if any(isinstance(operation, Commit) and operation.chunks for operation in operations):
            await trio.sleep_forever()
        self.journal.queued(operations)
        return await super().apply(operations)


async def test_small_files_in_conflict_are_given_back_under_their_last_name(world: World, claim_logs: Claims) -> None:
    claim_logs("changes acknowledged before a crash are in conflict", count=1)
    claim_logs("bytes written before a crash are in conflict", count=3)
    async with world.mount() as (fs, _):
        for name in (b"edited", b"safe"):
            handle = await write(fs, name, b"before")
            await fs.fsync(handle)
    copied = copy.deepcopy(world.volume)
    names = Ahead(copied, copied.session().number, read_only=False)
    await world.session().new_ids(1000)  # others are granted other numbers
    async with world.mount(namespace=names) as (fs, _):
        names.journal = fs.journal
        fs.journal.opened("s")
        for name in (b"edited", b"safe"):
            handle = await fs.open((await fs.lookup(ROOT_INODE, name)).id)
            await fs.write(handle, 0, b"mine, " + name)
            await fs.fsync(handle)
        handle = await write(fs, b"n.tmp", b"mine, new")
        await fs.fsync(handle)
        await fs.rename(ROOT_INODE, b"n.tmp", ROOT_INODE, b"new", 0)
        handle = await write(fs, b"gone", b"mine, gone")
        await fs.fsync(handle)
        await fs.remove(ROOT_INODE, b"gone", directory=False)
        handle = await write(fs, b"grown", b"small")
        await fs.fsync(handle)
        await fs.write(handle, 5, BIG)
        await close(fs, handle)
        world.die(fs)
    async with world.mount("other") as (fs, _):
        handle = await fs.open((await fs.lookup(ROOT_INODE, b"edited")).id)
        await fs.write(handle, 0, b"theirs")
        await fs.fsync(handle)
        for name in (b"n.tmp", b"gone", b"grown"):
            await close(fs, await write(fs, name, b"theirs"))
        await fs.settle_all()
    world.refuses = True
    async with world.mount("dead") as (fs, recovery):
        assert await recovered(fs, recovery) == {
            "edited": b"mine, edited", "new": b"mine, new", "grown": b"small" + BIG,
        }  # fmt: skip
        assert await content(fs, b"safe") == b"mine, safe"
        for name in (b"edited", b"n.tmp", b"gone", b"grown"):
            assert await content(fs, name) == b"theirs"
    assert world.records() == []


async def test_what_is_in_conflict_waits_for_peers_that_are_away_and_the_mount_does_not(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with world.mount(store=DeadStore()) as (fs, _):
        handle = await write(fs, b"f", BIG)
        await close(fs, handle)
        world.die(fs)
    async with world.mount("other") as (fs, _):
        other = await fs.open(handle.inode.id)
        await fs.write(other, 0, b"theirs")
        await fs.fsync(other)
    async with world.mount("dead", store=DeadStore()) as (fs, recovery):
        with trio.move_on_after(1000):
            await recovery.salvage(fs)
        assert await content(fs) == b"theirs"
        assert len((await fs.directory(ROOT_INODE, DentryId(0), 100))[0]) == 2
    assert world.records()


class Over(MemoryNamespace):
    """Its session ends before anything written is committed."""

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        if any(isinstance(operation, Commit) for operation in operations):
            raise Fenced("the session is over")
        return await super().apply(operations)


async def test_what_a_mount_whose_session_is_over_cannot_store_is_left_to_the_next(
    world: World, claim_logs: Claims
) -> None:
    claim_logs("unsaved bytes are left to the next mount of this node", count=2)
    claim_logs("10 unsaved bytes are given up", count=1)
    names = Over(world.volume, world.volume.session().number, read_only=False)
    store = Held()
    async with world.mount(namespace=names, store=store) as (fs, _):
        for name in (b"f", b"g"):
            await close(fs, await write(fs, name, BIG))
        await close(fs, await write(fs, b"removed", BIG))
        await fs.remove(ROOT_INODE, b"removed", directory=False)
        store.lets_go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not fs.writer.unsaved_bytes()
        handle = await write(fs, b"later", b"0123456789")
        with pytest.raises(Fenced):  # the journal has ended
            await fs.flush(handle)
        await fs.settle_all()
        assert fs.promises.losses() == (
            "10 B written to files were given up; 200 KiB written to files are left to the next mount of this node"
        )
    async with world.mount() as (fs, recovery):
        assert [await content(fs, name) for name in (b"f", b"g", b"later")] == [BIG, BIG, b""]
        await fs.settle_all()
        assert recovery.journal.rejected == 0
    assert world.records("home") == []


async def test_changes_that_a_mount_whose_session_is_over_acknowledged_are_left_to_the_next(
    world: World, claim_logs: Claims
) -> None:
    claim_logs("2 changes of this mount are left to the next mount of this node", count=1)

    async def refuse(_: Sequence[Operation]) -> Applied:
        raise Overruled("somebody else was here")

    async with world.mount() as (fs, recovery):
        fs.journal.opened("one")
        changes = Changes(refuse, io_timeout_s=1.0, journal=recovery.journal)
        changes.put([SetAttributes(1, 1), SetAttributes(1, 2)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changes.run)
            with pytest.raises(Fenced, match="left to the next mount"):
                await changes.settle()
    async with world.mount() as (fs, _):
        assert world.sent == [("one", [SetAttributes(1, 1), SetAttributes(1, 2)])]


class Full(MemoryStore):
    """Has no room for a while."""

    refuses = 5

    async def put(self, *arguments: object, **more: object) -> object:  # type: ignore[override]
        if self.refuses:
            self.refuses -= 1
            raise NoSpace("the pool is full")
        return await super().put(*arguments, **more)  # type: ignore[arg-type]


async def test_what_is_in_conflict_is_given_back_once_though_the_pool_was_full(
    world: World, claim_logs: Claims, autojump_clock: trio.testing.MockClock
) -> None:
    claim_logs("102400 bytes written before a crash are in conflict", count=1)
    async with world.mount(store=DeadStore()) as (fs, _):
        handle = await write(fs, b"f", BIG)
        await close(fs, handle)
        world.die(fs)
    async with world.mount("other") as (fs, _):
        other = await fs.open(handle.inode.id)
        await fs.write(other, 0, b"theirs")
        await fs.fsync(other)
    async with world.mount("dead", store=Full()) as (fs, recovery):
        assert await recovered(fs, recovery) == {"f": BIG}
        assert len((await fs.directory(ROOT_INODE, DentryId(0), 100))[0]) == 2
    assert world.records() == []


async def test_a_file_removed_since_takes_its_bytes_along(world: World) -> None:
    async with world.mount(store=DeadStore()) as (fs, _):
        await close(fs, await write(fs, b"f", BIG))
        world.die(fs)
    async with world.mount("other") as (fs, _):
        await fs.remove(ROOT_INODE, b"f", directory=False)
    async with world.mount("dead") as (fs, recovery):
        assert (fs.writer.unsaved_bytes(), recovery.journal.rejected) == (0, 0)
    assert world.records() == []


async def test_a_time_set_after_writing_stays(world: World) -> None:
    async with world.mount(store=DeadStore(), trust_s=10.0) as (fs, _):
        handle = await write(fs, b"f", BIG)
        await close(fs, handle)
        await fs.attributes.set(handle.inode.id, mtime_ns=10**18 + 5)
        world.die(fs)
    async with world.mount("dead") as (fs, _):
        await fs.settle_all()
        assert (await fs.stat(handle.inode.id)).mtime_ns == 10**18 + 5


class OnlyTheFirst(MemoryStore):
    """Stores one chunk once it is told to, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.lets_go = trio.Event()
        self.puts = 0

    async def put(self, *arguments: object, **more: object) -> object:  # type: ignore[override]
        self.puts += 1
        if self.puts > 1:
            await trio.sleep_forever()
        await self.lets_go.wait()
        return await super().put(*arguments, **more)  # type: ignore[arg-type]


async def test_appended_bytes_that_moved_are_kept_where_they_went(world: World) -> None:
    names = Unanswered.of(world)
    store, rest, theirs = OnlyTheFirst(), os.urandom(50 * KIB), b"theirs" * 20_000
    async with world.mount("other") as (other, _), world.mount(store=store, namespace=names) as (fs, _):
        handle = await fs.create(ROOT_INODE, b"f", 0o644, NOBODY, append=True)
        for data in (BIG, rest):
            await fs.write(handle, handle.inode.size, data)
            await fs.flush(handle)
        appending = await other.open(handle.inode.id, append=True)
        await other.write(appending, 0, theirs)
        await other.fsync(appending)
        store.lets_go.set()
        await names.done.wait()
        assert handle.inode.moves == 1
        world.die(fs)
    async with world.mount("dead", store=DeadStore()) as (fs, recovery):
        assert [(freeze.bytes, freeze.end) for freeze in (await fs.inode(handle.inode.id)).frozen] == [
            (len(rest), len(theirs) + len(BIG) + len(rest))
        ]
        assert recovery.journal.rejected == 0


async def test_bytes_of_an_open_file_are_kept_once_they_are_old(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with world.mount(store=DeadStore()) as (fs, _):
        await write(fs, b"f", BIG)
        world.die(fs, "early")
        await trio.sleep(5.0)
        world.die(fs)
    async with world.mount("early") as (fs, _):
        assert await content(fs) == b""
    async with world.mount("dead") as (fs, _):
        assert await content(fs) == BIG


@pytest.mark.parametrize("writes_on", [True, False])
async def test_bytes_are_kept_once_they_are_old_also_if_they_were_on_their_way_before(
    world: World, autojump_clock: trio.testing.MockClock, writes_on: bool
) -> None:
    data = os.urandom(MIB)
    async with world.mount(store=DeadStore()) as (fs, _):
        handle = await write(fs, b"f", data)  # a whole MiB goes at once
        assert not handle.inode.active
        for number in range(5):
            await trio.sleep(1.0)
            if writes_on:
                await fs.write(handle, MIB + number, b"x")
                fs.writer.freeze(handle.inode)
        world.die(fs)
    async with world.mount("dead") as (fs, _):
        assert (await content(fs))[:MIB] == data


async def test_what_the_kernel_hands_over_after_the_close_is_kept_once_it_is_old(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Pages written through a mapping."""
    async with world.mount(store=DeadStore()) as (fs, _):
        handle = await fs.create(ROOT_INODE, b"f", 0o644, NOBODY)
        await fs.flush(handle)
        await fs.write(handle, 0, BIG)
        await fs.release(handle)
        await trio.sleep(5.0)
        world.die(fs)
    async with world.mount("dead") as (fs, _):
        assert await content(fs) == BIG


async def test_where_close_waits_no_journal_is_written(world: World) -> None:
    async with world.mount(limits=Limits()) as (fs, _):
        await close(fs, await write(fs, b"f", BIG))
        assert not (world.root / "home").exists()


async def test_a_mount_whose_close_waits_finishes_what_is_left_and_keeps_nothing_of_its_own(world: World) -> None:
    async with world.mount(store=DeadStore()) as (fs, _):
        await close(fs, await write(fs, b"f", BIG))
        world.die(fs)
    async with world.mount("dead", limits=Limits()) as (fs, recovery):
        assert isinstance(recovery.journal, Journal)
        assert await content(fs) == BIG
        await close(fs, await write(fs, b"g", BIG))
        await fs.settle_all()
        await recovery.journal.sync()
        assert sum(path.stat().st_size for path in world.records()) < KIB
    assert world.records() == []


async def test_a_journal_stays_small_though_one_file_is_never_stored(world: World) -> None:
    class OneIsStuck(MemoryStore):
        async def put(self, *arguments: object, **more: object) -> object:  # type: ignore[override]
            if not self.is_stuck.is_set():
                self.is_stuck.set()
                await trio.sleep_forever()
            return await super().put(*arguments, **more)  # type: ignore[arg-type]

        is_stuck = trio.Event()

    store = OneIsStuck()
    async with world.mount(store=store) as (fs, recovery):
        assert isinstance(recovery.journal, Journal)
        recovery.journal._segment_bytes, recovery.journal._most_bytes = 64 * KIB, MIB
        await close(fs, await write(fs, b"f", BIG))
        await store.is_stuck.wait()
        for number in range(100):
            await close(fs, await write(fs, b"%d" % number, os.urandom(50 * KIB)))
            await recovery.journal.sync()
            assert sum(path.stat().st_size for path in world.records("home")) < 2 * MIB
        world.die(fs)
    async with world.mount("dead") as (fs, recovery):
        assert await content(fs) == BIG
        assert recovery.journal.rejected == 0


async def test_a_journal_stays_small_though_changes_wait_for_the_coordinator(world: World) -> None:
    waiting: list[Operation] = [SetAttributes(1, number) for number in range(3)]
    async with world.mount() as (fs, recovery):
        assert isinstance(recovery.journal, Journal)
        recovery.journal._segment_bytes, recovery.journal._most_bytes = 64 * KIB, MIB
        fs.journal.opened("one")
        fs.journal.queued(waiting[:2])
        fs.journal.queued(waiting[2:])
        for number in range(50):
            await close(fs, await write(fs, b"%d" % number, os.urandom(50 * KIB)))
            await recovery.journal.sync()
            assert sum(path.stat().st_size for path in world.records("home")) < 2 * MIB
        await fs.settle_all()
        world.die(fs)
        fs.journal.committed(waiting)
    assert world.records("home") == []
    async with world.mount("dead") as (fs, recovery):
        assert world.sent == [("one", waiting)]
        assert recovery.journal.rejected == 0


async def test_where_the_disk_of_the_journal_is_full_each_close_waits_until_its_file_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    claim_logs("the journal of this mount ends", count=1)
    async with world.mount() as (fs, recovery):
        await close(fs, await write(fs, b"f", BIG))

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "full")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            handle = await write(fs, b"g", BIG)
            await fs.flush(handle)
            assert not handle.inode.is_dirty
        await close(fs, await write(fs, b"h", BIG))
        assert world.records("home") == []
        assert not recovery.journal.keeps
    async with world.mount("empty") as (fs, _):
        assert [await content(fs, name) for name in (b"g", b"h")] == [BIG, BIG]


async def test_where_the_disk_is_full_what_is_left_is_stored_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    claim_logs("the journal of this mount ends", count=2)
    async with world.mount(store=DeadStore()) as (fs, _):
        await close(fs, await write(fs, b"f", BIG))
        world.die(fs)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(Segments, "begin", full)
        async with world.mount("dead", store=DeadStore()) as (fs, _):
            assert await content(fs) == BIG
        assert world.records()
    with monkeypatch.context() as patch:
        patch.setattr(Segments, "begin", full)
        async with world.mount("dead") as (fs, _):
            await close(fs, await write(fs, b"g", BIG))
            await fs.settle_all()
    assert not world.records()
    async with world.mount("empty") as (fs, _):
        assert [await content(fs, name) for name in (b"f", b"g")] == [BIG, BIG]


async def test_where_no_journal_can_be_made_each_close_waits_until_its_file_is_stored(
    world: World, claim_logs: Claims
) -> None:
    claim_logs("the journal cannot be used", count=1)
    (world.root / "home").mkdir()
    (world.root / "home" / "journal").write_text("no directory")
    async with world.mount() as (fs, _):
        handle = await write(fs, b"f", BIG)
        await fs.flush(handle)
        assert not handle.inode.is_dirty


async def test_a_damaged_journal_is_kept_aside_and_what_can_be_read_is_stored(world: World, claim_logs: Claims) -> None:
    claim_logs("the journal is damaged", count=1)
    async with world.mount(store=DeadStore()) as (fs, _):
        await close(fs, await write(fs, b"f", BIG))
        length = world.records("home")[0].stat().st_size
        await close(fs, await write(fs, b"g", BIG))
        world.die(fs)
    path = world.records()[0]
    data = bytearray(path.read_bytes())
    data[length + 5000] ^= 1
    path.write_bytes(data)
    async with world.mount("dead") as (fs, recovery):
        assert (await content(fs), await content(fs, b"g")) == (BIG, b"")
        assert recovery.journal.rejected == 1
    assert [one.read_bytes() for one in (world.root / "dead" / "journal").glob("*/damaged/*")] == [bytes(data)]


async def test_a_segment_that_is_torn_although_another_followed_is_damaged(world: World, claim_logs: Claims) -> None:
    """The power went before the disk had it: what made the file may have been in the hole."""
    claim_logs("the journal is damaged", count=1)
    claim_logs("102400 bytes written before a crash are in conflict", count=1)
    async with world.mount(store=DeadStore()) as (fs, recovery):
        assert isinstance(recovery.journal, Journal)
        recovery.journal._segment_bytes = 1  # each record in its own
        handle = await write(fs, b"f", BIG)
        await close(fs, handle)
        world.die(fs)
    async with world.mount("other") as (fs, _):
        await fs.remove(ROOT_INODE, b"f", directory=False)  # as if it had never been made
    first = min(world.records())
    first.write_bytes(first.read_bytes()[:-1])
    aside = first.parent / "damaged"
    aside.mkdir()
    (aside / "of another crash").write_bytes(b"")
    async with world.mount("dead") as (fs, recovery):
        assert recovery.journal.rejected == 2
        assert await recovered(fs, recovery) == {"f": BIG}
    assert first.name in os.listdir(aside)
    assert "of another crash" not in os.listdir(aside)


@pytest.mark.parametrize("left", [-1, 60, 20, 0], ids=["in-a-record", "in-the-first", "in-the-header", "empty"])
async def test_a_torn_end_is_cut_so_that_it_is_no_hole_to_the_mount_after_the_next(world: World, left: int) -> None:
    async with world.mount(store=DeadStore()) as (fs, recovery):
        await close(fs, await write(fs, b"f", BIG))
        assert isinstance(recovery.journal, Journal)
        recovery.journal.segments.begin()
        await close(fs, await write(fs, b"g", BIG))
        world.die(fs)
    torn = max(world.records())
    torn.write_bytes(torn.read_bytes()[:left])
    async with world.mount("dead", store=DeadStore()) as (fs, recovery):
        assert (await content(fs), await content(fs, b"g")) == (BIG, b"")
        world.die(fs, "next")
    async with world.mount("next") as (fs, recovery):
        assert await content(fs) == BIG
        assert recovery.journal.rejected == 0


async def test_names_that_were_finished_are_not_sent_again_while_bytes_beside_them_wait(world: World) -> None:
    async with world.mount(store=DeadStore()) as (fs, _):
        fs.journal.opened("one")
        fs.journal.queued([SetAttributes(1, 1), SetAttributes(1, 2)])
        await close(fs, await write(fs, b"f", BIG))
        world.die(fs)
    async with world.mount("dead", store=DeadStore()) as (fs, _):
        assert world.sent == [("one", [SetAttributes(1, 1), SetAttributes(1, 2)])]
        world.die(fs, "between")
        fs.journal.opened("two")
        fs.journal.queued([SetAttributes(1, 3)])
        world.die(fs, "next")
    for home, expected in (("between", []), ("next", [("two", [SetAttributes(1, 3)])])):
        world.sent.clear()
        async with world.mount(home, store=DeadStore()) as (fs, recovery):
            assert world.sent == expected
            assert await content(fs) == BIG
            assert recovery.journal.rejected == 0


async def test_names_behind_committed_ones_whose_segment_is_deleted_are_found(world: World) -> None:
    async with world.mount() as (fs, recovery):
        assert isinstance(recovery.journal, Journal)
        recovery.journal._segment_bytes = 1  # each record in its own
        fs.journal.opened("one")
        for number in range(4):
            fs.journal.queued([SetAttributes(1, number)])
        sent: list[Operation] = [SetAttributes(1, 0), Released(2), SetAttributes(1, 1)]
        fs.journal.sending(Batch(1, 1, sent, epoch=5))
        fs.journal.committed(sent)
        assert len(world.records("home")) >= 5
        await recovery.journal.sync()
        assert len(world.records("home")) < 5
        world.die(fs)
    async with world.mount("dead") as (fs, recovery):
        assert world.sent == [("one", [SetAttributes(1, 2), SetAttributes(1, 3)])]
        assert recovery.journal.rejected == 0
