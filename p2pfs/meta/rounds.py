"""Figures of a month in bounded space: rings of a few resolutions, each overwriting its oldest, in a file of its own.

Not the pool's metadata: nothing depends on it, it is in no backup, and a damaged file is begun anew. A moment is in
every ring, as the sum and number of what was told within its step, so that a coarse figure is the mean. Sync and
blocking, for one thread at a time; called by `coordinator.history`.
"""

import contextlib
import logging
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from p2pfs.errors import Corrupt, Misuse, Unavailable
from p2pfs.meta.connections import create_private
from p2pfs.meta.sqlite_errors import mapped
from p2pfs.wire import codec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ring:
    """So many steps back from the newest."""

    step_s: int
    slots: int

    @property
    def reach_s(self) -> int:
        return self.step_s * self.slots


RINGS: Final = (Ring(60, 360), Ring(600, 432), Ring(3600, 744))
"""Six hours, three days, a month; finest first."""
MOST_NAMES: Final = 96
"""Of one moment: with it the file stays under 8 MB."""
MOST_POINTS: Final = 1000
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE moment (
    step_s    INTEGER NOT NULL,  -- which ring
    slot      INTEGER NOT NULL,  -- begins_s / step_s, modulo the ring's slots
    begins_s  INTEGER NOT NULL,  -- UTC; of this round, or of a former one: then it is out of every question's reach
    figures   BLOB NOT NULL,     -- msgpack: name → (sum, number)
    PRIMARY KEY (step_s, slot)
) WITHOUT ROWID
"""
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # whole after a crash; the last minutes may be missing
    "PRAGMA wal_autocheckpoint = 64",
    "PRAGMA journal_size_limit = 1048576",
    "PRAGMA cache_size = -1024",
    "PRAGMA busy_timeout = 1000",
)

Point = tuple[float, float]
"""(UTC seconds at which the time it stands for begins, value)."""
_Figures = dict[str, tuple[float, int]]


class Rounds:
    """The rings in the file at `path`, or in memory. Every method raises Unavailable when the disk fails or is full."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None  # also when it could not be begun anew, until it can
        self._opened()

    def add(self, time_s: float, figures: Mapping[str, float]) -> None:
        """Take in what was measured at `time_s` (UTC). A clock that was set back or ahead makes a gap, or has two
        moments share a mean; nothing else."""
        told = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
        told = dict(list(told.items())[:MOST_NAMES])
        try:
            self._add(time_s, told)
        except Corrupt as error:
            self._begin_anew(error)
            self._add(time_s, told)

    def series(
        self, names: Iterable[str], since_s: float, until_s: float, *, points: int, now_s: float
    ) -> dict[str, list[Point]]:
        """See `coordinator.history.History.series`."""
        wanted = tuple(dict.fromkeys(names))
        try:
            return self._series(wanted, since_s, until_s, points, now_s)
        except Corrupt as error:
            self._begin_anew(error)
            return {name: [] for name in wanted}

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = _opened(self._path)
            except Corrupt as error:
                return self._begin_anew(error)
        return self._connection

    def _add(self, time_s: float, told: Mapping[str, float]) -> None:
        connection = self._opened()
        with mapped(), _transaction(connection):
            for ring in RINGS:
                begins_s = int(time_s // ring.step_s) * ring.step_s
                slot = begins_s // ring.step_s % ring.slots
                row = connection.execute(
                    "SELECT figures FROM moment WHERE step_s = ? AND slot = ? AND begins_s = ?",
                    (ring.step_s, slot, begins_s),
                ).fetchone()
                kept = _decode(row[0]) if row is not None else {}
                for name, value in told.items():
                    total, number = kept.get(name, (0.0, 0))
                    if name in kept or len(kept) < MOST_NAMES:
                        kept[name] = (total + value, number + 1)
                connection.execute(
                    "INSERT OR REPLACE INTO moment (step_s, slot, begins_s, figures) VALUES (?, ?, ?, ?)",
                    (ring.step_s, slot, begins_s, codec.encode(kept)),
                )

    def _series(
        self, wanted: Sequence[str], since_s: float, until_s: float, points: int, now_s: float
    ) -> dict[str, list[Point]]:
        ring = next((ring for ring in RINGS if now_s - since_s <= ring.reach_s), RINGS[-1])
        since_s = max(since_s, now_s - ring.reach_s)
        width_s = _width(ring, until_s - since_s, min(max(1, points), MOST_POINTS))
        connection = self._opened()
        with mapped():
            rows = connection.execute(
                "SELECT begins_s, figures FROM moment WHERE step_s = ? AND begins_s > ? AND begins_s <= ?"
                " ORDER BY begins_s",
                (ring.step_s, since_s - ring.step_s, until_s),
            ).fetchall()
        sums: dict[str, dict[int, tuple[float, int]]] = {name: {} for name in wanted}
        for begins_s, blob in rows:
            figures, at_s = _decode(blob), begins_s // width_s * width_s
            for name in wanted:
                if name in figures:
                    total, number = sums[name].get(at_s, (0.0, 0))
                    more, count = figures[name]
                    sums[name][at_s] = (total + more, number + count)
        return {
            name: [(float(at_s), total / number) for at_s, (total, number) in found.items() if number]
            for name, found in sums.items()
        }

    def _begin_anew(self, error: Corrupt) -> sqlite3.Connection:
        with contextlib.suppress(sqlite3.Error):
            self.close()
        self._connection = None
        try:
            for name in (self._path, f"{self._path}-wal", f"{self._path}-shm") if self._path is not None else ():
                Path(name).unlink(missing_ok=True)
        except OSError as failure:
            raise Unavailable(f"{error}, and cannot be removed: {failure.strerror}") from failure
        self._connection = _opened(self._path)
        _log.warning("the history of the pool is begun anew: %s", error)
        return self._connection


def _opened(path: Path | None) -> sqlite3.Connection:
    """Raises Corrupt when it is no whole file of this version."""
    if path is not None:
        create_private(path)
    name = ":memory:" if path is None else f"file:{quote(str(path.absolute()))}?mode=rw"
    with mapped():
        connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if verdict != "ok" or (tables and version != _VERSION):
        raise Corrupt("its file is damaged" if verdict != "ok" else f"its file has format {version}")
    if not tables:
        with _transaction(connection):
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _decode(blob: bytes) -> _Figures:
    try:
        return codec.decode(blob, _Figures)
    except Misuse as error:
        raise Corrupt(f"its file is damaged: {error}") from None


def _width(ring: Ring, span_s: float, points: int) -> int:
    """Whole steps of the ring, as few as make at most so many points of the span."""
    steps = max(1, math.ceil(span_s / ring.step_s / points))
    return steps * ring.step_s
