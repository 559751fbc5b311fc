"""A mount whose kernel keeps written pages (`-o writeback_cache`): as a local directory, alone, and nothing promised is
lost."""

import math
import mmap
import os
import random
import select
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool, digest, drop_kernel_caches

from p2pfs import exitcodes
from p2pfs.runtime import mounts

pytestmark = pytest.mark.l4


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("writeback"), options="writeback_cache") as started:
        yield started


def look(directory: Path) -> dict[str, tuple[str, int, int, int]]:
    """Content, size, mode and mtime of all files."""
    found = {}
    for path in sorted(directory.iterdir()):
        row = path.stat()
        found[path.name] = digest(path), row.st_size, row.st_mode, row.st_mtime_ns
    return found


def write_in_pieces(path: Path) -> bytes:
    """Small writes anywhere, through a descriptor that may not read: whole pages have to come from somewhere."""
    chance, content = random.Random(1), bytearray()
    path.write_bytes(bytes(50_000))
    content += bytes(50_000)
    os.posix_fadvise(descriptor := os.open(path, os.O_WRONLY), 0, 0, os.POSIX_FADV_DONTNEED)
    for _ in range(500):
        offset, data = chance.randrange(200_000), chance.randbytes(chance.randrange(1, 700))
        os.pwrite(descriptor, data, offset)
        content += bytes(max(0, offset + len(data) - len(content)))
        content[offset : offset + len(data)] = data
        assert os.fstat(descriptor).st_size == len(content)
    os.close(descriptor)
    return bytes(content)


def append_in_turn(path: Path) -> bytes:
    handles = [os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY) for _ in range(2)]
    lines = [b"line %d\n" % number for number in range(400)]
    for number, line in enumerate(lines):
        os.write(handles[number % 2], line)
    for handle in handles:
        os.close(handle)
    return b"".join(lines)


def cut_under_written_pages(path: Path) -> bytes:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"x" * 100_000)
    os.ftruncate(descriptor, 5_000)
    os.pwrite(descriptor, b"y" * 10, 4_995)
    os.ftruncate(descriptor, 20_000)
    os.close(descriptor)
    return (b"x" * 4_995 + b"y" * 10).ljust(20_000, b"\0")


def map_and_write(path: Path) -> bytes:
    content = bytearray(50_000)
    path.write_bytes(content)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        for at in (0, 4_095, 30_000, 49_999):
            mapped[at] = content[at] = 7
    return bytes(content)


def replace_by_opening(path: Path) -> bytes:
    path.write_bytes(b"long" * 20_000)
    path.write_bytes(b"short")
    return b"short"


def date_back(path: Path) -> bytes:
    with path.open("wb", buffering=0) as file:
        file.write(b"old")
        os.utime(file.fileno(), ns=(5, 10**18 + 123))
    assert path.stat().st_mtime_ns == 10**18 + 123
    return b"old"


def write_as_another(path: Path) -> bytes:
    path.write_bytes(b"abc")
    path.chmod(0o6777)
    with path.open("r+b") as file:
        subprocess.run(["printf", "A"], stdout=file, cwd="/", user=65534, group=65534, extra_groups=[], check=True)
    assert path.stat().st_mode & 0o7777 == 0o777
    return b"Abc"


def use_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
        for number in range(50):
            with database:
                database.execute("INSERT INTO t VALUES (?, ?)", (number, b"%d" % number * 100))


STEPS = (
    write_in_pieces, append_in_turn, cut_under_written_pages, map_and_write, replace_by_opening, date_back,
    write_as_another,
)  # fmt: skip


