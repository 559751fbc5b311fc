"""What `p2pfs du` is told: sizes and chunks of a directory's entries, a bounded part at a time."""

import pytest
from namespaces import VOLUME, Hand, SqlWorld, extent, new_chunk

from p2pfs.errors import NotDirectory, NotFound
from p2pfs.meta import engine, usage
from p2pfs.types import ROOT_INODE, Kind
from p2pfs.wire.namespace import Commit
from p2pfs.wire.usage import FileUsage, ReadFileUsage, ReadUsage, UsagePage

pytestmark = pytest.mark.l0

CHUNKS = list(range(1, 9))


async def prepared() -> tuple[SqlWorld, Hand]:
    world = SqlWorld.in_memory()
    await world.prepare()
    return world, Hand(await world.mount())


def page(world: SqlWorld, directory: int = ROOT_INODE, after: int = 0) -> UsagePage:
    found = world.database.read(lambda c: engine.answer(c, VOLUME, ReadUsage(directory, after)))
    assert isinstance(found, UsagePage)
    return found


def file(world: SqlWorld, inode: int, from_mib: int) -> FileUsage:
    found = world.database.read(lambda c: engine.answer(c, VOLUME, ReadFileUsage(inode, from_mib)))
    assert isinstance(found, FileUsage)
    return found


async def written(hand: Hand, name: bytes, chunks: list[int]) -> int:
    inode = await hand.make(name)
    rows = [extent(at, 1 + at, chunk) for at, chunk in enumerate(chunks)]
    new = [new_chunk(chunk) for chunk in dict.fromkeys(chunks)]
    await hand.namespace.apply([Commit(inode, 0, len(chunks) << 20, b"head", 1, rows, new)])
    return inode


async def test_entries_are_told_with_the_chunks_that_can_be_seen() -> None:
    world, hand = await prepared()
    one = await written(hand, b"one", [CHUNKS[0], CHUNKS[1], CHUNKS[0]])
    two = await written(hand, b"two", [CHUNKS[1]])
    small = await hand.make(b"small")
    await hand.namespace.apply([Commit(small, 0, 5, b"head", 1, inline=b"sealed")])
    directory = await hand.make(b"directory", kind=Kind.DIRECTORY)
    rows = {row.inode: row for row in page(world).rows}
    assert list(rows) == [one, two, small, directory]
    assert [chunk.copies for chunk in rows[one].chunks] == [2, 2]
    assert rows[two].chunks == rows[one].chunks[1:]
    assert (rows[small].size, rows[small].inline, rows[small].chunks) == (5, 6, [])
    await hand.namespace.apply([Commit(one, 1, 1 << 20, b"head", 1, cut_index=1, cut_seq=9)])
    assert [chunk.number for chunk in page(world).rows[0].chunks] == [rows[one].chunks[0].number]


async def test_what_is_too_much_for_one_answer_is_told_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_EXTENTS", 3)
    world, hand = await prepared()
    long, other = await written(hand, b"long", CHUNKS), await written(hand, b"other", CHUNKS[:1])
    first = page(world)
    assert ([row.inode for row in first.rows], first.complete) == ([long], False)
    assert [row.inode for row in page(world, after=first.after).rows] == [other]
    row, numbers = first.rows[0], [chunk.number for chunk in first.rows[0].chunks]
    while row.next_mib >= 0:
        row = file(world, long, row.next_mib)
        assert len(row.chunks) <= 3
        numbers += [chunk.number for chunk in row.chunks]
    assert len(set(numbers)) == len(numbers) == len(CHUNKS)


async def test_only_directories_have_entries() -> None:
    world, hand = await prepared()
    with pytest.raises(NotDirectory):
        page(world, await hand.make(b"file"))
    with pytest.raises(NotFound):
        page(world, 4711)
    with pytest.raises(NotFound):
        file(world, 4711, 0)
