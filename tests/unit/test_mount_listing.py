"""Directories through the FUSE handlers while the mount holds the delegation: what is known is not asked for again."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import ANY

import pyfuse3
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from volumes import ROOT_HEAD, VOLUME, filesystem, ticking

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway, Corrupt, NotFound, PoolError
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import ROOT_INODE, DentryId, InodeId, Kind, VolumeId
from p2pfs.vfs import inode_table
from p2pfs.vfs import tree as tree_module
from p2pfs.vfs.delegation.ahead import DIRECTORIES
from p2pfs.vfs.delegation.delegated import SETTLING_S, Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.glimpses import Glimpse
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import RENAME_EXCHANGE, Attributes, DirectoryPage, SetAttributes, Unlink
from p2pfs_mount import operations as operations_module
from p2pfs_mount.operations import Operations
from p2pfs_mount.trust import KERNEL_CACHE_S

pytestmark = pytest.mark.l2

ROOT = pyfuse3.InodeT(ROOT_INODE)
NOBODY = Owner(0, 0)
ROOM = 40


class Session(MemoryNamespace):
    """Counts the directory pages it is asked for."""

    def __init__(self, volume: MemoryVolume) -> None:
        super().__init__(volume, volume.session().number, read_only=False)
        self.pages: list[tuple[int, int]] = []
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.error: PoolError | None = None

    async def directory(self, inode: InodeId, after: DentryId, limit: int, *, content: bool = False) -> DirectoryPage:
        self.pages.append((inode, after))
        page = await super().directory(inode, after, limit, content=content)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return page


class Buffer:
    """The kernel's: takes a few entries a call."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: list[tuple[bytes, Any, int]] = []
        self.timeouts: list[tuple[float, float]] = []

    def take(self, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        if len(self.entries) >= self.room:
            return False
        self.entries.append((name, told(entry), cookie))
        self.timeouts.append((entry.entry_timeout, entry.attr_timeout))
        return True


def told(entry: pyfuse3.EntryAttributes) -> tuple[object, ...]:
    """What the kernel takes of an answer."""
    times = entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns
    return entry.st_ino, entry.st_size, entry.st_mode, times, entry.entry_timeout > 1.0, entry.attr_timeout > 1.0


@pytest.fixture(autouse=True)
def _replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", lambda buffer, name, entry, cookie: buffer.take(name, entry, cookie))


@asynccontextmanager
async def mounted(files: int, directories: int = 0) -> AsyncIterator[tuple[Session, Filesystem, Operations]]:
    """A volume with some files that another mount made, delegated to this one. Directories have one file each."""
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    maker = volume.session()
    async with filesystem(maker, MemoryStore()) as other:
        for number in range(files):
            await other.make(ROOT_INODE, b"%d" % number, Kind.FILE, 0o644, NOBODY)
        for number in range(directories):
            made = await other.make(ROOT_INODE, b"d%02d" % number, Kind.DIRECTORY, 0o755, NOBODY)
            await other.make(made.id, b"below", Kind.FILE, 0o644, NOBODY)
    volume.end(maker.number)
    session = Session(volume)
    delegated = Delegated(session, now=trio.current_time, io_timeout_s=30.0)
    async with (
        filesystem(
            delegated,
            MemoryStore(),
            trust=delegated.trust_s,
            holds=lambda: delegated.holds,
            known_page=delegated.known_page,
            now_ns=ticking(2 * 10**18),
        ) as fs,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(Holding(delegated, trio.current_time).hold)
        await wait_all_tasks_blocked()
        await trio.sleep(2 * SETTLING_S)
        assert delegated.trust_s() > 1.0
        yield session, fs, Operations(fs, io_timeout_s=30.0)
        nursery.cancel_scope.cancel()


async def listing(
    operations: Operations, number: int = ROOT, *, then: Callable[[], Awaitable[object]] | None = None
) -> dict[bytes, Any]:
    """What the kernel is told, without the dots; `then` is done when it was told one entry."""
    fh = await operations.opendir(pyfuse3.InodeT(number), None)  # type: ignore[arg-type]  # no context is used
    found: list[tuple[bytes, Any, int]] = []
    while True:
        buffer: Any = Buffer(3 if then is not None else ROOM)
        await operations.readdir(fh, found[-1][2] if found else 0, buffer)
        if not buffer.entries:
            break
        found += buffer.entries
        if then is not None:
            await then()
            then = None
    await operations.releasedir(fh)
    assert [entry[0] for entry in found[:2]] == [b".", b".."]
    return {name: told for name, told, _ in found[2:]}


async def test_a_directory_that_was_listed_is_known(autojump_clock: object) -> None:
    async with mounted(100) as (session, _, operations):
        first = await listing(operations)
        assert sorted(first) == sorted(b"%d" % number for number in range(100))
        session.pages.clear()
        assert await listing(operations) == first
        assert session.pages == []


async def _written(fs: Filesystem) -> None:
    handle = await fs.open(await _number(fs, b"1"), writes=True)
    await fs.write(handle, 0, b"twelve bytes")
    await fs.release(handle)


async def _number(fs: Filesystem, name: bytes) -> InodeId:
    return (await fs.lookup(ROOT_INODE, name)).id


async def _held_open(fs: Filesystem) -> None:
    await fs.write(await fs.open(await _number(fs, b"2"), writes=True), 5, b"unsaved")


async def _looked_into(fs: Filesystem) -> None:
    handle = await fs.open(await _number(fs, b"3"))
    await fs.read(handle, 0, 1)
    await fs.release(handle)


async def _read_at(fs: Filesystem) -> None:
    await fs.attributes.set(await _number(fs, b"3"), atime_ns=5)


CHANGES: dict[str, Callable[[Filesystem], Awaitable[object]]] = {
    "nothing": lambda fs: fs.lookup(ROOT_INODE, b"1"),
    "made": lambda fs: fs.make(ROOT_INODE, b"new", Kind.FILE, 0o644, NOBODY),
    "removed": lambda fs: fs.remove(ROOT_INODE, b"1", directory=False),
    "moved": lambda fs: fs.rename(ROOT_INODE, b"1", ROOT_INODE, b"moved", 0),
    "replaced": lambda fs: fs.rename(ROOT_INODE, b"1", ROOT_INODE, b"2", 0),
    "exchanged": lambda fs: fs.rename(ROOT_INODE, b"1", ROOT_INODE, b"2", RENAME_EXCHANGE),
    "written": _written,
    "held open": _held_open,
    "looked into": _looked_into,
    "read": _read_at,
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_listing_shows_what_was_changed_since_the_last(change: str, autojump_clock: object) -> None:
    async with mounted(60) as (_, fs, operations):
        await fs.attributes.set(await _number(fs, b"1"), mode=0o600)
        before = await listing(operations)
        await CHANGES[change](fs)
        after = await listing(operations)
        assert (after == before) == (change == "nothing")
        assert after == await looked_up(operations, [*map(b"%d".__mod__, range(60)), b"new", b"moved"])
        assert await listing(operations) == after


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "made"])  # what is new need not be shown
async def test_a_listing_under_way_shows_what_was_changed_since_it_began(change: str, autojump_clock: object) -> None:
    async with mounted(60) as (session, fs, operations):
        found = await listing(operations, then=lambda: CHANGES[change](fs))
        assert found == await looked_up(operations, [*map(b"%d".__mod__, range(60)), b"moved"])
        assert len(session.pages) == 1


async def test_a_listing_under_way_goes_on_when_all_it_would_show_was_forgotten(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inode_table, "IDLE_INODES", 2)
    async with mounted(60) as (_, fs, operations):
        assert len(await listing(operations, then=lambda: _written(fs))) == 60


async def test_a_listing_that_takes_long_does_not_rest_on_what_it_fetched_at_first(autojump_clock: object) -> None:
    async with mounted(60) as (session, fs, operations):
        delegated: Any = fs._namespace
        number = await _number(fs, b"5")

        async def lose_and_regain() -> None:
            await session.apply([SetAttributes(number, 7, mode=0o600)])
            delegated._known.clear()
            await trio.sleep(KERNEL_CACHE_S)

        found = await listing(operations, then=lose_and_regain)
        assert found == await looked_up(operations, [*map(b"%d".__mod__, range(60))])
        assert found[b"5"][2] & 0o777 == 0o600


async def test_the_kernel_believes_what_was_fetched_before_for_so_much_shorter(autojump_clock: object) -> None:
    volume = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME)
    async with filesystem(volume.session(), MemoryStore()) as fs:
        for name in (b"a", b"b"):
            await fs.make(ROOT_INODE, name, Kind.FILE, 0o644, NOBODY)
        operations = Operations(fs, io_timeout_s=30.0)
        fh = await operations.opendir(ROOT, None)  # type: ignore[arg-type]
        first: Any = Buffer(3)
        await operations.readdir(fh, 0, first)
        await trio.sleep(KERNEL_CACHE_S / 4)
        rest: Any = Buffer(ROOM)
        await operations.readdir(fh, first.entries[-1][2], rest)
        assert first.timeouts[-1] == (KERNEL_CACHE_S, KERNEL_CACHE_S)
        assert rest.timeouts == [(pytest.approx(KERNEL_CACHE_S * 3 / 4), pytest.approx(KERNEL_CACHE_S * 3 / 4))]


