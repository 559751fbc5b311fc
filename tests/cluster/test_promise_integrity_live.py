"""Promise P3 on a live pool: the coordinator's database, the peers' chunk files and the mount's cache are edited on
disk, and everything is read through a fresh mount. Bytes that come are right; else it is EIO, or ENOENT at a name.

The same kinds of damage, far more of them, run in process in tests/faults/test_promise_integrity.py.
"""

import contextlib
import errno
import os
import random
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool, drop_kernel_caches
from tampering import Damage, Tables, Vandal, damaged_bytes, restore, tables

from p2pfs.types import Kind

pytestmark = pytest.mark.l5

MUTATIONS = int(os.environ.get("P2PFS_LIVE_MUTATIONS", "1000"))
SEED = os.environ.get("P2PFS_MUTATION_SEED") or secrets.token_hex(4)
ROWS, CHUNKS, CACHED = 120, 40, 20
"""Damages of each kind in one batch, between two mounts."""
READERS = 32


@dataclass
class Library:
    """Files of every shape, and every content each of them ever had."""

    root: Path
    versions: dict[Path, list[bytes]] = field(default_factory=dict)

    def fill(self) -> None:
        noise = random.Random(3)
        for number in range(8):
            (self.root / f"d{number}").mkdir()
        sizes = [noise.randint(20, 12_000) for _ in range(160)] + [noise.randint(17_000, 60_000) for _ in range(360)]
        jobs = [(self.root / f"d{n % 8}" / f"f{n}", noise.randbytes(size)) for n, size in enumerate(sizes)]
        jobs.append((self.root / "d0" / "large", noise.randbytes(3_500_000)))
        self._each(self._write, jobs)
        for number in range(30):
            path = self.root / f"d{number % 8}" / f"link{number}"
            path.symlink_to(f"../d{number}/target-{number}")
            self.versions[path] = [os.readlink(path).encode()]

    def change(self) -> None:
        """A newer version of half of the files: rewritten, cut, or overwritten in the middle."""
        noise = random.Random(4)
        paths = [path for path in self.versions if not path.is_symlink()]
        self._each(self._change, [(path, noise.randrange(3), noise.randbytes(3000)) for path in paths[::2]])

    def _write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.versions[path] = [b"", data]

    def _change(self, path: Path, how: int, data: bytes) -> None:
        old = self.versions[path][-1]
        if how == 0:
            path.write_bytes(data)
            self.versions[path] += [b"", data]
        elif how == 1:
            os.truncate(path, len(old) // 2)
            self.versions[path].append(old[: len(old) // 2])
        else:
            with path.open("r+b") as file:
                file.seek(len(old) // 3)
                file.write(data)
            self.versions[path].append(old[: len(old) // 3] + data + old[len(old) // 3 + 3000 :])

    def _each(self, do: object, jobs: Iterable[tuple[object, ...]]) -> None:
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(lambda job: do(*job), jobs))  # type: ignore[operator]

    # ---- reading

    def read(self) -> "Reading":
        reading = Reading()
        for number in range(8):
            self._list(self.root / f"d{number}", reading)
        with ThreadPoolExecutor(READERS) as pool:
            for path, outcome in zip(self.versions, pool.map(_read, self.versions), strict=True):
                self._judge(path, outcome, reading)
        return reading

    def _list(self, directory: Path, reading: "Reading") -> None:
        try:
            names = set(os.listdir(directory))
        except OSError as error:
            reading.refused(directory, error, at_name=True)
        else:
            reading.wrong += [
                f"{directory / name}: never was" for name in names if directory / name not in self.versions
            ]

    def _judge(self, path: Path, outcome: "bytes | tuple[OSError, bool]", reading: "Reading") -> None:
        if isinstance(outcome, tuple):
            reading.refused(path, outcome[0], at_name=outcome[1])
        elif outcome == self.versions[path][-1]:
            reading.count["correct"] += 1
        elif outcome in self.versions[path]:
            reading.older.append(path)
        else:
            reading.wrong.append(f"{path.name}: {len(outcome)} bytes that are none of its versions")


@dataclass
class Reading:
    """What reading everything gave."""

    count: Counter[str] = field(default_factory=Counter)
    refusals: set[Path] = field(default_factory=set)
    older: list[Path] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def refused(self, path: Path, error: OSError, *, at_name: bool) -> None:
        self.count["refused"] += 1
        self.refusals.add(path)
        gone = (errno.ENOENT, errno.ESTALE)  # the name, or the inode behind it
        if error.errno != errno.EIO and not (at_name and error.errno in gone):
            self.wrong.append(f"{path.name}: {error!r} is no refusal that a reader should see")


def _read(path: Path) -> "bytes | tuple[OSError, bool]":
    """The content, or the error and whether it came before any byte was asked for."""
    try:
        is_link = path.is_symlink() if not path.name.startswith("f") else False
        if is_link or path.name.startswith("link"):
            return os.readlink(path).encode()
        file = path.open("rb", buffering=0)
    except OSError as error:
        return error, True
    with file:
        try:
            size = os.fstat(file.fileno()).st_size
            data = b"".join(iter(lambda: file.read(1 << 20), b""))
        except OSError as error:
            return error, False
    return data if len(data) == size else b"a size that is not that of the content"


class Disks:
    """What lies on the disks of a pool, to be damaged."""

    def __init__(self, pool: DemoPool, chance: random.Random) -> None:
        self.pool, self.chance = pool, chance
        self.database = pool.root / "coordinator" / "coordinator" / "meta.sqlite"
        self.spent: set[str] = set()  # chunks whose copies were damaged for good

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """One transaction on the coordinator's database."""
        connection = sqlite3.connect(self.database, isolation_level=None, timeout=10)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()

    def rows(self) -> Tables:
        with self.connection() as connection:
            return tables(connection)

    def damage_rows(self, now: Tables, past: list[Tables], count: int, *, only_replays: bool = False) -> list[Damage]:
        """Rows of files and links; directories stay, so that the rest can be reached."""
        vandal = Vandal(
            _of_files(now), [_of_files(rows) for rows in past], only_replays=only_replays, whole_tables=False
        )
        with self.connection() as connection:
            return [vandal.strike(connection, self.chance) for _ in range(count)]

    def damage_chunks(self, count: int) -> list[Damage]:
        """One copy, or all of them, of chunks not damaged before."""
        copies: dict[str, list[Path]] = {}
        for path in sorted(self.pool.root.glob("peer-*/chunks/????????????????/??/*")):
            copies.setdefault(path.parent.name + path.name, []).append(path)
        others = [paths[0].read_bytes() for paths in self.chance.sample(list(copies.values()), 20)]
        victims = self.chance.sample(sorted(set(copies) - self.spent), count)
        self.spent.update(victims)
        return [self._damage_file(path, others) for victim in victims for path in self._some(copies[victim])]

    def damage_cache(self, count: int) -> list[Damage]:
        files = sorted((self.pool.root / "mount" / "cache").rglob("*-*+*"))
        others = [path.read_bytes() for path in files[:20]]
        return [self._damage_file(path, others) for path in self.chance.sample(files, min(count, len(files)))]

    def _some(self, paths: list[Path]) -> list[Path]:
        return paths if self.chance.random() < 0.7 else paths[:1]

    def _damage_file(self, path: Path, others: list[bytes]) -> Damage:
        data, other = path.read_bytes(), self.chance.choice(others)
        act = self.chance.choice(["damaged", "damaged", "damaged in place", "exchanged", "removed"])
        if act == "removed":
            path.unlink()
            return Damage(f"{path}: removed")
        new = other if act == "exchanged" else damaged_bytes(data, self.chance, [other])
        if act == "damaged":
            path.unlink()  # a new file; else the same one, whose inode a daemon may have open
        path.write_bytes(new if new != data else new[:-1])
        return Damage(f"{path}: {act}")


def _of_files(rows: Tables) -> Tables:
    directories = {row["inode"] for row in rows["inode"] if row["kind"] == Kind.DIRECTORY}
    return {table: [row for row in found if row.get("inode") not in directories] for table, found in rows.items()}


def test_damaged_disks_give_right_bytes_or_errors(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with demo_pool(tmp_path, settings={"io_timeout": "2s", "delegation": "0"}) as pool:
        library, disks = Library(pool.mount), Disks(pool, chance)
        library.fill()
        past = [disks.rows()]
        library.change()
        now = disks.rows()
        total, counts, batches = 0, Counter[str](), 0
        while total < MUTATIONS:
            pool.unmount()
            batches += 1
            if batches % 2:  # else peers' damage hides behind copies in the cache
                pool.empty_caches()
            damages = [
                *disks.damage_rows(now, past, ROWS), *disks.damage_chunks(CHUNKS), *disks.damage_cache(CACHED),
            ]  # fmt: skip
            pool.start()
            reading = library.read()
            total += len(damages)
            counts += reading.count + Counter(older=len(reading.older))
            counts["cache files damaged"] += sum("/cache/" in damage.what for damage in damages)
            told = "\n".join(damage.what for damage in damages)
            assert not reading.wrong, f"seed {SEED}: {reading.wrong[:20]} after:\n{told}"
            assert reading.count["refused"] > 20, "damages must reach what is read"
            with disks.connection() as connection:
                restore(connection, now)
        print(f"\nseed {SEED}: {total} damages: {dict(counts)}")
        assert counts["correct"] > counts["refused"]
        assert counts["cache files damaged"] >= CACHED
        seen_newer_states_are_not_undone(pool, library, disks, now, past)
        for part in ("mount", "coordinator", "peer-1", "peer-2", "peer-3"):
            assert "Traceback" not in pool.log(part), pool.log(part)[-3000:]


def seen_newer_states_are_not_undone(
    pool: DemoPool, library: Library, disks: Disks, now: Tables, past: list[Tables]
) -> None:
    """A mount that has read everything is shown rows of before: it refuses them."""
    pool.unmount()
    pool.start()
    before = library.read()
    assert not before.older
    assert not before.wrong
    disks.damage_rows(now, past, 150, only_replays=True)
    drop_kernel_caches()
    reading = library.read()
    assert not reading.older
    assert not reading.wrong
    assert len(reading.refusals - before.refusals) > 10
