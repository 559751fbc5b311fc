"""Mounts: whose volume, whose session, which receipts; and what status says of it all."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from coordination import FakeClock, Pool, chunk_id, pool, volume_message
from plugins.checklogs import Claims

from p2pfs.coordinator import status
from p2pfs.coordinator.questions import SLICE, slices
from p2pfs.coordinator.sessions import GRACE, MAX_SESSIONS, Expiry, Reaper
from p2pfs.coordinator.volumes import parse_volume
from p2pfs.errors import Busy, Denied, Exists, Fenced, Gone, Invalid, Misuse, NotFound, TooLarge
from p2pfs.meta import chunks_index, engine, questions, sessions
from p2pfs.runtime.worker import Progress
from p2pfs.types import (
    GIB,
    MAX_FILE_BYTES,
    MIB,
    SEALED_CHUNK_BYTES,
    NodeId,
    Role,
    SessionId,
    VolumeId,
    head_limit,
    volume_name,
)
from p2pfs.wire import codec
from p2pfs.wire.answers import Answer, unwrap
from p2pfs.wire.bookings import Book
from p2pfs.wire.namespace import (
    AddReplicas,
    Applied,
    Attributes,
    Batch,
    Commit,
    DirectoryPage,
    ExtentPage,
    ExtentRow,
    GetAttributes,
    GetSpace,
    GetXattrs,
    Locate,
    Make,
    NewChunk,
    Operation,
    Question,
    ReadDirectory,
    ReadExtents,
    Space,
    Unlink,
)
from p2pfs.wire.routes import COORDINATOR_ROUTES
from p2pfs.wire.search import Find, FindContent, ReadLabels
from p2pfs.wire.volumes import OpenSession, Reserve

pytestmark = pytest.mark.l0

VOLUME = VolumeId(7)
LIFETIME_S = 60.0
ROUTES = {route.name: route for route in COORDINATOR_ROUTES}


class Mount:
    """One node's session."""

    def __init__(self, p: Pool, node: str) -> None:
        self.p = p
        self.identity = p.identity(node, [Role.CLIENT])
        self.seq = 0

    async def open(self) -> "Mount":
        grant = await self.p.services.sessions.open(self.identity, VOLUME, OpenSession("host", "/mnt"))
        self.session, self.next, self.grant = SessionId(grant.session), grant.first_id, grant
        return self

    async def apply(self, *operations: Operation) -> Applied:
        self.seq += 1
        return codec.decode(
            await self.p.services.sessions.apply(self.session, Batch(self.seq, 0, list(operations))), Applied
        )

    def make(self, name: bytes) -> Make:
        self.next += 2
        return Make(1, name, self.next - 2, b"tag", self.next - 1, 1, 0o644, 0, 0, 0, b"head", 1)


def commit(inode: int, chunk: NewChunk) -> Commit:
    extent = ExtentRow(0, 1, chunk.chunk, b"sealed")
    return Commit(inode, 0, 1000, b"head", 2, extents=[extent], chunks=[chunk])


async def mounted(p: Pool, owner: str = "anna") -> Mount:
    node = (await p.join(f"{owner}@laptop", Role.CLIENT)).node
    await p.services.volumes.create(p.identity(node), volume_message(VOLUME))
    return await Mount(p, node).open()


@pytest.mark.parametrize("place", [("host", "/mnt\x1b]52;c;cm0gLXJm\x07"), ("ho\nst", "/mnt"), ("host", "x" * 4097)])
async def test_where_a_mount_is_must_be_text_for_a_person(tmp_path: Path, place: tuple[str, str]) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        with pytest.raises(Misuse):
            await p.services.sessions.open(mount.identity, VOLUME, OpenSession(*place))


# ---- whose ----------------------------------------------------------------------------------------------------------


