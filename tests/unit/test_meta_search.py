"""The tables of search: how much one question looks at, what is kept of many tokens, and what an old database has."""

import sqlite3
from pathlib import Path

import pytest
from broken_rows import broken_invariants
from namespaces import VOLUME, Hand, SqlWorld, extent, new_chunk

from p2pfs.errors import Misuse
from p2pfs.meta import engine, schema, search, volumes
from p2pfs.meta.database import InlineDatabase
from p2pfs.types import ROOT_INODE, InodeId
from p2pfs.wire.search import MOST_TOKENS, Find, Hits, ReadLabels, SetLabel
from p2pfs.wire.volumes import VolumeSettings

pytestmark = pytest.mark.l0


def token(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def prepared() -> tuple[SqlWorld, Hand]:
    world = SqlWorld.in_memory()
    await world.prepare()
    return world, Hand(await world.mount())


async def test_a_question_looks_at_so_many_rows_and_goes_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCANNED", 8)  # four of either token
    _, hand = await prepared()
    inodes = [await hand.make(b"%d" % at) for at in range(10)]
    for at, inode in enumerate(inodes):
        tokens = [token(1), token(2)] if at in (0, 9) else [token(1)] if at % 2 else [token(2)]
        await hand.namespace.apply([SetLabel(inode, 0, b"sealed", tokens)])
    pages: list[Hits] = []
    while not pages or not pages[-1].complete:
        after = pages[-1].after if pages else (0, 0, 0)
        pages.append(await hand.namespace.find([token(1), token(2)], after, 100))
    assert [[hit.inode for hit in page.hits] for page in pages] == [[inodes[0]], [inodes[9]]]
    assert [page.counts for page in pages] == [[6, 6]] * 2


async def test_the_more_tokens_the_fewer_rows_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCANNED", 32)
    _, hand = await prepared()
    every = [token(number) for number in range(1, 17)]
    for at in range(40):
        await hand.namespace.apply([SetLabel(await hand.make(b"%d" % at), 0, b"sealed", every)])
    for count, looked_at in ((1, 32), (2, 16), (16, 2)):
        assert len((await hand.namespace.find(every[:count], (0, 0, 0), 100)).hits) == looked_at
    assert len((await hand.namespace.find(every[:1] * 16, (0, 0, 0), 100)).hits) == 2


async def test_a_content_that_many_without_a_name_have_is_looked_for_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCANNED", 4)
    world = SqlWorld.in_memory()
    await world.prepare(trash_s=3600.0)
    hand = Hand(await world.mount())
    inodes = [await hand.make(b"%d" % at) for at in range(10)]
    for inode in inodes:
        await hand.namespace.apply([SetLabel(inode, 0, b"sealed", content=token(1))])
    for at, inode in enumerate(inodes[:9]):
        await hand.unlink(b"%d" % at, inode)
    pages = [[0]]
    while pages[-1]:
        pages.append(await hand.namespace.find_content(token(1), pages[-1][-1], 100))
    assert pages[1:] == [[inodes[3]], [inodes[7]], [inodes[9]], []]


async def test_which_token_is_looked_through_does_not_change_from_page_to_page() -> None:
    _, hand = await prepared()
    inodes = [await hand.make(b"%d" % at) for at in range(4)]
    for inode in inodes:
        await hand.namespace.apply([SetLabel(inode, 0, b"sealed", [token(1), token(2)])])
    first = await hand.namespace.find([token(1), token(2)], (0, 0, 0), 2)
    more = await hand.make(b"more")
    await hand.namespace.apply([SetLabel(more, 0, b"sealed", [token(1)])])  # the other one is the rarer now
    second = await hand.namespace.find([token(1), token(2)], first.after, 9)
    assert [hit.inode for hit in [*first.hits, *second.hits]] == inodes
    with pytest.raises(Misuse):
        await hand.namespace.find([token(1)], (1, 0, 5), 9)


async def test_an_inode_has_only_so_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_KEYWORDS", MOST_TOKENS + 10)
    world, hand = await prepared()
    inode = await hand.make(b"file")
    every = [token(number) for number in range(1, MOST_TOKENS + 1)]
    await hand.namespace.apply([SetLabel(inode, 0, b"sealed", every, every)])
    (rows,) = world.database.read(lambda c: c.execute("SELECT count(*) FROM keyword").fetchone())
    assert rows == MOST_TOKENS + 10


async def test_nothing_is_left_of_what_is_gone() -> None:
    world, hand = await prepared()
    inode = await hand.make(b"file")
    await hand.namespace.apply([SetLabel(inode, 0, b"sealed", [token(1)], content=token(2))])
    await hand.unlink(b"file", inode)
    for table in ("keyword", "label"):
        assert world.database.read(lambda c, t=table: c.execute(f"SELECT count(*) FROM {t}").fetchone()) == (0,)
    assert world.database.read(broken_invariants) == []


async def test_a_large_answer_about_labels_is_given_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PAGE_BYTES", 100)
    _, hand = await prepared()
    inodes = [InodeId(await hand.make(b"%d" % at)) for at in range(3)]
    for inode in inodes:
        await hand.namespace.apply([SetLabel(inode, 0, b"x" * 101)])
    page = await hand.namespace.labels([InodeId(99), *inodes])
    assert ([row.attributes.inode for row in page.rows], page.done) == ([inodes[0]], 2)


async def with_extents(hand: Hand, count: int) -> InodeId:
    """A file that says it is empty, of so many extents of one chunk."""
    inode = InodeId(await hand.make(b"%d" % count))
    chunks = [new_chunk(1)]
    await hand.commit(inode, 0, size=0, extents=[extent(at, at + 1, 1) for at in range(count)], chunks=chunks)
    return inode


async def test_copies_are_counted_of_so_many_extents_however_few_chunks_they_name() -> None:
    world, hand = await prepared()
    many, more = await with_extents(hand, search.COPIES_OF), await with_extents(hand, 10 * search.COPIES_OF)

    def steps(inodes: list[int]) -> int:
        """Of SQLite's machine."""
        taken = 0

        def count() -> None:
            nonlocal taken
            taken += 1

        def look(connection: sqlite3.Connection) -> None:
            connection.set_progress_handler(count, 1)
            (found,) = search.labels(connection, VOLUME, ReadLabels(inodes)).rows
            connection.set_progress_handler(None, 1)
            assert found.copies == 2

        world.database.read(look)
        return taken

    assert steps([more]) < steps([many]) + 20
    assert steps([more] * 100) == steps([more])


async def test_copies_of_many_extents_are_told_in_parts_whatever_size_their_files_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "MOST_COPIES_OF", 25)
    _, hand = await prepared()
    inodes = [await with_extents(hand, count) for count in (10, 11, 12, 13)]
    pages = [await hand.namespace.labels(inodes[first:]) for first in (0, 3)]
    assert [(len(page.rows), page.done) for page in pages] == [(3, 3), (1, 1)]


