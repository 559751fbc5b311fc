"""What an error of SQLite means to callers. Used by `database` and by whoever else opens a file of it."""

import contextlib
import sqlite3
from collections.abc import Iterator

from p2pfs.errors import Corrupt, Unavailable


class DiskFailed(Unavailable):
    """An I/O error, as opposed to a full disk."""


@contextlib.contextmanager
def mapped() -> Iterator[None]:
    """sqlite3's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise pool_error(error) from error


def pool_error(error: sqlite3.Error) -> BaseException:
    """What an error of the library means to callers; one that can only be a bug stays what it is."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(f"the database is damaged: {error}")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
        return DiskFailed(f"the database's disk fails: {error}")
    if code == sqlite3.SQLITE_FULL:
        return Unavailable("the coordinator's disk is full")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"the database cannot be used now: {error}")
    return error
