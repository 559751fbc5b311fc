"""Numbered files in numbered rows, as backups lie on disks: added at the end, never replaced, cut from the end.

`ROOT/GENERATION/NUMBER.part`, or `.state` where the row is whole up to there. Knows nothing of what is in them. Used by
peers, and by the coordinator for what it has yet to send. Blocking, and safe to use from several threads.
"""

import bisect
import math
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfs.errors import Conflict, Exists, NotFound, Unavailable
from p2pfs.runtime.files import sync_directory, write_durably

_PART: Final = ".part"
_STATE: Final = ".state"
_BLOCK_BYTES: Final = 4096


@dataclass(slots=True)
class Row:
    """One generation. `last_state` is the highest number that makes it whole; -1: none."""

    sizes: list[int]  # of the parts, by number
    states: list[int]  # numbers, ascending

    @property
    def last_state(self) -> int:
        return self.states[-1] if self.states else -1

    @property
    def bytes(self) -> int:
        return sum(self.sizes)

    def is_state(self, number: int) -> bool:
        at = bisect.bisect_left(self.states, number)
        return at < len(self.states) and self.states[at] == number


class PartFiles:
    """The files below `root`, which is made when the first one comes."""

    def __init__(self, root: Path, *, is_durable: bool = True) -> None:
        """Raises Unavailable when what is there cannot be read."""
        self._root = root
        self._is_durable = is_durable
        self._lock = threading.Lock()
        self._rows: dict[int, Row] = {}
        self.bytes = 0
        """What all files together take of the disk."""
        try:
            for directory in sorted(root.iterdir()) if root.is_dir() else ():
                self._load(directory)
        except OSError as error:
            raise Unavailable(f"cannot read {root}: {error.strerror}") from error

    def rows(self) -> dict[int, Row]:
        """What there is, by generation, oldest first; not to be changed."""
        with self._lock:
            return {generation: Row(list(row.sizes), list(row.states)) for generation, row in self._rows.items()}

    def keep(self, generation: int, number: int, data: bytes, *, is_state: bool) -> None:
        """Add a part; the same one again is fine.

        Durability: on return it is on stable storage, unless these files are not to be.

        Raises:
            Exists: There is another one of that number.
            Conflict: The one before is missing.
            NoSpace, Unavailable: The disk does not let us.
        """
        with self._lock:
            row = self._rows.get(generation) or Row([], [])
            if number < len(row.sizes):
                if self._path(generation, number, row).read_bytes() != data:
                    raise Exists("another part of this number is here already")
                return
            if number > len(row.sizes):
                raise Conflict(f"{len(row.sizes)} parts are here: the next one is missing")
            self._write(generation, f"{number:08d}{_STATE if is_state else _PART}", data)
            row.sizes.append(len(data))
            if is_state:
                row.states.append(number)
            self._rows[generation] = row
            self._rows = dict(sorted(self._rows.items()))
            self.bytes += _taken(len(data))

    def begun_s(self, generation: int) -> float:
        """UTC when number 0 came, by this machine's clock; now and in future (infinite) when it is not here."""
        with self._lock:
            row = self._rows.get(generation)
            try:
                return math.inf if row is None else self._path(generation, 0, row).stat().st_mtime
            except OSError:
                return math.inf

    def read(self, generation: int, number: int) -> bytes:
        """Raises NotFound, and Unavailable when the disk fails."""
        with self._lock:
            row = self._rows.get(generation)
            if row is None or not 0 <= number < len(row.sizes):
                raise NotFound("no such part of a backup is here")
            path = self._path(generation, number, row)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound("no such part of a backup is here") from None
        except OSError as error:
            raise Unavailable(f"cannot read {path}: {error.strerror}") from error

    def cut(self, generation: int, parts: int) -> None:
        """Keep only the first `parts` of a generation; 0: nothing. Raises Unavailable."""
        with self._lock:
            row = self._rows.get(generation)
            if row is None:
                return
            try:
                while len(row.sizes) > parts:  # from the end, so that no gap is ever left
                    number = len(row.sizes) - 1
                    self._path(generation, number, row).unlink(missing_ok=True)
                    self.bytes -= _taken(row.sizes.pop())
                    if row.states and row.states[-1] == number:
                        row.states.pop()
                if not row.sizes:
                    del self._rows[generation]
                    self._directory(generation).rmdir()
            except OSError as error:
                raise Unavailable(f"cannot remove a backup below {self._root}: {error.strerror}") from error

    def clear(self) -> None:
        """Remove everything. Raises Unavailable."""
        with self._lock:
            try:
                if self._root.is_dir():
                    shutil.rmtree(self._root)
            except OSError as error:
                raise Unavailable(f"cannot remove {self._root}: {error.strerror}") from error
            self._rows, self.bytes = {}, 0

    def _write(self, generation: int, name: str, data: bytes) -> None:
        directory = self._directory(generation)
        try:
            for made in (self._root, directory):
                if not made.is_dir():
                    made.mkdir(mode=0o700)
                    if self._is_durable:
                        sync_directory(made.parent)
        except OSError as error:
            raise Unavailable(f"cannot make {directory}: {error.strerror}") from error
        write_durably(directory / name, data, 0o600, sync=self._is_durable)

    def _directory(self, generation: int) -> Path:
        return self._root / f"{generation:016x}"

    def _path(self, generation: int, number: int, row: Row) -> Path:
        return self._directory(generation) / f"{number:08d}{_STATE if row.is_state(number) else _PART}"

    def _load(self, directory: Path) -> None:
        """Take in what is there up to the first gap; what a crash left half written or beyond a gap goes."""
        names = sorted(entry.name for entry in directory.iterdir())
        row = Row([], [])
        for name in names:
            path = directory / name
            if path.stem == f"{len(row.sizes):08d}" and path.suffix in (_PART, _STATE):
                if path.suffix == _STATE:
                    row.states.append(len(row.sizes))
                row.sizes.append(path.stat().st_size)
            else:
                path.unlink()
        if row.sizes:
            self._rows[int(directory.name, 16)] = row
            self.bytes += sum(map(_taken, row.sizes))
        else:
            os.rmdir(directory)


def _taken(size: int) -> int:
    """Bytes of the disk that a file of this size takes."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def newest_whole(rows: dict[int, Row], count: int) -> Sequence[int]:
    """The newest `count` generations that are whole at some number, newest first."""
    return [generation for generation in sorted(rows, reverse=True) if rows[generation].states][:count]