async def test_a_volume_belongs_to_the_owner_of_the_node_that_made_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna = (await p.join("anna@laptop", Role.CLIENT)).node
        desk = (await p.join("anna@desk", Role.CLIENT)).node
        bob = (await p.join("bob@laptop", Role.CLIENT)).node
        made = await p.services.volumes.create(p.identity(anna), volume_message(VOLUME))
        assert (made.owner, made.name, made.files) == ("anna", "photos", 1)
        client = [Role.CLIENT]
        assert p.services.volumes.visible(p.identity(desk, client)) == [made]
        assert p.services.volumes.visible(p.identity(bob, client)) == []
        assert p.services.volumes.visible(p.identity(roles=[Role.ADMIN])) == [made]
        path = {"volume": volume_name(VOLUME)}
        p.services.authorise(ROUTES["open_session"], p.identity(desk, client), path)
        for route in ("open_session", "questions", "volume_slots"):
            with pytest.raises(NotFound):
                p.services.authorise(ROUTES[route], p.identity(bob, client), path)
            with pytest.raises(NotFound):  # an admin rules over nodes, not over others' files
                p.services.authorise(ROUTES[route], p.identity(), path)


async def test_volume_names_are_per_owner(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        anna = p.identity((await p.join("anna@laptop", Role.CLIENT)).node)
        bob = p.identity((await p.join("bob@laptop", Role.CLIENT)).node)
        await p.services.volumes.create(anna, volume_message(7, "photos"))
        await p.services.volumes.create(bob, volume_message(8, "photos"))
        for number, name in ((9, "photos"), (7, "other")):
            with pytest.raises(Exists):
                await p.services.volumes.create(anna, volume_message(number, name))


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": " a"},
        {"name": "a" * 65},
        {"name": "a\n"},
        {"volume": 0},
        {"volume": 1 << 63},
        {"slots": []},
        {"check": b""},
        {"small_file_bytes": 1 << 20},
    ],
    ids=str,
)
async def test_impossible_volumes_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    async with pool(tmp_path) as p:
        with pytest.raises(Invalid):
            await p.services.volumes.create(p.identity(), msgspec.structs.replace(volume_message(), **change))


@pytest.mark.parametrize(
    "text", ["", "7", "0" * 17, "000000000000000G", "8" + "0" * 15, "0000000000000007 ", "０" * 16]
)
def test_addresses_of_volumes_are_sixteen_digits(text: str) -> None:
    assert parse_volume("0000000000000007") == 7
    with pytest.raises(NotFound):
        parse_volume(text)


