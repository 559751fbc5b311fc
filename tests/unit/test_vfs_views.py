"""What a search shows as a directory: links that lead to what was found, for a while, and not without bounds."""

import pytest
import trio
from trio.testing import MockClock

from p2pfs.errors import Invalid, NotDirectory, NotFound
from p2pfs.format.search import Label
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.vfs.query import Query
from p2pfs.vfs.search import Found
from p2pfs.vfs.views import FIRST, FRESH_S, MOST_QUERIES, NAME, SEARCH, TOP, SearchView

pytestmark = [pytest.mark.l0, pytest.mark.trio]


class World:
    """What is found, by path; counts how often it is asked."""

    def __init__(self, *paths: bytes) -> None:
        self.paths, self.asked = list(paths), list[Query]()
        self.view = SearchView(self.find, owner=(1000, 100), now_ns=lambda: 5)

    async def find(self, query: Query, limit: int) -> list[Found]:
        self.asked.append(query)
        if query.beginnings:
            raise Invalid("not indexed")
        return [Found(9, path, Kind.FILE, 1, 0, -1, Label()) for path in self.paths]

    async def names(self, query: bytes) -> list[bytes]:
        directory = await self.view.lookup(SEARCH, query)
        return [name for name, _ in await self.view.listing(directory.inode)]


async def test_the_way_to_a_query_can_be_looked_up_and_is_for_its_owner() -> None:
    world = World(b"top/a", b"b")
    top = await world.view.lookup(ROOT_INODE, NAME)
    search = await world.view.lookup(top.inode, b"search")
    query = await world.view.lookup(search.inode, b"Invoice 2026")
    assert world.asked == [Query(("invoice", "2026"))]
    assert {(row.kind, row.mode, row.uid, row.gid) for row in (top, search, query)} == {
        (Kind.DIRECTORY, 0o500, 1000, 100)
    }
    listed = dict(await world.view.listing(query.inode))
    assert {name: world.view.target(row.inode) for name, row in listed.items()} == {
        b"a": b"../../../top/a",
        b"b": b"../../../b",
    }
    assert await world.view.lookup(query.inode, b"a") == listed[b"a"]
    assert listed[b"a"].size == len(b"../../../top/a")
    assert min(row.inode for row in (top, search, query, *listed.values())) >= FIRST
    assert [world.view.parent(row.inode) for row in (top, search, query)] == [ROOT_INODE, TOP, SEARCH]
    assert await world.view.listing(TOP) == [(b"search", search)]
    assert await world.view.listing(SEARCH) == []


async def test_what_is_not_there_is_not_found() -> None:
    world = World(b"a")
    query = await world.view.lookup(SEARCH, b"x")
    (link,) = [row.inode for _, row in await world.view.listing(query.inode)]
    for parent, name in ((TOP, b"other"), (query.inode, b"b"), (InodeId(FIRST + 999), b"x")):
        with pytest.raises(NotFound):
            await world.view.lookup(parent, name)
    for name in (b".git", b"!!", b"\xff", b"inv*", b"i*"):
        with pytest.raises(NotFound):
            await world.view.lookup(SEARCH, name)
    with pytest.raises(NotDirectory):
        await world.view.listing(link)
    with pytest.raises(NotDirectory):
        await world.view.lookup(link, b"x")
    with pytest.raises(Invalid):
        world.view.target(query.inode)
    for ask in (world.view.stat, world.view.target):
        with pytest.raises(NotFound):
            ask(InodeId(FIRST + 999))


async def test_equal_names_are_told_apart() -> None:
    world = World(b"a/bill.pdf", b"b/bill.pdf", b"c/bill.pdf", b"a/README", b"b/README", b".rc", b"x/.rc", b"")
    assert await world.names(b"x") == [
        b"bill.pdf", b"bill (2).pdf", b"bill (3).pdf", b"README", b"README (2)", b".rc", b".rc (2)",
    ]  # fmt: skip
    world.paths = [b"a/" + b"n" * 255, b"b/" + b"n" * 255]
    names = await world.names(b"y")
    assert len(set(names)) == 2
    assert {len(name) for name in names} == {255}


async def test_an_answer_is_given_again_for_some_seconds(autojump_clock: MockClock) -> None:
    world = World(b"a", b"b")
    first = await world.view.lookup(SEARCH, b"x")
    kept = (await world.view.lookup(first.inode, b"b")).inode
    world.paths = [b"b", b"c"]
    assert await world.names(b"x") == [b"a", b"b"]
    await trio.sleep(FRESH_S)
    assert await world.names(b"x") == [b"b", b"c"]
    assert len(world.asked) == 2
    assert (await world.view.lookup(SEARCH, b"x")).inode == first.inode
    assert (await world.view.lookup(first.inode, b"b")).inode == kept
    assert len(world.view._links) == 2


async def test_only_so_many_queries_are_remembered() -> None:
    world = World(b"a")
    first = await world.view.lookup(SEARCH, b"first")
    (link,) = [row.inode for _, row in await world.view.listing(first.inode)]
    for number in range(MOST_QUERIES):
        await world.view.lookup(SEARCH, b"q%d" % number)
    for inode in (first.inode, link):
        with pytest.raises(NotFound):
            world.view.stat(inode)
    with pytest.raises(NotFound):
        await world.view.listing(first.inode)
    assert len(world.view._directories) == len(world.view._links) == MOST_QUERIES


async def test_a_query_forgotten_while_it_is_asked_leaves_nothing() -> None:
    world = World(b"a")
    asked = trio.Event()

    async def slow(query: Query, limit: int) -> list[Found]:
        if query.words == ("first",):
            await asked.wait()
        return await world.find(query, limit)

    world.view._find = slow
    async with trio.open_nursery() as nursery:

        async def look() -> None:
            with pytest.raises(NotFound):
                await world.view.lookup(SEARCH, b"first")

        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(MOST_QUERIES):
            await world.view.lookup(SEARCH, b"q%d" % number)
        asked.set()
    assert len(world.view._links) == MOST_QUERIES
