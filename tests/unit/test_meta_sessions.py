"""Sessions: a batch is applied once however often it comes, and what ends with a session."""

import sqlite3
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from namespaces import NODE, VOLUME, WANTED_MIN, broken_invariants, create_volume, extent, new_chunk, verify

from p2pfs.errors import Denied, Exists, Fenced, Misuse, NotFound
from p2pfs.meta import engine, open_inodes, reaper, sessions, volumes
from p2pfs.meta.database import InlineDatabase
from p2pfs.types import MAX_FILE_BYTES, MAX_HEAD_BYTES, MIB, ROOT_INODE, Kind, NodeId, SessionId, VolumeId
from p2pfs.wire import answers
from p2pfs.wire.namespace import (
    AddReplicas,
    Applied,
    Batch,
    Commit,
    Make,
    Opened,
    Operation,
    RemoveXattr,
    SetAttributes,
    SetXattr,
    Unlink,
)
from p2pfs.wire.volumes import OpenSession

pytestmark = pytest.mark.l0

(RECEIPT, _) = new_chunk(1).receipts


@pytest.fixture
def database() -> Iterator[InlineDatabase]:
    database = InlineDatabase()
    database.write_now(lambda c: volumes.create_volume(c, create_volume(), owner="anna", now_s=0.0))
    yield database
    assert database.read(broken_invariants) == []
    database.close()


@pytest.fixture
def session(database: InlineDatabase) -> SessionId:
    return open_session(database)


def open_session(
    database: InlineDatabase, node: NodeId = NODE, *, now_s: float = 0.0, read_only: bool = False
) -> SessionId:
    grant = database.write_now(
        lambda c: sessions.open_session(
            c, VOLUME, node=node, owner="anna", request=OpenSession(read_only=read_only), now_s=now_s, lifetime_s=60.0
        )
    )
    return SessionId(grant.session)


def apply(database: InlineDatabase, session: SessionId, seq: int, *operations: Operation, acked: int = 0) -> Applied:
    outcome = database.write_now(
        lambda c: sessions.apply_batch(
            c, session, batch=Batch(seq, acked, list(operations)), verify=verify, wanted_min=WANTED_MIN, now_s=5.0
        )
    )
    return answers.unwrap(outcome.answer, Applied)


def make(number: int, name: bytes = b"name", *, opened: bool = False) -> Make:
    return Make(ROOT_INODE, name, number, b"tag", number, Kind.FILE, 0o644, 0, 0, 0, b"head", 5, opened=opened)


def count(database: InlineDatabase, table: str) -> int:
    return int(database.read(lambda c: c.execute(f"SELECT count(*) FROM {table}").fetchone()[0]))


def test_a_repeated_batch_gets_its_old_answer(database: InlineDatabase, session: SessionId) -> None:
    first = apply(database, session, 1, make(2))
    apply(database, session, 2, SetAttributes(2, 9, mode=0))
    apply(database, session, 3, Unlink(ROOT_INODE, b"name", 2, False, 10))
    assert apply(database, session, 1, make(2)) == first
    assert count(database, "inode") == 1


def test_a_repeated_refusal_stays_a_refusal(database: InlineDatabase, session: SessionId) -> None:
    with pytest.raises(NotFound) as before:
        apply(database, session, 1, make(2), SetAttributes(7, 9, mode=0))
    apply(database, session, 2, make(7))
    with pytest.raises(NotFound) as after:
        apply(database, session, 1, make(2, b"other"), SetAttributes(7, 9, mode=0))
    assert str(before.value) == str(after.value)
    assert count(database, "inode") == 2


def test_batches_may_come_out_of_order(database: InlineDatabase, session: SessionId) -> None:
    apply(database, session, 5, make(2, b"a"), acked=1)
    apply(database, session, 3, make(3, b"b"), acked=1)
    with pytest.raises(Exists):
        apply(database, session, 4, make(4, b"b"), acked=1)


