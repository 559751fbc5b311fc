"""The files of one journal: numbered segments, written one after the other and deleted from the oldest on.

A segment that another followed is never written again: its place in the file is each frame's nonce. Blocking: appends
go to the page cache; `sync` is called in a thread. The disk follows in order, so that a crash costs an end and leaves
no hole: older segments are synced before newer ones, and deleted once what was written until then is on the disk.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

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


class Unsynced(NamedTuple):
    """What the disk may not have yet."""

    descriptors: list[int]  # of its own, oldest segment first
    appended: int


class Segments:
    """The segments of `directory`, oldest first; the last is written. Methods raise OSError."""

    def __init__(self, directory: Path, keys: VolumeKeys, volume: VolumeId) -> None:
        self._directory, self._keys, self._volume = directory, keys, volume
        self._segments = deque(Segment(path, path.stat().st_size) for path in sorted(directory.glob(_NAMES)))
        self._fd = -1
        self._frames: Frames | None = None
        self._behind: list[int] = []  # descriptors of segments that another followed and the disk may not have
        self._unneeded: deque[tuple[Segment, int]] = deque()  # with what must be on the disk before they go
        self._appended = self._synced = 0  # bytes

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
        """Without those that go with the next sync."""
        return sum(segment.size for segment in self._segments)

    @property
    def is_unsynced(self) -> bool:
        return self._appended > self._synced

    def begin(self) -> None:
        """A new segment."""
        number = int(self._segments[-1].path.stem) + 1 if self._segments else 1
        path = self._directory / f"{number:012d}{SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._fd >= 0:
            self._behind.append(self._fd)
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
        self._appended += len(data)

    def trim(self) -> None:
        """Delete the oldest as long as nothing in them is needed, at the latest with the next sync. Not any other: what
        says that an older record is finished must not go before that."""
        while len(self._segments) > 1 and not self.oldest.live:
            self._unneeded.append((self._segments.popleft(), self._appended))
        self._delete_unneeded()

    def _delete_unneeded(self) -> None:
        while self._unneeded and self._unneeded[0][1] <= self._synced:
            self._unneeded.popleft()[0].path.unlink(missing_ok=True)

    def cut(self, segment: Segment, size: int) -> None:
        """Leave so much of an earlier mount's segment, on the disk on return; with 0 there is none any more."""
        if not size:
            self._segments.remove(segment)
            segment.path.unlink(missing_ok=True)
            return
        fd = os.open(segment.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)
        segment.size = size

    def delete(self) -> None:
        """All of them."""
        self.close()
        for segment, _ in self._unneeded:
            segment.path.unlink(missing_ok=True)
        self._unneeded.clear()
        while self._segments:
            self._segments.popleft().path.unlink(missing_ok=True)

    def close(self) -> None:
        for descriptor in (*self._behind, self._fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._behind, self._fd = [], -1

    # ---- the disk

    def unsynced(self) -> Unsynced:
        """For `sync`, then `synced`."""
        return Unsynced([os.dup(descriptor) for descriptor in (*self._behind, self._fd)], self._appended)

    def sync(self, unsynced: Unsynced) -> None:
        """Wait for the disk. Called in a thread."""
        try:
            for descriptor in unsynced.descriptors:
                os.fdatasync(descriptor)
        finally:
            for descriptor in unsynced.descriptors:
                os.close(descriptor)
        sync_directory(self._directory)

    def synced(self, unsynced: Unsynced) -> None:
        """That is on the disk."""
        self._synced = unsynced.appended
        count = len(unsynced.descriptors) - 1
        for descriptor in self._behind[:count]:
            os.close(descriptor)
        del self._behind[:count]
        self._delete_unneeded()