async def test_a_session_is_its_nodes_alone(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        other = p.identity((await p.join("anna@desk", Role.CLIENT)).node, [Role.CLIENT])
        path = {"session": mount.session}
        p.services.authorise(ROUTES["batch"], mount.identity, path)
        with pytest.raises(Denied):
            p.services.authorise(ROUTES["batch"], other, path)
        with pytest.raises(Fenced):
            p.services.authorise(ROUTES["batch"], mount.identity, {"session": "ee" * 16})


async def test_a_session_that_was_heard_is_known_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        path = {"session": mount.session}
        p.services.authorise(ROUTES["batch"], mount.identity, path)
        with monkeypatch.context() as patch:
            patch.setattr(sessions, "session", None)  # its row is not read again
            p.services.authorise(ROUTES["batch"], mount.identity, path)
        await p.services.sessions.close(mount.session)
        with pytest.raises(Fenced):
            p.services.authorise(ROUTES["batch"], mount.identity, path)


# ---- life -----------------------------------------------------------------------------------------------------------


async def test_a_session_outlives_its_lifetime_by_far_but_not_for_ever(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        assert mount.grant.lifetime_s == 60
        p.clock.advance(60 * GRACE - 1)
        await Expiry(p.services.sessions, p.services.reservations).work()
        assert (await p.services.sessions.renew(mount.session)).map_version == p.services.roster.version
        p.clock.advance(60 * GRACE + 1)
        await Expiry(p.services.sessions, p.services.reservations).work()
        with pytest.raises(Fenced):
            await p.services.sessions.renew(mount.session)
        with pytest.raises(Fenced):
            await mount.apply(mount.make(b"late"))


async def test_sessions_survive_however_long_the_coordinator_was_away(tmp_path: Path) -> None:
    clock = FakeClock()
    async with pool(tmp_path, clock=clock) as p:
        mount = await mounted(p)
    clock.advance(60 * GRACE * 2)
    async with pool(tmp_path, clock=clock) as p:
        await Expiry(p.services.sessions, p.services.reservations).work()
        await p.services.sessions.renew(mount.session)


async def test_a_closed_session_gives_back_what_it_held(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1)
        mount = await mounted(p)
        await p.services.sessions.reserve(mount.session, Reserve(GIB))
        await p.services.sessions.close(mount.session)
        await p.services.sessions.close(mount.session)  # again is fine
        await p.rest(peer.node)
        assert p.services.reservations.space(NodeId("ee" * 16))[1] == 10 * GIB
        with pytest.raises(Fenced):
            await p.services.sessions.reserve(mount.session, Reserve(1))


async def test_a_booking_is_drawn_once_for_a_chunk_and_again_when_it_was_gone(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two, three = await p.peers(3)
        mount = await mounted(p)
        await p.services.bookings.book(mount.identity, VOLUME, Book(10 * MIB, 3600))

        def left() -> int:
            return p.services.bookings.listed(p.identity())[0].left_bytes

        async def write(name: bytes, put_seq: int = 1) -> Unlink:
            make = mount.make(name)
            stored = p.stored(VOLUME, 1, [one.peer, two.peer], size=SEALED_CHUNK_BYTES, put_seq=put_seq)
            await mount.apply(make, commit(make.inode, stored))
            return Unlink(1, name, make.inode, False, 3)

        late = AddReplicas([p.stored(VOLUME, 1, [three.peer], size=SEALED_CHUNK_BYTES)])
        removals = [await write(b"one")]
        assert left() == 9 * MIB
        await mount.apply(late)
        removals.append(await write(b"two"))
        assert left() == 9 * MIB
        await mount.apply(*removals)
        while await p.services.sessions.reap():
            pass
        await mount.apply(late)
        assert left() == 9 * MIB
        await write(b"three", put_seq=2)
        assert left() == 8 * MIB


async def test_what_was_stored_just_before_a_crash_is_not_free_after_it(tmp_path: Path) -> None:
    """The figures that are kept of a peer may be a minute old, and repairs need no token; where copies lie is known."""
    clock, size, anybody = FakeClock(), MIB, NodeId("ee" * 16)
    async with pool(tmp_path, clock=clock) as p:
        peers = await p.peers(2, capacity=10 * MIB)
        mount = await mounted(p)
        for number in range(8):
            make = mount.make(b"%d" % number)
            stored = p.stored(VOLUME, number, [peer.peer for peer in peers], size=size)
            await mount.apply(make, commit(make.inode, stored))
    async with pool(tmp_path, clock=clock) as p:
        assert p.services.reservations.space(anybody)[1] == 10 * MIB - 8 * size
        for peer in peers:
            await p.beat(peer.node, capacity=10 * MIB, used=8 * size, put_seq=1)
        assert p.services.reservations.space(anybody)[1] == 10 * MIB - 8 * size


# ---- receipts -------------------------------------------------------------------------------------------------------


async def test_a_commit_needs_min_replicas_genuine_receipts(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two, _ = await p.peers(3)
        mount = await mounted(p)
        make = mount.make(b"file")
        await mount.apply(make)
        genuine = p.stored(VOLUME, 1, [one.peer, two.peer])
        for chunk in (p.stored(VOLUME, 1, [one.peer]), p.stored(VOLUME, 1, [one.peer, one.peer])):
            with pytest.raises(Gone):
                await mount.apply(commit(make.inode, chunk))
        for chunk in (
            p.stored(VolumeId(8), 1, [one.peer, two.peer]),
            msgspec.structs.replace(genuine, receipts=[genuine.receipts[0], p.receipt(two.peer, VOLUME, bytes(32))]),
        ):
            with pytest.raises(Misuse):
                await mount.apply(commit(make.inode, chunk))
        assert (await mount.apply(commit(make.inode, genuine))).attributes[0].change == 1


async def test_receipts_of_a_revoked_peer_prove_nothing(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("revoked owner2@host", count=1)
    async with pool(tmp_path) as p:
        one, two, _ = await p.peers(3)
        mount = await mounted(p)
        make, chunk = mount.make(b"file"), p.stored(VOLUME, 1, [one.peer, two.peer])
        await p.services.membership.revoke(two.node)
        with pytest.raises(Gone):
            await mount.apply(make, commit(make.inode, chunk))


async def test_a_pool_of_one_peer_needs_one_receipt(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (one,) = await p.peers(1)
        mount = await mounted(p)
        make = mount.make(b"file")
        await mount.apply(make, commit(make.inode, p.stored(VOLUME, 1, [one.peer])))


async def test_late_receipts_are_checked_too(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two, three = await p.peers(3)
        mount = await mounted(p)
        make = mount.make(b"file")
        await mount.apply(make, commit(make.inode, p.stored(VOLUME, 1, [one.peer, two.peer])))
        forged = NewChunk(chunk_id(1), 1000, [msgspec.structs.replace(p.receipt(three.peer, 8, chunk_id(1)))])
        with pytest.raises(Misuse):
            await mount.apply(AddReplicas([forged]))
        await mount.apply(AddReplicas([p.stored(VOLUME, 1, [three.peer])]))
        holders = p.database.read(lambda connection: chunks_index.holders(connection, VOLUME, chunk=chunk_id(1)))
        assert set(holders) == {one.peer, two.peer, three.peer}


async def test_a_repeated_batch_gets_its_old_answer_even_from_a_revoked_peers_receipt(
    tmp_path: Path, claim_logs: Claims
) -> None:
    claim_logs("revoked owner2@host", count=1)
    async with pool(tmp_path) as p:
        one, two, _ = await p.peers(3)
        mount = await mounted(p)
        make = mount.make(b"file")
        batch = Batch(1, 0, [make, commit(make.inode, p.stored(VOLUME, 1, [one.peer, two.peer]))])
        first = await p.services.sessions.apply(mount.session, batch)
        await p.services.membership.revoke(two.node)
        assert await p.services.sessions.apply(mount.session, batch) == first


# ---- questions ------------------------------------------------------------------------------------------------------


async def test_questions_are_answered_in_order_with_refusals_among_them(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(3, capacity=GIB)
        mount = await mounted(p)
        answers = await p.services.questions.answer(
            mount.identity, VOLUME, [GetSpace(), GetAttributes(99), GetAttributes(1)]
        )
        assert unwrap(answers[0], Space) == Space(GIB, GIB, 1)
        with pytest.raises(NotFound):
            unwrap(answers[1], Space)
        assert not answers[2].code


async def test_many_questions_are_answered_in_slices_that_let_others_in_between(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            asked = [ReadDirectory(1, 0, 10), GetAttributes(1)] * 50
            answers = await p.services.questions.answer(mount.identity, VOLUME, asked)
            nursery.cancel_scope.cancel()
        assert turns >= 20
        assert len(answers) == 100
        for page, attributes in zip(answers[::2], answers[1::2], strict=True):
            assert unwrap(page, DirectoryPage).complete
            assert unwrap(attributes, Attributes).inode == 1


async def test_of_one_node_one_request_with_searches_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, look = Find([bytes(16)], (0, 0, 0), 1), GetAttributes(1)
    done: list[int] = []
    answer_all = engine.answer_all

    def note(*words: Any, asked: list[Question], **more: Any) -> list[Answer]:  # noqa: ANN401 - as of answer_all
        done.extend(question.limit for question in asked if isinstance(question, Find))
        done.extend(0 for question in asked if isinstance(question, GetAttributes))
        return answer_all(*words, asked=asked, **more)

    monkeypatch.setattr(engine, "answer_all", note)
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        other = Mount(p, (await p.join("anna@desk", Role.CLIENT)).node)

        async def ask(of: Mount, *asked: Question) -> None:
            assert len(await p.services.questions.answer(of.identity, VOLUME, asked)) == len(asked)

        async with trio.open_nursery() as nursery:
            for number in (1, 2):
                nursery.start_soon(ask, mount, *[msgspec.structs.replace(search, limit=number)] * 20)
            nursery.start_soon(ask, other, *[msgspec.structs.replace(search, limit=3)] * 20)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            nursery.start_soon(ask, mount, look)
        own = [number for number in done if number in (1, 2)]
        assert own == sorted(own) or own == sorted(own, reverse=True)
        assert done.index(3) < 6  # another node's
        assert done.index(0) < 20  # what is no search waits for none
        assert not p.services.questions._searching


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 999])
def test_slices_are_the_questions_in_order(count: int) -> None:
    asked = [GetAttributes(number) for number in range(count)]
    runs = list(slices(asked))
    assert [question for run in runs for question in run] == asked
    assert all(1 <= len(run) <= SLICE for run in runs)
    assert len(list(slices([ReadDirectory(1, 0, 1)] * 10))) == 5
    assert len(list(slices([Locate([bytes(32)] * 1000)] * 10))) == 5
    assert len(list(slices([Locate([bytes(32)] * 59)] * 32))) == 1
    with pytest.raises(Misuse):
        list(slices(asked + [GetAttributes(1)] * 1001))


def test_all_attributes_of_an_inode_cost_what_a_page_does() -> None:
    assert [len(some) for some in slices([GetXattrs(1)] * 5)] == [2, 2, 1]


@pytest.mark.parametrize("search", [Find([bytes(16)], (0, 0, 0), 1), FindContent(bytes(16), 0, 1), ReadLabels([1])])
def test_a_search_ends_a_slice(search: Question) -> None:
    assert [len(some) for some in slices([search] * 3)] == [1, 1, 1]


async def test_an_answer_has_a_greatest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs.coordinator.questions.MAX_ANSWER_BYTES", 500)
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        for count in (200, 31):  # in the middle, and in the only slice
            with pytest.raises(Misuse, match="too long"):
                await p.services.questions.answer(mount.identity, VOLUME, [GetAttributes(1)] * count)
        assert len(await p.services.questions.answer(mount.identity, VOLUME, [GetAttributes(1)] * 10)) == 10


async def test_large_heads_are_not_gathered_beyond_an_answers_size(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        make = mount.make(b"file")
        head = bytes(head_limit(MAX_FILE_BYTES))
        await mount.apply(make, Commit(make.inode, 0, MAX_FILE_BYTES, head, 2))
        with pytest.raises(Misuse, match="too long"):
            await p.services.questions.answer(mount.identity, VOLUME, [GetAttributes(make.inode)] * 31)
        names = [mount.make(b"link%d" % number) for number in range(3)]
        for name in names:
            await mount.apply(name, Commit(name.inode, 0, MAX_FILE_BYTES, head, 2))
        (answer,) = await p.services.questions.answer(mount.identity, VOLUME, [ReadDirectory(1, 0, 1000)])
        page = unwrap(answer, DirectoryPage)
        assert (len(page.entries), page.complete) == (1, False)


async def test_a_batch_of_too_many_rows_does_not_reach_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        monkeypatch.setattr(p.database, "write", None)
        with pytest.raises(Misuse, match="50000"):
            await mount.apply(Commit(2, 0, 0, b"head", 1, drop=[(0, seq) for seq in range(50_001)]))
        with pytest.raises(Misuse, match="1000"):
            await mount.apply(*[Unlink(1, b"name", 2, False, 1)] * 1001)


async def test_a_page_of_extents_has_a_greatest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MAX_EXTENTS_BYTES", 1000)
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        make = mount.make(b"file")
        rows = [ExtentRow(index, 1, None, b"sealed") for index in range(300)]
        await mount.apply(make, Commit(make.inode, 0, 1000, b"head", 2, extents=rows))
        many, few = await p.services.questions.answer(
            mount.identity, VOLUME, [ReadExtents(make.inode, 0), ReadExtents(make.inode, 2)]
        )
        with pytest.raises(TooLarge):
            unwrap(many, ExtentPage)
        assert unwrap(few, ExtentPage).extents == []


async def test_a_node_that_keeps_crashing_can_mount_again_but_not_without_end(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        while len(p.database.read(sessions.sessions)) < MAX_SESSIONS:
            await mount.open()
        with pytest.raises(Denied, match="unmount one"):
            await mount.open()
        p.clock.advance(181)
        await p.services.sessions.renew(mount.session)
        for _ in range(MAX_SESSIONS - 1):
            await mount.open()
        assert len(p.database.read(sessions.sessions)) == MAX_SESSIONS
        with pytest.raises(Denied):
            await mount.open()


async def test_a_session_that_makes_room_for_another_gives_back_what_it_was_promised(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        (peer,) = await p.peers(1)
        mount = await mounted(p)
        await p.services.sessions.reserve(mount.session, Reserve(GIB))
        while len(p.database.read(sessions.sessions)) < MAX_SESSIONS:
            await mount.open()
        p.clock.advance(181)
        await mount.open()
        await p.rest(peer.node)
        assert p.services.reservations.space(NodeId("ee" * 16))[1] == 10 * GIB


# ---- reaping --------------------------------------------------------------------------------------------------------


async def test_what_is_unlinked_is_reaped(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        one, two, _ = await p.peers(3)
        mount = await mounted(p)
        make, reaper = mount.make(b"file"), Reaper(p.services.sessions)
        await mount.apply(make, commit(make.inode, p.stored(VOLUME, 1, [one.peer, two.peer])))
        await mount.apply(Unlink(1, b"file", make.inode, False, 3))
        assert p.services.sessions.reapable.is_set()
        assert await reaper.work() is Progress.BUSY
        assert await reaper.work() is Progress.IDLE
        assert (await p.services.status.report(p.identity())).chunks.total == 0


# ---- status ---------------------------------------------------------------------------------------------------------


async def test_status_counts_copies_on_peers_that_answer(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner1@host .* is down", count=1)
    async with pool(tmp_path, replicas="2") as p:
        one, two, three = await p.peers(3)
        mount = await mounted(p)
        for number, holders in enumerate([(one, two), (one, three), (two, three)]):
            make = mount.make(b"file%d" % number)
            await mount.apply(make, commit(make.inode, p.stored(VOLUME, number, [peer.peer for peer in holders])))
        admin = p.identity()
        report = await p.services.status.report(admin)
        assert (report.health, report.reasons) == ("healthy", [])
        assert report.chunks.by_copies == {"2": 3}
        p.clock.advance(50)
        for peer in (two, three):
            await p.beat(peer.node)
        p.clock.advance(10)
        await p.services.pulse.work()
        report = await p.services.status.report(admin)
        assert report.health == "warning"
        assert [reason.code for reason in report.reasons] == ["PEER_DOWN", "CHUNKS_UNDER_REPLICATED"]
        assert (report.chunks.total, report.chunks.under_replicated, report.chunks.lost) == (3, 2, 0)
        await p.beat(one.node)
        assert (await p.services.status.report(admin)).health == "healthy"


async def test_a_chunk_without_a_reachable_copy_is_lost_for_now(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("peer owner[12]@host .* is down", count=2)
    async with pool(tmp_path, replicas="2") as p:
        one, two, three = await p.peers(3)
        mount = await mounted(p)
        make = mount.make(b"file")
        await mount.apply(make, commit(make.inode, p.stored(VOLUME, 1, [one.peer, two.peer])))
        p.clock.advance(60)
        await p.beat(three.node)
        await p.services.pulse.work()
        report = await p.services.status.report(p.identity())
        assert report.health == "error"
        assert [reason.code for reason in report.reasons][:2] == ["TOO_FEW_PEERS_UP", "CHUNKS_LOST"]
        assert (report.chunks.lost, report.chunks.by_copies) == (1, {"0": 1})


async def test_status_shows_an_owner_its_own_volumes_only(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        bob = p.identity((await p.join("bob@laptop", Role.CLIENT)).node, [Role.CLIENT])
        assert [volume.name for volume in (await p.services.status.report(mount.identity)).volumes] == ["photos"]
        assert (await p.services.status.report(bob)).volumes == []
        assert len((await p.services.status.report(p.identity())).volumes) == 1


async def test_the_status_document_has_the_promised_keys(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.peers(2)
        mount = await mounted(p)
        assert (await p.services.delegations.ask(mount.session, 0)).epoch
        report = json.loads(status.encode(await p.services.status.report(p.identity())))
        first = {"health", "reasons", "pool", "coordinator", "peers", "volumes", "chunks", "jobs"}
        assert set(report) == first | {"backup", "restored", "churn", "owners", "offers"}
        assert set(report["chunks"]) == {"total", "under_replicated", "lost", "by_copies", "away"}
        assert set(report["reasons"][0]) == {"code", "message", "severity"}
        assert report["volumes"] == [
            {"id": "0000000000000007", "name": "photos", "owner": "anna", "files": 1, "bytes": 0}
            | {"delegated_to": "host:/mnt", "trash_files": 0, "trash_bytes": 0, "expires_s": 0, "expiring": 0}
            | {"reserved": 0, "reserved_short": 0, "quota_bytes": 0, "quota_files": 0, "members": 0}
        ]
        assert {"state", "used", "free", "zone"} <= set(report["peers"][0])
        assert report["pool"]["sessions"] == 1
        assert report["coordinator"]["certificate_expires_s"] == p.clock.time() + 90 * 86400
        assert report["jobs"] == []


async def test_counting_is_shared_for_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool(tmp_path) as p:
        scans = 0
        scan = p.database.scan

        async def counted(question: object) -> object:
            nonlocal scans
            scans += 1
            return await scan(question)  # type: ignore[arg-type]

        monkeypatch.setattr(p.database, "scan", counted)
        for _ in range(5):
            await p.services.status.report(p.identity())
        assert scans == 1
        p.clock.advance(1)
        await p.services.status.report(p.identity())
        assert scans == 2
        await p.peers(1)  # a change of who is reachable is seen at once
        await p.services.status.report(p.identity())
        assert scans == 3


# ---- alone ----------------------------------------------------------------------------------------------------------


async def open_alone(p: Pool, node: str, place: str = "/mnt", *, succeeds: str = "") -> SessionId:
    request = OpenSession("host", place, exclusive=True, succeeds=succeeds)
    grant = await p.services.sessions.open(p.identity(node, [Role.CLIENT]), VOLUME, request)
    assert grant.exclusive
    return SessionId(grant.session)


async def test_a_mount_that_has_the_volume_alone_keeps_it_for_a_lifetime_of_silence(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        other = await mounted(p)
        with pytest.raises(Busy, match="host:/mnt uses the volume"):
            await open_alone(p, other.identity.node, "/elsewhere")
        await p.services.sessions.close(other.session)
        alone = await open_alone(p, other.identity.node)
        p.clock.advance(LIFETIME_S - 1)
        p.services.sessions.heard(p.services.sessions.require_holder(other.identity, alone))
        p.clock.advance(LIFETIME_S - 1)
        with pytest.raises(Busy, match="for itself alone"):
            await other.open()
        p.clock.advance(1)
        await other.open()
        with pytest.raises(Fenced):
            p.services.sessions.require_holder(other.identity, alone)


async def test_the_silence_counts_from_the_coordinators_start(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        node = (await p.join("anna@laptop", Role.CLIENT)).node
        await p.services.volumes.create(p.identity(node), volume_message(VOLUME))
        await open_alone(p, node)
        clock = p.clock
    clock.advance(LIFETIME_S)
    async with pool(tmp_path, clock=clock) as p:
        with pytest.raises(Busy):
            await open_alone(p, node, "/elsewhere")
        clock.advance(LIFETIME_S)
        await open_alone(p, node, "/elsewhere")


async def test_a_mount_takes_over_at_once_from_a_dead_one_of_its_node(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        laptop, desk = [(await p.join(name, Role.CLIENT)).node for name in ("anna@laptop", "anna@desk")]
        await p.services.volumes.create(p.identity(laptop), volume_message(VOLUME))
        dead = await open_alone(p, laptop)
        for node, succeeds in ((laptop, ""), (laptop, "5" * 32), (desk, dead)):
            with pytest.raises(Busy):
                await open_alone(p, node, succeeds=succeeds)
        p.services.sessions.require_holder(p.identity(laptop), dead)
        await open_alone(p, laptop, succeeds=dead)
        with pytest.raises(Fenced):
            p.services.sessions.require_holder(p.identity(laptop), dead)


async def test_who_only_looks_is_in_nobodys_way(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await mounted(p)
        await p.services.sessions.close(mount.session)
        await p.services.sessions.open(mount.identity, VOLUME, OpenSession(read_only=True))
        await open_alone(p, mount.identity.node)
        await p.services.sessions.open(mount.identity, VOLUME, OpenSession(read_only=True))
        with pytest.raises(Busy):  # a command that may change something
            await p.services.sessions.open(mount.identity, VOLUME, OpenSession())
