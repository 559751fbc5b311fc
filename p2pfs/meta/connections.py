"""Connections to the SQLite file: how they are made, which settings they have, one look at one committed state."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from p2pfs.errors import Unavailable
from p2pfs.meta import schema
from p2pfs.meta.sqlite_errors import mapped

T = TypeVar("T")

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit is on the disk when it returns
    "PRAGMA secure_delete = ON",  # what is deleted is overwritten
    "PRAGMA foreign_keys = OFF",
    "PRAGMA temp_store = MEMORY",
    # KiB. Of 10 million extents the inner pages of the index alone are 40 MiB. (mmap would count as resident memory.)
    "PRAGMA cache_size = -49152",
    # Nothing goes to the -wal file before the commit. Up to some version after 3.40, SQLite loses the checksums of what
    # is committed after a savepoint was undone that had spilled: after a crash these commits would be gone.
    "PRAGMA cache_spill = OFF",
    "PRAGMA wal_autocheckpoint = 4000",  # pages: 16 MiB
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA busy_timeout = 5000",  # ms; only other processes can be in the way
)


def create_private(path: Path) -> None:
    """An empty file that only its owner reads; SQLite gives its journal files the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Unavailable(f"the database {path} cannot be opened: {error.strerror}") from error


def identities(path: Path) -> tuple[tuple[int, int], ...]:
    """Which files the database and its log are. OSError when one has no name any more."""
    states = (os.stat(path), os.stat(f"{path}-wal"))
    return tuple((state.st_dev, state.st_ino) for state in states)


def connect(path: Path | None) -> sqlite3.Connection:
    """Never makes the file: one that has vanished is not an empty one."""
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw" if path is not None else ":memory:",
        uri=True,
        isolation_level=None,
        check_same_thread=False,  # made in the loop, used in one thread at a time
        cached_statements=512,
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def migrated(path: Path | None) -> sqlite3.Connection:
    connection = connect(path)
    try:
        schema.migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def snapshot(connection: sqlite3.Connection, question: Callable[[sqlite3.Connection], T]) -> T:
    with mapped():
        connection.execute("BEGIN")
        try:
            return question(connection)
        finally:
            connection.execute("COMMIT")