def test_a_database_of_the_version_before_has_no_labels_and_takes_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before_search = schema.MIGRATIONS.index(schema.SEARCH)
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:before_search])
        before = InlineDatabase(path)
        before.write_now(
            lambda c: c.execute(
                "INSERT INTO volume (id, name, owner, key_check, small_file_bytes, dedup, created_s, next_id, inodes,"
                " bytes) VALUES (?, 'home', 'anna', x'63', 16384, 1, 0, 2, 0, 0)",
                (VOLUME,),
            )
        )
        before.close()
    db = InlineDatabase(path)
    info = db.read(lambda c: volumes.volume(c, VOLUME))
    assert (info.index_names, info.index_prefixes, info.index_seal) == (False, False, b"")
    assert db.read(lambda c: engine.answer(c, VOLUME, Find([token(1)], (0, 0, 0), 1))).hits == []
    settings = VolumeSettings(index_names=True, guard=b"g" * 32)
    changed = db.write_now(lambda c: volumes.configure(c, VOLUME, settings))
    assert (changed.index_names, changed.index_prefixes, changed.trash_removed_s) == (True, False, 86400.0)
    db.close()


def test_the_root_can_be_labelled() -> None:
    assert ROOT_INODE == 1  # place 1 is the note: no dentry has the number of the root
