"""The trash against a model: whatever is removed, replaced, expires, is brought back or let go, at whatever times,
nothing is lost before its time, nothing is left after it, and the counters are right (P6)."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from broken_rows import broken_invariants
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from namespaces import NODE, VOLUME, create_volume, extent, new_chunk, verify

from p2pfs.errors import NotFound, PoolError
from p2pfs.meta import engine, leases, members, reaper, sessions, trash, volumes
from p2pfs.meta.database import InlineDatabase
from p2pfs.meta.work import Rules
from p2pfs.types import ROOT_INODE, Kind, SessionId
from p2pfs.wire import answers
from p2pfs.wire.leases import PurgeTrash, ReadTrash, Restore, SetLease
from p2pfs.wire.namespace import (
    Applied,
    Attributes,
    Batch,
    Commit,
    GetAttributes,
    GetSpace,
    Make,
    Opened,
    Operation,
    ReadExtents,
    Released,
    Rename,
    Unlink,
)
from p2pfs.wire.search import TAG, Find, Hit, IndexName, SetLabel
from p2pfs.wire.volumes import OpenSession, VolumeSettings

pytestmark = pytest.mark.l2

COMMON = b"in every label.."

which = st.integers(0, 20)
step = st.one_of(
    st.tuples(st.just("make"), which, st.booleans(), st.integers(0, 5000)),
    st.tuples(st.just("remove"), which),
    st.tuples(st.just("remove"), which),
    st.tuples(st.just("replace"), which, which),
    st.tuples(st.just("restore"), which),
    st.tuples(st.just("restore"), which),
    st.tuples(st.just("purge"), which),
    st.tuples(st.just("open"), which),
    st.tuples(st.just("close"), which),
    st.tuples(st.just("lease"), which, st.sampled_from([10.0, 100.0, 1000.0])),
    st.tuples(st.just("pass"), st.sampled_from([1.0, 30.0, 200.0, 5000.0])),
    st.tuples(st.just("delays"), st.sampled_from([0.0, 50.0, 400.0]), st.sampled_from([0.0, 50.0, 400.0])),
)
steps = st.lists(step, min_size=5, max_size=40)


@dataclass
class Thing:
    """A file or directory as it must be."""

    inode: int
    parent: int
    name: bytes
    is_directory: bool
    size: int
    expires_s: float = 0.0
    purge_s: float | None = None  # while it is in the trash
    is_open: bool = False


@dataclass
class Story:
    """The engine, and what must be so."""

    database: InlineDatabase = field(default_factory=InlineDatabase)
    now_s: float = 1000.0
    removed_s: float = 400.0  # the delays
    expired_s: float = 400.0
    there: dict[int, Thing] = field(default_factory=dict)
    trash: dict[int, Thing] = field(default_factory=dict)
    nameless: dict[int, Thing] = field(default_factory=dict)  # open, and not in the trash
    gone: set[int] = field(default_factory=set)
    seqs: Any = field(default_factory=lambda: itertools.count(1))
    numbers: Any = field(default_factory=lambda: itertools.count(ROOT_INODE + 1))

    def __post_init__(self) -> None:
        volume = replace(create_volume(trash_s=400.0))
        self.database.write_now(lambda c: volumes.create_volume(c, volume, owner="anna", now_s=0.0))
        self.database.write_now(lambda c: members.add_peer(c, NODE, now_s=0.0))
        grant = self.database.write_now(
            lambda c: sessions.open_session(
                c, VOLUME, node=NODE, owner="anna", request=OpenSession(), now_s=0.0, lifetime_s=1e9
            )
        )
        self.session = SessionId(grant.session)

    # ---- steps ------------------------------------------------------------------------------------------------------

    def do(self, *operations: Operation) -> Applied:
        seq = next(self.seqs)
        batch = Batch(seq, seq - 1, list(operations))
        outcome = self.database.write_now(
            lambda c: sessions.apply_batch(c, self.session, batch=batch, verify=verify, wanted_min=0, now_s=self.now_s)
        )
        return answers.unwrap(outcome.answer, Applied)

    def make(self, at: int, is_directory: bool, size: int) -> None:
        inode, parent = next(self.numbers), self.directory(at)
        name = b"%d" % inode
        kind = Kind.DIRECTORY if is_directory else Kind.FILE
        self.do(Make(parent, name, inode, b"tag of " + name, inode, kind, 0o755, 0, 0, 0, b"head", 1))
        if not is_directory:
            chunk = new_chunk(inode, 1)
            self.do(Commit(inode, 0, size, b"head", 2, extents=[extent(0, 1, inode)], chunks=[chunk]))
        self.do(SetLabel(inode, 0, b"sealed", [COMMON, _token(inode)]), IndexName(inode, inode, [_token(inode)]))
        above = self.there.get(parent)
        lease = above.expires_s if above else 0.0
        self.there[inode] = Thing(inode, parent, name, is_directory, 0 if is_directory else size, lease)

    def remove(self, at: int) -> None:
        thing = self.pick(self.there, at)
        if thing is not None and not self.is_full(thing):
            self.do(Unlink(thing.parent, thing.name, thing.inode, thing.is_directory, 3))
            self.lose(thing, self.removed_s)

    def replace(self, at: int, by: int) -> None:
        thing, other = self.pick(self.there, at), self.pick(self.there, by)
        if thing is None or other is None or thing is other or thing.is_directory or other.is_directory:
            return
        number = next(self.numbers)
        self.do(
            Rename(
                other.parent,
                other.name,
                other.inode,
                thing.parent,
                thing.name,
                number,
                b"tag of " + thing.name,
                thing.inode,
                0,
                4,
            )
        )
        self.lose(thing, self.removed_s)
        other.parent, other.name = thing.parent, thing.name

    def restore(self, at: int) -> None:
        thing = self.pick(self.trash, at)
        if thing is None:
            return
        row = self.rows()[thing.inode]
        operation = Restore(thing.inode, thing.parent, thing.name, row.entry.dentry, row.entry.tag, 5)
        is_taken = any((t.parent, t.name) == (thing.parent, thing.name) for t in self.there.values())
        is_lost = thing.parent != ROOT_INODE and thing.parent not in self.there
        if is_taken or is_lost:
            with pytest.raises(PoolError):
                self.do(operation)
            return
        self.do(operation)
        del self.trash[thing.inode]
        thing.purge_s = None
        if 0 < thing.expires_s <= self.now_s:
            thing.expires_s = int(self.now_s + max(self.expired_s, 86400.0))
        self.there[thing.inode] = thing

    def purge(self, at: int) -> None:
        thing = self.pick(self.trash, at)
        if thing is not None:
            self.do(PurgeTrash(thing.inode))
            self.leave(thing)

    def open(self, at: int) -> None:
        thing = self.pick(self.there, at)
        if thing is not None and not thing.is_directory:
            self.do(Opened(thing.inode))
            thing.is_open = True

    def close(self, at: int) -> None:
        thing = self.pick({t.inode: t for t in self.everything() if t.is_open}, at)
        if thing is not None:
            self.do(Released(thing.inode))
            thing.is_open = False
            if self.nameless.pop(thing.inode, None):
                self.gone.add(thing.inode)

    def lease(self, at: int, span_s: float) -> None:
        thing = self.pick(self.there, at)
        if thing is not None:
            thing.expires_s = int(self.now_s + span_s)
            self.do(SetLease(thing.inode, int(thing.expires_s)))

    def delays(self, removed_s: float, expired_s: float) -> None:
        self.removed_s, self.expired_s = removed_s, expired_s
        settings = VolumeSettings(removed_s, expired_s, guard=b"g" * 32)
        self.database.write_now(lambda c: volumes.configure(c, VOLUME, settings))

    def let_pass(self, span_s: float) -> None:
        """And the coordinator does its work."""
        self.now_s += span_s
        while found := self.database.read(lambda c: leases.overdue(c, VOLUME, now_s=self.now_s, limit=3)):
            self.expect_expired(found)
            rules = Rules(verify, 0, self.now_s, awake_s=1e12)  # what it keeps for mounts is another test
            self.database.write_now(lambda c: leases.expire(c, VOLUME, found, rules=rules, fences=0))  # noqa: B023
            self.check()
        assert not [t for t in self.there.values() if 0 < t.expires_s <= self.now_s and not self.is_full(t)]
        while self.database.write_now(lambda c: trash.purge(c, now_s=self.now_s, limit=2)).rows:
            pass
        for thing in [thing for thing in self.trash.values() if thing.purge_s <= self.now_s]:  # type: ignore[operator]
            self.leave(thing)
        while self.database.write_now(lambda c: reaper.reap(c, now_s=self.now_s)):
            pass

    def expect_expired(self, found: list[int]) -> None:
        for inode in found:
            thing = self.there[inode]
            assert 0 < thing.expires_s <= self.now_s
            assert not self.is_full(thing)
            self.lose(thing, self.expired_s)

    # ---- parts ------------------------------------------------------------------------------------------------------

    def lose(self, thing: Thing, delay_s: float) -> None:
        del self.there[thing.inode]
        if delay_s:
            thing.purge_s = self.now_s + delay_s
            self.trash[thing.inode] = thing
        elif thing.is_open:
            self.nameless[thing.inode] = thing
        else:
            self.gone.add(thing.inode)

    def leave(self, thing: Thing) -> None:
        del self.trash[thing.inode]
        if thing.is_open:
            self.nameless[thing.inode] = thing
        else:
            self.gone.add(thing.inode)

    def everything(self) -> list[Thing]:
        return [*self.there.values(), *self.trash.values(), *self.nameless.values()]

    def is_full(self, thing: Thing) -> bool:
        return any(other.parent == thing.inode for other in self.there.values())

    def pick(self, of: dict[int, Thing], at: int) -> Thing | None:
        return of[sorted(of)[at % len(of)]] if of else None

    def directory(self, at: int) -> int:
        found = [ROOT_INODE, *(inode for inode, thing in sorted(self.there.items()) if thing.is_directory)]
        return found[at % len(found)]

    def rows(self) -> dict[int, Any]:
        page = self.database.read(lambda c: engine.answer(c, VOLUME, ReadTrash(0, 500)))
        return {row.entry.attributes.inode: row for row in page.rows}

    def check(self) -> None:
        assert self.database.read(broken_invariants) == []
        rows = self.rows()
        assert {inode: row.purge_s for inode, row in rows.items()} == {i: t.purge_s for i, t in self.trash.items()}
        for inode, row in rows.items():
            thing = self.trash[inode]
            assert (row.parent, row.entry.name) == (thing.parent, thing.name)
            assert row.entry.attributes.size == thing.size
        for thing in self.there.values():
            found = self.ask(thing.inode)
            assert found is not None
            assert (found.size, found.expires_s, found.links > 0) == (thing.size, thing.expires_s, True)
        assert {hit.inode for hit in self.find(COMMON)} == self.there.keys()
        for inode in self.there:  # what has another name now is found by its tag alone
            places = [hit.places for hit in self.find(_token(inode))]
            assert places == ([[TAG], [inode]] if self.there[inode].name == b"%d" % inode else [[TAG]])
        for inode in (*self.gone, *(t.inode for t in self.trash.values() if not t.is_open)):
            assert self.ask(inode) is None
        space = self.database.read(lambda c: engine.answer(c, VOLUME, GetSpace()))
        counted = [t for t in self.everything() if t.inode not in self.trash or t.is_open]
        buried = [t for t in self.trash.values() if not t.is_open]
        assert (space.inodes, space.trash) == (1 + len(counted), sum(t.size for t in buried))
        info = self.database.read(lambda c: volumes.volume(c, VOLUME))
        assert (info.bytes, info.trash_files) == (sum(t.size for t in counted), len(buried))

    def check_content(self) -> None:
        """Of what is there every extent is, and of what is gone nothing."""
        for thing in self.there.values():
            if not thing.is_directory:
                page = self.database.read(lambda c: engine.answer(c, VOLUME, ReadExtents(thing.inode, 0)))  # noqa: B023
                assert page.extents == [extent(0, 1, thing.inode)]
        for table in ("inode", "extent", "inline_data", "xattr", "label", "keyword"):
            left = {row[0] for row in self.database.read(lambda c: c.execute(f"SELECT inode FROM {table}").fetchall())}  # noqa: B023
            assert left.isdisjoint(self.gone), table

    def find(self, token: bytes) -> list[Hit]:
        hits: list[Hit] = self.database.read(lambda c: engine.answer(c, VOLUME, Find([token], (0, 0, 0), 500))).hits
        return hits

    def ask(self, inode: int) -> Attributes | None:
        try:
            found: Attributes = self.database.read(lambda c: engine.answer(c, VOLUME, GetAttributes(inode)))
        except NotFound:
            return None
        return found


def _token(inode: int) -> bytes:
    return inode.to_bytes(16, "big")


@given(steps)
def test_nothing_is_lost_before_its_time_nor_left_after_it(told: list[tuple[Any, ...]]) -> None:
    story = Story()
    try:
        for at in range(3):
            story.make(at, at == 0, 1000)
        story.open(1)
        for kind, *rest in told:
            (story.let_pass if kind == "pass" else getattr(story, kind))(*rest)
            story.check()
        story.let_pass(1.0)
        story.check()
        story.check_content()
        for at in range(20):
            story.restore(at)
        story.check()
        story.check_content()
        story.let_pass(10 * 365 * 86400.0)
        story.check()
        story.check_content()
    finally:
        story.database.close()