def test_what_was_written_is_there_after_a_remount_with_its_times(pool: DemoPool) -> None:
    directory = pool.mount / "steps"
    directory.mkdir()
    for step in STEPS:
        path = directory / step.__name__
        content = step(path)
        assert path.read_bytes() == content, step.__name__
    use_sqlite(directory / "sqlite")
    before = look(directory)
    pool.remount_empty()
    assert look(directory) == before
    with closing(sqlite3.connect(directory / "sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_without_a_name_is_written_and_closed_without_error(pool: DemoPool) -> None:
    path = pool.mount / "unnamed"
    with path.open("w+b", buffering=0) as file:
        file.write(b"1")
        path.unlink()
        file.write(b"2" * 9_000)
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"1" + b"2" * 9_000


def test_a_kill_loses_nothing_that_was_closed_and_its_successor_takes_over_at_once(pool: DemoPool) -> None:
    closed, unsafe = pool.mount / "closed", pool.mount / "open"
    content = random.Random(2).randbytes(300_001)
    closed.write_bytes(content)
    descriptor = os.open(unsafe, os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"kept by the kernel")
    pool.kill("mount")
    with pytest.raises(OSError, match=r"not connected|Input/output"):  # the latter of a page that was under way
        os.close(descriptor)
    pool.clear_dead_mount()
    pool.start()
    assert closed.read_bytes() == content
    assert not unsafe.exists() or unsafe.read_bytes() in (b"", b"kept by the kernel")


def test_a_mount_that_lives_on_detached_is_not_succeeded_though_its_record_is_lost(pool: DemoPool) -> None:
    path = pool.mount / "open while detached"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    process = os.pidfd_open(pool.pid("mount"))
    try:
        subprocess.run(["umount", "-l", str(pool.mount)], check=True)
        mounts._record_path(mounts._directories()[0], pool.mount).unlink()
        refused = pool.p2pfs(
            "mount", "demo", str(pool.mount), "-d", "-o", "writeback_cache", "--home", str(pool.root / "mount"),
            "--passphrase-file", str(pool.root / "passphrase"), expect=exitcodes.BUSY,
        )  # fmt: skip
        assert "for itself alone" in refused.stderr
        os.write(descriptor, b"stored all the same")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    assert select.select([process], [], [], 60)[0]
    os.close(process)
    pool.start()
    assert path.read_bytes() == b"stored all the same"


def test_a_mount_told_to_end_stores_what_its_kernel_keeps_of_open_files(pool: DemoPool) -> None:
    path = pool.mount / "still open"
    content = random.Random(3).randbytes(5_000_001)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        os.write(descriptor, content)
        process = os.pidfd_open(pool.pid("mount"))
        pool.signal("mount", signal.SIGTERM)
        assert select.select([process], [], [], 60)[0]
        os.close(process)
    finally:
        with pytest.raises(OSError, match="not connected"):
            os.close(descriptor)
    pool.start()
    assert path.read_bytes() == content


def test_umount_takes_in_what_programs_have_only_mapped(pool: DemoPool) -> None:
    path = pool.mount / "mapped"
    with path.open("w+b") as file:
        file.truncate(100_000)
        mapped = mmap.mmap(file.fileno(), 100_000)
    mapped[50_000:50_004] = b"data"
    assert "in use" in pool.p2pfs("umount", str(pool.mount), expect=exitcodes.BUSY).stderr
    mapped[60_000:60_004] = b"more"
    mapped.close()
    pool.remount_empty()
    content = path.read_bytes()
    assert len(content) == 100_000
    assert (content[50_000:50_004], content[60_000:60_004]) == (b"data", b"more")


def test_the_coordinator_may_come_back_under_pages_not_yet_written(tmp_path: Path) -> None:
    """Whoever closes first takes the kernel's error away, and pages that it gave up are read again when it likes."""
    content = random.Random(4).randbytes(600_001)
    with demo_pool(tmp_path, options="writeback_cache", settings={"io_timeout": "2s"}) as pool:
        path = pool.mount / "waiting"  # the first that is written: no room is promised yet
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
        os.write(descriptor, content)
        pool.kill("coordinator")
        with pytest.raises(OSError, match=r"Read-only|Input/output"):
            os.close(os.dup(descriptor))
        pool.start()
        os.write(descriptor, content)
        fsync_after_errors(descriptor, slow_s=1)  # half of io_timeout
        os.close(descriptor)
        drop_kernel_caches()
        assert path.read_bytes() == content * 2
        assert pool.stats()["lost_bytes"] == 0


def fsync_after_errors(descriptor: int, *, slow_s: float = math.inf) -> None:
    """What failed before is told first, five times at most. What takes `slow_s` is none of these: a busy machine
    may answer late more often, within a minute."""
    until, errors = time.monotonic() + 60, 0
    while True:
        began = time.monotonic()
        try:
            os.fsync(descriptor)
            return
        except OSError:
            now = time.monotonic()
            errors += now - began < slow_s
            if errors > 5 or now > until:
                raise


def test_every_close_tells_of_pages_that_found_no_room(tmp_path: Path) -> None:
    with demo_pool(tmp_path, options="writeback_cache", settings={"capacity": "40M", "io_timeout": "5s"}) as pool:
        path = pool.mount / "large"
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
        os.write(descriptor, bytes(1 << 20))
        os.fsync(descriptor)
        os.pwrite(descriptor, random.Random(5).randbytes(100 << 20), 1 << 20)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                os.close(os.dup(descriptor))
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):  # from the kernel, and from the mount
                os.fsync(descriptor)
        os.ftruncate(descriptor, 1 << 20)
        fsync_after_errors(descriptor)
        os.close(descriptor)
        assert path.read_bytes() == bytes(1 << 20)


def test_nobody_else_mounts_the_volume_meanwhile_nor_so_while_somebody_has_it(pool: DemoPool, tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "mnt"
    other.mkdir()
    (tmp_path / "invite").write_text(pool.p2pfs("invite", "demo@second", "--roles", "client").stdout)
    pool.p2pfs("join", str(tmp_path / "invite"), home=home)

    def mount(*options: str, expect: int) -> str:
        words = ("mount", "demo", str(other), "-d", "--passphrase-file", str(pool.root / "passphrase"), *options)
        return pool.p2pfs(*words, home=home, expect=expect).stderr

    for options in ((), ("-o", "ro"), ("-o", "writeback_cache")):
        said = mount(*options, expect=exitcodes.BUSY)
        assert f"{pool.mount} has mounted the volume for itself alone" in said
        assert "Traceback" not in said
    pool.unmount()
    mount("-o", "ro", expect=exitcodes.OK)
    refused = pool.p2pfs("demo", "start", "--root", str(pool.root), expect=None)
    assert refused.returncode == exitcodes.BUSY
    assert f"{other} uses the volume too" in refused.stderr
    pool.p2pfs("umount", str(other), home=home)
    pool.start()
