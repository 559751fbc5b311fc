"""The registry of mounts, sockets with long paths, and reading what the kernel says."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfs.errors import Denied
from p2pfs.runtime import mounts

pytestmark = pytest.mark.l0


@pytest.fixture(autouse=True)
def _registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_directories", lambda: [tmp_path / "run" / "mounts", tmp_path / "other" / "mounts"])


NOBODY = 2**22 + 1  # above the greatest pid


def _record(mount_point: str = "/mnt/photos", pid: int | None = None) -> mounts.MountRecord:
    return mounts.MountRecord(pid or os.getpid(), "/home/x", "/home/x/run/m.sock", mount_point, "photos", "5" * 32)


def test_what_is_registered_is_found_until_it_is_forgotten() -> None:
    record = _record()
    path = mounts.register(record)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert mounts.find(Path("/mnt/photos")) == record
    assert mounts.find(Path("/mnt")) is None
    mounts.forget(Path("/mnt/photos"))
    assert mounts.find(Path("/mnt/photos")) is None
    mounts.forget(Path("/mnt/photos"))  # none is fine


def test_a_path_below_a_mount_leads_to_the_nearest_one() -> None:
    outer, inner = _record("/mnt"), _record("/mnt/photos")
    mounts.register(outer)
    mounts.register(inner)
    assert mounts.find_above(Path("/mnt/photos/2026/x.jpg")) == inner
    assert mounts.find_above(Path("/mnt/films")) == outer
    assert mounts.find_above(Path("/srv")) is None


def test_a_record_of_another_directory_of_this_user_is_found_too(tmp_path: Path) -> None:
    first = mounts.register(_record())
    other = tmp_path / "other" / "mounts" / first.name
    other.parent.mkdir(parents=True)
    first.rename(other)
    assert mounts.find(Path("/mnt/photos")) == _record()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b'{"home": "\xff"}'])
def test_a_damaged_record_is_no_record(content: bytes) -> None:
    mounts.register(_record()).write_bytes(content)
    assert mounts.find(Path("/mnt/photos")) is None


def test_a_record_for_another_path_is_not_believed() -> None:
    """A file copied to another mount's name must not lead `umount` to the wrong process."""
    path = mounts.register(_record("/mnt/films"))
    path.rename(mounts.register(_record("/mnt/photos")))
    assert mounts.find(Path("/mnt/photos")) is None


def test_links_and_records_of_others_are_not_followed(tmp_path: Path) -> None:
    path = mounts.register(_record())
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert mounts.find(Path("/mnt/photos")) is None


def test_a_registry_made_by_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "mounts").mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Denied, match="somebody else"):
        mounts.register(_record())


