"""Block hashes of chunks read lately, so that a small read is one disk access. They never change for an id."""

import threading
from collections import OrderedDict

from p2pfs.types import ChunkId, VolumeId


class HashCache:
    """Thread-safe; the least recently used go first. A kilobyte each."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[VolumeId, ChunkId], tuple[int, tuple[bytes, ...]]] = OrderedDict()

    def get(self, volume: VolumeId, chunk: ChunkId, size: int) -> tuple[bytes, ...] | None:
        with self._lock:
            found = self._kept.get((volume, chunk))
            if found is None or found[0] != size:
                return None
            self._kept.move_to_end((volume, chunk))
            return found[1]

    def put(self, volume: VolumeId, chunk: ChunkId, size: int, hashes: tuple[bytes, ...]) -> None:
        with self._lock:
            self._kept[volume, chunk] = (size, hashes)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)

    def drop(self, volume: VolumeId, chunk: ChunkId) -> None:
        with self._lock:
            self._kept.pop((volume, chunk), None)
