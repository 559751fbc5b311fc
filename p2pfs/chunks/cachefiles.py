"""Cached runs of blocks as files, with their index: the blocking half of the cached store.

    ROOT/<volume, 16 hex>/<id, 1 hex>/<63 hex>-<first>+<count>
        the sealed blocks, and zeros to the end of the last page

Nothing is fsynced or renamed, and nothing says whether a file is right: whoever wants its blocks opens or hashes them
anyway, and drops what a crash tore. The index lives in memory, least recently used first, and is read from the
directory at start. Losing the cache loses nothing.
"""

import contextlib
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.disk import Disk, allows_direct, mapped
from p2pfs.chunks.pages import PagePool, down, padded, up
from p2pfs.chunks.protocol import Blocks
from p2pfs.errors import Corrupt, Misuse
from p2pfs.types import MIB, ChunkId, VolumeId, volume_name

_CHECK_EVERY: Final = 16 * MIB


@dataclass(frozen=True, slots=True)
class Run:
    """A run of blocks of one chunk."""

    volume: VolumeId
    chunk: ChunkId
    first: int
    count: int

    def covers(self, blocks: Blocks) -> bool:
        return self.first <= blocks.first and blocks.first + blocks.count <= self.first + self.count


class CacheFiles:
    """Thread-safe. `budget` bounds the bytes of all files; `keep_free` is left free on the disk."""

    def __init__(self, root: Path, budget: int, keep_free: int, disk: Disk) -> None:
        self.root = root
        self._budget = budget
        self._keep_free = keep_free
        self._disk = disk
        self._lock = threading.Lock()
        self._sizes: OrderedDict[Run, int] = OrderedDict()
        self._by_chunk: dict[tuple[VolumeId, ChunkId], list[Run]] = {}
        self._used = 0
        self._unchecked = math.inf  # bytes written since the disk's free space was looked at
        self._made: set[Path] = set()
        self._direct = False
        self._pool = PagePool()

    @property
    def used(self) -> int:
        return self._used

    @property
    def budget(self) -> int:
        return self._budget

    def used_by(self, volume: VolumeId, chunk: ChunkId) -> int:
        """Bytes of the files of one chunk."""
        with self._lock:
            return sum(self._sizes[run] for run in self._by_chunk.get((volume, chunk), ()))

    def scan(self) -> None:
        """Take in what an earlier process left, oldest first."""
        with mapped("opening the cache"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._direct = allows_direct(self._disk, self.root)
            for _, size, path in sorted(_files(self.root)):
                run = _parse(path)
                if run is None:
                    self._disk.remove(path)
                else:
                    self._add(run, size)
            self._evict(0)

    def find(self, volume: VolumeId, chunk: ChunkId, blocks: Blocks) -> Run | None:
        """A cached run that covers these blocks; it counts as used now."""
        with self._lock:
            for run in self._by_chunk.get((volume, chunk), ()):
                if run.covers(blocks):
                    self._sizes.move_to_end(run)
                    return run
        return None

    def read(self, run: Run, size: int, blocks: Blocks) -> memoryview:
        """The bytes of `blocks` out of `run`, right or wrong.

        Raises:
            Corrupt: The file is gone or too short, or no run of a chunk of `size` bytes: `drop` it.
            Unavailable: The disk fails.
        """
        with mapped("reading the cache"):
            try:
                begin, _ = runs.span(size, Blocks(run.first, run.count))
            except Misuse as error:  # it was fetched when somebody said that the chunk is longer
                raise Corrupt(f"the cached run does not fit: {error}") from None
            start, stop = (at - begin for at in runs.span(size, blocks))
            try:
                fd = self._disk.open(self._path(run), direct=self._direct)
            except FileNotFoundError:
                raise Corrupt("the cached file is gone") from None
            try:
                at = down(start)
                memory = self._pool.lend(stop - at)
                count = self._disk.read_into(fd, memory[: up(stop) - at], at, stop - at)
            finally:
                self._disk.close(fd)
        if count < stop - at:
            raise Corrupt("the cached file is too short")
        return memory[start - at : stop - at]

    def write(self, run: Run, data: memoryview) -> None:
        """Keep a run, making room for it; a disk without room is no error, the run is just not kept. One that is kept
        already (its reader gave up on a slow disk) stays as it is: others may be about to open its file."""
        with self._lock:
            if run in self._sizes:
                return
        length = up(len(data))
        with contextlib.suppress(OSError):
            if length > self._budget or not self._has_room(length):
                return
            self._evict(length)
            path = self._path(run)
            try:
                self._write(path, data)
            except OSError:
                self._disk.remove(path)
                raise
            with self._lock:
                self._add(run, length)

    def _has_room(self, length: int) -> bool:
        """Whether enough of the disk stays free; looked up now and then only."""
        if self._unchecked + length > _CHECK_EVERY:
            if self._disk.free(self.root) < self._keep_free + _CHECK_EVERY + length:
                self._unchecked = math.inf
                return False
            self._unchecked = 0
        self._unchecked += length
        return True

    def drop(self, volume: VolumeId, chunk: ChunkId) -> None:
        """Forget everything of one chunk."""
        with self._lock:
            victims = list(self._by_chunk.get((volume, chunk), ()))
            for run in victims:
                self._forget(run)
        with contextlib.suppress(OSError):
            for run in victims:
                self._disk.remove(self._path(run))

    def _write(self, path: Path, data: memoryview) -> None:
        whole = padded(data)
        if whole is None:
            copied = self._pool.lend(len(data))[: len(data)]
            copied[:] = data
            whole = padded(copied)
            assert whole is not None
        try:
            if path.parent not in self._made:
                self._make(path.parent)
            fd = self._create(path)
        except FileNotFoundError:
            self._made.clear()  # somebody emptied the cache under us
            raise
        try:
            self._disk.write(fd, whole)
        finally:
            self._disk.close(fd)

    def _make(self, directory: Path) -> None:
        """A directory for files, and that of its volume. They are spread over the disk: files are made here beside
        others that were just removed, all the time once the budget is used up."""
        self._disk.make_directory(directory.parent)
        self._disk.spread(directory.parent)
        self._disk.make_directory(directory)
        self._made.add(directory)

    def _create(self, path: Path) -> int:
        try:
            return self._disk.create(path, direct=self._direct)
        except FileExistsError:  # and is in no index: another mount's that crashed, say
            self._disk.remove(path)
            return self._disk.create(path, direct=self._direct)

    def _evict(self, needed: int) -> None:
        victims = []
        with self._lock:
            while self._sizes and self._used + needed > self._budget:
                run = next(iter(self._sizes))
                self._forget(run)
                victims.append(run)
        for run in victims:
            self._disk.remove(self._path(run))

    def _add(self, run: Run, length: int) -> None:
        if run in self._sizes:
            self._forget(run)
        self._sizes[run] = length
        self._used += length
        self._by_chunk.setdefault((run.volume, run.chunk), []).append(run)

    def _forget(self, run: Run) -> None:
        length = self._sizes.pop(run, None)
        if length is None:
            return
        self._used -= length
        siblings = self._by_chunk[run.volume, run.chunk]
        siblings.remove(run)
        if not siblings:
            del self._by_chunk[run.volume, run.chunk]

    def _path(self, run: Run) -> Path:
        name = run.chunk.hex()
        return self.root / volume_name(run.volume) / name[:1] / f"{name[1:]}-{run.first}+{run.count}"


def _files(directory: Path) -> Iterator[tuple[int, int, Path]]:
    """(time of change, size, path) of each; those that another mount on the same cache removes meanwhile are passed
    over."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield status.st_mtime_ns, status.st_size, Path(entry.path)


def _parse(path: Path) -> Run | None:
    """The run a file's place and name stand for; None for leftovers and strangers."""
    try:
        rest, place = path.name.split("-")
        first, count = place.split("+")
        chunk = bytes.fromhex(path.parent.name + rest)
        run = Run(VolumeId(int(path.parent.parent.name, 16)), ChunkId(chunk), int(first), int(count))
    except ValueError:
        return None
    return run if len(chunk) == 32 and run.count > 0 else None
