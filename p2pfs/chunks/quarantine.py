"""Damaged chunk files set aside: not served, not counted, a few kept for people to look at, all of them reported.

Outside the store's books: at most 64 files, hence 65 MiB, whatever happens to the disk.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from p2pfs.chunks.disk import Disk
from p2pfs.types import ChunkId, VolumeId, volume_name

_FILES: Final = 64
_REPORTS: Final = 1024
_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{64})")


class Quarantine:
    """Thread-safe; may block on the disk. Raises what the system raises."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._directory = directory
        self._disk = disk
        self._damaged: dict[tuple[VolumeId, ChunkId], None] = {}

    def load(self, is_live: Callable[[VolumeId, ChunkId], bool]) -> None:
        """Report again what is here and has not been put again: whether the coordinator heard of it before this process
        began is not known."""
        self.trim()
        for name in os.listdir(self._directory):
            found = _NAME.fullmatch(name)
            if found is not None:
                key = VolumeId(int(found[1], 16)), ChunkId(bytes.fromhex(found[2]))
                if not is_live(*key):
                    self._damaged[key] = None

    def take(self, path: Path, volume: VolumeId, chunk: ChunkId) -> None:
        """Move the chunk's file here and report it. The caller sees to it that it is that file and not a newer one."""
        self._disk.rename(path, self._directory / f"{volume_name(volume)}-{chunk.hex()}")
        if len(self._damaged) < _REPORTS:
            self._damaged[volume, chunk] = None

    def damaged(self) -> list[tuple[VolumeId, ChunkId]]:
        """What was set aside and neither acknowledged nor put again; at most a thousand."""
        return list(self._damaged)

    def forget(self, reported: Sequence[tuple[VolumeId, ChunkId]]) -> None:
        """The coordinator knows of these, or they are whole again."""
        for key in reported:
            self._damaged.pop(key, None)

    def trim(self) -> None:
        """Remove all but the newest. Others may be at it too."""
        kept = sorted((_changed_ns(entry), entry.name) for entry in os.scandir(self._directory))
        for _, name in kept[:-_FILES]:
            self._disk.remove(self._directory / name)


def _changed_ns(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_ctime_ns
    except FileNotFoundError:
        return 0
