"""The phases of `p2pfs bench`: files written, read, looked at and deleted, each step timed."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from p2pfs import exitcodes
from p2pfs.cli.trying.bench_figures import Phase, phase
from p2pfs.errors import UserError
from p2pfs.runtime import mounts
from p2pfs.types import MIB

SMALL: Final = 4096
RANDOM_READS: Final = 500
_MARK: Final = 16
"""Bytes at the beginning of each piece that say which it is: no two are equal, or they would be stored once."""

Show = Callable[[str, int, int], None]
"""Told the phase, how many steps are done, and of how many."""


class Found(msgspec.Struct):
    """All figures. `fetched_bytes` came from peers while the large file was read first; None where nobody can say."""

    size_mib: int
    files: int
    phases: list[Phase] = []
    fetched_bytes: int | None = None


class _Stats(msgspec.Struct):
    """What of the mount's own figures is used here."""

    fetched_bytes: int


@dataclass(slots=True)
class _Steps:
    """The steps of the phase that is under way."""

    name: str
    total: int
    show: Show
    latencies_s: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self.latencies_s.append(time.perf_counter() - began_s)
        self.show(self.name, len(self.latencies_s), self.total)


class _Bench:
    def __init__(self, place: Path, found: Found, show: Show) -> None:
        self._place, self._found, self._show = place, found, show
        self._large = place / "large"
        self._small = [place / f"small-{number:05}" for number in range(found.files)]
        self._noise = os.urandom(MIB)

    @contextmanager
    def _phase(self, name: str, unit: str, total: int) -> Iterator[_Steps]:
        steps = _Steps(name, total, self._show)
        self._show(name, 0, total)
        began_s = time.perf_counter()
        yield steps
        self._found.phases.append(phase(name, unit, steps.latencies_s, time.perf_counter() - began_s))

    def large(self, fetched: Callable[[], int | None]) -> None:
        """Write, read twice, and at random; then it goes."""
        self._write()
        _forget(self._large)
        before = fetched()
        self._read("read")
        after = fetched()
        self._found.fetched_bytes = None if before is None or after is None else max(0, after - before)
        self._read("read again")
        _forget(self._large)
        self._read_random()
        self._large.unlink()

    def _write(self) -> None:
        with self._phase("write", "MiB/s", self._found.size_mib) as steps, _opened(self._large, os.O_WRONLY) as file:
            for number in range(self._found.size_mib):
                piece = bytearray(self._noise)
                piece[:_MARK] = _mark(number)
                with steps.timed():
                    _write_all(file, piece)

    def _read(self, name: str) -> None:
        with self._phase(name, "MiB/s", self._found.size_mib) as steps, _opened(self._large, os.O_RDONLY) as file:
            for number in range(self._found.size_mib):
                with steps.timed():
                    piece = os.pread(file, MIB, number * MIB)
                _expect(piece[:_MARK] == _mark(number) and len(piece) == MIB, self._large)

    def _read_random(self) -> None:
        chance = random.Random(1)
        with self._phase("random read", "/s", RANDOM_READS) as steps, _opened(self._large, os.O_RDONLY) as file:
            for _ in range(RANDOM_READS):
                at = chance.randrange(self._found.size_mib * MIB // SMALL) * SMALL
                with steps.timed():
                    piece = os.pread(file, SMALL, at)
                _expect(piece[_MARK:] == self._noise[at % MIB + _MARK : at % MIB + SMALL], self._large)

    def small(self) -> None:
        """Make, look at, read and delete small files."""
        count = self._found.files
        with self._phase("create", "files/s", count) as steps:
            for number, path in enumerate(self._small):
                content = _mark(number) + self._noise[_MARK:SMALL]
                with steps.timed(), _opened(path, os.O_WRONLY) as file:
                    _write_all(file, content)
        with self._phase("stat", "files/s", count) as steps:
            for path in self._small:
                with steps.timed():
                    os.stat(path)
        for path in self._small:
            _forget(path)
        with self._phase("read small", "files/s", count) as steps:
            for number, path in enumerate(self._small):
                with steps.timed(), _opened(path, os.O_RDONLY) as file:
                    piece = os.pread(file, SMALL, 0)
                _expect(piece[:_MARK] == _mark(number) and len(piece) == SMALL, path)
        with self._phase("delete", "files/s", count) as steps:
            for path in self._small:
                with steps.timed():
                    path.unlink()


def run(place: Path, *, size_mib: int, files: int, record: mounts.MountRecord | None, show: Show) -> Found:
    """All phases in `place`, an empty directory.

    Raises:
        OSError: What the file system refused.
        UserError: It gave back something else than was written.
    """
    found = Found(size_mib, files)
    bench = _Bench(place, found, show)
    bench.large(lambda: _fetched(record))
    bench.small()
    return found


def _fetched(record: mounts.MountRecord | None) -> int | None:
    """Bytes the mount has fetched from peers so far, by its own word; None when nobody says."""
    if record is None:
        return None
    try:
        with mounts.dial(Path(record.socket), 2.0) as connection, connection.makefile("rb") as lines:
            connection.sendall(b'{"op": "stats"}\n')
            return msgspec.json.decode(lines.readline(), type=_Stats).fetched_bytes
    except (OSError, msgspec.DecodeError):
        return None


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """For writing it is made. Leaving closes it, which waits for the pool where the mount says so."""
    if flags == os.O_WRONLY:
        flags |= os.O_CREAT | os.O_EXCL
    file = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _write_all(file: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _forget(path: Path) -> None:
    """Let the kernel drop what it has of a file; nobody needs to be root for that."""
    with _opened(path, os.O_RDONLY) as file:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _mark(number: int) -> bytes:
    return number.to_bytes(_MARK, "big")


def _expect(is_right: bool, path: Path) -> None:
    if not is_right:
        raise UserError(f"{path.name} came back with another content than was written", exitcodes.FAILED)
