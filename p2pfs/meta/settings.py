"""Values of the pool as a whole that must survive a restart: a typed key-value table. Which keys there are is their
owners' business; the ones used here are named here.
"""

import sqlite3
from typing import Any, Final, TypeVar

from p2pfs.wire import codec

INCARNATION: Final = "incarnation"
"""A pool before its last restore; rises at each restore, 1 at first."""
REPLICAS: Final = "replicas"
"""Copies wanted of each chunk; what `room.room` divides by."""
RESTORED: Final = "restored"
"""coordinator.backup.state.Restored of the last restore."""
BACKUPS: Final = "backups"
"""list[coordinator.backup.state.Generation]: what was begun and may still be kept somewhere."""
ORPHANS_STAY: Final = "orphans_stay"
"""1 after a restore, until an admin confirms: chunks that the index does not know may be what the backup lacks."""
CHURN: Final = "churn"
"""coordinator.churn.Tally: how often peers left and returned."""

T = TypeVar("T")


def read(connection: sqlite3.Connection, key: str, kind: type[T]) -> T | None:
    """The value of `key`, or None when it was never written."""
    row = connection.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
    return None if row is None else codec.decode(row[0], kind)


def number(connection: sqlite3.Connection, key: str, *, default: int = 0) -> int:
    """A counter or other whole number."""
    value = read(connection, key, int)
    return default if value is None else value


def write(connection: sqlite3.Connection, key: str, *, value: Any) -> None:  # noqa: ANN401 - whatever msgpack holds
    """Set `key` to a message or plain value."""
    connection.execute(
        "INSERT INTO setting (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, codec.encode(value)),
    )


def remove(connection: sqlite3.Connection, key: str) -> None:
    """Unset `key`."""
    connection.execute("DELETE FROM setting WHERE key = ?", (key,))


def raise_by_one(connection: sqlite3.Connection, key: str) -> int:
    """Count up, from 0, and return the new number."""
    value = number(connection, key) + 1
    write(connection, key, value=value)
    return value


def incarnation(connection: sqlite3.Connection) -> int:
    """The pool's incarnation; 1 until something was restored."""
    return number(connection, INCARNATION, default=1)
