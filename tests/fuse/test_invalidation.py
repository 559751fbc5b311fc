"""Notifications to a real kernel: under load nothing hangs, and one that hangs ends the mount, not the machine."""

import ctypes
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pfs import exitcodes
from p2pfs.runtime import mounts
from p2pfs_mount import life

pytestmark = pytest.mark.l4

PROGRAM = str(Path(__file__).parent.parent / "notified_mount.py")
LONGEST_S = 60
MNT_FORCE = 1


class Mounted:
    """The program, and a last resort that leaves no process behind whatever a test breaks."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, str(path), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def said(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        found: dict[str, Any] = json.loads(line)
        return found

    def ended(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=LONGEST_S)
        return self.process.returncode, errors

    def end(self) -> None:
        if mounts.mounted_type(self.path) is not None:
            ctypes.CDLL(None).umount2(os.fsencode(self.path), MNT_FORCE)
            life.detach(self.path)
        self.process.kill()
        self.process.communicate(timeout=LONGEST_S)


@pytest.fixture
def point(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


@contextmanager
def start(point: Path, *arguments: str) -> Iterator[Mounted]:
    mounted = Mounted(point, *arguments)
    try:
        yield mounted
    finally:
        mounted.end()


def make(path: Path) -> int:
    """The errno of a mkdir."""
    try:
        path.mkdir()
    except OSError as error:
        return error.errno or 0
    return 0


def await_mount(point: Path, mounted: Mounted) -> None:
    while mounts.mounted_type(point) is None:
        assert mounted.process.poll() is None, mounted.ended()


def test_thousands_of_notifications_under_load_hang_nobody(point: Path) -> None:
    with start(point, "storm", "2000") as mounted:
        await_mount(point, mounted)
        stop, counts, wrong = threading.Event(), [0, 0], []

        def load(number: int) -> None:
            while not stop.is_set():
                counts[number] += 1
                if make(point / f"d{number}") != errno.EEXIST:
                    wrong.append("mkdir")
                if (point / "file").read_bytes() != bytes(1 << 20):
                    wrong.append("read")

        threads = [threading.Thread(target=load, args=(number,), daemon=True) for number in range(2)]
        for thread in threads:
            thread.start()
        reported: list[dict[str, Any]] = []
        listener = threading.Thread(target=lambda: reported.append(mounted.said()), daemon=True)
        listener.start()
        listener.join(LONGEST_S)
        stop.set()
        assert reported, "the notifications hang"
        for thread in threads:
            thread.join(LONGEST_S)
            assert not thread.is_alive(), "a program hangs"
        assert wrong == []
        assert min(counts) > 0
        assert reported[0]["stormed"] >= 2000
        assert reported[0]["overflows"] == 0
        life.unmount(point)
        assert mounted.ended()[0] == exitcodes.OK


@pytest.fixture
def fusectl(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "connections"
    directory.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize("way", ["file", "force", "none"])
def test_one_that_hangs_ends_the_mount_and_its_place_is_free_again(
    way: str, point: Path, request: pytest.FixtureRequest
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting fusectl and forcing an unmount need root")
    way = f"file={request.getfixturevalue('fusectl')}" if way == "file" else way
    with start(point, "stuck", way, "0.2") as mounted:
        assert mounted.said() == {"ready": True}
        answered: list[int] = []
        thread = threading.Thread(target=lambda: answered.append(make(point / "d")), daemon=True)
        thread.start()
        code, errors = mounted.ended()
        assert code == exitcodes.ABORTED, errors
        assert "a notification hangs in the kernel" in errors
        assert ("not permitted to cut it" in errors) == (way == "none")
        thread.join(LONGEST_S)
        assert answered == [errno.EIO if way == "none" else errno.ECONNABORTED]
    life.detach(point)
    assert mounts.mounted_type(point) is None
    with start(point, "storm", "1") as again:
        await_mount(point, again)
        assert (point / "file").stat().st_size == 1 << 20
        life.unmount(point)
        assert again.ended()[0] == exitcodes.OK


def test_the_kernel_asks_once_for_what_it_may_believe_and_again_once_that_is_withdrawn(point: Path) -> None:
    with start(point, "trust") as mounted:
        assert mounted.said() == {"ready": True}
        await_mount(point, mounted)
        for _ in range(3):
            assert not (point / "late").exists()
            assert (point / "file").stat().st_size == 1 << 20
        assert make(point / "d") == errno.EEXIST
        said = mounted.said()
        assert [said["asked"].count(what) for what in ("late", "file")] == [1, 1]
        assert said["left_s"] == 0
        assert (point / "late").stat().st_size == (point / "file").stat().st_size == (1 << 20) + 1
        life.unmount(point)
        assert mounted.ended()[0] == exitcodes.OK
