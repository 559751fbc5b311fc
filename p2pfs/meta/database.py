"""The SQLite file: one writer with group commit, reads inline, long scans in a thread.

Callers hand over functions of a connection. `write` queues one for the writer thread, which runs everything waiting in
one transaction, each in a savepoint of its own, commits once, and only then answers: that one fsync is shared by all
who wait. `read` runs at once in the caller's thread on a second connection that sees the last commit. What the tables
mean is `schema`'s business; nothing above `p2pfs.meta` sees a connection outside such a function.

    loop:    write(f) ─┬─ queue ─▶ thread: BEGIN, [SAVEPOINT, f, RELEASE]…, COMMIT ─▶ loop: each write returns
             write(g) ─┘
"""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import trio

from p2pfs.errors import Unavailable
from p2pfs.meta import schema
from p2pfs.meta.connections import connect, create_private, identities, migrated, snapshot
from p2pfs.meta.pages import Image, PageLog
from p2pfs.meta.sqlite_errors import DiskFailed, mapped, pool_error
from p2pfs.runtime.latency import Latency

T = TypeVar("T")
_log = logging.getLogger(__name__)

MAX_GROUP: Final = 128
"""Most writes in one transaction, so that the first of them does not wait for ever."""
MAX_CHANGED: Final = 20_000
"""Rows changed in one transaction beyond which no other write joins it: what they dirty stays in memory so long."""
MAX_WAITING: Final = 4096
"""Most writes queued; further callers wait before they queue."""
SCAN_DEADLINE_S: Final = 60.0
_CLOSE_DEADLINE_S: Final = 10.0
_SCAN_STEPS: Final = 10_000  # virtual machine instructions between looks at the clock: about a millisecond


class Database(Protocol):
    """Where functions of a connection run. Every method raises Unavailable when the disk fails or is full."""

    async def write(
        self, change: Callable[[sqlite3.Connection], T], *, committed: Callable[[T], None] | None = None
    ) -> T:
        """Run `change` in a transaction. What it raises undoes it alone and is raised here.

        It must do nothing but SQL and arithmetic, and not begin or commit. `committed` gets what it returned, in the
        event loop, in the order of commits, and also when the caller was cancelled after all.

        Durability: on return its effect is on stable storage; so is what it saw of others.

        Cancellation: the change may or may not have been made.
        """
        ...

    def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run `question` on one committed state, at once. It must be short: the event loop waits."""
        ...

    async def scan(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a long `question` on one committed state in a thread. Raises Unavailable after SCAN_DEADLINE_S."""
        ...


@contextlib.asynccontextmanager
async def open_database(path: Path) -> AsyncIterator["ThreadedDatabase"]:
    """The database at `path`, made or migrated as needed, closed at the end within a deadline.

    Raises:
        Corrupt: It is no database of this program or of a newer version.
        Unavailable: The file cannot be opened.
    """
    database = ThreadedDatabase(path)
    try:
        yield database
    finally:
        with trio.move_on_after(_CLOSE_DEADLINE_S, shield=True):
            await database.aclose()


class _Write:
    """One waiting change and what became of it. Written by the thread before `done` is set in the loop."""

    __slots__ = ("abandoned", "change", "committed", "done", "error", "is_made", "result")

    def __init__(
        self, change: Callable[[sqlite3.Connection], Any], committed: Callable[[Any], None] | None = None
    ) -> None:
        self.change = change
        self.committed = committed
        self.done = trio.Event()
        self.abandoned = False
        self.is_made = False
        self.result: Any = None
        self.error: BaseException | None = None


