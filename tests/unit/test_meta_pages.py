"""The log of changed pages: an image and what was collected since rebuild the database, whatever happens between."""

import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from plugins.checklogs import Claims

from p2pfs.errors import Unavailable
from p2pfs.meta import pages
from p2pfs.meta.database import ThreadedDatabase, open_database
from p2pfs.meta.pages import Changes, Image, LogBroken, Rebuild

pytestmark = pytest.mark.l0


def dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(connection.iterdump())
    finally:
        connection.close()


def contents(database: ThreadedDatabase) -> list[str]:
    """As the database itself says now."""
    return database.read(lambda connection: list(connection.iterdump()))


def killed(path: Path) -> Path:
    """A copy of the files as they lie on the disk now, as a kill would leave them."""
    left = path.with_name("killed")
    left.with_name("killed-shm").unlink(missing_ok=True)
    for suffix in ("", "-wal"):
        Path(f"{left}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    return left


@asynccontextmanager
async def image_of(database: ThreadedDatabase) -> AsyncIterator[Image | None]:
    try:
        yield await database.begin_image()
    finally:
        database.pages.end_image()


class Copy:
    """What a backup would hold."""

    def __init__(self, path: Path) -> None:
        self._path, self._name = path, path.name
        self._images: list[tuple[int, int, dict[int, bytes]]] = []
        self._logs: list[Changes] = []
        self._count = 0

    def take(self, image: Image, step: int = 7) -> None:
        self._images = [
            (image.page_bytes, image.database_pages, image.read(first, step))
            for first in range(1, image.database_pages + 1, step)
        ]
        self._logs = []

    def follow(self, changes: Changes | None) -> None:
        if changes is not None:
            self._logs.append(changes)

    def dump(self, *, logs_first: bool = False) -> list[str]:
        self._count += 1
        path = self._path.with_name(f"{self._name}-{self._count}")
        rebuild = Rebuild(path)
        if logs_first:
            self._put_logs(rebuild)
        for page_bytes, count, some in self._images:
            rebuild.put(page_bytes, count, some, is_image=True)
        if not logs_first:
            self._put_logs(rebuild)
        rebuild.close()
        return dump(path)

    def _put_logs(self, rebuild: Rebuild) -> None:
        for one in self._logs:
            rebuild.put(one.page_bytes, one.database_pages, one.pages, is_image=False)


async def fill(database: ThreadedDatabase, chance: random.Random, rows: int) -> None:
    """Settings come, change and go."""

    def change(connection: sqlite3.Connection) -> None:
        for _ in range(rows):
            key, size = f"key {chance.randrange(400)}", chance.randrange(3000)
            if chance.random() < 0.3:
                connection.execute("DELETE FROM setting WHERE key = ?", (key,))
            else:
                connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, chance.randbytes(size)))

    await database.write(change)


