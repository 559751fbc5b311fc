"""Chunk files under one directory: the blocking half of the directory store, called in threads.

    ROOT/<volume, 16 hex>/<id, 2 hex>/<62 hex>   a header page (chunks.header), then the sealed bytes
    ROOT/temp/                                    writes under way; emptied at start
    ROOT/trash/<deleted_s>-<volume>-<id>-<put_seq>
    ROOT/quarantine/<volume>-<id>                 damaged files, the newest few kept for people to look at
    ROOT/put_seq                                  chunks.sequence

A PUT is temp → fsync → rename → fsync of the directory; whatever stops it in between leaves the old file or the new
one, whole. Changes of one chunk exclude each other by a lock (one of 64, by id) held in the thread itself, so that a
task which gave up waiting for a stuck disk cannot let a second writer in.
"""

import contextlib
import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.disk import Disk, allows_direct, mapped
from p2pfs.chunks.hashcache import HashCache
from p2pfs.chunks.header import HEADER_BYTES, Header, check_blocks, pack, unpack
from p2pfs.chunks.ledger import Ledger, Trashed
from p2pfs.chunks.pages import PAGE, PagePool, read_data, write_file
from p2pfs.chunks.protocol import Blocks
from p2pfs.chunks.sequence import PutSequence
from p2pfs.errors import Corrupt, NoSpace, NotFound, PoolError
from p2pfs.format.chunk import block_hashes
from p2pfs.types import ChunkId, VolumeId, volume_name

log = logging.getLogger(__name__)

_STRIPES: Final = 64
_QUARANTINE_FILES: Final = 64
_DAMAGED_REPORTS: Final = 1024

Select = Callable[[int], Blocks]
"""Sealed size of the chunk → the run wanted."""


