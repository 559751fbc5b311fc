"""Chunk files under one directory: the blocking half of the directory store, called in threads.

    ROOT/<volume, 16 hex>/<id, 2 hex>/<62 hex>   a header page (chunks.header), then the sealed bytes
    ROOT/temp/                                    writes under way; emptied at start
    ROOT/trash/<deleted_s>-<volume>-<id>-<put_seq>
    ROOT/quarantine/<volume>-<id>                 chunks.quarantine
    ROOT/put_seq                                  chunks.sequence
    ROOT/tally                                    chunks.tally

A PUT is temp → fsync → rename → fsync of the directory; whatever stops it in between leaves the old file or the new
one, whole. Changes of one chunk exclude each other by a lock (one of 64, by id) held in the thread itself, so that a
task which gave up waiting for a stuck disk cannot let a second writer in.
"""

import contextlib
import errno
import itertools
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfs.chunks import blocks as runs
from p2pfs.chunks.damage import Damaged, checked, damage_or
from p2pfs.chunks.disk import Disk, allows_cached, allows_direct, mapped
from p2pfs.chunks.hashcache import HashCache
from p2pfs.chunks.header import HEADER_BYTES, Header, check_blocks, pack, unpack
from p2pfs.chunks.ledger import Ledger, Trashed
from p2pfs.chunks.pages import PAGE, PagePool, read_data, write_file
from p2pfs.chunks.protocol import Blocks
from p2pfs.chunks.quarantine import Quarantine
from p2pfs.chunks.sequence import PutSequence
from p2pfs.chunks.tally import Place, Tally
from p2pfs.errors import Corrupt, NoSpace, NotFound, PoolError
from p2pfs.format.chunk import block_hashes
from p2pfs.types import ChunkId, VolumeId, volume_name

log = logging.getLogger(__name__)

_STRIPES: Final = 64
_CLOCK_SHIFT: Final = 24
"""A store numbers PUTs from the UTC seconds of its start, shifted by so much: above any run that began earlier, unless
it took 16 million PUTs a second."""

Select = Callable[[int], Blocks]
"""Sealed size of the chunk → the run wanted."""


@dataclass(frozen=True, slots=True)
class Held:
    """A chunk that is here, by its file's header."""

    volume: VolumeId
    chunk: ChunkId
    size: int  # sealed bytes
    put_seq: int
    stored_s: int  # UTC


