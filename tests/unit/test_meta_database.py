"""The SQLite file: group commit, isolation of failures, durability settings, and what a bad disk does."""

import contextlib
import os
import sqlite3
import stat
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from namespaces import VOLUME, broken_invariants, verify
from plugins.checklogs import Claims
from trio.testing import wait_all_tasks_blocked

from p2pfs.errors import Corrupt, NotFound, Unavailable
from p2pfs.meta import (
    bookings,
    chunks_index,
    database,
    delegations,
    engine,
    members,
    open_inodes,
    reservations,
    schema,
    settings,
    void_copies,
    volumes,
)
from p2pfs.meta.database import InlineDatabase, ThreadedDatabase, open_database
from p2pfs.meta.schema_appeared import APPEARED
from p2pfs.meta.schema_usefulness import USEFULNESS
from p2pfs.meta.work import Rules, Work
from p2pfs.types import ROOT_INODE, ChunkId, NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.chunks import Receipt, Token
from p2pfs.wire.namespace import GetAttributes, GetXattrs, NewChunk, SetXattr, Xattr

pytestmark = pytest.mark.l0


def put(key: str, value: int) -> Any:  # noqa: ANN401 - a change
    return lambda connection: settings.write(connection, key, value=value)


def get(key: str) -> Any:  # noqa: ANN401 - a question
    return lambda connection: settings.read(connection, key, int)


class Gate:
    """A change that keeps the writer busy until it is opened."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.opened = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, _connection: sqlite3.Connection) -> None:
        self._token.run_sync_soon(self.entered.set)
        assert self.opened.wait(30)


async def test_what_was_written_is_read_at_once(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as db:
        assert await db.write(lambda c: (put("a", 1)(c), "result")[1]) == "result"
        assert db.read(get("a")) == 1
        assert await db.scan(get("a")) == 1


async def test_writers_who_wait_share_one_commit(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as db:
        async with trio.open_nursery() as nursery:
            gate = Gate()
            nursery.start_soon(db.write, gate)
            await gate.entered.wait()
            for number in range(8):
                nursery.start_soon(db.write, put(f"key {number}", number))
            await wait_all_tasks_blocked()
            assert (db.commits, db.read(get("key 0"))) == (0, None)
            gate.opened.set()
        assert (db.commits, db.read(get("key 7"))) == (1, 7)


async def test_a_group_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_GROUP", 2)
    async with open_database(tmp_path / "db") as db:
        async with trio.open_nursery() as nursery:
            gate = Gate()
            nursery.start_soon(db.write, gate)
            await gate.entered.wait()
            for number in range(5):
                nursery.start_soon(db.write, put(f"key {number}", number))
            await wait_all_tasks_blocked()
            gate.opened.set()
        assert db.commits == 3


async def test_one_failure_undoes_only_its_own_change(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    async def failing(db: ThreadedDatabase, error: BaseException) -> None:
        def change(connection: sqlite3.Connection) -> None:
            put("half", 1)(connection)
            raise error

        try:
            await db.write(change)
        except BaseException as caught:
            failed.append(caught)

    def wrong(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM nowhere")

    errors = [NotFound("not there"), ZeroDivisionError("a bug")]
    async with open_database(tmp_path / "db") as db:
        async with trio.open_nursery() as nursery:
            gate = Gate()
            nursery.start_soon(db.write, gate)
            await gate.entered.wait()
            nursery.start_soon(db.write, put("before", 1))
            for error in errors:
                nursery.start_soon(failing, db, error)
            nursery.start_soon(db.write, put("after", 1))
            await wait_all_tasks_blocked()
            gate.opened.set()
        assert set(failed) == set(errors)
        assert (db.read(get("before")), db.read(get("after")), db.read(get("half"))) == (1, 1, None)
        assert db.commits == 1
        with pytest.raises(sqlite3.OperationalError):
            await db.write(wrong)
        await db.write(put("still", 1))


async def test_a_change_given_up_before_its_turn_is_not_made(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as db:
        async with trio.open_nursery() as nursery:
            gate = Gate()
            nursery.start_soon(db.write, gate)
            await gate.entered.wait()
            async with trio.open_nursery() as given_up:
                given_up.start_soon(db.write, put("given up", 1))
                await wait_all_tasks_blocked()
                given_up.cancel_scope.cancel()
            gate.opened.set()
        await db.write(put("kept", 1))
        assert (db.read(get("given up")), db.read(get("kept"))) == (None, 1)


async def test_closing_does_what_is_queued_and_refuses_the_rest(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        async with open_database(tmp_path / "db") as db:
            gate = Gate()
            nursery.start_soon(db.write, gate)
            await gate.entered.wait()
            nursery.start_soon(db.write, put("queued", 1))
            await wait_all_tasks_blocked()
            gate.opened.set()
        with pytest.raises(Unavailable):
            await db.write(put("late", 1))
    async with open_database(tmp_path / "db") as db:
        assert (db.read(get("queued")), db.read(get("late"))) == (1, None)


async def test_a_full_disk_refuses_the_group_and_recovers(tmp_path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        for number in range(100):
            connection.execute("INSERT INTO setting VALUES (?, zeroblob(100000))", (f"{number}",))

    def limit(pages: int) -> Any:  # noqa: ANN401
        return lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    async with open_database(tmp_path / "db") as db:
        await db.write(limit(100))
        with pytest.raises(Unavailable, match="full"):
            await db.write(fill)
        assert db.read(get("0")) is None
        await db.write(put("small", 1))
        await db.write(limit(1_000_000))
        await db.write(fill)
        assert db.read(lambda c: c.execute("SELECT count(*) FROM setting").fetchone()[0]) == 101


class FailingDisk:
    """A connection whose commits meet an I/O error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> Any:  # noqa: ANN401
        if statement == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC  # type: ignore[misc]
            raise error
        return self._connection.execute(statement, *arguments)


