"""Memory that is lent and comes back, and reads past the page cache wherever the bytes lie."""

import gc
import os
import random
from pathlib import Path

import pytest

from p2pfs.chunks.disk import Disk, allows_cached, allows_direct
from p2pfs.chunks.pages import (
    LARGE_BYTES,
    PAGE,
    SMALL_BYTES,
    PagePool,
    aligned,
    class_of,
    padded,
    read_data,
    write_file,
)
from p2pfs.types import KIB, SEALED_CHUNK_BYTES

pytestmark = pytest.mark.l0


def free(pool: PagePool) -> int:
    gc.collect()
    return sum(map(len, pool._free.values()))


def test_memory_comes_back_when_the_last_slice_is_gone() -> None:
    pool = PagePool()
    view = pool.lend(1000)
    part = view[10:20]
    of_part = memoryview(part)[2:4]
    del view, part
    assert free(pool) == 0
    of_part[0] = 7
    del of_part
    assert free(pool) == 1
    again = pool.lend(1000)
    assert free(pool) == 0
    assert again[12] == 7  # the same memory


def test_what_is_lent_is_lent_to_one_only() -> None:
    pool = PagePool()
    views = [pool.lend(SEALED_CHUNK_BYTES) for _ in range(40)]
    for at, view in enumerate(views):
        view[:4] = at.to_bytes(4, "big")
    assert [int.from_bytes(view[:4], "big") for view in views] == list(range(40))
    del views, view
    assert free(pool) == 16  # more than that is given back to the system


def test_sizes_fall_into_classes_that_hold_them() -> None:
    for size in (1, 64 * KIB, 256 * KIB + 64, SMALL_BYTES - 3 * PAGE, SMALL_BYTES - 3 * PAGE + 1, SEALED_CHUNK_BYTES):
        assert class_of(size) >= size + 2 * PAGE
        assert len(PagePool().lend(size)) == class_of(size)
    assert class_of(4 * (64 * KIB + 16)) == SMALL_BYTES
    assert class_of(SEALED_CHUNK_BYTES) == LARGE_BYTES


def test_memory_is_padded_only_where_nobody_else_has_any_of_it() -> None:
    memory = PagePool().lend(SEALED_CHUNK_BYTES)
    memory[:] = b"\xff" * len(memory)
    whole = padded(memory[: PAGE + 10])
    assert whole is not None
    assert bytes(whole) == b"\xff" * (PAGE + 10) + bytes(PAGE - 10)
    assert memory[2 * PAGE] == 0xFF
    for other in (memory[PAGE : 2 * PAGE], memory[1:10], memory[:0], memory[:10].toreadonly()):
        assert padded(other) is None
    assert padded(memoryview(bytearray(PAGE))) is None
    assert padded(memoryview(bytes(PAGE))) is None


@pytest.mark.parametrize("direct", [False, True])
def test_any_span_of_a_file_is_read_exactly(direct: bool, tmp_path: Path) -> None:
    disk, pool = Disk(), PagePool()
    direct = direct and allows_direct(disk, tmp_path)
    for size in (1, PAGE - 1, PAGE, 70_032, SEALED_CHUNK_BYTES):
        data = random.Random(size).randbytes(size)
        whole = memoryview(aligned(PAGE + size))
        whole[:PAGE] = bytes(range(256)) * 16
        whole[PAGE : PAGE + size] = data
        path = tmp_path / f"{size}"
        fd = disk.create(path, direct=direct)
        write_file(disk, fd, whole, PAGE + size)
        disk.close(fd)
        assert path.stat().st_size == PAGE + size
        fd = disk.open(path, direct=direct)
        for start, stop in _spans(size):
            for with_header in (False, True):
                memory = pool.lend(stop - start)
                page, found = read_data(disk, fd, memory, start, stop, with_header=with_header)
                assert found == data[start:stop]
                assert page == (whole[:PAGE] if with_header else b"")
        disk.close(fd)
        for cut in (0, 10, PAGE, PAGE + size // 2):
            os.truncate(path, cut)
            fd = disk.open(path, direct=direct)
            page, found = read_data(disk, fd, pool.lend(size), 0, size, with_header=True)
            assert page == bytes(whole[: min(cut, PAGE)])[: len(page)]
            assert found == data[: max(0, cut - PAGE)]
            disk.close(fd)
            path.write_bytes(whole[: PAGE + size])


def _spans(size: int) -> list[tuple[int, int]]:
    chance = random.Random(size)
    pairs = [sorted(chance.choices(range(size + 1), k=2)) for _ in range(30)]
    return [(start, stop) for start, stop in [(0, size), *pairs] if start < stop]


def test_a_full_disk_does_not_keep_a_store_from_starting(tmp_path: Path) -> None:
    class Full(Disk):
        def write(self, fd: int, data: object) -> None:
            raise OSError(28, "full")

    assert not allows_direct(Full(), tmp_path)
    assert not list(tmp_path.iterdir())


class Local(Disk):
    """On a file system that opens files in memory, whatever the tests run on."""

    def opens_in_memory(self, path: Path) -> bool:
        return True


def test_the_page_cache_is_read_without_waiting_only_where_that_works(tmp_path: Path) -> None:
    class NoOpen(Local):
        def open_cached(self, path: str) -> int | None:
            return None

    class NoRead(Local):
        def read_cached(self, fd: int, view: memoryview, offset: int) -> int:
            return 0

    class Full(Local):
        def write(self, fd: int, data: object) -> None:
            raise OSError(28, "full")

    class Remote(Disk):
        def opens_in_memory(self, path: Path) -> bool:
            return False

    for disk in (NoOpen(), NoRead(), Full(), Remote()):
        assert not allows_cached(disk, tmp_path)
    assert not list(tmp_path.iterdir())


def test_file_systems_that_ask_others_to_open_a_file_are_left_alone() -> None:
    """/proc stands for all that are not listed."""
    assert not Disk().opens_in_memory(Path("/proc"))
    assert not Disk().opens_in_memory(Path("/no/such/place"))


def test_a_cached_read_leaves_no_time_of_access(tmp_path: Path) -> None:
    """Writing it down may wait for the disk."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.utime(path, (1, 2))  # read before it was changed: a plain read would set the time
    fd = Disk().open_cached(str(path))
    if fd is None:
        pytest.skip("this system cannot tell what is cached")
    assert os.read(fd, 1) == b"x"
    os.close(fd)
    assert path.stat().st_atime == 1
