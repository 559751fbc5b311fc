"""The SQL engine against the dictionary model: any batches, the same answers, and no counter ever wrong."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from namespaces import (
    NODE,
    VOLUME,
    WANTED_MIN,
    MemoryWorld,
    broken_invariants,
    create_volume,
    extent,
    new_chunk,
    verify,
)

from p2pfs.errors import Fenced, PoolError
from p2pfs.meta import engine, open_inodes, reaper, sessions, trash, volumes
from p2pfs.meta.database import InlineDatabase
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE, Kind, SessionId
from p2pfs.wire import answers
from p2pfs.wire.found import LabelPage
from p2pfs.wire.leases import PurgeTrash, ReadExpiring, ReadNames, ReadTrash, Restore, SetLease
from p2pfs.wire.namespace import (
    Accessed,
    Applied,
    Batch,
    Commit,
    ExpiringPage,
    GetAttributes,
    GetSpace,
    GetXattrs,
    Link,
    Make,
    Named,
    Opened,
    Operation,
    ReadDirectory,
    ReadExtents,
    Released,
    RemoveXattr,
    Rename,
    SetAttributes,
    SetXattr,
    TrashPage,
    TrashRow,
    Unlink,
    XattrPage,
)
from p2pfs.wire.search import Find, IndexName, ReadLabels, SetLabel
from p2pfs.wire.volumes import OpenSession

pytestmark = pytest.mark.l2

NAMES = [b"a", b"b", b"c"]
name = st.sampled_from(NAMES)
place = st.integers(0, 7)  # which of the inodes made so far
made = st.sampled_from([Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.DIRECTORY, Kind.SYMLINK])
Draft = tuple[Any, ...]
draft = st.one_of(
    st.tuples(st.just("make"), place, name, made, st.booleans()),
    st.tuples(st.just("link"), place, name, place),
    st.tuples(st.just("unlink"), place, name, st.booleans()),
    st.tuples(st.just("rename"), place, name, place, name, st.sampled_from([0, 0, 1, 2]), st.booleans()),
    st.tuples(st.just("set"), place, st.sampled_from(["mode", "uid", "atime_ns"])),
    st.tuples(st.just("write"), place, st.integers(0, 3), st.integers(0, 5), st.integers(0, 100)),
    st.tuples(st.just("cut"), place, st.integers(0, 3), st.integers(0, 100)),
    st.tuples(st.just("inline"), place, st.booleans(), st.integers(0, 100)),
    st.tuples(st.just("accessed"), place),
    st.tuples(st.just("xattr"), place, name, st.sampled_from([0, 0, 1, 2])),
    st.tuples(st.just("no xattr"), place, name),
    st.tuples(st.just("opened"), place),
    st.tuples(st.just("released"), place),
    st.tuples(st.just("restore"), place, place, name, st.booleans()),
    st.tuples(st.just("purge"), place),
    st.tuples(st.just("lease"), place, st.integers(0, 9)),
    st.tuples(st.just("label"), place, st.integers(0, 3), st.lists(name, max_size=3), st.lists(name, max_size=2)),
    st.tuples(st.just("words"), place, st.integers(0, 9), st.lists(name, max_size=3)),
)  # fmt: skip
batches = st.lists(st.tuples(st.integers(0, 1), st.lists(draft, min_size=1, max_size=2)), min_size=5, max_size=30)


SEED: list[Draft] = [
    ("make", 0, b"a", Kind.DIRECTORY, False),
    ("make", 1, b"a", Kind.DIRECTORY, False),
    ("make", 0, b"b", Kind.FILE, True),
    ("make", 1, b"c", Kind.FILE, False),
    ("make", 2, b"a", Kind.FILE, False),
    ("xattr", 0, b"a", 0),
    ("xattr", 2, b"a", 0),
    ("label", 2, 0, [b"a", b"b"], [b"c"]),
    ("label", 4, 0, [b"a"], []),
    ("unlink", 0, b"b", False),
]


class Pair:
    """The two implementations side by side, with two sessions each."""

    def __init__(self, trash_s: float) -> None:
        self.database = InlineDatabase()
        volume = replace(create_volume(), trash_removed_s=trash_s)
        self.database.write_now(lambda c: volumes.create_volume(c, volume, owner="anna", now_s=0.0))
        self.model: MemoryVolume = MemoryWorld(trash_s=trash_s).volume
        self.model.now_s = 1.0
        self.sql_sessions = [self._open() for _ in range(2)]
        self.model_sessions = [self.model.session().number for _ in range(2)]
        self.model.grant_ids(2 * sessions.FIRST_IDS)
        self.numbers = itertools.count(ROOT_INODE + 1)
        self.times = itertools.count(1000)
        self.seqs = itertools.count(1)
        self.inodes: list[int] = [ROOT_INODE]

    def _open(self) -> SessionId:
        grant = self.database.write_now(
            lambda c: sessions.open_session(
                c, VOLUME, node=NODE, owner="anna", request=OpenSession(), now_s=0.0, lifetime_s=1.0
            )
        )
        return SessionId(grant.session)

    def apply(self, which: int, operations: list[Operation]) -> None:
        seq = next(self.seqs)
        batch = Batch(seq, max(1, seq - 3), operations)

        def by_sql() -> Applied:
            return answers.unwrap(
                self.database.write_now(
                    lambda c: sessions.apply_batch(
                        c, self.sql_sessions[which], batch=batch, verify=verify, wanted_min=WANTED_MIN, now_s=1.0
                    )
                ).answer,
                Applied,
            )

        assert told(by_sql) == told(lambda: self.model.apply(self.model_sessions[which], operations)), operations

    def compare(self) -> None:
        """Every inode, directory and page is the same."""
        for inode in self.inodes:
            for question, by_model in (
                (GetAttributes(inode), lambda: self.model.attributes(inode)),  # noqa: B023 - called at once
                (ReadDirectory(inode, 0, 100), lambda: self.model.directory(inode, 0, 100, content=True)),  # noqa: B023
                (ReadDirectory(inode, 0, 100, False), lambda: self.model.directory(inode, 0, 100)),  # noqa: B023
                (ReadExtents(inode, 0), lambda: self.model.extents(inode, 0)),  # noqa: B023
                (GetXattrs(inode), lambda: self.model.xattrs(inode)),  # noqa: B023
                (ReadNames(inode), lambda: self.model.names(inode)),  # noqa: B023
                (ReadTrash(0, 100, inode), lambda: self.model.trash(0, 100, inode)),  # noqa: B023
            ):
                by_sql = lambda: self.database.read(lambda c: engine.answer(c, VOLUME, question))  # noqa: B023, E731
                assert seen(by_sql) == seen(by_model)
        for by_sql_session, number in zip(self.sql_sessions, self.model_sessions, strict=True):
            kept = seen_held(lambda: self.database.read(lambda c: sessions.held(c, by_sql_session)))  # noqa: B023
            assert kept == seen_held(lambda: self.model.held(number)), number  # noqa: B023
        for question, by_model in (
            (ReadTrash(3, 4), lambda: self.model.trash(3, 4)),
            (ReadExpiring(8, (0, 0), 3), lambda: self.model.expiring(8, (0, 0), 3)),
            (ReadExpiring(8, (3, 4), 100), lambda: self.model.expiring(8, (3, 4), 100)),
        ):
            assert seen(lambda: self.database.read(lambda c: engine.answer(c, VOLUME, question))) == seen(by_model)  # noqa: B023
        for asked in ([b"a"], [b"a", b"b"], [b"c", b"a"]):
            tokens = [token(word) for word in asked]
            for after in ((0, 0, 0), (0, 0, 5)):
                by_sql = lambda: self.database.read(lambda c: engine.answer(c, VOLUME, Find(tokens, after, 3)))  # noqa: B023, E731
                assert by_sql() == self.model.find(tokens, after, 3)
        labels = self.database.read(lambda c: engine.answer(c, VOLUME, ReadLabels(self.inodes[:100])))
        assert labelled(labels) == labelled(self.model.labels(self.inodes[:100]))
        space = self.database.read(lambda c: engine.answer(c, VOLUME, GetSpace()))
        assert (space.inodes, space.trash) == (self.model.space().inodes, self.model.space().trash)
        assert self.database.read(lambda c: volumes.volume(c, VOLUME)).bytes == self.model.charged_bytes
        assert self.database.read(broken_invariants) == []

    def lapse(self) -> None:
        self.database.write_now(lambda c: open_inodes.lapse(c, now_s=1.0 + sessions.HOLD_S + 0.1, limit=1000))
        self.model.lapse()

    def purge(self) -> int:
        """The delay is over: some go from the trash."""
        purged = self.database.write_now(lambda c: trash.purge(c, now_s=6.0, limit=2))
        if not purged.rows:
            self.model.purge()
        return purged.rows

    def end(self, which: int) -> None:
        self.database.write_now(lambda c: sessions.close_session(c, self.sql_sessions[which]))
        self.model.end(self.model_sessions[which])


def labelled(page: LabelPage) -> object:
    """Without attr_change, which only has to rise, and copies: those of what is cut count until it is reaped."""
    return [replace(row, attributes=replace(row.attributes, attr_change=0), copies=0) for row in page.rows], page.done


def told(do: Callable[[], Applied]) -> object:
    """What a batch did, or the error's name; without attr_change, which only has to rise."""
    try:
        applied = do()
    except PoolError as error:
        return type(error).__name__
    return {row.inode: replace(row, attr_change=0) for row in applied.attributes}, sorted(applied.removed)


