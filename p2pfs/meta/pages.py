"""What changes in the SQLite file, page by page, for backups: the log of changed pages and images of the whole file.

SQLite appends every page a transaction changes to the -wal file and copies them into the database file only at a
checkpoint. So the file between two checkpoints is an image, and the -wal file is the change log, as long as nobody
checkpoints behind our back: automatic checkpoints are off, and the writer thread makes them through `after_commit`,
which keeps what was not collected yet. Reading needs no place in the writer's queue: frames up to the last commit do
not change until after a checkpoint. Whether a frame belongs to the last commit is said by the -shm file's header.

    writer thread:  COMMIT → after_commit: [capture, checkpoint]        when the -wal file is long
                    [begin image]                                       when one is wanted; ends with `end_image`
    backup thread:  collect: capture, hand over the newest version of each page

Its user is `coordinator.backup`. `Rebuild` is the way back.
"""

import contextlib
import logging
import os
import sqlite3
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfs.errors import PoolError, Unavailable
from p2pfs.types import MIB

CHECKPOINT_FRAMES: Final = 4000
"""Length of the -wal file, in pages, from which on the writer thread checkpoints: 16 MiB."""
MAX_PENDING_BYTES: Final = 64 * MIB
"""Most bytes of pages kept for a backup that does not collect them; beyond, the log is broken off."""

_log = logging.getLogger(__name__)
_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_INDEX_HEADER: Final = 48  # of the -shm file; twice, so that a torn one is noticed
_INDEX_LOOKS: Final = 1000


class LogBroken(PoolError):
    """Changes were missed: only a new image starts the log again."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The newest version of every page that was changed since the last collection, at the end of a transaction.

    Pages beyond `database_pages` are gone. A page may be missing that never had a content: it reads as zeros.
    """

    page_bytes: int
    database_pages: int
    pages: dict[int, bytes]  # by number, from 1


@dataclass(frozen=True, slots=True)
class Image:
    """The whole database as of the end of a transaction, while no checkpoint is made."""

    page_bytes: int
    database_pages: int
    _file: int

    def read(self, first: int, count: int) -> dict[int, bytes]:
        """Pages from number `first` on, at most `count`. Blocking. Raises Unavailable."""
        count = min(count, self.database_pages - first + 1)
        data = _pread(self._file, count * self.page_bytes, (first - 1) * self.page_bytes)
        return {first + at: data[at * self.page_bytes : (at + 1) * self.page_bytes] for at in range(count)}


@dataclass(frozen=True, slots=True)
class _Index:
    """What the -shm file says of the last commit."""

    salts: bytes  # of the present -wal file; the first counts up each time it begins anew
    frames: int
    pages: int
    page_bytes: int
    checksum: tuple[int, int]  # of the last frame