@pytest.mark.parametrize("seed", range(5))
async def test_any_history_is_rebuilt_at_each_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Checkpoints after every few pages, images between, pieces of an image put after what followed it."""
    monkeypatch.setattr(pages, "CHECKPOINT_FRAMES", 40)
    chance, copy = random.Random(seed), Copy(tmp_path / "copy")
    async with open_database(tmp_path / "meta.sqlite") as database:
        await fill(database, chance, 50)
        async with image_of(database) as image:
            assert image is not None
            copy.take(image)
        for step in range(60):
            await fill(database, chance, chance.choice([1, 1, 1, 10, 60]))
            if chance.random() < 0.3:
                copy.follow(database.pages.collect())
                assert copy.dump(logs_first=chance.random() < 0.5) == contents(database), step
            if chance.random() < 0.05:
                async with image_of(database) as image:
                    assert image is not None
                    copy.follow(database.pages.collect())
                    await fill(database, chance, 20)  # not in the image, whenever it is read
                    copy.take(image)
        copy.follow(database.pages.collect())
        assert copy.dump() == contents(database)
        assert database.pages.collect() is None


async def test_an_image_nobody_took_is_not_handed_out_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, older, newer = random.Random(1), Copy(tmp_path / "older"), Copy(tmp_path / "newer")
    async with open_database(tmp_path / "meta.sqlite") as database:
        await fill(database, chance, 100)
        async with image_of(database) as image:
            assert image is not None
            older.take(image)
        write, calls = database.write, 0

        async def full(change: Callable[[sqlite3.Connection], object]) -> object:
            nonlocal calls
            calls += 1
            if calls == 2:  # the image was begun by then
                raise Unavailable("the coordinator's disk is full")
            return await write(change)

        monkeypatch.setattr(database, "write", full)
        with pytest.raises(Unavailable):
            await database.begin_image()
        monkeypatch.undo()
        await fill(database, chance, 20)
        older.follow(database.pages.collect())
        async with image_of(database) as image:
            assert image is not None
            newer.take(image)
        assert newer.dump() == older.dump() == contents(database)


async def test_a_log_leads_on_from_an_older_image_while_a_newer_one_is_made(tmp_path: Path) -> None:
    chance, older, newer = random.Random(1), Copy(tmp_path / "older"), Copy(tmp_path / "newer")
    async with open_database(tmp_path / "meta.sqlite") as database:
        await fill(database, chance, 100)
        async with image_of(database) as image:
            assert image is not None
            older.take(image)
        await fill(database, chance, 10)
        async with image_of(database) as image:
            assert image is not None
            await fill(database, chance, 10)
            changes = database.pages.collect()
            newer.take(image)
        for copy in (older, newer):
            copy.follow(changes)
            assert copy.dump(logs_first=True) == contents(database)


async def test_the_wal_file_stays_short_and_an_image_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CHECKPOINT_FRAMES", 40)
    chance, wal = random.Random(1), tmp_path / "meta.sqlite-wal"
    async with open_database(tmp_path / "meta.sqlite") as database:
        for _ in range(30):
            await fill(database, chance, 20)
        short = wal.stat().st_size
        assert short < 200 * 4120
        async with image_of(database):
            for _ in range(30):
                await fill(database, chance, 20)
            assert wal.stat().st_size > 3 * short


async def test_a_killed_database_is_found_again_and_followed_from_a_new_image(tmp_path: Path) -> None:
    chance, copy = random.Random(2), Copy(tmp_path / "copy")
    async with open_database(tmp_path / "meta.sqlite") as database:
        await fill(database, chance, 100)
        expected = contents(database)
        left = killed(tmp_path / "meta.sqlite")
    async with open_database(left) as database:
        assert contents(database) == expected
        async with image_of(database) as image:
            assert image is not None
            copy.take(image)
        await fill(database, chance, 10)
        copy.follow(database.pages.collect())
        assert copy.dump() == contents(database)


async def test_a_large_change_undone_neither_enters_the_log_nor_harms_what_is_committed_after_it(
    tmp_path: Path,
) -> None:
    """SQLite 3.40 wrote frames without checksums after it had spilled: a crash then lost committed rows."""
    chance, copy = random.Random(3), Copy(tmp_path / "copy")

    def much(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA cache_size = 10")
        for number in range(2000):
            connection.execute("INSERT INTO setting VALUES (?, zeroblob(3000))", (f"much {number}",))
        raise KeyError

    async with open_database(tmp_path / "meta.sqlite") as database:
        await fill(database, chance, 50)
        async with image_of(database) as image:
            assert image is not None
            copy.take(image)
        for _ in range(3):
            with pytest.raises(KeyError):
                await database.write(much)
            await fill(database, chance, 5)
            copy.follow(database.pages.collect())
            assert copy.dump() == contents(database)
            assert dump(killed(tmp_path / "meta.sqlite")) == contents(database)


async def test_nothing_is_collected_before_an_image(tmp_path: Path) -> None:
    async with open_database(tmp_path / "meta.sqlite") as database:
        with pytest.raises(LogBroken):
            database.pages.collect()


async def test_who_does_not_collect_costs_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CHECKPOINT_FRAMES", 40)
    monkeypatch.setattr(pages, "MAX_PENDING_BYTES", 100 * 4096)
    chance = random.Random(4)
    async with open_database(tmp_path / "meta.sqlite") as database:
        async with image_of(database) as image:
            assert image is not None
        for _ in range(30):
            await fill(database, chance, 40)
        assert len(database.pages._pending) <= 100
        with pytest.raises(LogBroken):
            database.pages.collect()
        async with image_of(database) as image:
            assert image is not None
        assert database.pages.collect() is None


async def test_a_checkpoint_by_somebody_else_breaks_the_log(tmp_path: Path) -> None:
    """Not silently: what was not captured is gone."""
    chance, path = random.Random(5), tmp_path / "meta.sqlite"
    async with open_database(path) as database:
        async with image_of(database) as image:
            assert image is not None
        await fill(database, chance, 10)
        stranger = sqlite3.connect(path)
        stranger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        stranger.close()
        await fill(database, chance, 10)
        with pytest.raises(LogBroken):
            database.pages.collect()


async def test_a_long_reader_delays_an_image(tmp_path: Path) -> None:
    chance = random.Random(6)
    async with open_database(tmp_path / "meta.sqlite") as database:
        reader = sqlite3.connect(tmp_path / "meta.sqlite", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM setting").fetchone()
        await fill(database, chance, 10)
        async with image_of(database) as image:
            assert image is None
        reader.execute("COMMIT")
        reader.close()
        async with image_of(database) as image:
            assert image is not None


async def test_a_full_disk_leaves_the_log_to_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    claim_logs("cannot be copied into it", count=1)
    monkeypatch.setattr(pages, "CHECKPOINT_FRAMES", 1)
    async with open_database(tmp_path / "meta.sqlite") as database:

        class Full:
            def execute(self, _statement: str) -> None:
                raise sqlite3.OperationalError("database or disk is full")

        for _ in range(2):
            database.pages.after_commit(Full())  # type: ignore[arg-type]
        await fill(database, random.Random(7), 10)
        await trio.lowlevel.checkpoint()