def seen_held(look: Callable[[], list[int]]) -> list[int]:
    """What is held, nothing for a session that is over."""
    try:
        return sorted(look())
    except Fenced:
        return []


def seen(look: Callable[[], Any]) -> object:
    try:
        return _plain(look())
    except PoolError as error:
        return type(error).__name__


def _plain(message: Any) -> object:  # noqa: ANN401
    if isinstance(message, list):
        return [_plain(one) for one in message]
    if isinstance(message, TrashPage | ExpiringPage):
        return [_plain(row) for row in message.rows], message.complete
    if isinstance(message, Named | TrashRow):
        return replace(message, entry=replace(message.entry, attributes=_plain(message.entry.attributes)))  # type: ignore[arg-type]
    if hasattr(message, "attr_change"):
        return replace(message, attr_change=0)
    if hasattr(message, "entries"):
        return [(e.dentry, e.name, e.tag, _plain(e.attributes)) for e in message.entries], message.complete
    if isinstance(message, XattrPage):
        return _plain(message.attributes), sorted((xattr.name, xattr.value) for xattr in message.xattrs)
    places = {(row.chunk, row.size, tuple(sorted(row.holders))) for row in message.places}
    return _plain(message.attributes), message.extents, places


def operation(pair: Pair, drafted: Draft) -> Operation:
    """A draft with numbers, mostly about what is there now; a place of 7 is about anything."""
    kind, *rest = drafted
    now = next(pair.times)
    match kind:
        case "make":
            parent, made_name, made_kind, opened = directory(pair, rest[0]), *rest[1:]
            number = next(pair.numbers)
            pair.inodes.append(number)
            target = b"target" if made_kind == Kind.SYMLINK else None
            return Make(parent, made_name, number, b"t", number, made_kind, 0o644, 0, 0, 0, b"h0", now, target, opened)
        case "link":
            return Link(directory(pair, rest[0]), rest[1], next(pair.numbers), b"t", file(pair, rest[2]), now)
        case "unlink":
            parent = directory(pair, rest[0])
            child = existing(pair, parent, rest[1])
            inode = leads_to(pair, parent, child)
            return Unlink(parent, child, inode, (inode in pair.model._names) != (rest[2] and now % 5 == 0), now)
        case "rename":
            _, wanted, into, new, flags, honest = rest
            parent, new_parent = directory(pair, rest[0]), directory(pair, into)
            old = existing(pair, parent, wanted)
            replaced = leads_to(pair, new_parent, new) if honest or now % 3 else 0
            return Rename(
                parent, old, leads_to(pair, parent, old), new_parent, new, next(pair.numbers), b"r", replaced, flags,
                now, b"b",
            )  # fmt: skip
        case "set":
            return SetAttributes(anything(pair, rest[0]), now, **{rest[1]: now % 0o7777})
        case "accessed":
            return Accessed(anything(pair, rest[0]), now)
        case "xattr":
            return SetXattr(anything(pair, rest[0]), rest[1], b"value %d" % now, rest[2], now)
        case "no xattr":
            return RemoveXattr(anything(pair, rest[0]), rest[1], now)
        case "opened":
            return Opened(anything(pair, rest[0]))
        case "released":
            return Released(anything(pair, rest[0]))
        case "restore":
            inode = trashed(pair, rest[0])
            lost = pair.model._trash.get(inode)
            if lost is None or not rest[3]:
                return Restore(inode, directory(pair, rest[1]), rest[2], next(pair.numbers), b"restored", now)
            return Restore(inode, lost.parent, lost.name, lost.known.dentry, lost.known.tag, now)
        case "purge":
            return PurgeTrash(trashed(pair, rest[0]))
        case "lease":
            return SetLease(anything(pair, rest[0]), rest[1])
        case "label":
            tags, note = ([token(word) for word in some] for some in rest[2:])
            inode = anything(pair, rest[0])
            revision = pair.model._labels[inode][0] if inode in pair.model._labels and rest[1] else rest[1]
            return SetLabel(inode, revision, b"sealed" if tags or note else b"", tags, note, b"", 0)
        case "words":
            inode = file(pair, rest[0])
            names = pair.model.names(inode) if inode in pair.model._inodes else []
            dentry = names[rest[1] % len(names)].entry.dentry if names else 99
            return IndexName(inode, dentry, [token(word) for word in rest[2]])
    inode = file(pair, rest[0])
    row = pair.model._inodes.get(inode)
    change = row.change if row else 0
    base = Commit(inode, change, rest[-1], b"h%d" % (change + 1), now)
    seq = (change + 1) << 20
    match kind:
        case "write":
            chunk = rest[2] or None
            dropped = [key for key in pair.model._extents.get(inode, {}) if key[0] == rest[1]][:1]
            chunks = [] if chunk is None else [new_chunk(chunk, 1, 2)]
            return replace(base, extents=[extent(rest[1], seq, chunk)], chunks=chunks, drop=dropped, clear_inline=True)
        case "cut":
            return replace(base, cut_index=rest[1], cut_seq=seq)
    return replace(base, inline=b"inline %d" % now if rest[1] else None)