def test_an_answer_lives_until_it_is_acknowledged(database: InlineDatabase, session: SessionId) -> None:
    for seq in range(1, 41):
        apply(database, session, seq, SetAttributes(ROOT_INODE, seq, uid=seq), acked=max(1, seq - 1))
    assert count(database, "session_result") < 20
    with pytest.raises(Misuse):
        apply(database, session, 5, SetAttributes(ROOT_INODE, 9, uid=0), acked=1)
    with pytest.raises(Misuse):
        apply(database, session, 50, SetAttributes(ROOT_INODE, 9, uid=0), acked=51)
    apply(database, session, 40, SetAttributes(ROOT_INODE, 9, uid=0), acked=40)


def test_unacknowledged_answers_are_bounded(database: InlineDatabase, session: SessionId) -> None:
    with pytest.raises(Misuse):
        apply(database, session, sessions.MAX_UNACKED + 10, acked=1)


def test_a_recalled_answer_has_the_inline_data_it_had(database: InlineDatabase, session: SessionId) -> None:
    commit = Commit(2, 0, 5000, b"head", 6, inline=b"x" * 5000)
    first = apply(database, session, 1, make(2), commit)
    assert count(database, "session_result") == 1
    kept = database.read(lambda c: c.execute("SELECT length(answer) FROM session_result").fetchone()[0])
    assert kept < 1000
    assert apply(database, session, 1, make(2), commit) == first
    apply(database, session, 2, Commit(2, 1, 3, b"head", 6, inline=b"y"))
    (old,) = [row for row in apply(database, session, 1, make(2), commit).attributes if row.inode == 2]
    assert (old.change, old.inline) == (1, None)


def test_a_misused_batch_is_neither_applied_nor_remembered(database: InlineDatabase, session: SessionId) -> None:
    for wrong in (
        SetAttributes(2, 9, uid=1 << 63),
        Commit(2, 0, 1, b"h", 1, extents=[extent(0, 1, 1)], chunks=[new_chunk(1), new_chunk(2)]),
        SetAttributes(1 << 64, 9, uid=1),
    ):
        with pytest.raises(Misuse):
            apply(database, session, 1, make(2), wrong)
    assert (count(database, "inode"), count(database, "session_result")) == (1, 0)
    with pytest.raises(Misuse):
        apply(database, session, 1, *[SetAttributes(ROOT_INODE, 9)] * 1001)
    apply(database, session, 1, make(2))


