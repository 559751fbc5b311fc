"""A directory store that is stopped, or refused, at every single system call it makes (promises P1 and P7).

The crash is a power cut: in one mode everything done so far survives, in the other everything that was not fsynced is
undone, names and contents alike.
"""

import errno
import itertools
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from plugins.checklogs import Claims
from sealed import VOLUME, Sealed, sealed

from p2pfs.chunks.buffers import ChunkBuffer
from p2pfs.chunks.disk import Disk
from p2pfs.chunks.files import ChunkFiles
from p2pfs.chunks.header import HEADER_BYTES
from p2pfs.chunks.ledger import Ledger
from p2pfs.chunks.pages import PAGE
from p2pfs.chunks.protocol import Blocks
from p2pfs.errors import NoSpace, NotFound, PoolError, Unavailable
from p2pfs.format.chunk import block_hashes
from p2pfs.types import GIB, KIB, MIB, Buffer

pytestmark = pytest.mark.l3

A, B, C = sealed(1, 100 * KIB), sealed(2, 70 * KIB), sealed(3, 5)
PREFIXES = {chunk.id.hex()[:2] for chunk in (A, B, C)}


class PowerCut(BaseException):
    """Nobody catches this, as nobody survives it."""


class CountingDisk(Disk):
    """Counts system calls; `step` may end one of them badly."""

    is_short_lived = False

    def __init__(self) -> None:
        self.calls = 0
        self.names: list[str] = []

    def step(self, name: str) -> None:
        self.calls += 1
        self.names.append(name)

    def create(self, path: Path, *, direct: bool = False) -> int:
        self.step("create")
        return super().create(path, direct=direct)

    def truncate(self, fd: int, length: int) -> None:
        self.step("truncate")
        super().truncate(fd, length)

    def write(self, fd: int, data: Buffer) -> None:
        self.step("write")
        super().write(fd, data)

    def sync(self, fd: int) -> None:
        self.step("sync")  # what it does is simulated, so the real one would only cost time

    def rename(self, old: Path, new: Path) -> None:
        self.step("rename")
        super().rename(old, new)

    def make_directory(self, path: Path) -> None:
        if self.is_short_lived and len(path.name) == 2 and path.name not in PREFIXES:
            return  # 256 alike are not 256 cases
        self.step("make_directory")
        super().make_directory(path)

    def sync_directory(self, path: Path) -> None:
        self.step("sync_directory")

    def remove(self, path: Path) -> None:
        self.step("remove")
        super().remove(path)