def token(word: bytes) -> bytes:
    return word.ljust(16, b".")


def anything(pair: Pair, at: int) -> int:
    return pair.inodes[-1 - at % len(pair.inodes)]


def trashed(pair: Pair, at: int) -> int:
    there = sorted(pair.model._trash)
    return anything(pair, at) if at == 7 or not there else there[at % len(there)]


def directory(pair: Pair, at: int) -> int:
    there = sorted(pair.model._names)
    return anything(pair, at) if at == 7 else there[at % len(there)]


def file(pair: Pair, at: int) -> int:
    there = sorted(row.inode for row in pair.model._inodes.values() if row.kind == Kind.FILE)
    return anything(pair, at) if at == 7 or not there else there[at % len(there)]


def existing(pair: Pair, parent: int, wanted: bytes) -> bytes:
    there = sorted(pair.model._names.get(parent, ()))
    return there[NAMES.index(wanted) % len(there)] if there else wanted


def leads_to(pair: Pair, parent: int, child: bytes) -> int:
    found = pair.model._names.get(parent, {}).get(child)
    return found.inode if found else 0


@pytest.mark.parametrize("trash_s", [0.0, 5.0])
@given(batches)
def test_both_implementations_do_the_same(trash_s: float, drafts: list[tuple[int, list[Draft]]]) -> None:
    pair = Pair(trash_s)
    try:
        for drafted in SEED:
            pair.apply(0, [operation(pair, drafted)])
        for which, batch in drafts:
            pair.apply(which, [operation(pair, drafted) for drafted in batch])
        pair.compare()
        pair.lapse()
        pair.compare()
        pair.end(0)
        pair.compare()
        while pair.database.write_now(lambda c: reaper.reap(c, now_s=1.0, limit=3)):
            pair.compare()
        pair.end(1)
        pair.compare()
        while pair.purge():
            assert pair.database.read(broken_invariants) == []
        pair.compare()
    finally:
        pair.database.close()