async def test_a_listing_shows_what_is_unsaved_of_an_inode_that_was_forgotten_since(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inode_table, "IDLE_INODES", 2)
    async with mounted(60) as (_, fs, operations):
        await listing(operations)
        await _held_open(fs)
        assert (await listing(operations))[b"2"][1] == 5 + len(b"unsaved")


async def looked_up(operations: Operations, names: list[bytes]) -> dict[bytes, Any]:
    """What the kernel is told of each, those that are not there left out."""
    found = {}
    for name in names:
        entry = await operations.lookup(ROOT, name, None)  # type: ignore[arg-type]
        if entry.st_ino:
            found[name] = told(entry)
    return found


async def test_each_listing_counts_as_references(autojump_clock: object) -> None:
    async with mounted(3) as (_, fs, operations):
        below = await fs.make(ROOT_INODE, b"below", Kind.DIRECTORY, 0o755, NOBODY)
        for times in (1, 2, 3):
            for name in await listing(operations):
                assert fs._table.references(await _number(fs, name)) == times, name
        await operations.forget([(pyfuse3.InodeT(below.id), 3)])
        assert not fs._table.is_in_use(below.id)


async def test_the_next_page_is_on_its_way_while_one_is_given_away_and_asked_for_once(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations_module, "PAGE_ENTRIES", 10)
    async with mounted(35) as (session, _, operations):
        fh = await operations.opendir(ROOT, None)  # type: ignore[arg-type]
        first: Any = Buffer(5)
        await operations.readdir(fh, 0, first)
        session.may_answer = trio.Event()
        await wait_all_tasks_blocked()
        assert len(session.pages) == 2
        async with trio.open_nursery() as nursery:
            found: list[dict[bytes, Any]] = []

            async def read() -> None:
                found.append(await listing(operations))

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            session.may_answer.set()
        assert sorted(found[0]) == sorted(b"%d" % number for number in range(35))
        assert len(session.pages) == len(set(session.pages)) == 4