class PageLog:
    """The change log of one open database. The files are closed only after every connection is: closing any descriptor
    of a file drops this process's locks on it, SQLite's too."""

    def __init__(self, path: Path) -> None:
        """`path` must be open in WAL mode and read at least once."""
        self._lock = threading.Lock()
        self._files: list[int] = []
        self._main, self._wal, self._shm = (self._open(f"{path}{suffix}") for suffix in ("", "-wal", "-shm"))
        self._salts = b""
        self._frame = 0  # frames of the present -wal file that were captured
        self._settled = -1  # captured frames that are all in the database file: then alone the -wal file may begin anew
        self._pending: dict[int, bytes] = {}
        self._pages = self._page_bytes = 0  # as of the last capture
        self._is_following = False
        self._is_image_wanted = False
        self._image: Image | None = None
        self._is_held = False
        self._is_failing = False

    def _open(self, path: str) -> int:
        try:
            self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise Unavailable(f"cannot read {path}: {error.strerror}") from error
        return self._files[-1]

    def close(self) -> None:
        """Only after the last connection was closed."""
        for file in self._files:
            os.close(file)
        self._files.clear()

    # ---- in the writer thread ---------------------------------------------------------------------------------------

    def after_commit(self, writer: sqlite3.Connection) -> None:
        """Checkpoint when it is time, after capturing what that would lose, and begin an image that is wanted."""
        if self._is_held or not (self._is_image_wanted or self._index().frames >= CHECKPOINT_FRAMES):
            return
        with self._lock:
            if self._is_following:
                with contextlib.suppress(LogBroken):
                    self._capture()
            is_complete = self._checkpoint(writer)
            if self._is_image_wanted and is_complete:
                self._begin_image()
            self._is_image_wanted = False

    def _checkpoint(self, writer: sqlite3.Connection) -> bool:
        """Copy the -wal file into the database file without disturbing anybody; whether all of it is there now. What
        cannot be copied stays in the -wal file."""
        try:
            _, frames, copied = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:  # as SQLite's own automatic checkpoints: the next commit tries again
            if not self._is_failing:
                _log.warning("the database's change log cannot be copied into it: %s", error)
            self._is_failing = True
            return False
        self._is_failing = False
        if frames == copied:
            self._settled = frames
        return bool(frames == copied)

    def _begin_image(self) -> None:
        index = self._index()
        if not self._is_following:
            self._salts, self._frame, self._pending = index.salts, index.frames, {}
            self._is_following = True
        self._is_held = True
        self._image = Image(index.page_bytes, os.fstat(self._main).st_size // index.page_bytes, self._main)

    # ---- in other threads -------------------------------------------------------------------------------------------

    def drop_image(self) -> None:
        """Forget an image that was begun for somebody who failed before taking it: it would be older than what was
        collected since, and hold checkpoints up for ever."""
        self._image, self._is_held = None, False

    def want_image(self) -> None:
        """Let the writer thread begin an image after its next commit; see `ThreadedDatabase.image`."""
        self._is_image_wanted = True

    def take_image(self) -> Image | None:
        """The image that was begun, if it could be: not while a long reader needs what the file was before. Until
        `end_image` nothing is checkpointed, and the -wal file grows."""
        image, self._image = self._image, None
        return image

    def end_image(self) -> None:
        """The image was read."""
        self._is_held = False

    def collect(self) -> Changes | None:
        """What was changed since the last collection or, the first time, since the first image began; None for nothing.
        It also leads on from images begun meanwhile. Blocking, and for the time of a copy in the writer thread's way.

        Raises:
            LogBroken: There was no image yet, or changes were missed.
            Unavailable: The files cannot be read.
        """
        with self._lock:
            self._capture()
            pages, self._pending = self._pending, {}
            return Changes(self._page_bytes, self._pages, pages) if pages else None

    # ---- with the lock ----------------------------------------------------------------------------------------------

    def _capture(self) -> None:
        """Keep the newest version of each page that was committed since the last capture."""
        if not self._is_following:
            raise LogBroken("the change log is not followed")
        index = self._index()
        if index.salts != self._salts:
            if not self._leads_on(index):
                raise self._broken("the -wal file began anew before everything in it was captured")
            self._salts, self._frame, self._settled = index.salts, 0, -1
        if index.frames == self._frame:
            return
        for number, offset in self._newest(index).items():
            self._pending[number] = _pread(self._wal, index.page_bytes, offset)
        for number in [number for number in self._pending if number > index.pages]:
            del self._pending[number]
        self._frame, self._pages, self._page_bytes = index.frames, index.pages, index.page_bytes
        if len(self._pending) * index.page_bytes > MAX_PENDING_BYTES:
            raise self._broken("too much was changed since it was last collected")

    def _leads_on(self, index: _Index) -> bool:
        """Whether the present -wal file follows the captured one, and nothing of that one was missed. Salts count up,
        but begin anywhere where there was no -wal file."""
        counts = [int.from_bytes(salts[:4], "big") for salts in (self._salts, index.salts)]
        return self._settled == self._frame and (not self._frame or (counts[1] - counts[0]) % (1 << 32) == 1)

    def _newest(self, index: _Index) -> dict[int, int]:
        """Page number → where in the -wal file its newest version is, of the frames not captured yet.

        The frames' own checksums are not added up again, which takes Python 0.15 ms a page: this process wrote them a
        moment ago, salts say that they are of this -wal file, and the last one's checksum that it is the last commit's.
        """
        newest: dict[int, int] = {}
        header = b""
        for frame in range(self._frame, index.frames):
            offset = _WAL_HEADER + frame * (_FRAME_HEADER + index.page_bytes)
            header = _pread(self._wal, _FRAME_HEADER, offset)
            if header[8:16] != index.salts:
                raise self._broken("a frame of the -wal file is of another one")
            newest[int.from_bytes(header[:4], "big")] = offset + _FRAME_HEADER
        size, *checksum = struct.unpack(">I8xII", header[4:]) if header else (0, 0, 0)
        if (size, tuple(checksum)) != (index.pages, index.checksum):
            raise self._broken("the -wal file does not end with the last commit")
        return newest

    def _broken(self, reason: str) -> LogBroken:
        self._is_following = False
        self._pending = {}
        return LogBroken(f"the database's change log is broken off: {reason}")

    def _index(self) -> _Index:
        for _ in range(_INDEX_LOOKS):
            raw = _pread(self._shm, 2 * _INDEX_HEADER, 0)
            if raw[:_INDEX_HEADER] == raw[_INDEX_HEADER:]:
                size, frames, pages, first, second = struct.unpack_from("=HIIII", raw, 14)
                return _Index(raw[32:40], frames, pages, 65536 if size == 1 else size, (first, second))
        raise Unavailable("the database's -shm file does not come to rest")


def _pread(file: int, size: int, offset: int) -> bytes:
    try:
        data = os.pread(file, size, offset)
    except OSError as error:
        raise Unavailable(f"the database's files cannot be read: {error.strerror}") from error
    if len(data) != size:
        raise Unavailable("the database's files are shorter than they should be")
    return data


class Rebuild:
    """A database file made of the pages of an image and of what was changed while and after it was read. Blocking.

    Pages of the log are newer than those of the image, whichever comes first.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._newer: set[int] = set()
        self._size = 0

    def put(self, page_bytes: int, database_pages: int, pages: dict[int, bytes], *, is_image: bool) -> None:
        """Add some pages; they are overwritten by later ones of the log only."""
        for number, data in pages.items():
            if is_image and number in self._newer:
                continue
            os.pwrite(self._file, data, (number - 1) * page_bytes)
        if not is_image:
            self._newer.update(pages)
        if not is_image or not self._newer:
            self._size = database_pages * page_bytes

    def close(self) -> None:
        """Durability: on return the file is on stable storage, with the size that was told last."""
        try:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
        finally:
            os.close(self._file)