class MortalDisk(CountingDisk):
    """Loses power at call number `dies_at`; remembers how to undo what is not durable yet."""

    is_short_lived = True

    def __init__(self, dies_at: int, attic: Path) -> None:
        super().__init__()
        self._dies_at = dies_at
        self._attic = attic
        self._undo: list[tuple[Path, Callable[[], None]]] = []  # (directory whose fsync settles it, how)
        self._paths: dict[int, Path] = {}
        self._unsynced: set[int] = set()
        attic.mkdir(exist_ok=True)

    def step(self, name: str) -> None:
        super().step(name)
        if self.calls >= self._dies_at:
            raise PowerCut(name)

    def create(self, path: Path, *, direct: bool = False) -> int:
        fd = super().create(path, direct=direct)
        inode = os.fstat(fd).st_ino
        self._paths[fd] = path
        self._unsynced.add(inode)
        self._undo.append((path.parent, lambda: path.unlink(missing_ok=True)))
        return fd

    def write(self, fd: int, data: Buffer) -> None:
        self.calls += 1
        if self.calls == self._dies_at:  # halfway through
            os.write(fd, memoryview(data)[: len(data) // 2 // PAGE * PAGE])
        if self.calls >= self._dies_at:
            raise PowerCut("write")
        Disk.write(self, fd, data)

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self._unsynced.discard(os.fstat(fd).st_ino)

    def rename(self, old: Path, new: Path) -> None:
        kept = self._attic / str(self.calls)
        if new.exists():
            os.link(new, kept)
        super().rename(old, new)

        def undo() -> None:
            if new.exists():
                os.rename(new, old)
            if kept.exists():
                os.rename(kept, new)

        self._undo.append((new.parent, undo))

    def make_directory(self, path: Path) -> None:
        is_new = not path.exists()
        super().make_directory(path)
        if is_new and path.exists():
            self._undo.append((path.parent, lambda: shutil.rmtree(path, ignore_errors=True)))

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self._undo = [(directory, undo) for directory, undo in self._undo if directory != path]

    def forget_the_unsynced(self, root: Path) -> None:
        """What the disk looks like when power is back: names first, then contents."""
        for _, undo in reversed(self._undo):
            undo()
        for path in root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self._unsynced:
                os.truncate(path, path.stat().st_size // 2)


class RefusingDisk(CountingDisk):
    """Fails call number `fails_at`, once, with an errno."""

    is_short_lived = True

    def __init__(self, fails_at: int, error: int) -> None:
        super().__init__()
        self._fails_at = fails_at
        self._error = error

    def step(self, name: str) -> None:
        super().step(name)
        if self.calls == self._fails_at:
            raise OSError(self._error, os.strerror(self._error))


def open_files(root: Path, disk: Disk | None = None, *, capacity: int = GIB) -> ChunkFiles:
    files = ChunkFiles(root, Ledger(capacity, 0, 1.0), lambda: 1e9, disk or CountingDisk())
    files.scan()
    return files


def put(files: ChunkFiles, chunk: Sealed) -> int:
    buffer = ChunkBuffer()
    buffer.body[: chunk.size] = chunk.data
    return files.put(VOLUME, chunk.id, buffer.whole, chunk.size, block_hashes(chunk.data))


def read(files: ChunkFiles, chunk: Sealed) -> bytes | None:
    try:
        return bytes(files.read(VOLUME, chunk.id, lambda _: chunk.whole)[1])
    except NotFound:
        return None


class History:
    """What was acknowledged."""

    def __init__(self) -> None:
        self.seqs: dict[Sealed, int] = {}
        self.present: set[Sealed] = set()
        self.deleting: Sealed | None = None

    def put(self, files: ChunkFiles, chunk: Sealed) -> None:
        self.seqs[chunk] = put(files, chunk)
        self.present.add(chunk)

    def delete(self, files: ChunkFiles, chunk: Sealed) -> None:
        self.present.discard(chunk)
        files.trash(VOLUME, chunk.id, self.seqs[chunk])

    def live(self, files: ChunkFiles) -> None:
        """A short life: new chunks, one again, one deleted and put again."""
        self.put(files, A)
        self.put(files, B)
        self.put(files, A)
        self.delete(files, B)
        self.put(files, C)
        self.put(files, B)

    def live_with_late_deletes(self, files: ChunkFiles) -> None:
        """Deletes of what was put again since: void, however late they come and whatever lies in the trash."""
        self.put(files, A)
        first = self.seqs[A]
        self.put(files, A)
        files.trash(VOLUME, A.id, first)
        self.delete(files, A)
        self.put(files, A)  # as a transfer that brings it back
        files.trash(VOLUME, A.id, first)
        files.empty_trash(math.inf, 100)
        files.trash(VOLUME, A.id, self.seqs[A] - 1)


def assert_consistent(root: Path, history: History) -> None:
    """Everything acknowledged is there, nothing is half there, the books are right, numbers go on rising."""
    files = open_files(root)
    for chunk in (A, B, C):
        found = read(files, chunk)
        assert found in (chunk.data, None)
        assert found is not None or chunk not in history.present, f"lost {chunk.size}"
    assert not list((root / "temp").iterdir())
    assert not list((root / "quarantine").iterdir())
    live = [path for path in root.glob("????????????????/*/*") if path.is_file()]
    usage = files.ledger.usage(0)
    assert (usage.used, usage.chunks) == (sum(path.stat().st_size for path in live), len(live))
    assert usage.trash == sum(path.stat().st_size for path in (root / "trash").iterdir())
    newer = put(files, A)
    assert newer > max(history.seqs.values(), default=0)
    assert read(files, A) == A.data


LIVES = [History.live, History.live_with_late_deletes]


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
@pytest.mark.parametrize("mode", ["everything survives", "only what was fsynced survives"])
def test_no_acknowledged_chunk_is_lost_wherever_the_power_goes(
    mode: str, life: Callable[[History, ChunkFiles], None], tmp_path: Path
) -> None:
    for dies_at in itertools.count(1):
        root, history = tmp_path / str(dies_at), History()
        disk = MortalDisk(dies_at, tmp_path / f"attic {dies_at}")
        try:
            life(history, open_files(root, disk))
        except PowerCut:
            if mode != "everything survives":
                disk.forget_the_unsynced(root)
            assert_consistent(root, history)
        else:
            assert dies_at > 35, "the life was cut short"
            break


def test_a_store_that_skips_an_fsync_is_caught(tmp_path: Path, claim_logs: Claims) -> None:
    """The test above can fail: each kind of fsync, left out, loses something somewhere."""
    claim_logs("moved to quarantine")

    class Careless(MortalDisk):
        skipped = ""

        def sync(self, fd: int) -> None:
            if self.skipped == "file":
                self.step("sync")
            else:
                super().sync(fd)

        def sync_directory(self, path: Path) -> None:
            if self.skipped == "directory":
                self.step("sync_directory")
            else:
                super().sync_directory(path)

    for Careless.skipped in ("file", "directory"):
        losses = 0
        for dies_at in range(1, 60):
            root, history = tmp_path / f"{Careless.skipped} {dies_at}", History()
            disk = Careless(dies_at, tmp_path / f"attic {Careless.skipped} {dies_at}")
            try:
                history.live(open_files(root, disk))
            except PowerCut:
                disk.forget_the_unsynced(root)
                try:
                    assert_consistent(root, history)
                except (AssertionError, PoolError):
                    losses += 1
        assert losses


@pytest.mark.parametrize(
    ("error", "expected"),
    [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, Unavailable), (errno.EROFS, Unavailable)],
    ids=["ENOSPC", "EDQUOT", "EIO", "EROFS"],
)
def test_a_refused_call_corrupts_nothing_and_the_next_put_works(
    error: int, expected: type[Exception], tmp_path: Path
) -> None:
    for fails_at in itertools.count(1):
        root, history = tmp_path / str(fails_at), History()
        open_files(root)
        disk = RefusingDisk(10_000, error)
        files = open_files(root, disk)
        history.put(files, A)
        disk.calls, disk._fails_at = 0, fails_at
        refused: list[Sealed] = []
        for chunk in (B, A, C):
            try:
                history.put(files, chunk)
            except expected:
                refused.append(chunk)
                assert not list((root / "temp").iterdir())
        if disk.calls < fails_at:
            assert fails_at > 15
            break
        assert len(refused) <= 1
        for chunk in refused:
            history.put(files, chunk)
        assert files.ledger.usage(0).used == sum(chunk.size + HEADER_BYTES for chunk in (A, B, C))
        assert_consistent(root, history)


def test_a_refused_removal_during_clean_up_does_not_hide_the_first_failure(tmp_path: Path) -> None:
    class Full(Disk):
        def write(self, fd: int, data: Buffer) -> None:
            raise OSError(errno.ENOSPC, "full")

        def remove(self, path: Path) -> None:
            if path.parent.name == "temp":
                raise OSError(errno.EIO, "broken")

    files = open_files(tmp_path / "chunks")
    put(files, A)
    files._disk = Full()
    with pytest.raises(NoSpace):
        put(files, B)
    files._disk = Disk()
    put(files, B)
    assert read(files, B) == B.data


def test_a_full_store_refuses_and_recovers_when_space_returns(tmp_path: Path) -> None:
    capacity = 3 * (MIB + 256 + HEADER_BYTES)
    files = open_files(tmp_path / "chunks", capacity=capacity)
    chunks = [sealed(seed) for seed in range(10, 14)]
    seqs = [put(files, chunk) for chunk in chunks[:3]]
    with pytest.raises(NoSpace):
        put(files, chunks[3])
    assert [read(files, chunk) for chunk in chunks] == [chunk.data for chunk in chunks[:3]] + [None]
    files.trash(VOLUME, chunks[0].id, seqs[0])
    put(files, chunks[3])  # makes room out of the trash
    assert [read(files, chunk) is not None for chunk in chunks] == [False, True, True, True]
    assert not list((tmp_path / "chunks" / "trash").iterdir())


def test_a_disk_without_the_reserve_is_full(tmp_path: Path) -> None:
    class SmallDisk(Disk):
        left = 10 * MIB

        def free(self, path: Path) -> int:
            return self.left

    disk = SmallDisk()
    files = ChunkFiles(tmp_path, Ledger(GIB, 9 * MIB + 512 * KIB, 1.0), lambda: 1e9, disk)
    files.scan()
    with pytest.raises(NoSpace):
        put(files, sealed(1))
    put(files, C)
    disk.left = 20 * MIB
    put(files, sealed(1))


def test_a_lost_high_water_file_is_rebuilt_from_the_headers(tmp_path: Path) -> None:
    files = open_files(tmp_path)
    seqs = [put(files, chunk) for chunk in (A, B, C)]
    (tmp_path / "put_seq").write_text("nonsense")
    assert put(open_files(tmp_path), A) > max(seqs)


def test_numbers_never_repeat_over_many_restarts(tmp_path: Path) -> None:
    seen = [put(open_files(tmp_path), C) for _ in range(5)]
    assert seen == sorted(set(seen))


def test_a_read_of_a_run_needs_only_its_own_blocks(tmp_path: Path) -> None:
    """Damage in one block is found when that block is read, and not before."""
    files = open_files(tmp_path)
    chunk = sealed(1)
    put(files, chunk)
    path = next(path for path in tmp_path.glob("????????????????/*/*"))
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + 5 * (64 * KIB + 16) + 9)
        file.write(b"\xff\x00")
    assert files.read(VOLUME, chunk.id, lambda _: Blocks(0, 5))[1] == chunk.data[: 5 * (64 * KIB + 16)]
