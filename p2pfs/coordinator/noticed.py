"""Chunks to whose copies something happened, on their way to `care`: a small inbox between those who notice and the one
who acts. In memory and bounded: what does not fit becomes "look at everything". Sync; `changed` is set by each entry.
"""

from collections.abc import Iterable
from typing import Final

import trio

from p2pfs.types import ChunkId, VolumeId

MOST: Final = 20_000


class Noticed:
    """Told by heartbeats, commits, audits and inventories; emptied by `care`."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[VolumeId, ChunkId], None] = {}
        self._is_everything = False
        self.changed = trio.Event()

    def tell(self, chunks: Iterable[tuple[int, bytes]]) -> None:
        """Copies of these (volume, id) came, went, or are in doubt."""
        for volume, chunk in chunks:
            if len(self._chunks) >= MOST:
                self._is_everything = True
                break
            self._chunks[VolumeId(volume), ChunkId(chunk)] = None
        if self._chunks:
            self.changed.set()

    def everything(self) -> None:
        """Nobody knows which chunks it concerns."""
        self._is_everything = True
        self.changed.set()

    def take(self) -> tuple[list[tuple[VolumeId, ChunkId]], bool]:
        """(what was told since the last time, whether everything must be looked at)."""
        taken, is_everything = list(self._chunks), self._is_everything
        self._chunks.clear()
        self._is_everything = False
        self.changed = trio.Event()
        return taken, is_everything