async def test_after_an_io_error_nothing_is_acknowledged_any_more(tmp_path: Path) -> None:
    """What the kernel still holds after a failed fsync may be lost although the next fsync succeeds."""
    async with open_database(tmp_path / "db") as db:
        await db.write(put("before", 1))
        sound = db._writer
        db._writer = FailingDisk(sound)  # type: ignore[assignment]
        with pytest.raises(Unavailable, match="disk fails"):
            await db.write(put("during", 1))
        db._writer = sound
        with pytest.raises(Unavailable, match="disk fails"):
            await db.write(put("after", 1))
        assert [db.read(get(key)) for key in ("before", "during", "after")] == [1, None, None]


async def test_a_scan_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    monkeypatch.setattr(database, "SCAN_DEADLINE_S", 0.0)
    async with open_database(tmp_path / "db") as db:
        with pytest.raises(Unavailable):
            await db.scan(lambda connection: connection.execute(endless).fetchone())


async def test_reading_cannot_write(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as db:
        with pytest.raises(Unavailable):
            db.read(put("a", 1))
        with pytest.raises(Unavailable):
            await db.scan(put("a", 1))
        await db.write(put("a", 2))
        assert db.read(get("a")) == 2


async def test_a_read_sees_one_state(tmp_path: Path) -> None:
    async with open_database(tmp_path / "db") as db:
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)

        def look(connection: sqlite3.Connection) -> tuple[int | None, int | None]:
            first = get("a")(connection)
            put("a", 1)(other)
            return first, get("a")(connection)

        assert db.read(look) == (None, None)
        assert db.read(get("a")) == 1
        other.close()


async def test_durability_settings_hold_on_the_writing_connection(tmp_path: Path) -> None:
    names = ("journal_mode", "synchronous", "secure_delete")
    async with open_database(tmp_path / "db") as db:
        values = await db.write(lambda c: [c.execute(f"PRAGMA {name}").fetchone()[0] for name in names])
        assert values == ["wal", 2, 1]
        assert stat.S_IMODE(os.stat(tmp_path / "db").st_mode) == 0o600
        assert stat.S_IMODE(os.stat(tmp_path / "db-wal").st_mode) == 0o600


async def test_deleted_bytes_are_overwritten(tmp_path: Path) -> None:
    canary = os.urandom(32) * 300
    async with open_database(tmp_path / "db") as db:
        await db.write(lambda c: settings.write(c, "canary", value=canary))
        await db.write(lambda c: c.execute("PRAGMA user_version").fetchone())
    assert canary[:32] in (tmp_path / "db").read_bytes()
    async with open_database(tmp_path / "db") as db:
        await db.write(lambda c: c.execute("DELETE FROM setting WHERE key = 'canary'"))
    assert canary[:32] not in (tmp_path / "db").read_bytes()


async def test_foreign_and_newer_databases_are_refused(tmp_path: Path) -> None:
    for name, statement in {
        "foreign": "CREATE TABLE something (a)",
        "marked": "PRAGMA application_id = 7",
        "newer": f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}",
    }.items():
        path = tmp_path / name
        if name == "newer":
            InlineDatabase(path).close()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(statement)
        connection.close()
        with pytest.raises(Corrupt):
            async with open_database(path):
                pass
    (tmp_path / "garbage").write_bytes(b"no database " * 1000)
    with pytest.raises(Corrupt):
        async with open_database(tmp_path / "garbage"):
            pass
    with pytest.raises(Unavailable):
        async with open_database(tmp_path / "nowhere" / "db"):
            pass


