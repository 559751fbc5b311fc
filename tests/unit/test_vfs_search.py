"""Tags and search as a mount does them: what is found and in which order, what follows names, and lies that do not
pass."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from blake3 import blake3
from trio.testing import wait_all_tasks_blocked
from volumes import KEYS, ROOT_HEAD, VOLUME, filesystem, ticking

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Conflict, Corrupt, Invalid, NotFound, TooLarge
from p2pfs.format import search as words_of
from p2pfs.format.search import Label, seal_label, word_token
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import MAX_LAYERS, MIB, ROOT_INODE, InodeId, Kind
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.label_rows import AT_ONCE
from p2pfs.vfs.labels import Change
from p2pfs.vfs.limits import Limits
from p2pfs.vfs.places import Places
from p2pfs.vfs.query import Query
from p2pfs.vfs.search import CANDIDATES, Found, relevance_of
from p2pfs.vfs.space import EndlessSpace
from p2pfs.vfs.surroundings import Surroundings
from p2pfs.vfs.tree import Owner
from p2pfs.wire.namespace import RENAME_EXCHANGE
from p2pfs.wire.search import NOTE, TAG, Hit, SetLabel, rows

pytestmark = pytest.mark.l0


@asynccontextmanager
async def volume(*, names: bool = False, prefixes: bool = False) -> AsyncIterator[tuple[Filesystem, MemoryVolume]]:
    model = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME, wanted_min=0, trash_s=60.0)
    namespace = model.session()
    async with Filesystem.serve(
        KEYS, VOLUME, namespace, MemoryStore(), Places(namespace), EndlessSpace(),
        limits=Limits(), now_ns=ticking(), around=Surroundings(index=(names, prefixes)),
    ) as fs:  # fmt: skip
        yield fs, model


async def make(fs: Filesystem, name: bytes, parent: InodeId = ROOT_INODE, kind: Kind = Kind.FILE) -> InodeId:
    return (await fs.make(parent, name, kind, 0o755, Owner(0, 0))).id


async def tag(fs: Filesystem, number: InodeId, *words: str, is_deep: bool = False, **more: object) -> list[int]:
    told = []

    async def show(done: int, of: int, read_bytes: int) -> None:
        if done:  # not while it is looked for what there is
            told.append(done)

    await fs.labels.change(number, Change(words, **more), show, is_deep=is_deep)  # type: ignore[arg-type]
    return told


async def paths(
    fs: Filesystem, text: str, *, is_any: bool = False, limit: int = 100, below: bytes = b""
) -> list[bytes]:
    found = await fs.search.find(Query.parse(text, is_any=is_any), limit=limit, below=below)
    return [one.path for one in found]


async def write(fs: Filesystem, name: bytes, data: bytes) -> InodeId:
    handle = await fs.create(ROOT_INODE, name, 0o644, Owner(0, 0))
    await fs.write(handle, 0, data)
    await fs.fsync(handle)
    await fs.release(handle)
    return handle.inode.id


async def silent(*_: int) -> None:
    return


async def content(fs: Filesystem, data: bytes) -> list[Found]:
    return await fs.search.find_content(blake3(data).digest())


async def test_what_has_all_words_is_found_in_tags_and_notes() -> None:
    async with volume() as (fs, _):
        top = await make(fs, b"top", kind=Kind.DIRECTORY)
        bill, other = await make(fs, b"bill", top), await make(fs, b"other")
        await tag(fs, bill, "invoice", "2026", note="Paid in März")
        await tag(fs, other, "invoice")
        assert await paths(fs, "2026 INVOICE") == [b"top/bill"]
        assert await paths(fs, "MÄRZ") == [b"top/bill"]
        assert sorted(await paths(fs, "invoice")) == [b"other", b"top/bill"]
        assert await paths(fs, "2026 paid nothing") == []
        assert await paths(fs, "paid nothing 2026", is_any=True) == [b"top/bill"]
        assert await paths(fs, "invoice", below=b"top") == [b"top/bill"]
        assert await paths(fs, "invoice", below=b"to") == []
        (found,) = await fs.search.find(Query.parse("2026"))
        assert (found.inode, found.kind, found.copies, found.label.note) == (bill, Kind.FILE, -1, "Paid in März")


async def test_tags_are_added_and_taken_away_and_a_label_without_anything_goes() -> None:
    async with volume() as (fs, model):
        one = await make(fs, b"one")
        await tag(fs, one, "a", "b")
        await tag(fs, one, "c", "a", remove=("b",), note="note")
        assert await fs.labels.label(one) == Label(("a", "c"), "note")
        await tag(fs, one, remove=("a", "c"), note="")
        assert await fs.labels.label(one) == Label()
        assert model.labels([one]).rows[0].sealed == b""
        with pytest.raises(NotFound):
            await fs.labels.label(InodeId(12345))
        with pytest.raises(NotFound):
            await tag(fs, InodeId(12345), "a")
        with pytest.raises(Invalid):
            await tag(fs, one, *(str(number) for number in range(65)))


async def test_a_tree_is_tagged_in_batches_and_counted_meanwhile() -> None:
    async with volume() as (fs, _):
        top = await make(fs, b"top", kind=Kind.DIRECTORY)
        for at in range(AT_ONCE + 50):
            await make(fs, b"%d" % at, top)
        outside = await make(fs, b"outside")
        assert await tag(fs, top, "all", is_deep=True) == [AT_ONCE, AT_ONCE + 51]
        assert len(await paths(fs, "all", limit=1000)) == AT_ONCE + 51
        assert await fs.labels.label(outside) == Label()
        assert await tag(fs, outside, "all", is_deep=True) == [1]


async def test_a_tree_that_is_too_large_is_refused_before_anything_is_tagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs.vfs.labels.MOST_BELOW", 3)
    async with volume() as (fs, _):
        for at in range(4):
            await make(fs, b"%d" % at)
        with pytest.raises(TooLarge):
            await tag(fs, ROOT_INODE, "all", is_deep=True)
        assert await paths(fs, "all") == []


async def test_two_who_tag_at_once_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with volume() as (fs, model):
        one = await make(fs, b"one")
        apply, met = model.apply, []

        def faster(session: int, operations: list[SetLabel]) -> object:
            if not met and isinstance(operations[0], SetLabel):
                met.append(True)
                words = [word_token(KEYS, VOLUME, "theirs")]
                apply(session, [SetLabel(one, 0, seal_label(KEYS, VOLUME, one, Label(("theirs",))), words)])
            return apply(session, operations)

        monkeypatch.setattr(model, "apply", faster)
        await tag(fs, one, "mine")
        assert met
        assert await paths(fs, "theirs mine") == [b"one"]


async def test_the_most_relevant_come_first() -> None:
    async with volume(names=True) as (fs, _):
        named, noted, tagged = await make(fs, b"word"), await make(fs, b"b"), await make(fs, b"c")
        await tag(fs, noted, note="a word")
        await tag(fs, tagged, "word")
        assert await paths(fs, "word") == [b"c", b"b", b"word"]
        await tag(fs, named, "rare")
        assert await paths(fs, "word rare", is_any=True) == [b"word", b"c", b"b"]
        assert await paths(fs, "word", limit=1) == [b"c"]


def test_a_rare_tag_says_more_than_a_common_one_and_than_a_name() -> None:
    assert relevance_of(Hit(1, [TAG]), [1]) > relevance_of(Hit(1, [TAG]), [500])
    assert relevance_of(Hit(1, [TAG]), [5]) > relevance_of(Hit(1, [NOTE]), [5]) > relevance_of(Hit(1, [77]), [5])
    assert relevance_of(Hit(1, [77]), [10_000]) > 0


async def test_more_than_a_window_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs.vfs.search.CANDIDATES", 10)
    monkeypatch.setattr("p2pfs.vfs.search.PAGE", 4)
    assert CANDIDATES > 10
    async with volume() as (fs, _):
        top, low = await make(fs, b"top", kind=Kind.DIRECTORY), await make(fs, b"low", kind=Kind.DIRECTORY)
        for at in range(30):
            await make(fs, b"%d" % at, top)
        last = await make(fs, b"last", low)
        await tag(fs, top, "x", "y", is_deep=True, note="x and y")  # each is a hit twice
        await tag(fs, last, "x", "y")
        for text, is_any in (("x", False), ("x y", False), ("x y", True)):
            assert len(await paths(fs, text, is_any=is_any)) == 32
            assert await paths(fs, text, is_any=is_any, below=b"low") == [b"low/last"]


async def test_names_are_found_only_where_they_are_indexed_and_follow_every_change() -> None:
    async with volume() as (fs, _):
        await make(fs, b"Holiday.jpg")
        assert await paths(fs, "holiday") == []
    async with volume(names=True) as (fs, _):
        top = await make(fs, b"top", kind=Kind.DIRECTORY)
        one = await make(fs, b"Holiday-2026.jpg")
        assert await paths(fs, "holiday jpg") == [b"Holiday-2026.jpg"]
        await fs.rename(ROOT_INODE, b"Holiday-2026.jpg", top, b"winter.png", 0)
        assert await paths(fs, "holiday") == []
        assert await paths(fs, "winter") == [b"top/winter.png"]
        await fs.link(one, ROOT_INODE, b"second")
        assert await paths(fs, "second") == [b"second"]
        await fs.remove(top, b"winter.png", directory=False)
        assert await paths(fs, "winter") == []
        other = await make(fs, b"other")
        await fs.rename(ROOT_INODE, b"second", ROOT_INODE, b"other", RENAME_EXCHANGE)
        assert [found.inode for found in await fs.search.find(Query.parse("second"))] == [other]
        await fs.rename(ROOT_INODE, b"second", ROOT_INODE, b"other", 0)
        assert [found.inode for found in await fs.search.find(Query.parse("other"))] == [other]


async def test_what_comes_back_is_found_by_the_name_it_has() -> None:
    async with volume(names=True) as (fs, model):
        one = await make(fs, b"first")
        await tag(fs, one, "tagged")
        await fs.remove(ROOT_INODE, b"first", directory=False)
        assert await paths(fs, "first") == await paths(fs, "tagged") == []
        await make(fs, b"first")
        model.now_s = 0.0

        async def show(_: object) -> None:
            return

        await fs.trash.restore(one, show)
        assert await paths(fs, "tagged first restored") == [b"first (restored 1970-01-01)"]


async def test_what_comes_back_is_found_by_its_name_also_if_it_went_before_names_were_indexed() -> None:
    async with volume() as (fs, _):
        top = await make(fs, b"top", kind=Kind.DIRECTORY)
        below, alone = await make(fs, b"below.txt", top), await make(fs, b"alone.txt")
        await fs.remove(top, b"below.txt", directory=False)
        await fs.remove(ROOT_INODE, b"top", directory=True)
        await fs.remove(ROOT_INODE, b"alone.txt", directory=False)
        fs.labels._names = True

        async def show(_: object) -> None:
            return

        await fs.trash.restore(top, show)
        await fs.trash.restore(alone, show)
        assert below
        assert sorted(await paths(fs, "txt")) == [b"alone.txt", b"top/below.txt"]


async def test_beginnings_are_found_only_where_they_are_indexed() -> None:
    async with volume() as (fs, _):
        with pytest.raises(Invalid):
            await paths(fs, "inv*")
    async with volume(prefixes=True) as (fs, _):
        await tag(fs, await make(fs, b"one"), "invoices2026")
        await tag(fs, await make(fs, b"two"), "invoices2025")
        assert sorted(await paths(fs, "inv*")) == [b"one", b"two"]
        assert await paths(fs, "invoices2026*") == [b"one"]  # longer than what is indexed
        assert await paths(fs, "inv* invoices2025") == [b"two"]


async def test_what_was_indexed_before_follows_new_settings_when_told() -> None:
    async with volume() as (fs, _):
        top = await make(fs, b"album", kind=Kind.DIRECTORY)
        await tag(fs, await make(fs, b"picture", top), "holiday")
        fs.labels._names = fs.labels._prefixes = fs.search._prefixes = True
        told: list[tuple[int, int]] = []

        async def show(done: int, of: int, _: int) -> None:
            if done:
                told.append((done, of))

        await fs.labels.index(top, show, is_deep=True)
        assert told == [(2, 2)]
        assert await paths(fs, "hol* picture") == [b"album/picture"]
        assert await paths(fs, "album") == [b"album"]
        fs.labels._names = fs.labels._prefixes = fs.search._prefixes = False
        await fs.labels.index(ROOT_INODE, show, is_deep=True)
        assert await paths(fs, "picture") == []
        assert await paths(fs, "holiday") == [b"album/picture"]


async def test_equal_contents_are_found_until_they_change() -> None:
    async with volume() as (fs, _):
        data = bytes(range(256)) * 9000  # two chunks and a part
        same, small, empty = await write(fs, b"same", data), await write(fs, b"small", b"s"), await make(fs, b"empty")
        await tag(fs, ROOT_INODE, is_deep=True, has_content=True)
        assert [(found.path, found.is_stale, found.size) for found in await content(fs, data)] == [
            (b"same", False, len(data))
        ]
        assert [found.inode for found in await content(fs, b"s")] == [small]
        assert [found.inode for found in await content(fs, b"")] == [empty]
        handle = await fs.open(same)
        await fs.write(handle, 0, b"x")
        await fs.fsync(handle)
        assert [(found.path, found.is_stale) for found in await content(fs, data)] == [(b"same", True)]
        await tag(fs, same, has_content=True)
        assert await content(fs, data) == []
        assert len(await content(fs, b"x" + data[1:])) == 1
        await fs.release(handle)


async def test_unsaved_bytes_are_part_of_the_content() -> None:
    async with volume() as (fs, _):
        handle = await fs.create(ROOT_INODE, b"file", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"not saved yet")
        await tag(fs, handle.inode.id, has_content=True)
        assert [(found.path, found.is_stale) for found in await content(fs, b"not saved yet")] == [(b"file", False)]
        await fs.release(handle)


async def test_answers_that_labels_and_names_do_not_bear_out_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with volume(names=True) as (fs, model):
        tagged, other = await make(fs, b"tagged"), await make(fs, b"other")
        await tag(fs, tagged, "secret")
        await tag(fs, other, "else")
        find = model.find

        def lying(tokens: list[bytes], after: tuple[int, int, int], limit: int) -> object:
            hits = find(tokens, after, limit)
            return msgspec.structs.replace(hits, hits=[Hit(other, [TAG]), *hits.hits])

        monkeypatch.setattr(model, "find", lying)
        assert await paths(fs, "secret") == [b"tagged"]
        monkeypatch.setattr(model, "find_content", lambda *_: [other] if _[1] == 0 else [])
        assert await content(fs, b"anything") == []


async def test_another_inodes_label_is_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    async with volume() as (fs, model):
        one, two = await make(fs, b"one"), await make(fs, b"two")
        await tag(fs, one, "a")
        await tag(fs, two, "b")
        labels = model.labels

        def swapped(inodes: list[int]) -> object:
            page = labels(inodes)
            others = [msgspec.structs.replace(row, sealed=labels([two]).rows[0].sealed) for row in page.rows]
            return msgspec.structs.replace(page, rows=others)

        monkeypatch.setattr(model, "labels", swapped)
        with pytest.raises(Corrupt):
            await fs.labels.label(one)
        monkeypatch.setattr(model, "labels", lambda _: labels([two]))
        with pytest.raises(Corrupt):
            await fs.labels.label(one)


async def test_a_compaction_under_way_does_not_make_a_labelled_content_another() -> None:
    go = trio.Event()

    class Slow(MemoryStore):
        async def put(self, volume: Any, chunk: Any, parts: Any, *, released: Any = None) -> Any:  # noqa: ANN401
            if sum(map(len, parts)) > MIB // 2:
                await go.wait()
            return await super().put(volume, chunk, parts, released=released)

    namespace = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME).session()
    async with filesystem(namespace, Slow()) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, MIB - 1, b"x")
        for place in range(MAX_LAYERS):
            await fs.write(handle, place * 8192, b"x" * 4096)
        await fs.fsync(handle)
        assert handle.inode.content.locked()
        data = bytes(await fs.read(handle, 0, MIB))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(tag, fs, handle.inode.id, has_content=True))
            await wait_all_tasks_blocked()
            go.set()
        async with handle.inode.content:
            assert len((await namespace.extents(handle.inode.id, 0)).extents) == 1
        assert [one.is_stale for one in await content(fs, data)] == [False]


async def test_a_label_that_keeps_changing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with volume() as (fs, model):
        one = await make(fs, b"one")

        def refuse(session: int, operations: object) -> object:
            raise Conflict("somebody was faster")

        monkeypatch.setattr(model, "apply", refuse)
        with pytest.raises(Exception, match="keeps labelling"):
            await tag(fs, one, "a")


async def test_a_content_is_read_once_though_somebody_labels_the_file_meanwhile() -> None:
    async with volume() as (fs, _):
        one = await write(fs, b"one", b"content")
        digest, read = fs.labels._digest, []

        async def slow(number: InodeId, count: Callable[[int], Awaitable[None]]) -> tuple[bytes, int]:
            read.append(number)
            await tag(fs, one, "meanwhile")
            return await digest(number, count)

        fs.labels._digest = slow
        await tag(fs, one, "late", has_content=True)
        assert read == [one]
        assert (await fs.labels.label(one)).tags == ("meanwhile", "late")


async def test_labels_of_many_words_go_in_batches_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs.vfs.labels.BATCH_ROWS", 100)
    async with volume() as (fs, model):
        for at in range(10):
            await make(fs, b"%d" % at)
        apply, sent = model.apply, []

        def counted(session: int, operations: list[SetLabel]) -> object:
            sent.append(sum(map(rows, operations)))
            return apply(session, operations)

        monkeypatch.setattr(model, "apply", counted)
        await tag(fs, ROOT_INODE, *(f"word{number}" for number in range(30)), is_deep=True)
        assert len(sent) == 4
        assert max(sent) <= 100
        assert len(await paths(fs, "word7")) == 11


async def test_what_has_the_content_comes_before_what_had_it_also_where_few_are_shown() -> None:
    async with volume() as (fs, _):
        for name in (b"old", b"older", b"new"):
            await tag(fs, await write(fs, name, b"same"), has_content=True)
        for name in (b"old", b"older"):
            handle = await fs.open((await fs.lookup(ROOT_INODE, name)).id)
            await fs.write(handle, 0, b"else")
            await fs.fsync(handle)
            await fs.release(handle)
        for limit, told in ((1, [b"new"]), (2, [b"new", b"old"])):
            found = await fs.search.find_content(blake3(b"same").digest(), limit=limit)
            assert [one.path for one in found] == told


async def test_what_is_changed_here_and_not_saved_has_not_the_content_it_was_labelled_with() -> None:
    async with volume() as (fs, _):
        one = await write(fs, b"one", b"same")
        await tag(fs, one, has_content=True)
        handle = await fs.open(one)
        await fs.write(handle, 0, b"else")
        assert [found.is_stale for found in await content(fs, b"same")] == [True]
        await fs.release(handle)


async def test_a_file_with_several_names_is_found_below_each_of_their_directories() -> None:
    async with volume(names=True) as (fs, _):
        x, y = await make(fs, b"x", kind=Kind.DIRECTORY), await make(fs, b"y", kind=Kind.DIRECTORY)
        one = await make(fs, b"one", x)
        await fs.link(one, y, b"two")
        await tag(fs, one, "both", has_content=True)
        assert [await paths(fs, "both", below=below) for below in (b"x", b"y", b"z")] == [[b"x/one"], [b"y/two"], []]
        assert await paths(fs, "both two") == [b"y/two"]
        assert await paths(fs, "both two", below=b"x") == []  # that name is elsewhere
        assert await paths(fs, "one two") == [b"x/one"]
        digest = blake3(b"").digest()
        assert [found.path for found in await fs.search.find_content(digest, below=b"y")] == [b"y/two"]


async def test_names_beyond_the_first_few_are_found_and_indexed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with volume(names=True) as (fs, model):
        one = await make(fs, b"name0")
        for at in range(1, 12):
            await fs.link(one, ROOT_INODE, b"name%d word%d" % (at, at))
        assert await paths(fs, "word11") == [b"name11 word11"]
        fs.labels._names = False
        await fs.labels.index(one, silent, is_deep=False)
        assert await paths(fs, "word11") == await paths(fs, "word2") == []
        fs.labels._names = True
        await fs.labels.index(one, silent, is_deep=False)
        assert await paths(fs, "word11") == [b"name11 word11"]
        session = model.names
        monkeypatch.setattr(model, "names", lambda inode: session(inode)[:9])
        assert await paths(fs, "word11") == []  # no name that is told of bears it out


async def test_a_coordinator_that_tells_the_first_names_again_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with volume(names=True) as (fs, _):
        one = await make(fs, b"name0")
        for at in range(1, 12):
            await fs.link(one, ROOT_INODE, b"name%d word%d" % (at, at))
        told = await fs.labels._namespace.names(one)

        async def earlier(*_: object) -> object:
            return told[:9]

        monkeypatch.setattr(fs.labels._namespace, "names", earlier)
        assert await paths(fs, "word8") == [b"name8 word8"]
        assert await paths(fs, "word9") == []


async def test_what_is_labelled_while_it_is_indexed_anew_has_tokens_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    async with volume() as (fs, model):
        one = await make(fs, b"invoice.pdf")
        await tag(fs, one, "before")
        fs.labels._names = fs.labels._prefixes = fs.search._prefixes = True
        apply, met = model.apply, []

        def faster(session: int, operations: list[SetLabel]) -> object:
            if not met and isinstance(operations[-1], SetLabel):
                met.append(True)
                words = [word_token(KEYS, VOLUME, word) for word in ("before", "theirs")]
                apply(session, [SetLabel(one, 1, seal_label(KEYS, VOLUME, one, Label(("before", "theirs"))), words)])
            return apply(session, operations)

        monkeypatch.setattr(model, "apply", faster)
        await fs.labels.index(one, silent, is_deep=False)
        assert met
        assert await paths(fs, "invoice the*") == [b"invoice.pdf"]


async def test_a_label_that_cannot_be_read_keeps_nothing_else_from_being_found() -> None:
    async with volume() as (fs, _):
        bad, good = await make(fs, b"bad"), await make(fs, b"good")
        for one in (bad, good):
            await tag(fs, one, "word", has_content=True)
        revision = (await fs.labels._rows.one(bad)).revision
        of = word_token(KEYS, VOLUME, "word")
        content_of = words_of.content_token(KEYS, VOLUME, blake3(b"").digest())
        await fs.labels._namespace.apply([SetLabel(bad, revision, b"junk" * 20, [of], [], content_of)])
        unreadable: list[int] = []
        found = await fs.search.find(Query.parse("word"), unreadable=unreadable.append)
        assert ([one.path for one in found], unreadable) == ([b"good"], [bad])
        found = await fs.search.find_content(blake3(b"").digest(), unreadable=unreadable.append)
        assert ([one.path for one in found], unreadable) == ([b"good"], [bad, bad])
        for change in (Change(("new",)), Change(is_anew=True)):  # of a tree: all others
            with pytest.raises(Corrupt, match="1 label could not be read"):
                await fs.labels.change(ROOT_INODE, change, silent, is_deep=True)
        with pytest.raises(Corrupt):
            await fs.labels.index(ROOT_INODE, silent, is_deep=True)
        assert sorted(await paths(fs, "new")) == [b"", b"good"]
        await tag(fs, bad, "again")
        assert await fs.labels.label(bad) == Label(("again",))


@pytest.mark.parametrize("text", ["", "  ", "!!", "*", "a*", " ".join(f"w{number}" for number in range(17))])
def test_what_nobody_can_look_for_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Query.parse(text)


def test_a_star_ends_a_word() -> None:
    assert Query.parse("Inv* 2026 a-bc* a") == Query(("2026", "a"), ("inv", "bc"))
    assert Query.parse("a*b") == Query(("a", "b"))