async def test_the_next_directories_of_a_walk_are_fetched_together(autojump_clock: object) -> None:
    async with mounted(1, directories=20) as (session, _, operations):
        below = [told[0] for name, told in (await listing(operations)).items() if name.startswith(b"d")]
        await wait_all_tasks_blocked()
        assert sorted(number for number, _ in session.pages) == [ROOT, *below[:2]]
        session.pages.remove((ROOT, 0))
        assert await listing(operations, below[0]) == {b"below": ANY}
        await wait_all_tasks_blocked()
        assert sorted(number for number, _ in session.pages) == below[:9]
        for at, number in enumerate(below[1:], 1):
            assert await listing(operations, number) == {b"below": ANY}
            await wait_all_tasks_blocked()
            assert len(session.pages) - at - 1 <= DIRECTORIES
        assert sorted(number for number, _ in session.pages) == below


@pytest.mark.parametrize("at", [3, 19])
async def test_looking_into_one_directory_fetches_no_others(at: int, autojump_clock: object) -> None:
    async with mounted(1, directories=20) as (session, _, operations):
        below = [told[0] for name, told in (await listing(operations)).items() if name.startswith(b"d")]
        await wait_all_tasks_blocked()
        session.pages.clear()
        await listing(operations, below[at])
        await wait_all_tasks_blocked()
        assert session.pages == [(below[at], 0)]