class ThreadedDatabase:
    """Database with a writer thread. Used from one event loop; see `open_database`.

    The thread owns the writing connection from construction to `aclose`; the loop owns the reading one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        create_private(path)
        with mapped():
            self._writer = migrated(path)
            self._writer.execute("PRAGMA wal_autocheckpoint = 0")  # the thread does it, see `pages`
            self._reader = connect(path)
            self._reader.execute("PRAGMA query_only = ON")
            schema.version_of(self._reader)
            self._opened = identities(path)
        self.pages = PageLog(path)
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._room = trio.Semaphore(MAX_WAITING)
        self._scans = trio.CapacityLimiter(1)
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._failure: Exception | None = None
        self._closing = False
        self.commits = 0  # groups committed; read by tests and metrics
        self.committing = Latency()  # each group, from its BEGIN
        self._thread = threading.Thread(target=self._run, name="p2pfs database", daemon=True)
        self._thread.start()

    async def write(
        self, change: Callable[[sqlite3.Connection], T], *, committed: Callable[[T], None] | None = None
    ) -> T:
        """See Database."""
        waiting = _Write(change, committed)
        async with self._room:
            if self._closing:  # no checkpoint until it is queued: nothing comes after the queue's end
                raise Unavailable("the database is closed")
            self._queue.put(waiting)
            try:
                await waiting.done.wait()
            except trio.Cancelled:
                waiting.abandoned = True
                raise
        if waiting.error is not None:
            raise waiting.error
        return waiting.result  # type: ignore[no-any-return]  # what `change` returned

    def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """See Database."""
        return snapshot(self._reader, question)

    async def scan(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """See Database."""
        return await trio.to_thread.run_sync(_scan, self._path, question, limiter=self._scans)

    async def begin_image(self) -> Image | None:
        """The file as it is now, until `pages.end_image`; None when a long reader is in the way. See `pages`."""
        self.pages.drop_image()
        self.pages.want_image()
        for _ in range(2):  # the second is done after all that the thread does after the first
            await self.write(lambda _connection: None)
        return self.pages.take_image()

    async def aclose(self) -> None:
        """Do what is queued, end the thread and close. A thread stuck in a failing disk is left to the process's end.

        Cancellation: stops waiting; the connections then stay open.
        """
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await self._ended.wait()
        self._writer.close()
        self._reader.close()
        self.pages.close()

    # ---- in the writer thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        going = True
        while going:
            first = self._queue.get()
            if first is None:
                break
            group: list[_Write] = []
            began_ns = time.perf_counter_ns()
            going = self._transact(first, group)
            self.committing.note(time.perf_counter_ns() - began_ns)
            self._call(_deliver, group)
            self._checkpoint()
        self._call(self._ended.set)

    def _checkpoint(self) -> None:
        """After those who wait were answered."""
        try:
            self.pages.after_commit(self._writer)
        except Exception:  # a bug or a failing disk must not end the thread; the -wal file grows meanwhile
            _log.exception("the database's change log could not be copied into it")

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # the loop ended without aclose: nobody waits any more
            self._token.run_sync_soon(function, *arguments)

    def _transact(self, first: _Write, group: list[_Write]) -> bool:
        """One transaction of everything that waits; False when the queue was closed."""
        going = True
        group.append(first)
        try:
            if self._failure is not None:
                raise self._failure
            with mapped():
                self._writer.execute("BEGIN IMMEDIATE")
                changed = self._writer.total_changes
                _run_savepoint(self._writer, first)
                while len(group) < MAX_GROUP and self._writer.total_changes - changed < MAX_CHANGED:
                    try:
                        following = self._queue.get_nowait()
                    except queue.Empty:
                        break
                    if following is None:
                        going = False
                        break
                    group.append(following)
                    _run_savepoint(self._writer, following)
                self._writer.execute("COMMIT")
            self._require_files()
            self.commits += 1
        except Exception as error:  # a bug too must not end the thread: everybody would wait for ever
            self._undo(group, error)
        return going

    def _require_files(self) -> None:
        """What was committed is in the files that a restart will find. Raises DiskFailed."""
        try:
            if identities(self._path) == self._opened:
                return
        except OSError as error:
            _log.error("the database %s has been removed while it was in use: %s", self._path, error.strerror)
        else:
            _log.error("the database %s has been replaced while it was in use", self._path)
        raise DiskFailed("the database's files have been removed or replaced: nothing can be kept any more")

    def _undo(self, group: list[_Write], error: Exception) -> None:
        """Nothing of the group was committed: all of it gets `error`. A failing disk ends writing for good, because
        what the kernel still holds of earlier writes cannot be trusted to reach it."""
        for write in group:
            write.result, write.error, write.is_made = None, error, False
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            self._failure = error
        if isinstance(error, DiskFailed):
            self._failure = error


class InlineDatabase:
    """Database in the caller's thread on one connection, without group commit: for simulated time, where no thread may
    be waited for, and for one-shot commands. `path` None keeps everything in memory."""

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            create_private(path)
        with mapped():
            self._connection = migrated(path)

    async def write(
        self, change: Callable[[sqlite3.Connection], T], *, committed: Callable[[T], None] | None = None
    ) -> T:
        """See Database."""
        await trio.lowlevel.checkpoint()
        result = self.write_now(change)
        if committed is not None:
            committed(result)
        return result

    def write_now(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """`write` without an event loop."""
        with mapped():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = change(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        return result

    def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """See Database."""
        return snapshot(self._connection, question)

    async def scan(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """See Database."""
        await trio.lowlevel.checkpoint()
        return self.read(question)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _scan(path: Path, question: Callable[[sqlite3.Connection], T]) -> T:
    with mapped():
        connection = connect(path)
        deadline = time.monotonic() + SCAN_DEADLINE_S
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _SCAN_STEPS)
        try:
            connection.execute("PRAGMA query_only = ON")
            return snapshot(connection, question)
        finally:
            connection.close()


def _run_savepoint(connection: sqlite3.Connection, write: _Write) -> None:
    """Run one change; what it raises is kept for its caller and undoes it alone.

    Raises:
        sqlite3.Error: The whole transaction is lost (SQLite rolls back by itself when the disk is full or fails).
    """
    if write.abandoned:
        return
    connection.execute("SAVEPOINT change")
    try:
        write.result = write.change(connection)
        write.is_made = True
    except BaseException as error:
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO change")
        write.error = pool_error(error) if isinstance(error, sqlite3.Error) else error
    connection.execute("RELEASE change")


def _deliver(group: list[_Write]) -> None:
    """In the loop: wake everybody whose change is committed."""
    for write in group:
        write.done.set()
        if write.is_made and write.committed is not None:
            try:
                write.committed(write.result)
            except Exception:  # a bug must not take the event loop along
                _log.exception("what was committed could not be told")