def test_a_database_in_the_loop_works_without_a_loop(tmp_path: Path) -> None:
    db = InlineDatabase(tmp_path / "db")
    db.write_now(put("a", 1))
    with pytest.raises(NotFound):
        db.write_now(lambda c: (put("a", 2)(c), _raise(NotFound("no")))[1])
    assert db.read(get("a")) == 1
    db.close()
    db = InlineDatabase(tmp_path / "db")
    assert db.read(get("a")) == 1
    db.close()


def test_an_interrupted_migration_leaves_the_old_version(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    assert schema.migrate(connection) == len(schema.MIGRATIONS)
    broken = (*schema.MIGRATIONS, "CREATE TABLE extra (a);\nCREATE TABLE setting (a);\n")
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection)
    assert schema.version_of(connection) == len(broken) - 1
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")]
    assert "extra" not in tables
    connection.close()


def test_a_database_of_the_first_version_keeps_its_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "db"
    connection = sqlite3.connect(path, isolation_level=None)
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        assert schema.migrate(connection) == 1
    connection.execute(
        "INSERT INTO invite (secret_hash, name, owner, zone, roles, capacity_limit, created_s, expires_s)"
        " VALUES (x'01', 'anna@phone', 'anna', '', 'client', 0, 1.0, 100.0)"
    )
    connection.close()
    db = InlineDatabase(path)
    assert db.read(schema.version_of) == len(schema.MIGRATIONS)
    kept = db.read(lambda c: members.invite(c, b"\x01"))
    assert (kept.name, kept.invited_by) == ("anna@phone", None)
    assert db.write_now(lambda c: members.withdraw_invites(c, NodeId("a" * 32))) == 0
    assert db.read(lambda c: c.execute("SELECT count(*) FROM void_copy").fetchone()[0]) == 0
    db.close()


def test_inodes_of_the_second_version_have_no_extended_attributes_and_can_be_given_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
        before = InlineDatabase(path)
        before.write_now(old_volume)
        assert before.read(schema.version_of) == 2
        before.close()
    db = InlineDatabase(path)
    assert db.read(schema.version_of) == len(schema.MIGRATIONS)
    root = GetXattrs(ROOT_INODE)
    page = db.read(lambda c: engine.answer(c, VOLUME, root))
    assert (page.attributes.uid, page.xattrs) == (1000, [])
    operation = SetXattr(ROOT_INODE, b"name", b"value", 0, 5)
    rules = Rules(verify, 1, 0.0)
    db.write_now(lambda c: engine.apply(Work(c, volume=VOLUME, session=1, next_id=100, rules=rules), [operation]))
    assert db.read(lambda c: engine.answer(c, VOLUME, root)).xattrs == [Xattr(b"name", b"value")]
    db.close()


def old_volume(connection: sqlite3.Connection) -> None:
    """As versions before the eighth made one."""
    connection.execute("INSERT INTO volume VALUES (?, 'home', 'anna', x'63', 16384, 1, 0, 2, 1, 0)", (VOLUME,))
    connection.execute(
        "INSERT INTO inode VALUES (?, 1, 2, 493, 1000, 1000, 0, 2, 0, 0, 0, 1, 1, 1, 1, 0, x'68')", (VOLUME,)
    )


def test_what_the_seventh_version_kept_has_no_lease_and_goes_to_the_trash_from_now_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:7])
        before = InlineDatabase(path)
        before.write_now(old_volume)
        before.close()
    db = InlineDatabase(path)
    assert db.read(lambda c: engine.answer(c, VOLUME, GetAttributes(ROOT_INODE))).expires_s == 0
    info = db.read(lambda c: volumes.volume(c, VOLUME))
    assert (info.trash_removed_s, info.trash_expired_s) == (86400.0, 7 * 86400.0)
    assert (info.trash_files, info.trash_bytes) == (0, 0)
    assert db.read(broken_invariants) == []
    db.close()


def test_what_was_open_in_the_third_version_stays_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:3])
        before = InlineDatabase(path)
        before.write_now(lambda c: c.execute("INSERT INTO open_inode VALUES (1, 2, 3)"))
        before.close()
    db = InlineDatabase(path)
    assert db.write_now(lambda c: open_inodes.lapse(c, now_s=1e12, limit=9)) == 0
    assert db.read(lambda c: open_inodes.count(c, 3)) == 1
    db.close()