async def test_nothing_is_fetched_ahead_once_the_delegation_is_over(autojump_clock: object) -> None:
    async with mounted(1, directories=20) as (session, fs, operations):
        below = [told[0] for name, told in (await listing(operations)).items() if name.startswith(b"d")]
        await wait_all_tasks_blocked()
        delegated: Any = fs._namespace
        session.pages.clear()
        session.may_answer = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listing, operations, below[2])
            await wait_all_tasks_blocked()
            delegated.recalled.set()
            session.may_answer.set()
        await wait_all_tasks_blocked()
        assert {number for number, _ in session.pages} == {below[2]}


async def test_what_could_not_be_fetched_ahead_is_asked_for_when_it_is_wanted(autojump_clock: object) -> None:
    async with mounted(1, directories=3) as (session, _, operations):
        below = [told[0] for name, told in (await listing(operations)).items() if name.startswith(b"d")]
        await listing(operations, below[0])
        session.error = CoordinatorAway("nobody answers")
        await wait_all_tasks_blocked()
        session.error = None
        for number in below:
            assert await listing(operations, number) == {b"below": ANY}


async def test_a_page_that_was_asked_for_before_everything_was_forgotten_is_not_believed(
    autojump_clock: object,
) -> None:
    async with mounted(3) as (session, fs, operations):
        delegated: Any = fs._namespace
        session.may_answer = trio.Event()
        found: list[dict[bytes, Any]] = []

        async def read() -> None:
            found.append(await listing(operations))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            sealed = fs.tree._seal(ROOT_INODE, b"1")
            gone = (await session.lookup(ROOT_INODE, sealed)).attributes.inode
            await session.apply([Unlink(ROOT_INODE, sealed, gone, False, 5)])
            delegated._known.clear()
            session.may_answer.set()
        assert sorted(found[0]) == [b"0", b"2"]


# ---- opened ahead


async def _first(fs: Filesystem, limit: int) -> DentryId:
    """List so many entries; the last one's cookie."""
    return (await fs.directory(ROOT_INODE, DentryId(0), limit))[0][-1].cookie