class ChunkFiles:
    """Thread-safe; every method may block on the disk. `scan` comes first."""

    def __init__(self, root: Path, ledger: Ledger, now: Callable[[], float], disk: Disk) -> None:
        self.root = root
        self._root = str(root)
        self.ledger = ledger
        self._now = now
        self._disk = disk
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._sequence = PutSequence(root / "put_seq", disk)
        self._temporary = itertools.count()
        self._known: set[VolumeId] = set()
        self._direct = False
        self._cached = False
        self._pool = PagePool()
        self._hashes = HashCache()
        self._making = threading.Lock()
        self.quarantine = Quarantine(root / "quarantine", disk)
        self.tally = Tally(root)

    # ---- start ------------------------------------------------------------------------------------------------------

    def scan(self) -> None:
        """Make the directories, drop what a crash left in temp, count what is there.

        Raises:
            NoSpace, Unavailable: The disk does not let us.
        """
        with mapped("starting"):
            self._make_top()
            for leftover in (self.root / "temp").iterdir():
                self._disk.remove(leftover)
            for directory in self.root.glob("temp.*"):
                self._disk.remove_directory(directory)
            self._disk.sync_directory(self.root)
            self._direct = allows_direct(self._disk, self.root / "temp")
            self._cached = allows_cached(self._disk, self.root / "temp")
            has_claim = self._sequence.load()
            if not has_claim or not self.tally.load():
                self._count_all()
            total = self.tally.total()
            self.ledger.found(total.bytes, total.files)
            highest = 0 if has_claim else self._highest_seq()
            # A claim may be lost, as old as the backup the disk was restored from, or another peer's whose disk this
            # was. Receipts that are void must stay below new ones all the same, or no copy of such a chunk here would
            # ever count again. Where the clock is behind, the claim and the chunks are what is known.
            self._sequence.start_above(max(highest, int(self._now()) << _CLOCK_SHIFT))
            for entry in sorted(map(_trashed, os.scandir(self.root / "trash")), key=lambda entry: entry.deleted_s):
                self.ledger.trashed(entry, was_live=False)
            self.quarantine.load(lambda volume, chunk: self._path(volume, chunk).exists())

    def _places(self) -> list[Place]:
        names = (path.name for path in self.root.iterdir() if len(path.name) == 16 and path.is_dir())
        return self.tally.places(VolumeId(int(name, 16)) for name in names if not name.strip("0123456789abcdef"))

    def _count_all(self) -> None:
        for place in self._places():
            self.tally.count(place)

    def _highest_seq(self) -> int:
        """The highest put_seq in the headers of all chunks."""
        files = (Path(entry.path) for place in self._places() for entry in _entries(self._directory(*place)))
        headers = (self._header_at(path) for path in files)
        return max((header.put_seq for header in headers if header is not None), default=0)

    def recount(self, place: Place) -> bool:
        """Count one directory anew; False when it was changed meanwhile."""
        with mapped("counting chunks"):
            wrong = self.tally.count(place)
        if wrong is not None:
            self.ledger.found(wrong.bytes, wrong.files)
        return wrong is not None

    def places(self) -> list[Place]:
        """Every directory that chunks are in, or were thought to be."""
        with mapped("listing volumes"):
            return self._places()

    # ---- one chunk --------------------------------------------------------------------------------------------------

    def put(self, volume: VolumeId, chunk: ChunkId, whole: memoryview, size: int, hashes: Sequence[bytes]) -> int:
        """Store a verified chunk: `whole` has room for the header page, then the sealed bytes. → put_seq.

        Durability: on return the file and its directory are on stable storage.

        Raises:
            NoSpace: Capacity, reserve or the disk is exhausted; nothing was changed.
            Unavailable: The disk fails. A file may be there; no receipt may be given for it.
        """
        length = HEADER_BYTES + size
        with self._lock(chunk), mapped("storing a chunk"), self._remaking():
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
                    with self.tally.changing((volume, chunk[0])) as change:
                        self._disk.rename(temporary, path)
                        self.ledger.stored(length, replaced)
                        settled = True
                        change.files, change.bytes = int(replaced is None), length - (replaced or 0)
                self.quarantine.forget([(volume, chunk)])  # reported now, it would cost the new copy its place
                self._disk.sync_directory(path.parent)
                return put_seq
            finally:
                if not settled:
                    self.ledger.abandoned(length)
                    with contextlib.suppress(OSError):  # the first failure is the one to tell; temp is emptied at start
                        self._disk.remove(temporary)

    def read(self, volume: VolumeId, chunk: ChunkId, select: Select, *, keep: bool = False) -> tuple[int, memoryview]:
        """(sealed size of the chunk, bytes of the run `select` wants), read and verified. `keep`: through the page
        cache where `read_cached` works, so that it finds it the next time.

        Raises:
            NotFound: No such chunk here.
            Corrupt: The file is damaged and now in quarantine.
            Unavailable: The disk fails.
            Whatever `select` raises.
        """
        with self._opened(volume, chunk, direct=self._direct and not (keep and self._cached)) as fd:
            size, _, data = self._read(fd, volume, chunk, select)
            return size, data

    def read_cached(self, volume: VolumeId, chunk: ChunkId, select: Select) -> tuple[int, memoryview] | None:
        """As `read`, but only what the page cache has and can be verified at once; None: ask `read`. Does not block.

        Raises:
            Whatever `select` raises.
        """
        if not self._cached:
            return None
        name = chunk.hex()
        fd = self._disk.open_cached(f"{self._root}/{volume_name(volume)}/{name[:2]}/{name[2:]}")
        if fd is None:
            return None
        try:
            size = os.fstat(fd).st_size - HEADER_BYTES
            hashes = self._hashes.get(volume, chunk, size)
            if hashes is None:
                return None
            run = select(size)
            start, stop = runs.span(size, run)
            data = memoryview(bytearray(stop - start))
            if self._disk.read_cached(fd, data, HEADER_BYTES + start) < len(data):
                return None
            return (size, data) if block_hashes(data) == list(hashes[run.first : run.first + run.count]) else None
        finally:
            self._disk.close(fd)

    def read_anew(self, volume: VolumeId, chunk: ChunkId, select: Select) -> tuple[tuple[bytes, ...], memoryview]:
        """(hashes of all blocks, bytes of the run) as they are on the disk now, past every cache that can be passed.

        Raises:
            As `read`.
        """
        with self._opened(volume, chunk, direct=self._direct) as fd:
            if not self._direct:
                self._disk.forget(fd)
            try:
                _, hashes, data = self._read(fd, volume, chunk, select, anew=True)
                return hashes, data
            finally:
                if not self._direct:
                    self._disk.forget(fd)

    def head(self, volume: VolumeId, chunk: ChunkId) -> Held | None:
        """What the header of a chunk says; None if it is not here, or damaged and now in quarantine."""
        try:
            with self._opened(volume, chunk, direct=self._direct) as fd:
                state = os.fstat(fd)
                header = self._expect_header(fd, volume, chunk, state.st_size - HEADER_BYTES)
        except (NotFound, Corrupt):
            return None
        return Held(volume, chunk, header.size, header.put_seq, int(state.st_mtime))

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
            if length is None:
                return
            header = self._header_at(path)
            if header is None:  # then nobody knows which PUT it is of: a newer one must be told to be gone
                self._set_aside(path, length, volume, chunk)
                return
            if header.put_seq > put_seq:
                return
            now_s = int(self._now())
            name = f"{now_s:012d}-{volume_name(volume)}-{chunk.hex()}-{header.put_seq:016x}"
            with self.tally.changing((volume, chunk[0])) as change:
                self._disk.rename(path, self.root / "trash" / name)
                self.ledger.trashed(Trashed(now_s, name, length))
                change.files, change.bytes = -1, -length
            self._disk.sync_directory(self.root / "trash")
            self._disk.sync_directory(path.parent)

    def settled_seq(self) -> int:
        """Every PUT with a `put_seq` up to this one is in the ledger, or failed."""
        return self._sequence.settled()

    def empty_trash(self, before_s: float, most: int) -> int:
        """Remove what was deleted before that, `most` of it; how many files."""
        victims = self.ledger.expired(before_s, most)
        with mapped("emptying the trash"):
            self._remove_trashed(victims)
        return len(victims)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _path(self, volume: VolumeId, chunk: ChunkId) -> Path:
        return self._directory(volume, chunk[0]) / chunk.hex()[2:]

    def _directory(self, volume: VolumeId, bucket: int) -> Path:
        return self.root / volume_name(volume) / f"{bucket:02x}"

    def _lock(self, chunk: ChunkId) -> threading.Lock:
        return self._locks[chunk[-1] % _STRIPES]

    def _claim(self, length: int) -> None:
        granted, victims = self.ledger.claim(length, self._disk.free(self.root), self._now())
        self._remove_trashed(victims)
        if not granted:
            raise NoSpace("this peer has no room for another chunk")

    def _remove_trashed(self, victims: Sequence[Trashed]) -> None:
        """Files of entries that are off the books; what cannot be removed is on them again."""
        for at, entry in enumerate(victims):
            try:
                self._disk.remove(self.root / "trash" / entry.name)
            except OSError:
                for kept in victims[at:]:
                    self.ledger.trashed(kept, was_live=False)
                raise

    @contextlib.contextmanager
    def _remaking(self) -> Iterator[None]:
        """When the block finds a directory gone, make all of them anew for whoever comes next: somebody emptied the
        disk under a running store, which can go on."""
        try:
            yield
        except FileNotFoundError:
            with self._making:
                log.warning("directories of %s are gone: made anew", self.root)
                self._known.clear()
                self._make_top()
            raise

    def _make_top(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._disk.spread(self.root)
        for name in ("trash", "quarantine"):
            self._disk.make_directory(self.root / name)
        temporary = self.root / "temp"
        if not temporary.exists():
            # ext4 places it by its name: a new one each time, or all stores of a disk would share a place.
            new = self.root / f"temp.{secrets.token_hex(8)}"
            self._disk.make_directory(new)
            self._disk.rename(new, temporary)

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

    @contextlib.contextmanager
    def _opened(self, volume: VolumeId, chunk: ChunkId, *, direct: bool) -> Iterator[int]:
        """The file of a chunk, open for reading. What is found damaged in the block goes to quarantine.

        Raises:
            NotFound, Corrupt, Unavailable.
        """
        path = self._path(volume, chunk)
        with mapped("reading a chunk"):
            try:
                fd = self._disk.open(path, direct=direct)
            except FileNotFoundError:
                raise NotFound("no such chunk here") from None
            try:
                yield fd
            except Damaged as damage:
                self._set_aside_if_same(path, fd, volume, chunk)
                raise Corrupt(str(damage)) from damage
            finally:
                self._disk.close(fd)

    def _read(
        self, fd: int, volume: VolumeId, chunk: ChunkId, select: Select, *, anew: bool = False
    ) -> tuple[int, tuple[bytes, ...], memoryview]:
        """(sealed size, hashes of all blocks, verified bytes of the run). `anew`: the hashes are not those remembered,
        nor are they remembered: who goes through everything would drive out what is in use."""
        size = os.fstat(fd).st_size - HEADER_BYTES
        try:
            run = select(size)
            start, stop = runs.span(size, run)
        except PoolError:
            self._expect_header(fd, volume, chunk, size)
            raise
        known = None if anew else self._hashes.get(volume, chunk, size)
        try:
            memory = self._pool.lend(stop - start)
            page, data = read_data(self._disk, fd, memory, start, stop, with_header=known is None)
            hashes = known or checked(page, volume, chunk, size).hashes
            if known is None and not anew:
                self._hashes.put(volume, chunk, size, hashes)
            check_blocks(hashes[run.first : run.first + run.count], block_hashes(data))
        except (Corrupt, OSError) as error:
            self._hashes.drop(volume, chunk)
            raise damage_or(error) from error
        return size, hashes, data

    def _expect_header(self, fd: int, volume: VolumeId, chunk: ChunkId, size: int) -> Header:
        """The header, which must be that of this chunk and of this size. Raises Damaged if it is not."""
        try:
            return checked(self._page(fd), volume, chunk, size)
        except (Corrupt, OSError) as error:
            raise damage_or(error) from error

    def _header_at(self, path: Path) -> Header | None:
        """The header in a file that is there; None if it is damaged."""
        fd = self._disk.open(path, direct=self._direct)
        try:
            return unpack(self._page(fd))
        except Corrupt:
            return None
        except OSError as error:
            if error.errno == errno.EIO:
                return None
            raise
        finally:
            self._disk.close(fd)

    def _page(self, fd: int) -> memoryview:
        memory = self._pool.lend(0)
        return memory[: self._disk.read_into(fd, memory[:PAGE], 0, PAGE)]

    def _set_aside_if_same(self, path: Path, fd: int, volume: VolumeId, chunk: ChunkId) -> None:
        """Move the damaged file away, unless a PUT has replaced it since it was opened."""
        with self._lock(chunk):
            try:
                present = os.stat(path)
            except FileNotFoundError:
                return
            if os.path.samestat(os.fstat(fd), present):
                self._set_aside(path, present.st_size, volume, chunk)

    def _set_aside(self, path: Path, length: int, volume: VolumeId, chunk: ChunkId) -> None:
        log.warning("chunk %s of volume %s is damaged: moved to quarantine", chunk.hex(), volume_name(volume))
        with self.tally.changing((volume, chunk[0])) as change:
            self.quarantine.take(path, volume, chunk)
            self.ledger.lost(length)
            change.files, change.bytes = -1, -length
        self.quarantine.trim()


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _trashed(entry: os.DirEntry[str]) -> Trashed:
    stamp = entry.name.split("-", 1)[0]
    return Trashed(int(stamp) if stamp.isdecimal() else 0, entry.name, entry.stat().st_size)