@pytest.mark.parametrize(
    "operation",
    [
        Commit(2, 0, 1, b"h", 1, extents=[extent(0, seq, None) for seq in range(engine.MAX_ROWS + 1)]),
        Commit(2, 0, 1, b"h", 1, drop=[(0, seq) for seq in range(engine.MAX_ROWS + 1)]),
        AddReplicas([new_chunk(1)] * (engine.MAX_ROWS // 3 + 1)),
        Commit(
            2, 0, 1, b"h", 1, extents=[extent(0, 1, 1)], chunks=[replace(new_chunk(1), receipts=[RECEIPT] * 50_000)]
        ),
    ],
    ids=["extents", "drop", "replicas", "receipts"],
)
def test_a_batch_has_a_greatest_number_of_rows(
    database: InlineDatabase, session: SessionId, operation: Commit | AddReplicas
) -> None:
    apply(database, session, 1, make(2))
    with pytest.raises(Misuse, match="50000"):
        apply(database, session, 2, operation)
    engine.check([Commit(2, 0, 1, b"h", 1, drop=[(0, 1)] * engine.MAX_ROWS)])


def test_the_answer_to_a_batch_is_bounded(database: InlineDatabase, session: SessionId) -> None:
    inline = bytes(MIB)
    for number in range(2, 32):
        apply(database, session, number, make(number, b"%d" % number), Commit(number, 0, MIB, b"h", 6, inline=inline))
    apply(database, session, 40, *[Opened(number) for number in range(2, 22)])
    with pytest.raises(Misuse, match="too long"):
        apply(database, session, 41, *[Opened(number) for number in range(2, 32)])
    assert count(database, "open_inode") == 20
    head = bytes(MAX_HEAD_BYTES)
    for number in range(2, 14):
        apply(database, session, 40 + number, Commit(number, 1, MAX_FILE_BYTES, head, 6, clear_inline=True))
    with pytest.raises(Misuse, match="too long"):  # heads that are only loaded count too
        apply(database, session, 60, *[Commit(number, 2, 0, b"h", 6) for number in range(2, 14)])


def test_an_unknown_session_is_fenced_never_new(database: InlineDatabase, session: SessionId) -> None:
    unknown = SessionId("0" * 32)
    database.write_now(lambda c: sessions.close_session(c, session))
    database.write_now(lambda c: sessions.close_session(c, session))
    for over in (unknown, session):
        with pytest.raises(Fenced):
            apply(database, over, 1, make(2))
        with pytest.raises(Fenced):
            database.read(lambda c, over=over: sessions.volume_of_session(c, over))  # type: ignore[misc]
        with pytest.raises(Fenced):
            database.write_now(lambda c, over=over: sessions.renew_session(c, over, now_s=0, lifetime_s=1))  # type: ignore[misc]
        with pytest.raises(Fenced):
            database.write_now(lambda c, over=over: sessions.grant_ids(c, over, count=1))  # type: ignore[misc]


def test_a_read_only_session_is_denied(database: InlineDatabase) -> None:
    session = open_session(database, read_only=True)
    with pytest.raises(Denied):
        apply(database, session, 1, make(2))


def test_sessions_of_different_mounts_number_their_batches_apart(database: InlineDatabase, session: SessionId) -> None:
    other = open_session(database)
    apply(database, session, 1, make(2, b"a"))
    apply(database, other, 1, make(3, b"b"))
    assert count(database, "inode") == 3


def test_silence_ends_a_session_with_what_it_holds(database: InlineDatabase, session: SessionId) -> None:
    other = open_session(database, now_s=100.0)
    commit = Commit(2, 0, 9, b"h", 5, extents=[extent(0, 1, 1)], chunks=[new_chunk(1)])
    apply(database, session, 1, make(2, opened=True), commit, Unlink(ROOT_INODE, b"name", 2, False, 6))
    apply(database, other, 1, make(3, b"other", opened=True))
    assert database.write_now(lambda c: sessions.expire_sessions(c, now_s=60.0)) == []
    assert database.write_now(lambda c: sessions.expire_sessions(c, now_s=60.1)) == [session]
    assert (count(database, "inode"), count(database, "open_inode"), count(database, "session_result")) == (2, 1, 1)
    assert [row.id for row in database.read(sessions.sessions)] == [other]


def test_renewal_and_the_coordinators_absence_keep_a_session(database: InlineDatabase, session: SessionId) -> None:
    database.write_now(lambda c: sessions.renew_session(c, session, now_s=50.0, lifetime_s=60.0))
    assert database.read(lambda c: sessions.session(c, session)).expires_s == 110.0
    database.write_now(lambda c: sessions.extend_sessions(c, until_s=500.0))
    database.write_now(lambda c: sessions.extend_sessions(c, until_s=400.0))
    assert database.read(lambda c: sessions.session(c, session)).expires_s == 500.0


def test_a_revoked_node_loses_its_sessions(database: InlineDatabase, session: SessionId) -> None:
    bad = NodeId("cd" * 16)
    ended = {open_session(database, bad), open_session(database, bad)}
    assert set(database.write_now(lambda c: sessions.close_sessions_of(c, bad))) == ended
    assert [row.id for row in database.read(sessions.sessions)] == [session]


def test_a_session_says_whose_it_is(database: InlineDatabase, session: SessionId) -> None:
    row = database.read(lambda c: sessions.session(c, session))
    assert (row.id, row.volume, row.node, row.owner, row.read_only) == (session, VOLUME, NODE, "anna", False)
    assert database.read(lambda c: sessions.volume_of_session(c, session)) == VOLUME


def test_a_session_needs_a_volume(database: InlineDatabase) -> None:
    def begin(connection: sqlite3.Connection) -> object:
        return sessions.open_session(
            connection, VolumeId(5), node=NODE, owner="anna", request=OpenSession(), now_s=0.0, lifetime_s=1.0
        )

    with pytest.raises(NotFound):
        database.write_now(begin)


def test_numbers_granted_are_limited(database: InlineDatabase, session: SessionId) -> None:
    for wrong in (0, -1, volumes.MAX_GRANTED_IDS + 1):
        with pytest.raises(Misuse):
            database.write_now(lambda c, wrong=wrong: sessions.grant_ids(c, session, count=wrong))  # type: ignore[misc]


# ---- what is open ---------------------------------------------------------------------------------------------------


def test_what_a_session_keeps_is_found_by_an_index(database: InlineDatabase, session: SessionId) -> None:
    """However much the other sessions of the volume have open."""
    statements: list[str] = []

    def look(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(statements.append)
        sessions.held(connection, session)
        open_inodes.count(connection, 1)
        open_inodes.has_lapsed(connection, now_s=5.0)
        open_inodes.lapse(connection, now_s=5.0, limit=5)
        sessions.close_session(connection, session)
        connection.set_trace_callback(None)
        for statement in statements:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not any(step.startswith(("SCAN o", "SCAN open_inode")) for step in plan), (statement, plan)

    database.write_now(look)
    assert sum("open_inode" in statement for statement in statements) == 5


def test_a_session_that_ends_with_much_open_lets_go_of_it_in_parts(
    database: InlineDatabase, session: SessionId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_inodes, "AT_ONCE", 2)
    for number in range(2, 9):
        apply(database, session, number, make(number, opened=True), Unlink(ROOT_INODE, b"name", number, False, 6))
    before = count(database, "inode")
    database.write_now(lambda c: sessions.close_session(c, session))
    assert before - count(database, "inode") == 2
    database.write_now(lambda c: open_inodes.extend(c, until_s=1000.0))  # a restart changes nothing about it
    for left in (3, 1, 0):
        assert database.read(lambda c: open_inodes.has_lapsed(c, now_s=5.0))
        database.write_now(lambda c: open_inodes.lapse(c, now_s=5.0, limit=2))
        assert count(database, "open_inode") == left
    assert (count(database, "inode"), count(database, "session")) == (1, 0)


# ---- extended attributes --------------------------------------------------------------------------------------------


def attribute(inode: int, number: int, value: bytes = b"value") -> SetXattr:
    return SetXattr(inode, b"name %d" % number, value, 0, 6)


def test_attributes_of_what_is_removed_are_left_to_the_reaper(database: InlineDatabase, session: SessionId) -> None:
    apply(database, session, 1, make(2), *[attribute(2, number) for number in range(20)])
    apply(database, session, 2, Unlink(ROOT_INODE, b"name", 2, False, 10))
    assert (count(database, "inode"), count(database, "xattr"), count(database, "xattr_sum")) == (1, 20, 0)
    assert database.read(broken_invariants) == []
    left = [20]
    while database.write_now(lambda c: reaper.reap(c, now_s=1.0, limit=5 * reaper.XATTR_ROWS)):
        left.append(count(database, "xattr"))
    assert left == [20, 15, 10, 5, 0, 0]
    assert count(database, "cut") == 0


def test_a_change_of_attributes_does_not_look_at_the_others(database: InlineDatabase, session: SessionId) -> None:
    apply(database, session, 1, make(2), attribute(2, 1))
    statements: list[str] = []

    def change(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(statements.append)
        batch = Batch(2, 0, [attribute(2, 1, b"new"), attribute(2, 2), RemoveXattr(2, b"name 1", 7)])
        sessions.apply_batch(connection, session, batch=batch, verify=verify, wanted_min=1, now_s=5.0)
        connection.set_trace_callback(None)

    database.write_now(change)
    looks = [statement for statement in statements if "FROM xattr " in statement]
    assert len(looks) == 4
    assert all("AND name = " in look for look in looks)
    assert database.read(lambda c: c.execute("SELECT count, bytes FROM xattr_sum").fetchall()) == [(1, 11)]


def test_attributes_count_among_the_rows_of_a_batch() -> None:
    most = Commit(2, 0, 1, b"h", 1, drop=[(0, 1)] * (engine.MAX_ROWS - 3))
    engine.check([most, attribute(2, 1, bytes(2 * engine.ROW_BYTES))])
    with pytest.raises(Misuse, match="50000"):
        engine.check([most, attribute(2, 1, bytes(3 * engine.ROW_BYTES))])
