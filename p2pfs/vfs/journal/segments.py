"""The files of one journal: numbered segments, written one after the other and deleted from the oldest on.

A segment that was closed is never written again: its place in the file is each frame's nonce. Blocking: appends go to
the page cache; `sync` is called in a thread.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfs.format.journal import Frames
from p2pfs.format.keys import VolumeKeys
from p2pfs.runtime.files import sync_directory
from p2pfs.types import VolumeId

SUFFIX: Final = ".journal"
_NAMES: Final = "[0-9]" * 12 + SUFFIX


@dataclass(slots=True, eq=False)
class Segment:
    """One file. `live` counts its records that are still needed."""

    path: Path
    size: int
    live: int = 0


class Segments:
    """The segments of `directory`, oldest first; the last is written. Methods raise OSError."""

    def __init__(self, directory: Path, keys: VolumeKeys, volume: VolumeId) -> None:
        self._directory, self._keys, self._volume = directory, keys, volume
        self._segments = deque(Segment(path, path.stat().st_size) for path in sorted(directory.glob(_NAMES)))
        self._fd = -1
        self._frames: Frames | None = None
        self.is_unsynced = False

    def __iter__(self) -> Iterator[Segment]:
        return iter(list(self._segments))

    @property
    def current(self) -> Segment:
        return self._segments[-1]

    @property
    def oldest(self) -> Segment:
        return self._segments[0]

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self._segments)

    def begin(self) -> None:
        """A new segment."""
        number = int(self._segments[-1].path.stem) + 1 if self._segments else 1
        path = self._directory / f"{number:012d}{SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.close()
        self._fd, self._frames = fd, Frames(self._keys, self._volume)
        self._segments.append(Segment(path, 0))
        self._write(self._frames.header)

    def append(self, plain: bytes) -> Segment:
        """Seal and write; where it is now."""
        assert self._frames is not None, "begin comes first"
        self._write(self._frames.seal(plain))
        return self.current

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.current.size += len(data)
        self.is_unsynced = True

    def trim(self) -> None:
        """Delete the oldest as long as nothing in them is needed. Not any other: what says that an older record is
        finished must not go before that."""
        while len(self._segments) > 1 and not self.oldest.live:
            self._segments.popleft().path.unlink(missing_ok=True)

    def delete(self) -> None:
        """All of them."""
        self.close()
        while self._segments:
            self._segments.popleft().path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def descriptor(self) -> int:
        """One of the caller's own for the segment that is written."""
        self.is_unsynced = False
        return os.dup(self._fd)

    def sync(self, descriptor: int) -> None:
        """Wait for the disk. Called in a thread."""
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(self._directory)