class ChunkFiles:
    """Thread-safe; every method may block on the disk. `scan` comes first."""

    def __init__(self, root: Path, ledger: Ledger, now: Callable[[], float], disk: Disk) -> None:
        self.root = root
        self.ledger = ledger
        self._now = now
        self._disk = disk
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._sequence = PutSequence(root / "put_seq", disk)
        self._temporary = itertools.count()
        self._known: set[VolumeId] = set()
        self._direct = False
        self._pool = PagePool()
        self._hashes = HashCache()
        self._making = threading.Lock()
        self._damaged: dict[tuple[VolumeId, ChunkId], None] = {}

    # ---- start ------------------------------------------------------------------------------------------------------

    def scan(self) -> None:
        """Make the directories, drop what a crash left in temp, count what is there.

        Raises:
            NoSpace, Unavailable: The disk does not let us.
        """
        with mapped("starting"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("temp", "trash", "quarantine"):
                self._disk.make_directory(self.root / name)
            for leftover in (self.root / "temp").iterdir():
                self._disk.remove(leftover)
            self._disk.sync_directory(self.root)
            self._direct = allows_direct(self._disk, self.root / "temp")
            highest = self._count_live(with_headers=not self._sequence.load())
            self._sequence.start_above(highest)
            for entry in sorted(map(_trashed, os.scandir(self.root / "trash")), key=lambda entry: entry.deleted_s):
                self.ledger.trashed(entry, was_live=False)

    def _count_live(self, *, with_headers: bool) -> int:
        """Count chunk files; the highest put_seq among them if their headers must be read (the claim was lost)."""
        highest = 0
        for volume in self.root.iterdir():
            if len(volume.name) != 16 or not volume.is_dir():
                continue
            for prefix in volume.iterdir():
                with os.scandir(prefix) as entries:
                    for entry in entries:
                        self.ledger.found(entry.stat().st_size)
                        if with_headers:
                            highest = max(highest, self._put_seq_at(Path(entry.path)) or 0)
        return highest

    # ---- one chunk --------------------------------------------------------------------------------------------------

    def put(self, volume: VolumeId, chunk: ChunkId, whole: memoryview, size: int, hashes: Sequence[bytes]) -> int:
        """Store a verified chunk: `whole` has room for the header page, then the sealed bytes. → put_seq.

        Durability: on return the file and its directory are on stable storage.

        Raises:
            NoSpace: Capacity, reserve or the disk is exhausted; nothing was changed.
            Unavailable: The disk fails. A file may be there; no receipt may be given for it.
        """
        length = HEADER_BYTES + size
        with self._lock(chunk), mapped("storing a chunk"):
            self._claim(length)
            settled = False
            temporary = self.root / "temp" / f"{next(self._temporary)}"
            try:
                self._make_directories(volume)
                with self._sequence.taken() as put_seq:
                    pack(Header(volume, chunk, size, put_seq, tuple(hashes)), whole[:HEADER_BYTES])
                    path = self._path(volume, chunk)
                    self._write(temporary, whole, length)
                    replaced = _size_of(path)
                    self._disk.rename(temporary, path)
                    self.ledger.stored(length, replaced)
                    settled = True
                self._damaged.pop((volume, chunk), None)  # reported now, it would cost the new copy its place
                self._disk.sync_directory(path.parent)
                return put_seq
            finally:
                if not settled:
                    self.ledger.abandoned(length)
                    with contextlib.suppress(OSError):  # the first failure is the one to tell; temp is emptied at start
                        self._disk.remove(temporary)

    def read(self, volume: VolumeId, chunk: ChunkId, select: Select) -> tuple[int, memoryview]:
        """(sealed size of the chunk, bytes of the run `select` wants), read and verified.

        Raises:
            NotFound: No such chunk here.
            Corrupt: The file is damaged and now in quarantine.
            Unavailable: The disk fails.
            Whatever `select` raises.
        """
        path = self._path(volume, chunk)
        with mapped("reading a chunk"):
            try:
                fd = self._disk.open(path, direct=self._direct)
            except FileNotFoundError:
                raise NotFound("no such chunk here") from None
            try:
                return self._read(fd, volume, chunk, select)
            except _Damaged as damage:
                self._quarantine(path, fd, volume, chunk)
                raise Corrupt(str(damage)) from damage
            finally:
                self._disk.close(fd)

    def size(self, volume: VolumeId, chunk: ChunkId) -> int | None:
        """Sealed size of a chunk that is here, without reading it; None if it is not."""
        with mapped("looking for a chunk"):
            length = _size_of(self._path(volume, chunk))
        return None if length is None else max(0, length - HEADER_BYTES)

    def trash(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        """Move a chunk to the trash, unless it is absent or was put again since `put_seq`."""
        path = self._path(volume, chunk)
        with self._lock(chunk), mapped("deleting a chunk"):
            length = _size_of(path)
            stored = self._put_seq_at(path)
            if length is None or (stored is not None and stored > put_seq):
                return
            now_s = int(self._now())
            name = f"{now_s:012d}-{volume_name(volume)}-{chunk.hex()}-{stored or 0:016x}"
            self._disk.rename(path, self.root / "trash" / name)
            self.ledger.trashed(Trashed(now_s, name, length))
            self._disk.sync_directory(self.root / "trash")
            self._disk.sync_directory(path.parent)

    def settled_seq(self) -> int:
        """Every PUT with a `put_seq` up to this one is in the ledger, or failed."""
        return self._sequence.settled()

    # ---- trash and damage -------------------------------------------------------------------------------------------

    def empty_trash(self, before_s: float) -> int:
        """Remove what was deleted before that; how many files."""
        victims = self.ledger.expired(before_s)
        with mapped("emptying the trash"):
            self._remove_trashed(victims)
        return len(victims)

    def damaged(self) -> list[tuple[VolumeId, ChunkId]]:
        """Chunks quarantined since they were last acknowledged, the newest thousand."""
        return list(self._damaged)

    def acknowledge(self, reported: Sequence[tuple[VolumeId, ChunkId]]) -> None:
        """The coordinator knows of these."""
        for key in reported:
            self._damaged.pop(key, None)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _path(self, volume: VolumeId, chunk: ChunkId) -> Path:
        name = chunk.hex()
        return self.root / volume_name(volume) / name[:2] / name[2:]

    def _lock(self, chunk: ChunkId) -> threading.Lock:
        return self._locks[chunk[-1] % _STRIPES]

    def _claim(self, length: int) -> None:
        granted, victims = self.ledger.claim(length, self._disk.free(self.root), self._now())
        self._remove_trashed(victims)
        if not granted:
            raise NoSpace("this peer has no room for another chunk")

    def _remove_trashed(self, victims: Sequence[Trashed]) -> None:
        for entry in victims:
            self._disk.remove(self.root / "trash" / entry.name)

    def _make_directories(self, volume: VolumeId) -> None:
        """Everything above the chunk files of a volume, durable before anything is in it. All 256 at once, because one
        fsync each would cost more than the first chunks."""
        if volume in self._known:
            return
        with self._making:
            top = self.root / volume_name(volume)
            self._disk.make_directory(top)
            for prefix in range(256):
                self._disk.make_directory(top / f"{prefix:02x}")
            self._disk.sync_directory(top)
            self._disk.sync_directory(self.root)
            self._known.add(volume)

    def _write(self, path: Path, whole: memoryview, length: int) -> None:
        """A new file with its content on stable storage; its name is not yet."""
        fd = self._disk.create(path, direct=self._direct)
        try:
            write_file(self._disk, fd, whole, length)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def _read(self, fd: int, volume: VolumeId, chunk: ChunkId, select: Select) -> tuple[int, memoryview]:
        size = os.fstat(fd).st_size - HEADER_BYTES
        try:
            run = select(size)
            start, stop = runs.span(size, run)
        except PoolError:
            self._expect_length(fd, volume, chunk, size)
            raise
        hashes = self._hashes.get(volume, chunk, size)
        try:
            memory = self._pool.lend(stop - start)
            page, data = read_data(self._disk, fd, memory, start, stop, with_header=hashes is None)
            if hashes is None:
                hashes = _checked(page, volume, chunk, size)
                self._hashes.put(volume, chunk, size, hashes)
            check_blocks(hashes[run.first : run.first + run.count], block_hashes(data))
        except (Corrupt, OSError) as error:
            self._hashes.drop(volume, chunk)
            raise _damage_or(error) from error
        return size, data

    def _expect_length(self, fd: int, volume: VolumeId, chunk: ChunkId, size: int) -> None:
        """Raises _Damaged if the file has not got the length its header says: then nobody asked for the wrong thing."""
        memory = self._pool.lend(0)
        try:
            count = self._disk.read_into(fd, memory[:PAGE], 0, PAGE)
            _checked(memory[:count], volume, chunk, size)
        except (Corrupt, OSError) as error:
            raise _damage_or(error) from error

    def _put_seq_at(self, path: Path) -> int | None:
        """The put_seq in a file's header; None if it is absent or unreadable."""
        page = memoryview(bytearray(PAGE))
        try:
            fd = self._disk.open(path)
        except FileNotFoundError:
            return None
        try:
            count = self._disk.read_into(fd, page, 0, PAGE)
            return unpack(page[:count]).put_seq
        except (Corrupt, OSError):
            return None
        finally:
            self._disk.close(fd)

    def _quarantine(self, path: Path, fd: int, volume: VolumeId, chunk: ChunkId) -> None:
        """Move the damaged file away, unless a PUT has replaced it since it was opened."""
        log.warning("chunk %s of volume %s is damaged: moved to quarantine", chunk.hex(), volume_name(volume))
        with self._lock(chunk):
            opened = os.fstat(fd)
            try:
                present = os.stat(path)
            except FileNotFoundError:
                return
            if not os.path.samestat(opened, present):
                return
            name = f"{volume_name(volume)}-{chunk.hex()}"
            self._disk.rename(path, self.root / "quarantine" / name)
            self.ledger.lost(present.st_size)
            if len(self._damaged) < _DAMAGED_REPORTS:
                self._damaged[volume, chunk] = None
        self._trim_quarantine()

    def _trim_quarantine(self) -> None:
        kept = sorted(os.scandir(self.root / "quarantine"), key=lambda entry: entry.stat().st_ctime_ns)
        for entry in kept[:-_QUARANTINE_FILES]:
            self._disk.remove(Path(entry.path))


class _Damaged(Exception):
    """What was read of a file proves that it is not what was stored."""


def _damage_or(error: Corrupt | OSError) -> Exception:
    """Damage; a bad sector is damage too and not weather. Other failures of the disk stay what they are."""
    if isinstance(error, Corrupt):
        return _Damaged(str(error))
    if error.errno == errno.EIO:
        return _Damaged("the disk cannot read the chunk file")
    return error


def _checked(page: memoryview, volume: VolumeId, chunk: ChunkId, size: int) -> tuple[bytes, ...]:
    """The block hashes out of a header page. Raises Corrupt unless it is that of this chunk."""
    header = unpack(page)
    if (header.volume, header.chunk, header.size) != (volume, chunk, size):
        raise Corrupt("the file holds another chunk than its name and length say")
    return header.hashes


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _trashed(entry: os.DirEntry[str]) -> Trashed:
    stamp = entry.name.split("-", 1)[0]
    return Trashed(int(stamp) if stamp.isdecimal() else 0, entry.name, entry.stat().st_size)
