"""What every Namespace does with labels and tokens: who is found by what, and when no more."""

import pytest
from namespaces import Hand, World, extent, new_chunk

from p2pfs.errors import Conflict, Misuse, NotFound
from p2pfs.types import ROOT_INODE, InodeId, Kind
from p2pfs.wire.leases import PurgeTrash, Restore
from p2pfs.wire.namespace import RENAME_EXCHANGE, Link
from p2pfs.wire.search import MOST_TOKENS, NOTE, TAG, IndexName, SetLabel

pytestmark = pytest.mark.l1


@pytest.fixture
def trash_s() -> float:
    return 3600.0


def token(word: str) -> bytes:
    return word.encode().ljust(16, b".")


async def label(hand: Hand, inode: int, revision: int, tags: str, note: str = "", **more: bytes | int) -> None:
    """By words instead of tokens."""
    of = [token(word) for word in tags.split()], [token(word) for word in note.split()]
    sealed = b"sealed " + tags.encode()
    await hand.namespace.apply([SetLabel(inode, revision, sealed, *of, **more)])  # type: ignore[arg-type]


async def find(hand: Hand, words: str, limit: int = 1000) -> list[int]:
    """All pages."""
    tokens, after, found = [token(word) for word in words.split()], (0, 0, 0), []
    while True:
        hits = await hand.namespace.find(tokens, after, limit)
        assert len(hits.hits) <= limit
        found += [hit.inode for hit in hits.hits]
        if hits.complete:
            return found
        after = hits.after


async def dentry_of(hand: Hand, inode: int) -> int:
    await hand.namespace.settle()
    (named,) = await hand.namespace.names(InodeId(inode))
    return named.entry.dentry


async def test_what_is_tagged_is_found_by_all_its_words(hand: Hand) -> None:
    one, two = await hand.make(b"one"), await hand.directory(b"two")
    await label(hand, one, 0, "invoice 2026", note="paid")
    await label(hand, two, 0, "invoice")
    assert sorted(await find(hand, "invoice")) == [one, two]
    assert await find(hand, "2026 invoice") == [one]
    assert await find(hand, "invoice paid") == [one]
    assert await find(hand, "invoice missing") == []
    assert await find(hand, "invoice invoice 2026") == [one]
    hits = await hand.namespace.find([token("invoice"), token("paid")], (0, 0, 0), 10)
    assert hits.counts == [2, 1]
    assert [(hit.inode, hit.places) for hit in hits.hits] == [(one, [TAG, NOTE])]


async def test_tags_come_before_notes_and_names(hand: Hand) -> None:
    named, noted, tagged = await hand.make(b"named"), await hand.make(b"noted"), await hand.make(b"tagged")
    await hand.namespace.apply([IndexName(named, await dentry_of(hand, named), [token("x")])])
    await label(hand, noted, 0, "", note="x")
    await label(hand, tagged, 0, "x", note="x")
    assert await find(hand, "x") == [tagged, noted, tagged, named]
    assert await find(hand, "x", limit=1) == [tagged, noted, tagged, named]