@pytest.mark.parametrize("whose", ["parent", "directory"])
def test_a_directory_that_somebody_else_made_is_not_looked_into(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may make /tmp/p2pfs-UID and forbid to look into it; once that ended each mount of the user."""
    other = tmp_path / "other" / "mounts"
    planted = other / mounts.register(_record()).name
    other.mkdir(parents=True)
    planted.write_bytes(msgspec.json.encode(_record("/mnt/planted", NOBODY)))
    os.utime(planted, (0, 0))
    foreign = other if whose == "directory" else other.parent
    monkeypatch.setattr(Path, "is_dir", refusing(foreign, Path.is_dir))
    monkeypatch.setattr(Path, "glob", refusing(foreign, Path.glob))
    monkeypatch.setattr(Path, "lstat", owned_by_another(foreign, Path.lstat))
    mounts.register(_record())
    assert mounts.known() == [_record()]
    assert mounts.find(Path("/mnt/planted")) is None
    mounts.forget(Path("/mnt/planted"))
    assert planted.exists()


def refusing(foreign: Path, real: Callable[..., Any]) -> Callable[..., Any]:
    """As it is for a user who may not look into a directory; these tests may run as root, who may."""

    def refuse(path: Path, *arguments: object) -> object:
        if path.is_relative_to(foreign):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments)

    return refuse


def owned_by_another(foreign: Path, real: Callable[[Path], os.stat_result]) -> Callable[[Path], os.stat_result]:
    def lstat(path: Path) -> os.stat_result:
        found = list(real(path))
        if path == foreign:
            found[stat.ST_UID] = os.geteuid() + 1
        return os.stat_result(found)

    return lstat


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
def test_what_is_no_file_is_neither_waited_for_nor_in_the_way(make: Callable[[Path], None]) -> None:
    path = mounts.register(_record("/mnt/films"))
    path.unlink()
    make(path)
    os.utime(path, (0, 0))

    def look() -> list[mounts.MountRecord]:
        mounts.register(_record())
        assert mounts.find(Path("/mnt/films")) is None
        return mounts.known()

    with ThreadPoolExecutor(1) as aside:
        looking = aside.submit(look)
        try:
            assert looking.result(10) == [_record()]
        finally:
            while path.is_fifo() and not looking.done():  # who waits for a writer is let go
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    assert path.exists()


def test_a_registry_that_cannot_be_tidied_keeps_no_mount_from_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: object) -> list[Path]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "glob", fail)
    path = mounts.register(_record())
    assert path.exists()
    assert mounts.known() == []


def test_a_record_knows_whether_its_process_lives() -> None:
    assert _record().alive()
    assert not _record(pid=NOBODY).alive()


@pytest.mark.parametrize("pid", [NOBODY, os.getppid()])
def test_a_mount_forgets_no_record_but_its_own(pid: int) -> None:
    """It may have been unmounted long ago, with files open, and another be there now."""
    mounts.register(_record(pid=pid))
    mounts.forget(Path("/mnt/photos"))
    assert mounts.find(Path("/mnt/photos")) == _record(pid=pid)


def test_only_a_mount_whose_process_is_gone_for_certain_is_succeeded() -> None:
    assert mounts.succeeded(Path("/mnt/photos")) == ""
    path = mounts.register(_record())
    assert mounts.succeeded(Path("/mnt/photos")) == ""
    mounts.register(_record(pid=NOBODY))
    assert mounts.succeeded(Path("/mnt/photos")) == "5" * 32
    path.write_bytes(path.read_bytes().replace(b',"session":"%s"' % (b"5" * 32), b""))  # of an earlier version
    assert mounts.find(Path("/mnt/photos")) is not None
    assert mounts.succeeded(Path("/mnt/photos")) == ""


DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("pid", "days", "mounted", "is_kept"),
    [
        (NOBODY, 8, "", False),
        (NOBODY, 6, "", True),  # the next mount there succeeds it
        (NOBODY, 8, "fuse.p2pfs photos", True),  # `umount --if-dead` finds it
        (NOBODY, 8, "ext4 /dev/vda", False),
        (os.getppid(), 8, "", True),
    ],
)
def test_a_mount_that_begins_removes_records_of_those_long_gone(
    pid: int, days: int, mounted: str, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, damaged = mounts.register(_record(pid=pid)), mounts.register(_record("/mnt/damaged", NOBODY))
    damaged.write_bytes(b"{")
    for one in (path, damaged):
        os.utime(one, (0, time.time() - days * DAY_S))
    table = f"40 22 0:35 / /mnt/photos rw - {mounted} rw\n" if mounted else ""
    look = mounts._all_mounted
    monkeypatch.setattr(mounts, "_all_mounted", lambda at, _: look(at, table))
    mounts.register(_record("/mnt/films"))
    assert path.exists() == is_kept
    assert damaged.exists()  # it may be a later version's
    assert {record.mount_point for record in mounts.known()} >= {"/mnt/films"}


def test_a_mount_that_takes_a_place_over_does_so_before_its_old_record_goes() -> None:
    path = mounts.register(_record(pid=NOBODY))
    os.utime(path, (0, time.time() - 8 * DAY_S))
    assert mounts.succeeded(Path("/mnt/photos")) == "5" * 32
    mounts.register(_record())
    assert mounts.find(Path("/mnt/photos")) == _record()


def test_where_records_are_depends_on_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert mounts._directories() == [Path("/run/p2pfs/mounts")]
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert mounts._directories() == [tmp_path / "p2pfs" / "mounts", Path("/tmp/p2pfs-54321/mounts")]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert mounts._directories() == [Path("/tmp/p2pfs-54321/mounts")]


def test_a_mount_point_has_one_name_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "direct").symlink_to("link/mnt")
    monkeypatch.chdir(tmp_path)
    wanted = Path(os.path.realpath(tmp_path)) / "real" / "mnt"
    for text in ("real/mnt", "real/mnt/", "link/mnt", "./link/../real/mnt", "direct", str(wanted)):
        assert mounts.canonical(text) == wanted, text


def test_finding_the_name_never_looks_into_the_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stat of a dead or hung mount would fail or hang."""
    target = Path(os.path.realpath(tmp_path)) / "mnt"
    target.mkdir()
    real = os.lstat

    def lstat(path: str, **options: object) -> os.stat_result:
        assert str(path) != str(target)
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    monkeypatch.setattr(os, "stat", lstat)
    assert mounts.canonical(target) == target


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    mounts.canonical(tmp_path / "a")


@pytest.mark.parametrize("depth", [1, 30])
def test_a_socket_may_lie_deep(tmp_path: Path, depth: int) -> None:
    path = mounts.socket_path(tmp_path.joinpath(*["deep-directory"] * depth), Path("/mnt"))
    with mounts.listen(path) as listener, mounts.dial(path, 5) as caller:
        accepted, _ = listener.accept()
        with accepted:
            caller.sendall(b"x")
            assert accepted.recv(1) == b"x"
    assert path.stat().st_mode & 0o777 == 0o600
    with mounts.listen(path):  # what a killed mount left is replaced
        pass


def test_the_directory_of_sockets_belongs_to_the_homes_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's mount may come before the daemon, which has a user of its own and a socket in the same directory."""
    given: list[tuple[Path, int, int, bool]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        os, "chown", lambda path, uid, gid, *, follow_symlinks: given.append((path, uid, gid, follow_symlinks))
    )
    for _ in range(2):
        mounts.listen(tmp_path / "run" / "mount.sock").close()
    assert given == [(tmp_path / "run", os.getuid(), os.getgid(), False)]


def test_nobody_listening_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        mounts.dial(tmp_path / "run" / "none.sock", 1)


TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:35 / /mnt/photos rw,nosuid shared:3 - fuse.p2pfs photos rw,user_id=0
41 22 0:36 / /mnt/with\\040space\\134 rw - fuse.p2pfs films rw
42 22 0:37 / /mnt/covered rw - fuse.p2pfs films rw
43 42 0:38 / /mnt/covered rw - tmpfs tmpfs rw
44 22 0:39 / /mnt/asked rw - autofs systemd-1 rw,direct
45 22 0:40 / /mnt/wanted rw - autofs systemd-1 rw,direct
46 45 0:41 / /mnt/wanted rw - fuse.p2pfs home rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/mnt/photos", "fuse.p2pfs"),
        ("/mnt/with space\\", "fuse.p2pfs"),
        ("/mnt/covered", "tmpfs"),
        ("/mnt/asked", "autofs"),
        ("/mnt/wanted", "fuse.p2pfs"),
        ("/", "ext4"),
        ("/mnt", None),
        ("/mnt/photos/2026", None),
    ],
)
def test_the_kernel_says_what_is_mounted_where(path: str, kind: str | None) -> None:
    assert mounts.mounted_type(Path(path), TABLE) == kind


@pytest.mark.parametrize(("path", "is_one"), [("/mnt/asked", True), ("/mnt/wanted", True), ("/mnt/photos", False)])
def test_an_automount_is_one_before_and_behind_what_it_mounted(path: str, is_one: bool) -> None:
    assert mounts.is_automount(Path(path), TABLE) == is_one


def test_this_machine_has_a_proc() -> None:
    assert mounts.mounted_type(Path("/proc")) is not None
