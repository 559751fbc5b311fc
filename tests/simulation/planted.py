"""Bugs planted on purpose, each a small change of real code, to show that the simulation finds what it is for."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

from p2pfs.chunks.files import ChunkFiles
from p2pfs.chunks.pages import write_file
from p2pfs.meta import sessions


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
    real = sessions._replay if hasattr(sessions, "_replay") else None
    assert real is not None
    yield


PLANTED: Final[dict[str, Callable[[], Any]]] = {
    "no-fsync": _no_fsync,
    "applied-twice": _applied_twice,
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """The real code with one bug."""
    with PLANTED[name]():
        yield