@pytest.fixture
def glimpsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes whose heads were opened for a listing."""
    found: list[int] = []

    class Counted(Glimpse):
        __slots__ = ()

        def __init__(self, keys: VolumeKeys, volume: VolumeId, attributes: Attributes) -> None:
            found.append(attributes.inode)
            super().__init__(keys, volume, attributes)

    monkeypatch.setattr(inode_table, "Glimpse", Counted)
    return found


async def read(operations: Operations, fh: pyfuse3.FileHandleT, start: int) -> list[tuple[bytes, Any, int]]:
    """One answer, and what is done behind it."""
    buffer: Any = Buffer(ROOM)
    await operations.readdir(fh, start, buffer)
    await wait_all_tasks_blocked()
    return list(buffer.entries)


async def test_what_is_listed_next_is_opened_while_a_program_reads_on_and_once(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, glimpsed: list[int]
) -> None:
    monkeypatch.setattr(operations_module, "PAGE_ENTRIES", 100)
    monkeypatch.setattr(tree_module, "AHEAD_AT_ONCE", 30)
    async with mounted(260) as (session, _, operations):
        fh = await operations.opendir(ROOT, None)  # type: ignore[arg-type]
        found, opened = await read(operations, fh, 0), []
        assert len(glimpsed) == 100  # who looks at the beginning only wants no more
        while entries := await read(operations, fh, found[-1][2]):
            opened.append(len(glimpsed))
            found += entries
        await operations.releasedir(fh)
        assert opened[:4] == [130, 160, 200, 230]
        assert len(glimpsed) == len(set(glimpsed)) == 260
        assert [entry[0] for entry in found[2:]] == [b"%d" % number for number in range(260)]
        assert len(session.pages) == 3  # opening asks for nothing


@pytest.mark.parametrize("change", CHANGES)
async def test_what_was_opened_ahead_is_shown_as_it_is_when_it_is_given(change: str, autojump_clock: object) -> None:
    async with mounted(60) as (_, fs, _):
        await fs._namespace.directory(ROOT_INODE, DentryId(0), 100)  # all is known, and nothing opened
        at = await _first(fs, 1)
        fs.listing_ahead.want(ROOT_INODE, at, 100)
        await wait_all_tasks_blocked()
        assert len(fs.tree._ahead[ROOT_INODE].entries) == 59
        await CHANGES[change](fs)
        shown = {name: inode.stat() for name, _, inode in (await fs.directory(ROOT_INODE, at, 100))[0]}
        wanted = {}
        for name in [*map(b"%d".__mod__, range(1, 60)), b"new", b"moved"]:
            with contextlib.suppress(NotFound):
                wanted[name] = (await fs.lookup(ROOT_INODE, name)).stat()
        assert shown == wanted


async def test_what_cannot_be_opened_ahead_is_told_to_who_lists_it(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(60) as (_, fs, _):
        await fs._namespace.directory(ROOT_INODE, DentryId(0), 100)
        check = fs.tree._check_tag

        def refused(parent: InodeId, name: bytes, *rest: object) -> None:
            if name == b"30":
                raise Corrupt("a directory entry was changed by somebody without the key")
            check(parent, name, *rest)  # type: ignore[arg-type]

        with monkeypatch.context() as damaged:
            damaged.setattr(fs.tree, "_check_tag", refused)
            at = await _first(fs, 20)
            fs.listing_ahead.want(ROOT_INODE, at, 20)
            await wait_all_tasks_blocked()
            assert len(fs.tree._ahead[ROOT_INODE].entries) == 10
            with pytest.raises(Corrupt):
                await fs.directory(ROOT_INODE, at, 20)
        assert len((await fs.directory(ROOT_INODE, at, 20))[0]) == 20


async def test_what_nobody_knows_or_may_change_is_not_opened_ahead(autojump_clock: object) -> None:
    async with mounted(60) as (session, fs, _):
        session.may_answer = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_first, fs, 20)
            await wait_all_tasks_blocked()
            session.may_answer.set()
            session.may_answer = trio.Event()  # what follows is on its way
        at = (await fs.directory(ROOT_INODE, DentryId(0), 20))[0][-1].cookie
        fs.listing_ahead.want(ROOT_INODE, at, 20)
        await wait_all_tasks_blocked()
        assert fs.tree._ahead == {}
        session.may_answer.set()
        await wait_all_tasks_blocked()
        delegated: Any = fs._namespace
        delegated._known.clear()
        session.pages.clear()
        fs.listing_ahead.want(ROOT_INODE, at, 20)
        await wait_all_tasks_blocked()
        await delegated.directory(ROOT_INODE, DentryId(0), 100)
        delegated.recalled.set()
        fs.listing_ahead.want(ROOT_INODE, at, 20)
        await wait_all_tasks_blocked()
        assert fs.tree._ahead == {}
        assert session.pages == [(ROOT, 0)]


async def test_only_the_directories_listed_last_are_opened_ahead(autojump_clock: object) -> None:
    async with mounted(0, directories=5) as (_, fs, operations):
        below = [InodeId(told[0]) for told in (await listing(operations)).values()]
        for number in below:
            fs.tree.open_ahead(number, await fs._namespace.directory(number, DentryId(0), 10))
        assert list(fs.tree._ahead) == below[-tree_module.MOST_AHEAD :]


async def test_a_full_page_stays_the_same_whatever_comes_behind_it(autojump_clock: object) -> None:
    async with mounted(35) as (_, fs, _):
        at = await _first(fs, 10)
        await wait_all_tasks_blocked()
        namespace = fs._namespace
        page = await namespace.directory(ROOT_INODE, at, 10)
        await wait_all_tasks_blocked()  # what follows is known now
        assert await namespace.directory(ROOT_INODE, at, 10) is page
        await fs.make(ROOT_INODE, b"new", Kind.FILE, 0o644, NOBODY)
        assert await namespace.directory(ROOT_INODE, at, 10) is page
        await fs.remove(ROOT_INODE, b"12", directory=False)
        assert [
            fs.tree._open(ROOT_INODE, entry.name) for entry in (await namespace.directory(ROOT_INODE, at, 10)).entries
        ] == [b"%d" % number for number in (10, 11, *range(13, 21))]
