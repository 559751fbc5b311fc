"""Numbers that never come twice, whatever happens to the process: the `put_seq` of a directory store.

The file holds a number above every one handed out so far. A run of numbers is claimed durably before the first of them
is used, so a PUT costs no extra fsync and a crash loses at most a run.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from p2pfs.chunks.disk import Disk

_RUN: Final = 1 << 16


class PutSequence:
    """Thread-safe; one a store."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._lock = threading.Lock()
        self._next = 1
        self._claimed = 1
        self._open: set[int] = set()

    def load(self) -> bool:
        """Continue above what was claimed before; False if there is no readable claim."""
        try:
            claimed = int(self._path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return False
        self.start_above(claimed)
        return True

    def start_above(self, seq: int) -> None:
        """Hand out only numbers above `seq` from now on."""
        self._next = self._claimed = max(seq + 1, self._next)

    @contextmanager
    def taken(self) -> Iterator[int]:
        """The next number, for the PUT that the block does. OSError if a new run cannot be claimed; then nothing was
        handed out."""
        with self._lock:
            if self._next >= self._claimed:
                self._claim(self._next + _RUN)
            number = self._next
            self._next += 1
            self._open.add(number)
        try:
            yield number
        finally:
            with self._lock:
                self._open.discard(number)

    def settled(self) -> int:
        """Every PUT with a number up to this one has ended."""
        with self._lock:
            return min(self._open, default=self._next) - 1

    def _claim(self, limit: int) -> None:
        temporary = self._path.with_suffix(".tmp")
        self._disk.remove(temporary)
        fd = self._disk.create(temporary)
        try:
            self._disk.write(fd, str(limit).encode())
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(temporary, self._path)
        self._disk.sync_directory(self._path.parent)
        self._claimed = limit