def test_attributes_of_the_fourth_version_are_added_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:4])
        before = InlineDatabase(path)
        for name in (b"one", b"three"):
            before.write_now(lambda c, name=name: c.execute("INSERT INTO xattr VALUES (1, 2, ?, x'0102')", (name,)))  # type: ignore[misc]
        before.close()
    db = InlineDatabase(path)
    assert db.read(lambda c: c.execute("SELECT * FROM xattr_sum").fetchall()) == [(1, 2, 2, 12)]
    db.close()


def test_receipts_of_copies_damaged_in_the_fifth_version_stay_void(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:5])
        before = InlineDatabase(path)
        before.write_now(
            lambda c: c.execute(
                "INSERT INTO chunk (number, volume, id, size, scheme, refs, purging) VALUES (3, 7, ?, 1000, 1, 1, 0)",
                (b"c" * 32,),
            )
        )
        before.write_now(lambda c: c.execute("INSERT INTO replica (chunk, part, peer, put_seq) VALUES (3, 0, 1, 4)"))
        before.write_now(lambda c: c.executemany("INSERT INTO damaged_copy VALUES (?, 2, 9)", [(3,), (4,)]))
        before.close()
    began_s = time.time() - 1
    db = InlineDatabase(path)
    volume, chunk = VolumeId(7), ChunkId(b"c" * 32)
    assert db.read(lambda c: chunks_index.holders(c, volume, chunk=chunk)) == {1: 4}
    since_s = db.read(lambda c: void_copies.since(c, PeerNumber(2), volume=volume, chunk=chunk, put_seq=9))
    assert since_s is not None
    assert since_s >= began_s  # they are remembered as long as those of any other copy
    assert db.read(lambda c: void_copies.since(c, PeerNumber(2), volume=volume, chunk=chunk, put_seq=10)) is None
    assert db.read(void_copies.peers_pending) == {}
    db.close()


def test_receipts_prove_as_ever_of_peers_that_have_not_appeared_since_an_older_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[: schema.MIGRATIONS.index(APPEARED)])
        before = InlineDatabase(path)
        before.write_now(lambda c: members.add_peer(c, NodeId("a" * 32), now_s=1.0))
        before.write_now(lambda c: c.execute("UPDATE peer SET appearances = 3"))
        before.write_now(lambda c: c.execute("INSERT INTO chunk VALUES (3, 7, ?, 1000, 1, 1, NULL)", (b"c" * 32,)))
        before.close()
    db = InlineDatabase(path)
    new = NewChunk(b"c" * 32, 1000, [Receipt(1, 0, b"")])
    assert db.write_now(lambda c: chunks_index.add_replicas(c, VolumeId(7), new=new))
    assert db.read(lambda c: c.execute("SELECT proved FROM replica").fetchall()) == [(3,)]
    db.close()


def test_nothing_of_the_sixth_version_is_delegated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:6])
        before = InlineDatabase(path)
        before.write_now(old_volume)
        before.write_now(
            lambda c: c.execute(
                "INSERT INTO session VALUES (4, 'id', ?, 'n', 'anna', 'h', '/mnt', 0, 1, 2, 0)", (VOLUME,)
            )
        )
        before.close()
    db = InlineDatabase(path)
    found = db.read(lambda c: delegations.find(c, VOLUME))
    assert (found.epoch, found.holder) == (0, None)
    granted = db.write_now(lambda c: delegations.grant(c, found, SessionId("id"), lasts_s=30.0))
    assert granted is not None
    assert db.read(lambda c: delegations.find(c, VOLUME)) == granted
    assert db.write_now(lambda c: delegations.grant(c, found, SessionId("id"), lasts_s=30.0)) is None  # not as found
    assert db.read(broken_invariants) == []
    db.close()


