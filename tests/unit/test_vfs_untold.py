"""Small files that were listed without their content: it is asked for when the first is read, for those behind it too,
and what is not known never passes for empty.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from volumes import KEYS, ROOT_HEAD, VOLUME, filesystem, ticking

from p2pfs.chunks.cached import CachedStore
from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import CoordinatorAway
from p2pfs.format.heads import Head, seal_head
from p2pfs.meta.memory import MemoryNamespace, MemoryVolume
from p2pfs.types import KIB, MIB, ROOT_INODE, DentryId, InodeId, Kind
from p2pfs.vfs import inode_table
from p2pfs.vfs.delegation import contents
from p2pfs.vfs.delegation.delegated import Delegated
from p2pfs.vfs.delegation.holding import Holding
from p2pfs.vfs.fetching import Warmth
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import UNTOLD, Attributes, DirectoryPage

pytestmark = pytest.mark.l2

NOBODY = Owner(0, 0)
FILES = 100
AWAY_S = 30.0


class Session(MemoryNamespace):
    """Notes what it is asked for, and lets something happen while content is on its way."""

    def __init__(self, volume: MemoryVolume) -> None:
        super().__init__(volume, volume.session().number, read_only=False)
        self.pages: list[tuple[int, bool, int]] = []  # directory, with content, entries
        self.alone: list[int] = []
        self.meanwhile: Callable[[], Awaitable[object]] | None = None
        self.is_away = False

    async def directory(self, inode: InodeId, after: DentryId, limit: int, *, content: bool = False) -> DirectoryPage:
        await self._answers()
        page = await super().directory(inode, after, limit, content=content)
        self.pages.append((inode, content, len(page.entries)))
        if content and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return page

    async def attributes(self, inode: InodeId) -> Attributes:
        self.alone.append(inode)
        await self._answers()
        return await super().attributes(inode)

    async def _answers(self) -> None:
        if self.is_away:
            await trio.sleep(AWAY_S)
            raise CoordinatorAway("no answer")


def text(number: int) -> bytes:
    return b"content of %d" % number


@asynccontextmanager
async def mounted(
    directories: int = 0, cache: Path | None = None
) -> AsyncIterator[tuple[Session, Filesystem, list[InodeId]]]:
    """A volume that another mount filled with small files, delegated to this one; their numbers. In the root, or as
    many in each of some directories, whose numbers are given then."""
    volume, store = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), MemoryStore()
    maker, numbers = volume.session(), []
    async with filesystem(maker, store) as other:
        places = [ROOT_INODE]
        if directories:
            made = [
                await other.make(ROOT_INODE, b"d%d" % at, Kind.DIRECTORY, 0o755, NOBODY) for at in range(directories)
            ]
            numbers = places = [one.id for one in made]
        for place in places:
            for number in range(FILES):
                file = await other.create(place, b"%d" % number, 0o644, NOBODY)
                await other.write(file, 0, text(number))
                await other.fsync(file)
                await other.release(file)
                if not directories:
                    numbers.append(file.inode.id)
    volume.end(maker.number)
    session = Session(volume)
    delegated = Delegated(session, now=trio.current_time, io_timeout_s=30.0)
    async with (
        trio.open_nursery() as filling,
        filesystem(
            delegated, await cached(store, cache, filling), holds=lambda: delegated.holds, now_ns=ticking(2 * 10**18)
        ) as fs,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(Holding(delegated, trio.current_time).hold)
        await wait_all_tasks_blocked()
        yield session, fs, numbers
        nursery.cancel_scope.cancel()


async def cached(store: MemoryStore, root: Path | None, nursery: trio.Nursery) -> MemoryStore | CachedStore:
    if root is None:
        return store
    return await CachedStore.open(store, root, budget=64 * MIB, nursery=nursery, keep_free=0)


async def nobody_hears(_: Warmth) -> None:
    await trio.lowlevel.checkpoint()


async def listed(fs: Filesystem, number: InodeId = ROOT_INODE) -> list[bytes | None]:
    found, complete = await fs.directory(number, DentryId(0), 1000)
    assert complete
    assert len(found) >= FILES
    return [inode.attributes.inline for _, _, inode in found]


async def read(fs: Filesystem, number: InodeId) -> bytes:
    handle = await fs.open(number)
    try:
        return bytes(await fs.read(handle, 0, KIB))
    finally:
        await fs.release(handle)


async def test_a_listing_leaves_content_out_and_reading_brings_that_of_others_along(autojump_clock: object) -> None:
    async with mounted() as (session, fs, numbers):
        assert await listed(fs) == [UNTOLD] * FILES
        assert session.pages == [(ROOT_INODE, False, FILES)]
        session.pages.clear()
        session.alone.clear()
        for at, number in enumerate(numbers):
            assert await read(fs, number) == text(at)
        assert session.pages == [(ROOT_INODE, True, 16), (ROOT_INODE, True, 64), (ROOT_INODE, True, FILES - 16 - 64)]
        assert session.alone == []


async def test_who_reads_backwards_fetches_few_at_once(autojump_clock: object) -> None:
    async with mounted() as (session, fs, numbers):
        await listed(fs)
        session.pages.clear()
        for number in reversed(numbers):
            assert await read(fs, number) == text(numbers.index(number))
        assert max(count for _, _, count in session.pages) == contents.FIRST


@pytest.mark.parametrize("order", ["random", "backwards", "eight at once"])
async def test_whatever_the_order_little_is_fetched_twice(order: str, autojump_clock: object) -> None:
    async with mounted() as (session, fs, numbers):
        await listed(fs)
        session.pages.clear()
        session.alone.clear()
        wanted = list(enumerate(numbers))
        if order == "random":
            random.Random(1).shuffle(wanted)
        elif order == "backwards":
            wanted.reverse()
        else:
            wanted = [wanted[start + at] for at in range(FILES // 8) for start in range(0, FILES - 8, FILES // 8)]
        for at, number in wanted:
            assert await read(fs, number) == text(at)
        pages = [count for _, _, count in session.pages]
        if order == "backwards":  # each lies before what was fetched
            assert max(pages) == contents.FIRST
        else:
            assert len(pages) < FILES // 4
            assert sum(pages) < 4 * FILES
        assert session.alone == []


async def test_what_is_fetched_and_not_read_is_bounded(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    monkeypatch.setattr(contents, "UNREAD_BYTES", 1000)
    async with mounted() as (session, fs, numbers):
        await listed(fs)
        session.pages.clear()
        session.alone.clear()
        for at, number in reversed(list(enumerate(numbers))):
            assert await read(fs, number) == text(at)
        assert len(session.pages) < 40
        assert len(session.alone) > FILES // 2


async def test_who_waited_for_a_page_that_failed_does_not_wait_for_it_again(autojump_clock: object) -> None:
    async with mounted() as (session, fs, numbers):
        await listed(fs)
        handles = [await fs.open(number) for number in numbers[:64]]
        session.is_away = True
        began, refused = trio.current_time(), 0

        async def refuses(handle: Handle) -> None:
            nonlocal refused
            with pytest.raises(CoordinatorAway):
                await fs.read(handle, 0, KIB)
            refused += 1

        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(refuses, handle)
        assert refused == 64
        assert trio.current_time() - began < 5 * AWAY_S  # not 64 times
        session.is_away = False
        assert bytes(await fs.read(handles[0], 0, KIB)) == text(0)


async def test_a_warm_file_is_read_while_nobody_answers(tmp_path: Path, autojump_clock: object) -> None:
    async with mounted(cache=tmp_path) as (session, fs, numbers):
        await listed(fs)
        await fs.warming.warm([ROOT_INODE], nobody_hears)
        session.is_away = True
        for at, number in enumerate(numbers):
            assert await read(fs, number) == text(at)


async def test_a_file_that_left_the_table_while_it_was_asked_for_is_cut(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async with mounted() as (session, fs, numbers):
        await listed(fs)

        async def meanwhile() -> None:
            monkeypatch.setattr(inode_table, "IDLE_INODES", 2)
            for at in range(4):
                await fs.make(ROOT_INODE, b"new %d" % at, Kind.FILE, 0o644, NOBODY)

        session.meanwhile = meanwhile
        await fs.attributes.set(numbers[5], size=3)
        assert session.meanwhile is None
        assert await read(fs, numbers[5]) == text(5)[:3]


async def test_of_several_readers_of_a_file_one_fetches(autojump_clock: object) -> None:
    async with mounted() as (session, fs, numbers):
        await listed(fs)
        session.pages.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read, fs, numbers[0])
        assert session.pages == [(ROOT_INODE, True, contents.FIRST)]


async def test_while_listed_files_are_read_listings_bring_their_content(autojump_clock: object) -> None:
    async with mounted(directories=3) as (_, fs, places):
        await listed(fs, places[0])
        found, _ = await fs.directory(places[0], DentryId(0), 1000)
        assert await read(fs, found[0].inode.id) == text(0)
        assert None not in await listed(fs, places[1])
        assert UNTOLD not in await listed(fs, places[1])
        await trio.sleep(contents.READ_S)
        assert await listed(fs, places[2]) == [UNTOLD] * FILES


async def test_what_was_moved_since_it_was_listed_is_read(autojump_clock: object) -> None:
    async with mounted() as (_, fs, numbers):
        away = await fs.make(ROOT_INODE, b"away", Kind.DIRECTORY, 0o755, NOBODY)
        await listed(fs)
        await fs.rename(ROOT_INODE, b"5", away.id, b"moved", 0)
        assert await read(fs, numbers[5]) == text(5)


@pytest.mark.parametrize("what", ["mode", "content", "size", "moved", "removed"])
async def test_what_is_changed_while_content_is_on_its_way_is_not_undone(what: str, autojump_clock: object) -> None:
    async with mounted() as (session, fs, numbers):
        await listed(fs)
        reader, number = await fs.open(numbers[5]), numbers[5]

        async def meanwhile() -> None:
            if what == "mode":
                await fs.attributes.set(number, mode=0o600)
            elif what == "content":
                writer = await fs.open(number, writes=True)
                await fs.write(writer, 0, b"something new")
                await fs.release(writer)
            elif what == "size":
                await fs.attributes.set(number, size=7)
            elif what == "moved":
                await fs.rename(ROOT_INODE, b"5", ROOT_INODE, b"moved", 0)
            else:
                await fs.remove(ROOT_INODE, b"5", directory=False)

        if what in ("content", "size"):  # they want the content themselves
            async with trio.open_nursery() as nursery:
                nursery.start_soon(meanwhile)
                nursery.start_soon(fs.read, reader, 0, KIB)
        else:
            session.meanwhile = meanwhile
        expected = {"content": b"something new", "size": b"content"}.get(what, text(5))
        assert bytes(await fs.read(reader, 0, KIB)) == expected
        assert session.meanwhile is None
        stat = await fs.stat(number)
        assert stat.mode == (0o600 if what == "mode" else 0o644)
        assert stat.size == len(expected)
        await fs.release(reader)


@pytest.mark.parametrize("size", [5, 30 * KIB])
async def test_what_is_written_to_an_untold_file_lies_over_what_it_had(size: int, autojump_clock: object) -> None:
    async with mounted() as (session, fs, numbers):
        await listed(fs)
        handle = await fs.open(numbers[5], writes=True)
        await fs.write(handle, 3, bytes(size))
        await fs.fsync(handle)
        await fs.release(handle)
        stored = (text(5)[:3] + bytes(size) + text(5)[3 + size :])[:KIB]
        assert await read(fs, numbers[5]) == stored
        await fs._namespace.settle()
        async with filesystem(session, MemoryStore()) as other:
            if size == 5:
                assert await read(other, numbers[5]) == stored


def row(change: int, attr_change: int, inline: bytes | None) -> Attributes:
    head = seal_head(KEYS, VOLUME, InodeId(5), Head(change, 9, Kind.FILE, (change + 1,)))
    return Attributes(5, Kind.FILE, 0o644, 0, 0, 0, 1, 9, change, attr_change, 0, 0, 0, head, inline)


@pytest.mark.parametrize(
    ("known", "taken", "inline"),
    [
        (row(1, 1, b"here"), row(1, 1, UNTOLD), b"here"),
        (row(1, 1, b"here"), row(1, 2, UNTOLD), b"here"),
        (row(1, 1, b"here"), row(2, 2, UNTOLD), UNTOLD),
        (row(1, 1, UNTOLD), row(1, 1, b"here"), b"here"),
        (row(1, 2, UNTOLD), row(1, 1, b"here"), b"here"),
        (row(1, 1, UNTOLD), row(2, 1, b"here"), b"here"),
        (row(1, 1, b"here"), row(2, 2, None), None),
    ],
)
def test_content_stays_known_as_long_as_it_is_the_same(
    known: Attributes, taken: Attributes, inline: bytes | None
) -> None:
    inode = Inode(KEYS, VOLUME, known)
    assert inode.refresh(taken)
    assert inode.attributes.inline == inline
    assert inode.inline_is_known == (inline != UNTOLD)
    assert inode.has_inline == bool(inline)
    assert inode.attributes.attr_change == max(known.attr_change, taken.attr_change)
