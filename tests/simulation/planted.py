"""Bugs planted on purpose, each a small change of real code, to show that the simulation finds what it is for."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

from p2pfs.chunks.files import ChunkFiles
from p2pfs.chunks.pages import write_file
from p2pfs.meta import sessions
from p2pfs.types import SessionId, VolumeId
from p2pfs.wire.namespace import Batch


@contextlib.contextmanager
def _no_fsync() -> Iterator[None]:
    """A peer signs for a chunk whose bytes are not synced."""

    def write(files: ChunkFiles, path: Path, whole: memoryview, length: int) -> None:
        fd = files._disk.create(path)
        try:
            write_file(files._disk, fd, whole, length)
        finally:
            files._disk.close(fd)

    with mock.patch.object(ChunkFiles, "_write", write):
        yield


@contextlib.contextmanager
def _applied_twice() -> Iterator[None]:
    """A batch that comes again is done again, instead of getting its old answer."""
    real = sessions.apply_batch

    def apply(connection: sqlite3.Connection, session: SessionId, *, batch: Batch, **more: Any) -> sessions.Outcome:  # noqa: ANN401
        connection.execute(
            "DELETE FROM session_result WHERE seq = ? AND session = (SELECT number FROM session WHERE id = ?)",
            (batch.seq, session),
        )
        return real(connection, session, batch=batch, **more)

    with mock.patch.object(sessions, "apply_batch", apply):
        yield


@contextlib.contextmanager
def _fencing_ignored() -> Iterator[None]:
    """A session that is over is taken up again, as if its mount had never been silent."""
    real_apply, real_session, real_end = sessions.apply_batch, sessions.session, sessions._end
    over: dict[str, tuple[Any, ...]] = {}

    def end(connection: sqlite3.Connection, number: int, volume: VolumeId) -> None:
        row = connection.execute("SELECT * FROM session WHERE number = ?", (number,)).fetchone()
        over[row[1]] = row
        real_end(connection, number, volume)

    def revive(connection: sqlite3.Connection, session: SessionId) -> None:
        known = connection.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone()
        if known is None and session in over:
            row = over[session]
            connection.execute(f"INSERT INTO session VALUES ({', '.join('?' * len(row))})", row)

    def apply(connection: sqlite3.Connection, session: SessionId, **more: Any) -> sessions.Outcome:  # noqa: ANN401
        revive(connection, session)
        return real_apply(connection, session, **more)

    def look(connection: sqlite3.Connection, session: SessionId) -> sessions.Session:
        if session in over:
            return sessions._session(over[session])
        return real_session(connection, session)

    with (
        mock.patch.object(sessions, "_end", end),
        mock.patch.object(sessions, "apply_batch", apply),
        mock.patch.object(sessions, "session", look),
    ):
        yield


@dataclass(frozen=True)
class Plant:
    """A bug, and the promises that it breaks."""

    put_in: Callable[[], AbstractContextManager[None]]
    breaks: tuple[str, ...]


PLANTED: Final[dict[str, Plant]] = {
    "no-fsync": Plant(_no_fsync, ("P1",)),
    "applied-twice": Plant(_applied_twice, ("P9", "P3", "P1")),
    "fencing-ignored": Plant(_fencing_ignored, ("fencing",)),
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """The real code with one bug."""
    with PLANTED[name].put_in():
        yield
