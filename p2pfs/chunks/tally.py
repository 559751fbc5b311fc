"""How many chunk files lie in each directory of a store, so that a start need not look at every one of them.

The figures are kept in a file now and then. A start believes it, serves at once, and counts directory after directory
anew meanwhile: what changed after the file was written is wrong for as long, no more than a minute of PUTs and deletes
after a crash. Without a readable file everything is counted before anything is served. Used by `files`, which tells of
every change; the order of the two is what makes a count beside PUTs right:

    changing ──rename, figures──▶ end          a count that any of this fell into is thrown away and made again
"""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from p2pfs.runtime.files import write_durably
from p2pfs.types import VolumeId, volume_name

BUCKETS: Final = 256

Place = tuple[VolumeId, int]
"""One directory: the chunks of a volume whose ids begin with one byte."""


class Figures(msgspec.Struct, array_like=True):
    """Of one directory."""

    files: int = 0
    bytes: int = 0


class Tally:
    """Thread-safe; `count` alone looks at the disk, and `save` and `load` at their file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "tally"
        self._lock = threading.Lock()
        self._figures: dict[Place, Figures] = {}
        self._changes: dict[Place, int] = {}  # begun so far in this run
        self._open: dict[Place, int] = {}  # begun and not ended
        self._is_saved = False

    @contextlib.contextmanager
    def changing(self, place: Place) -> Iterator[Figures]:
        """A file comes, goes or is replaced in the block, which says by how much in the figures it gets."""
        with self._lock:
            self._changes[place] = self._changes.get(place, 0) + 1
            self._open[place] = self._open.get(place, 0) + 1
        change = Figures()
        try:
            yield change
        finally:
            with self._lock:
                self._open[place] -= 1
                self._add(place, change)

    def _add(self, place: Place, change: Figures) -> None:
        figures = self._figures.setdefault(place, Figures())
        figures.files += change.files
        figures.bytes += change.bytes
        self._is_saved = False

    def count(self, place: Place) -> Figures | None:
        """Look at every file of a directory; by how much the figures were wrong. None: something changed meanwhile,
        nothing was learnt. Blocking; raises OSError.
        """
        with self._lock:
            changes = self._changes.get(place, 0)
            if self._open.get(place, 0):
                return None
        found = _counted(self._root / volume_name(place[0]) / f"{place[1]:02x}")
        with self._lock:
            if self._changes.get(place, 0) != changes:
                return None
            known = self._figures.get(place, Figures())
            wrong = Figures(found.files - known.files, found.bytes - known.bytes)
            if wrong.files or wrong.bytes:
                self._add(place, wrong)
            return wrong

    def places(self, volumes: Iterable[VolumeId]) -> list[Place]:
        """All directories of these volumes, and all that there are figures of."""
        with self._lock:
            known = set(self._figures)
        return sorted(known.union((volume, bucket) for volume in volumes for bucket in range(BUCKETS)))

    def total(self) -> Figures:
        """Of all directories."""
        with self._lock:
            figures = list(self._figures.values())
            return Figures(sum(one.files for one in figures), sum(one.bytes for one in figures))

    # ---- the file ---------------------------------------------------------------------------------------------------

    def load(self) -> bool:
        """Believe what was saved last; False if there is nothing to believe. Blocking."""
        try:
            rows = msgspec.json.decode(self._path.read_bytes(), type=list[tuple[int, int, Figures]])
        except (OSError, msgspec.DecodeError):
            return False
        self._figures = {(VolumeId(volume), bucket): figures for volume, bucket, figures in rows if figures.files > 0}
        self._is_saved = True
        return True

    def save(self) -> None:
        """Keep the figures, if they changed. Blocking.

        Raises:
            NoSpace, Unavailable: The disk does not let us.
        """
        with self._lock:
            if self._is_saved:
                return
            rows = [(volume, bucket, figures) for (volume, bucket), figures in self._figures.items()]
            data = msgspec.json.encode(rows)
            self._is_saved = True
        try:
            write_durably(self._path, data, 0o600, sync=False)  # a torn one is no list, and is counted anew
        except BaseException:
            self._is_saved = False
            raise


def _counted(directory: Path) -> Figures:
    found = Figures()
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it went just now; then this count does not hold anyway
                    found.bytes += entry.stat().st_size
                    found.files += 1
    except FileNotFoundError:
        pass
    return found