async def test_a_new_label_replaces_the_old_one_that_it_names(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await label(hand, inode, 0, "old")
    await label(hand, inode, 1, "new")
    assert await find(hand, "old") == []
    assert await find(hand, "new") == [inode]
    for stale in (0, 1, 3):
        with pytest.raises(Conflict):
            await label(hand, inode, stale, "other")
    (row,) = (await hand.namespace.labels([InodeId(inode)])).rows
    assert (row.revision, row.sealed) == (2, b"sealed new")
    await hand.namespace.apply([SetLabel(inode, 2, b"")])
    assert await find(hand, "new") == []
    (row,) = (await hand.namespace.labels([InodeId(inode)])).rows
    assert (row.revision, row.sealed) == (3, b"")
    with pytest.raises(Conflict):  # of somebody who has not seen that it is gone
        await label(hand, inode, 1, "other")
    await label(hand, inode, 3, "newer")
    assert await find(hand, "newer") == [inode]


async def test_labels_are_told_with_names_and_copies(hand: Hand) -> None:
    inode, other = await hand.make(b"file"), await hand.make(b"other")
    await hand.link(inode, b"second")
    await hand.commit(
        inode, 0, size=3000, extents=[extent(0, 1, 7), extent(1, 2, 8)], chunks=[new_chunk(7), new_chunk(8, 0, 1, 2)]
    )
    await label(hand, inode, 0, "x")
    page = await hand.namespace.labels([InodeId(inode), InodeId(99999), InodeId(other), ROOT_INODE])
    assert page.done == 4
    found, unlabelled, root = page.rows
    assert (found.attributes.inode, found.attributes.size, found.copies) == (inode, 3000, 2)
    assert sorted(place.name for place in found.places) == [b"file", b"second"]
    assert {place.parent for place in found.places} == {ROOT_INODE}
    assert (unlabelled.revision, unlabelled.copies, root.places) == (0, -1, [])
    page = await hand.namespace.labels([InodeId(inode), InodeId(other), InodeId(inode)])
    assert ([row.attributes.inode for row in page.rows], page.done) == ([inode, other], 3)
    with pytest.raises(Misuse):
        await hand.namespace.labels([InodeId(inode)] * 101)


async def test_in_the_trash_nothing_is_found_and_all_of_it_comes_back(hand: Hand) -> None:
    inode = await hand.make(b"file")
    dentry = await dentry_of(hand, inode)
    await hand.namespace.apply([IndexName(inode, dentry, [token("name")])])
    await label(hand, inode, 0, "tag", content=token("content"), change=0)
    await hand.namespace.settle()
    await hand.unlink(b"file", inode)
    assert await find(hand, "tag") == await find(hand, "name") == []
    assert await hand.namespace.find_content(token("content"), 0, 10) == []
    assert (await hand.namespace.labels([InodeId(inode)])).rows == []
    with pytest.raises(NotFound):
        await label(hand, inode, 1, "late")
    await hand.namespace.apply([Restore(inode, ROOT_INODE, b"file", dentry, b"tag", hand.now())])
    assert await find(hand, "tag name") == [inode]
    assert await hand.namespace.find_content(token("content"), 0, 10) == [inode]


async def test_what_is_gone_for_good_is_not_found(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await label(hand, inode, 0, "tag")
    await hand.namespace.settle()
    await hand.unlink(b"file", inode)
    await hand.namespace.apply([PurgeTrash(inode)])
    assert await find(hand, "tag") == []
    assert (await hand.namespace.labels([InodeId(inode)])).rows == []


async def test_a_file_that_only_a_handle_keeps_is_not_found(pool: World, hand: Hand) -> None:
    operation = await hand.make_operation(b"file", opened=True)
    await hand.namespace.apply([operation])
    await label(hand, operation.inode, 0, "tag")
    await hand.namespace.settle()
    await hand.unlink(b"file", operation.inode)
    assert await find(hand, "tag") == []


async def test_tokens_of_a_name_go_with_that_name(hand: Hand) -> None:
    inode = await hand.make(b"first")
    first = await dentry_of(hand, inode)
    second = await hand.number()
    await hand.namespace.apply(
        [
            IndexName(inode, first, [token("first")]),
            Link(ROOT_INODE, b"second", second, b"tag", inode, hand.now()),
            IndexName(inode, second, [token("second")]),
        ]
    )
    assert await find(hand, "first second") == [inode]
    await hand.unlink(b"first", inode)
    assert await find(hand, "first") == []
    assert await find(hand, "second") == [inode]
    await hand.rename(b"second", inode, b"third")
    assert await find(hand, "second") == []
    third = await dentry_of(hand, inode)
    await hand.namespace.apply([IndexName(inode, third, [token("third")])])
    await hand.namespace.apply([IndexName(inode, second, [token("late")])])  # that name is gone: passed over
    await hand.namespace.apply([IndexName(99999, third, [token("late")])])
    assert await find(hand, "third") == [inode]
    assert await find(hand, "late") == []


async def test_exchanged_names_take_their_tokens_along(hand: Hand) -> None:
    a, b = await hand.make(b"a"), await hand.make(b"b", kind=Kind.DIRECTORY)
    for inode, word in ((a, "a"), (b, "b")):
        await hand.namespace.apply([IndexName(inode, await dentry_of(hand, inode), [token(word)])])
    await hand.rename(b"a", a, b"b", replaced=b, flags=RENAME_EXCHANGE)
    assert await find(hand, "a") == [b]
    assert await find(hand, "b") == [a]


async def test_contents_are_found_in_pages(hand: Hand) -> None:
    inodes = [await hand.make(b"%d" % at) for at in range(5)]
    for inode in inodes:
        await label(hand, inode, 0, "", content=token("same"), change=0)
    first = await hand.namespace.find_content(token("same"), 0, 3)
    assert first + await hand.namespace.find_content(token("same"), first[-1], 3) == inodes
    assert await hand.namespace.find_content(token("other"), 0, 3) == []


async def test_what_cannot_be_meant_is_refused_and_changes_nothing(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await label(hand, inode, 0, "tag")
    wrong = [
        SetLabel(inode, 1, b"sealed", [b"short"]),
        SetLabel(inode, 1, b"sealed", [token("x")] * (MOST_TOKENS + 1)),
        SetLabel(inode, 1, b"", [token("x")]),
        SetLabel(inode, 1, b"x" * ((32 << 10) + 1)),
        SetLabel(inode, 1, b"sealed", content=b"short"),
        IndexName(inode, 5, [b"short"]),
    ]
    for operation in wrong:
        with pytest.raises(Misuse):
            await hand.namespace.apply([operation])
    with pytest.raises(NotFound):
        await label(hand, 99999, 0, "tag")
    for tokens, limit in (([], 1), ([token("x")] * 17, 1), ([token("tag")], 0)):
        with pytest.raises(Misuse):
            await hand.namespace.find(tokens, (0, 0, 0), limit)
    assert await find(hand, "tag") == [inode]


async def test_a_refused_batch_leaves_labels_and_tokens_alone(hand: Hand) -> None:
    inode = await hand.make(b"file")
    await label(hand, inode, 0, "tag")
    with pytest.raises(Conflict):
        await hand.namespace.apply([SetLabel(inode, 1, b"", []), SetLabel(inode, 7, b"sealed")])
    assert await find(hand, "tag") == [inode]