def test_nothing_of_the_ninth_version_is_reserved_by_name_and_its_tokens_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, token = tmp_path / "db", Token(1, "a" * 32, VOLUME, 3, 100, 50)
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:9])
        before = InlineDatabase(path)
        row = (1, "id", token.sender, VOLUME, token.peer, token.room_bytes, token.expires_s)
        before.write_now(lambda c: c.execute("INSERT INTO reservation VALUES (?, ?, ?, ?, ?, ?, ?)", row))
        columns = "id, name, owner, key_check, small_file_bytes, dedup, created_s, next_id, inodes, bytes"
        of_volume = (VOLUME, "home", "anna", b"c", 16384, 1, 0, 2, 1, 0)
        before.write_now(lambda c: c.execute(f"INSERT INTO volume ({columns}) VALUES ({'?,' * 9}?)", of_volume))
        before.close()
    db = InlineDatabase(path)
    assert db.read(bookings.load) == []
    assert db.read(reservations.outstanding) == [
        reservations.Kept(SessionId("id"), token, is_withdrawn=False, is_acknowledged=False)
    ]
    booking = bookings.Booking(0, "anna", VolumeId(VOLUME), 10, 20, 20, 1.0, 2.0)
    number = db.write_now(lambda c: bookings.add(c, booking))
    db.write_now(lambda c: bookings.drawn(c, [(number, 5)]))
    assert db.read(bookings.load) == [bookings.Booking(number, "anna", VolumeId(VOLUME), 10, 20, 5, 1.0, 2.0)]
    db.write_now(lambda c: bookings.remove(c, [number]))
    assert db.read(bookings.load) == []
    db.close()


def _raise(error: Exception) -> None:
    raise error


async def test_what_is_committed_is_told_in_order_even_of_a_caller_who_is_gone(tmp_path: Path) -> None:
    told: list[object] = []
    async with open_database(tmp_path / "db") as db, trio.open_nursery() as nursery:
        gate = Gate()
        async with trio.open_nursery() as given_up:
            given_up.start_soon(partial(db.write, lambda c: (gate(c), 1)[1], committed=told.append))
            await gate.entered.wait()
            given_up.cancel_scope.cancel()
        for number in (2, 3, 4):
            nursery.start_soon(partial(_number, db, number, told))
            await wait_all_tasks_blocked()
        assert told == []
        gate.opened.set()
    assert told == [1, 2, 4]


async def _number(db: ThreadedDatabase, number: int, told: list[object]) -> None:
    def change(_connection: sqlite3.Connection) -> int:
        if number == 3:
            raise NotFound("three")
        return number

    with contextlib.suppress(NotFound):
        await db.write(change, committed=told.append)


async def test_telling_that_fails_takes_nobody_along(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("could not be told")

    def fail(_result: object) -> None:
        raise ValueError("a bug")

    async with open_database(tmp_path / "db") as db:
        await db.write(put("a", 1), committed=fail)
        assert db.read(get("a")) == 1


@pytest.mark.parametrize("gone", ["db", "db-wal"])
async def test_nothing_is_accepted_once_the_file_is_gone(gone: str, tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("has been removed while it was in use", count=1)
    async with open_database(tmp_path / "db") as db:
        await db.write(put("a", 1))
        (tmp_path / gone).unlink()
        for _ in range(2):
            with pytest.raises(Unavailable, match="removed or replaced"):
                await db.write(put("a", 2))
        with pytest.raises(Unavailable):
            await db.scan(get("a"))
        assert (tmp_path / "db").exists() == (gone != "db"), "a question made an empty database"


async def test_nothing_is_accepted_once_the_file_is_another(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs("has been replaced while it was in use", count=1)
    async with open_database(tmp_path / "db") as db:
        await db.write(put("a", 1))
        (tmp_path / "db").rename(tmp_path / "kept")
        (tmp_path / "db").touch()
        with pytest.raises(Unavailable, match="removed or replaced"):
            await db.write(put("a", 2))


def test_what_lay_on_peers_before_the_copies_were_counted_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "db"
    with monkeypatch.context() as old:
        old.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[: schema.MIGRATIONS.index(USEFULNESS)])
        before = InlineDatabase(path)
        chunks = [(number, 7, bytes([number]) * 32, 1000 * number) for number in (1, 2)]
        insert = "INSERT INTO chunk (number, volume, id, size, scheme, refs) VALUES (?, ?, ?, ?, 1, 1)"
        before.write_now(lambda c: c.executemany(insert, chunks))
        copies = [(1, 0, 1, 4), (1, 0, 2, 4), (2, 0, 1, 5)]
        before.write_now(
            lambda c: c.executemany("INSERT INTO replica (chunk, part, peer, put_seq) VALUES (?, ?, ?, ?)", copies)
        )
        before.close()
    db = InlineDatabase(path)
    assert db.read(lambda c: c.execute("SELECT * FROM placed").fetchall()) == [(7, 1, 3000), (7, 2, 1000)]
    db.write_now(lambda c: c.execute("DELETE FROM replica WHERE chunk = 1"))
    assert db.read(lambda c: c.execute("SELECT * FROM placed").fetchall()) == [(7, 1, 2000), (7, 2, 0)]
    db.close()
