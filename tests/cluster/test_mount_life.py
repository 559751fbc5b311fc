"""How a real mount begins and ends: by command, by signal, by a kill, and while the pool does not answer."""

import contextlib
import errno
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from pools import DemoPool, demo_pool

from p2pfs import exitcodes
from p2pfs.runtime import mounts
from p2pfs.runtime.process import is_alive

pytestmark = pytest.mark.l5

IO_TIMEOUT_S = 2
LONGEST_S = 60


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    settings = {"io_timeout": f"{IO_TIMEOUT_S}s"}
    with demo_pool(tmp_path_factory.mktemp("life"), settings=settings) as started:
        yield started


@pytest.fixture(autouse=True)
def _mounted_again(pool: DemoPool) -> Iterator[None]:
    yield
    pool.signal("coordinator", signal.SIGCONT)
    if mounts.mounted_type(pool.mount) is None:
        pool.start()


def ended(pid: int) -> None:
    """Wait until a process is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], LONGEST_S)[0], "the mount did not end"
        finally:
            os.close(descriptor)


def await_log(pool: DemoPool, words: str) -> None:
    """Wait until the mount has written this."""
    ends_s = time.monotonic() + LONGEST_S
    while words not in pool.log("mount"):
        assert time.monotonic() < ends_s, f"the mount did not say: {words}"
        time.sleep(0.05)


def mount(pool: DemoPool, *options: str) -> None:
    words = ["--set", f"io_timeout={IO_TIMEOUT_S}s", *options]
    pool.p2pfs(
        "mount", "-d", "--passphrase-file", str(pool.root / "passphrase"), "demo", str(pool.mount),
        "--home", str(pool.root / "mount"), "--pid-file", str(pool.root / "run" / "mount.pid"),
        "--log-file", str(pool.root / "log" / "mount.log"), *words,
    )  # fmt: skip


def outcome(step: Callable[[], object]) -> str:
    try:
        step()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def test_sigterm_stores_what_is_written_and_unmounts(pool: DemoPool) -> None:
    path, pid = pool.mount / "written", pool.pid("mount")
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(file, b"x" * 300_000)  # not closed: nothing has asked for it to be stored
    os.kill(pid, signal.SIGTERM)
    ended(pid)
    assert outcome(lambda: os.close(file)) == "ENOTCONN"
    assert mounts.mounted_type(pool.mount) is None
    pool.start()
    assert path.read_bytes() == b"x" * 300_000


def test_a_copy_in_another_mount_namespace_keeps_it_only_while_a_file_is_open_there(pool: DemoPool) -> None:
    pid, late = pool.pid("mount"), pool.mount / "late"
    words = f"exec 3>{late}; echo open; read; echo whole >&3; exec 3>&-; echo closed; read"
    apart = ["unshare", "--mount", "--propagation", "private", "bash", "-c", words]
    with (
        subprocess.Popen(apart, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        ThreadPoolExecutor(1) as aside,
    ):
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        unmounting = aside.submit(pool.p2pfs, "umount", str(pool.mount))
        await_log(pool, "files are open in another mount namespace")
        assert mounts.mounted_type(pool.mount) is None
        print(file=other.stdin, flush=True)
        assert other.stdout.readline() == "closed\n"
        unmounting.result(LONGEST_S)
        assert not is_alive(pid)
        other.communicate("\n")
    pool.start()
    assert late.read_text() == "whole\n"


def test_after_kill_9_the_volume_can_be_mounted_at_the_same_place(pool: DemoPool) -> None:
    path = pool.mount / "kept"
    path.write_bytes(b"kept")
    pool.kill("mount")
    assert mounts.mounted_type(pool.mount) == mounts.KERNEL_TYPE  # a dead mount
    assert outcome(path.stat) == "ENOTCONN"
    mount(pool)
    assert path.read_bytes() == b"kept"
    assert len([line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {pool.mount} " in line]) == 1


def test_a_living_mount_is_not_taken_for_a_dead_one(pool: DemoPool) -> None:
    result = pool.p2pfs(
        "mount", "demo", str(pool.mount), "--passphrase-file", str(pool.root / "passphrase"), expect=None
    )
    assert result.returncode == exitcodes.BAD_MOUNT_POINT
    assert outcome(lambda: os.listdir(pool.mount)) == "done"
    assert pool.stats()["kernel_notifications_waiting"] == 0


@pytest.mark.parametrize("part", ["mount", "coordinator", "peer-1"])
def test_sigusr1_tells_where_everything_waits(part: str, pool: DemoPool) -> None:
    pool.signal(part, signal.SIGUSR1)
    log = pool.root / "log" / f"{part}.log"
    with subprocess.Popen(["tail", "-n", "+1", "-f", str(log)], stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        timer = threading.Timer(LONGEST_S, tail.kill)
        timer.start()
        told = next((line for line in tail.stdout if "runtime.inspection: thread " in line), "")
        timer.cancel()
        tail.kill()
    assert told, "nothing was told"
    tree = re.findall(r"runtime\.inspection: (.*)", log.read_text())
    assert any("serve" in line for line in tree)
    assert (pool.root / "passphrase").read_text().strip() not in "\n".join(tree)


@pytest.fixture
def hard(pool: DemoPool) -> Iterator[DemoPool]:
    pool.unmount()
    mount(pool, "-o", "hard")
    yield pool
    pool.signal("coordinator", signal.SIGCONT)
    if mounts.mounted_type(pool.mount) is not None:
        pool.unmount()


@contextlib.contextmanager
def waiting(pool: DemoPool, name: str) -> Iterator[Future[str]]:
    """A mkdir, made sure of, that has to wait, since the coordinator is stopped; for longer than io_timeout."""

    def make() -> None:
        (pool.mount / name).mkdir()
        fd = os.open(pool.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    pool.signal("coordinator", signal.SIGSTOP)
    with ThreadPoolExecutor() as threads:
        try:
            made = threads.submit(outcome, make)
            with contextlib.suppress(TimeoutError):
                made.result(3 * IO_TIMEOUT_S)
            yield made
        finally:
            pool.signal("coordinator", signal.SIGCONT)


def test_without_hard_a_change_is_refused_in_time(pool: DemoPool) -> None:
    with waiting(pool, "refused") as made:
        assert made.result(IO_TIMEOUT_S) == "EROFS"


def test_a_hard_mount_waits_and_goes_on(hard: DemoPool) -> None:
    known = hard.mount / "known"
    known.write_bytes(b"known")
    with known.open("rb") as file, waiting(hard, "awaited") as made:
        assert not made.done()
        assert os.pread(file.fileno(), 100, 0) == b"known"
        assert outcome(known.stat) == "done"
        hard.signal("coordinator", signal.SIGCONT)
        assert made.result(LONGEST_S) == "done"
    assert (hard.mount / "awaited").is_dir()


def test_sigterm_ends_a_hard_mount_that_waits(hard: DemoPool) -> None:
    pid = hard.pid("mount")
    with waiting(hard, "never") as made:
        assert not made.done()
        os.kill(pid, signal.SIGTERM)
        assert made.result(LONGEST_S) == "EIO"
        ended(pid)
    assert mounts.mounted_type(hard.mount) is None


def test_umount_ends_the_waiting_of_a_hard_mount(hard: DemoPool) -> None:
    with waiting(hard, "never-either") as made:
        assert not made.done()
        hard.p2pfs("umount", str(hard.mount), expect=None)
        assert made.result(LONGEST_S) == "EIO"


@pytest.fixture
def fusectl(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting fusectl needs root")
    subprocess.run(["mount", "-t", "fusectl", "none", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("options", [[], ["-o", "xattr"]], ids=["plain", "xattr"])
def test_a_mount_that_was_cut_off_stores_what_it_has_and_leaves_no_dead_one(
    options: list[str], pool: DemoPool, fusectl: Path
) -> None:
    pool.unmount()
    mount(pool, *options)
    path, pid = pool.mount / "cut-off", pool.pid("mount")
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(file, b"x" * 300_000)
    (fusectl / str(mounts.device(pool.mount)) / "abort").write_text("1")
    ended(pid)
    assert outcome(lambda: os.close(file)) in ("ENOTCONN", "ECONNABORTED")
    assert mounts.mounted_type(pool.mount) is None
    pool.start()
    assert path.read_bytes() == b"x" * 300_000
