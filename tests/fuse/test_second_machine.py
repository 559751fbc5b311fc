"""A second machine with nothing but its certificate and the passphrase: two real mounts of one volume (P9)."""

import contextlib
import errno
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pools import DemoPool, mount_stats

from p2pfs import exitcodes
from p2pfs.runtime import mounts

pytestmark = pytest.mark.l4

KERNEL_CACHE_S = 1.0


@pytest.fixture(scope="module")
def second(pool: DemoPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same volume, mounted by another node of the same owner."""
    root = tmp_path_factory.mktemp("second")
    home, mount = root / "home", root / "mnt"
    mount.mkdir()
    invite = root / "invite"
    invite.write_text(pool.p2pfs("invite", "demo@second", "--roles", "client").stdout)
    pool.p2pfs("join", str(invite), home=home)
    assert pool.p2pfs("join", str(invite), home=root / "third", expect=None).returncode == exitcodes.BAD_INVITE
    wrong = root / "wrong"
    wrong.write_text("not the passphrase\n")
    refused = pool.p2pfs("mount", "demo", str(mount), "-d", "--passphrase-file", str(wrong), home=home, expect=None)
    assert refused.returncode == exitcodes.WRONG_PASSPHRASE
    assert mounts.mounted_type(mount) is None
    passphrase = str(pool.root / "passphrase")
    pool.p2pfs("mount", "demo", str(mount), "-d", "--passphrase-file", passphrase, home=home)
    yield mount
    pool.p2pfs("umount", str(mount), home=home)
    assert mounts.mounted_type(mount) is None


def appears(path: Path) -> bool:
    """Whether a name shows within the time the kernel may answer from memory, and a little more."""
    until = time.monotonic() + KERNEL_CACHE_S + 4  # the rest is for a busy machine
    while not path.exists():
        if time.monotonic() > until:
            return False
        os.sched_yield()
    return True


def test_content_shows_when_opened_after_the_close(pool: DemoPool, second: Path) -> None:
    for number, content in enumerate((b"first", b"x" * 100_000, b"short", b"y" * 3_000_000)):
        (pool.mount / "shared").write_bytes(content)
        assert number or appears(second / "shared")
        assert (second / "shared").read_bytes() == content
        (second / "shared").write_bytes(content + b" and back")
        assert (pool.mount / "shared").read_bytes() == content + b" and back"


def test_writes_to_different_bytes_of_one_mib_both_survive(pool: DemoPool, second: Path) -> None:
    (pool.mount / "both").write_bytes(b"-" * 200_000)
    assert appears(second / "both")
    with (pool.mount / "both").open("r+b") as ours, (second / "both").open("r+b") as theirs:
        ours.write(b"ours")
        theirs.seek(100_000)
        theirs.write(b"theirs")
    expected = b"ours" + b"-" * 99_996 + b"theirs" + b"-" * 99_994
    assert (pool.mount / "both").read_bytes() == expected
    assert (second / "both").read_bytes() == expected


def test_names_appear_move_and_go_for_both(pool: DemoPool, second: Path) -> None:
    (pool.mount / "here").mkdir()
    assert appears(second / "here")
    (second / "here" / "file").write_bytes(b"1")
    assert appears(pool.mount / "here" / "file")
    os.rename(pool.mount / "here" / "file", pool.mount / "moved")
    assert appears(second / "moved")
    assert (second / "moved").read_bytes() == b"1"
    os.rmdir(second / "here")
    assert "here" not in os.listdir(pool.mount)


def test_an_open_file_outlives_the_name_the_other_machine_takes(pool: DemoPool, second: Path) -> None:
    (pool.mount / "kept").write_bytes(b"one")
    assert appears(second / "kept")
    with (second / "kept").open("r+b") as theirs:
        os.unlink(pool.mount / "kept")
        until = time.monotonic() + 10
        while os.fstat(theirs.fileno()).st_nlink and time.monotonic() < until:
            os.sched_yield()
        assert os.fstat(theirs.fileno()).st_nlink == 0
        theirs.seek(0, os.SEEK_END)
        theirs.write(b" two")
        theirs.flush()
        os.fsync(theirs.fileno())
        theirs.seek(0)
        assert theirs.read() == b"one two"
    assert not (second / "kept").exists()


def test_records_appended_on_both_machines_all_survive(pool: DemoPool, second: Path) -> None:
    (pool.mount / "log").touch()
    assert appears(second / "log")
    with (pool.mount / "log").open("ab", buffering=0) as ours, (second / "log").open("ab", buffering=0) as theirs:
        for number in range(200):
            ours.write(b"ours   %06d\n" % number)
            theirs.write(b"theirs %06d\n" % number)
            if number % 50 == 0:
                os.fsync(ours.fileno())
    expected = sorted(b"%s %06d" % (who, number) for who in (b"ours  ", b"theirs") for number in range(200))
    for mount in (pool.mount, second):
        assert sorted((mount / "log").read_bytes().splitlines()) == expected


def test_the_other_machine_is_told_before_the_kernel_asks_again(pool: DemoPool, second: Path) -> None:
    (pool.mount / "told").write_bytes(b"one")
    assert appears(second / "told")

    def notified() -> int:
        return mount_stats(second)["kernel_notifications"]

    before = notified()
    os.chmod(pool.mount / "told", 0o600)
    until = time.monotonic() + 10
    while notified() == before and time.monotonic() < until:
        os.sched_yield()
    assert notified() > before
    assert (second / "told").stat().st_mode & 0o777 == 0o600


def test_two_mounts_that_invalidate_each_other_hang_nothing(pool: DemoPool, second: Path) -> None:
    for name in ("busy", "busy/0", "busy/1"):
        (pool.mount / name).mkdir()
    (pool.mount / "busy" / "file").write_bytes(b"0" * 300_000)
    assert appears(second / "busy" / "file")
    before = [mount_stats(mount) for mount in (pool.mount, second)]
    failures: list[BaseException] = []

    def turn_names(mount: Path, mine: str) -> None:
        for number in range(40):
            place = mount / "busy" / mine / f"{number % 3}"
            with contextlib.suppress(FileExistsError):
                place.mkdir()
            with contextlib.suppress(OSError):  # the other one was faster
                os.rename(place, mount / "busy" / str(1 - int(mine)) / f"{number % 3}")
            os.listdir(mount / "busy" / mine)

    def turn_content(mount: Path, at: int) -> None:
        for number in range(40):
            with (mount / "busy" / "file").open("r+b") as file:
                file.seek(at)
                file.write(b"%08d" % number)
            assert (mount / "busy" / "file").read_bytes()[at : at + 8] == b"%08d" % number

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    turns = [
        functools.partial(turn_names, pool.mount, "0"),
        functools.partial(turn_names, second, "1"),
        functools.partial(turn_content, pool.mount, 0),
        functools.partial(turn_content, second, 200_000),
    ]
    for _ in range(20):  # until both were notified meanwhile: news may take a second
        threads = [threading.Thread(target=run, args=(turn,)) for turn in turns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a call hangs"
        assert not failures
        after = [mount_stats(mount) for mount in (pool.mount, second)]
        notified = [
            now["kernel_notifications"] - was["kernel_notifications"] for was, now in zip(before, after, strict=True)
        ]
        if all(notified):
            break
    assert all(notified)
    assert [now["unexpected_errors"] for now in after] == [was["unexpected_errors"] for was in before]
    whole = (pool.mount / "busy" / "file").read_bytes()
    assert (whole[:8], whole[200_000:200_008], len(whole)) == (b"00000039", b"00000039", 300_000)


@pytest.mark.parametrize("length", [10, 4096, 5000])
def test_records_that_both_append_at_once_are_each_there_once_and_whole(
    pool: DemoPool, second: Path, length: int
) -> None:
    """4 096 bytes look like a page of a shared mapping to a mount."""
    name = f"appended-{length}"
    (pool.mount / name).write_bytes(b"")
    assert appears(second / name)
    records = [[(b"%d %d " % (who, n)).ljust(length - 1, b"-") + b"\n" for n in range(60)] for who in (0, 1)]

    def append(who: int) -> None:
        fd = os.open((pool.mount, second)[who] / name, os.O_WRONLY | os.O_APPEND)
        try:
            for number, record in enumerate(records[who]):
                assert os.write(fd, record) == length
                if number % 7 == who:
                    os.fsync(fd)
        finally:
            os.close(fd)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(append, (0, 1)))
    wanted = sorted(records[0] + records[1])
    for mount in (pool.mount, second):
        data = (mount / name).read_bytes()
        assert sorted(data[at : at + length] for at in range(0, len(data), length)) == wanted


def _read(path: Path) -> None:
    path.read_bytes()


def _stat(path: Path) -> None:
    path.stat()


def _link(path: Path) -> None:
    other = path.with_name("linked")
    os.link(path, other)
    other.unlink()


def _touch(path: Path) -> None:
    os.chmod(path, 0o600)
    os.utime(path)


@pytest.mark.parametrize("look", [_read, _stat, _link, _touch])
def test_what_the_other_machine_replaces_is_always_there(
    pool: DemoPool, second: Path, look: Callable[[Path], None]
) -> None:
    """Replaced at most once in each look: the kernel looks a name up anew only once, too."""
    path = pool.mount / f"replaced{look.__name__}"
    path.mkdir()
    (path / "file").write_bytes(b"first")
    assert appears(second / path.name / "file")
    stop, looks = threading.Event(), threading.Semaphore(0)
    failed: list[str] = []

    def keep_looking() -> None:
        while not stop.is_set():
            try:
                look(second / path.name / "file")
            except OSError as error:
                failed.append(errno.errorcode[error.errno or 0])
            looks.release()

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(keep_looking)
        try:
            for number in range(100):
                (path / "new").write_bytes(b"%d" % number)
                os.rename(path / "new", path / "file")
                while looks.acquire(blocking=False):  # of those that ended before
                    pass
                for _ in range(2):  # the one under way, and one that began behind the rename
                    assert looks.acquire(timeout=20)
        finally:
            stop.set()
        looking.result()
    assert failed == []


def test_a_mount_that_slept_wakes_to_what_is_there_now(pool: DemoPool, second: Path) -> None:
    for name in ("renamed", "removed", "rewritten"):
        (pool.mount / name).write_bytes(b"before")
    assert appears(second / "rewritten")
    record = mounts.find(second)
    assert record is not None
    with (second / "removed").open("rb") as kept:
        os.kill(record.pid, signal.SIGSTOP)
        try:
            os.rename(pool.mount / "renamed", pool.mount / "elsewhere")
            os.unlink(pool.mount / "removed")
            (pool.mount / "rewritten").write_bytes(b"after " * 10_000)
            with (pool.mount / "made meanwhile").open("wb") as made:
                made.write(b"new")
        finally:
            os.kill(record.pid, signal.SIGCONT)
        assert kept.read() == b"before"
    assert (second / "rewritten").read_bytes() == b"after " * 10_000
    assert (second / "made meanwhile").read_bytes() == b"new"
    assert (second / "elsewhere").read_bytes() == b"before"
    assert {"renamed", "removed"}.isdisjoint(os.listdir(second))


def test_records_and_names_survive_a_coordinator_killed_under_load(pool: DemoPool, second: Path) -> None:
    (pool.mount / "load").mkdir()
    (pool.mount / "load" / "log").touch()
    assert appears(second / "load" / "log")
    acknowledged: list[bytes] = []
    in_doubt: list[bytes] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def work(mount: Path, who: str) -> None:
        number = 0
        while not stop.is_set() or number < 20:
            record = f"{who} {number:06d}\n".encode()
            try:
                with (mount / "load" / "log").open("ab", buffering=0) as log:
                    log.write(record)
                (mount / "load" / f"{who}-{number}").mkdir()
                acknowledged.append(record)
            except OSError:
                in_doubt.append(record)
            except BaseException as error:
                failures.append(error)
                return
            number += 1

    threads = [threading.Thread(target=work, args=each) for each in ((pool.mount, "ours"), (second, "theirs"))]
    for thread in threads:
        thread.start()
    for _ in range(2):
        already = len(acknowledged)
        while len(acknowledged) < already + 10:
            assert not failures
            os.sched_yield()
        pool.kill("coordinator")
        pool.start()
    stop.set()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a call hangs"
    assert not failures
    for mount in (pool.mount, second):
        found = (mount / "load" / "log").read_bytes().splitlines(keepends=True)
        assert len(found) == len(set(found)), "a record is there twice"
        assert set(acknowledged) <= set(found) <= set(acknowledged) | set(in_doubt)
        names = set(os.listdir(mount / "load"))
        assert {f"{who.decode()}-{int(number)}" for who, number in map(bytes.split, acknowledged)} <= names
