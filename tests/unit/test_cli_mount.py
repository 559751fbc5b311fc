"""`p2pfs mount` before and around the mount itself, and the helpers behind mount(8) and umount(8)."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfs import exitcodes
from p2pfs.cli import connect, main, mount_helper
from p2pfs.cli.volumes import mount, umount
from p2pfs.errors import UserError
from p2pfs.runtime import log, process
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId, PoolId, Role
from p2pfs.wire.volumes import VolumeInfo
from p2pfs_mount import life
from p2pfs_mount import main as mount_main

pytestmark = pytest.mark.l0

PHOTOS = VolumeInfo(0x1234, "photos", "anna", b"", 0, True, 0)


def _new_home(path: Path, roles: list[Role]) -> NodeHome:
    home = NodeHome(path)
    record = NodeRecord(
        pool=PoolId("a" * 32), node=NodeId("d" * 32), name="anna@laptop", owner="anna", roles=roles,
        coordinator=NodeId("c" * 32), addresses=["192.0.2.1:9470"],
    )  # fmt: skip
    home.create(record, ca=b"", certificate=b"", key=b"")
    return home


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return _new_home(tmp_path / "home", [Role.CLIENT])


@pytest.fixture
def point(tmp_path: Path) -> Path:
    point = tmp_path / "mnt"
    point.mkdir()
    return point


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands for the mount: what it was asked for; it becomes usable and ends at once."""
    calls: list[dict[str, Any]] = []

    def run(home: NodeHome, settings: object, *, ready: Callable[[], None], **options: Any) -> int:  # noqa: ANN401
        calls.append({"home": home.path, "settings": settings, **options})
        ready()
        return exitcodes.OK

    monkeypatch.setattr(mount_main, "run", run)
    monkeypatch.setattr(connect, "call", lambda *_arguments: [PHOTOS])
    monkeypatch.setattr(life, "require_fuse", lambda: None)
    for module, name in ((log, "setup"), (process, "harden"), (process, "raise_file_limit")):
        monkeypatch.setattr(module, name, lambda *_arguments, **_options: None)
    return calls


def _passphrase(tmp_path: Path) -> str:
    file = tmp_path / "passphrase"
    file.write_text("correct horse\n")
    return str(file)


def test_the_mount_gets_what_was_asked_for(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]]
) -> None:
    arguments = ["mount", "photos", str(point), "--home", str(home.path), "--passphrase-file", _passphrase(tmp_path)]
    assert main.run([*arguments, "-o", "ro,hard,io_timeout=7s", "--set", "memory_cache=64M"]) == exitcodes.OK
    (call,) = mounted
    assert call["home"] == home.path
    assert call["volume"] == "0000000000001234"
    assert call["mount_point"] == point
    assert call["passphrase"]() == "correct horse"
    assert call["options"].read_only
    assert call["options"].hard
    assert (call["settings"].io_timeout, call["settings"].memory_cache) == (7.0, 64 << 20)


def test_extended_attributes_and_waiting_for_every_change_are_options(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]]
) -> None:
    arguments = ["mount", "photos", str(point), "--home", str(home.path), "--passphrase-file", _passphrase(tmp_path)]
    for words in ([], ["-o", "_netdev,xattr,sync"]):
        assert main.run([*arguments, *words]) == exitcodes.OK
    assert [call["options"].xattr for call in mounted] == [False, True]
    assert [call["settings"].durability for call in mounted] == ["close", "sync"]


def test_a_kernel_that_keeps_pages_is_an_option_that_contradicts_others(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]]
) -> None:
    arguments = ["mount", "photos", str(point), "--home", str(home.path), "--passphrase-file", _passphrase(tmp_path)]
    for words in (["-o", "writeback_cache"], ["-o", "writeback_cache,durability=fsync"], []):
        assert main.run([*arguments, *words]) == exitcodes.OK
    assert [call["options"].writeback_cache for call in mounted] == [True, True, False]
    for words in (["-o", "ro"], ["-o", "sync"], ["--set", "durability=sync"]):
        words = [*words, "-o", "writeback_cache"]
        assert main.run([*arguments, *words]) == exitcodes.BAD_CONFIGURATION


def test_the_home_may_come_from_an_option(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]]
) -> None:
    options = f"home={home.path},passphrase_file={_passphrase(tmp_path)},_netdev"
    assert main.run(["mount", "photos", str(point), "--home", str(tmp_path / "other"), "-o", options]) == exitcodes.OK
    assert mounted[0]["home"] == home.path
    assert mounted[0]["passphrase"]() == "correct horse"


def test_the_pid_file_is_there_while_it_runs(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_path, seen = tmp_path / "mount.pid", []
    monkeypatch.setattr(mount_main, "run", lambda *_a, **_o: seen.append(process.read_pid(pid_path)) or 0)
    assert main.run(["mount", "photos", str(point), "--home", str(home.path), "--pid-file", str(pid_path)]) == 0
    assert seen != [None]
    assert not pid_path.exists()


def _asking_is_a_mistake() -> str:
    raise AssertionError("asked for a passphrase although the mount could not succeed")


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("no home", exitcodes.NO_HOME),
        ("no client", exitcodes.DENIED),
        ("unknown option", exitcodes.BAD_CONFIGURATION),
        ("bad value", exitcodes.BAD_CONFIGURATION),
        ("no mount point", exitcodes.BAD_MOUNT_POINT),
        ("not empty", exitcodes.BAD_MOUNT_POINT),
        ("a file", exitcodes.BAD_MOUNT_POINT),
        ("no such volume", exitcodes.NOT_FOUND),
    ],
)
def test_mistakes_are_told_before_a_passphrase_is_asked_for(
    case: str,
    code: int,
    home: NodeHome,
    point: Path,
    tmp_path: Path,
    mounted: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("p2pfs.cli.passphrases._from_prompt", lambda *_arguments: _asking_is_a_mistake())
    volume, options = "photos", ""
    if case == "no home":
        home = NodeHome(tmp_path / "nowhere")
    elif case == "no client":
        home = _new_home(tmp_path / "peer", [Role.PEER])
    elif case == "unknown option":
        options = "frobnicate"
    elif case == "bad value":
        options = "io_timeout=soon"
    elif case == "no mount point":
        point.rmdir()
    elif case == "not empty":
        (point / "file").touch()
    elif case == "a file":
        point = tmp_path / "file"
        point.touch()
    else:
        volume = "films"
    assert main.run(["mount", volume, str(point), "--home", str(home.path), "-o", options]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert mounted == []


def test_nobody_looks_into_an_automount_that_waits_for_this_very_mount(
    point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (point / "what a look would find").touch()
    with pytest.raises(UserError, match="not empty"):
        life.require_mount_point(point)
    monkeypatch.setattr(life.mounts, "mounted_type", lambda _path: "autofs")
    life.require_mount_point(point)
    monkeypatch.setattr(life.mounts, "is_automount", lambda _path: True)
    monkeypatch.setattr(life.mounts, "device", lambda _path: None)
    monkeypatch.setattr(life.os, "stat", lambda path: pytest.fail(f"asked {path}"))
    life.raise_read_ahead(point)


def test_a_machine_without_fuse_is_told_what_to_install(
    home: NodeHome, point: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise UserError("fusermount3 is missing: install the package fuse3", exitcodes.NO_FUSE)

    monkeypatch.setattr(life, "require_fuse", missing)
    assert main.run(["mount", "photos", str(point), "--home", str(home.path)]) == exitcodes.NO_FUSE
    monkeypatch.setitem(sys.modules, "pyfuse3", None)
    assert main.run(["mount", "photos", str(point), "--home", str(home.path)]) == exitcodes.NO_FUSE
    assert "install" in capsys.readouterr().err


_STAND_IN = """
    import os, sys
    from p2pfs.cli import connect, main
    from p2pfs.errors import UserError
    from p2pfs.wire.volumes import VolumeInfo
    from p2pfs_mount import life, main as mount_main

    def run(home, settings, *, ready, passphrase, **options):
        {body}

    mount_main.run = run
    life.require_fuse = lambda: None
    connect.call = lambda *_: [VolumeInfo(1, "photos", "anna", b"", 0, True, 0)]
    sys.exit(main.run(sys.argv[1:]))
"""


def _in_background(home: NodeHome, point: Path, tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(_STAND_IN).replace("{body}", body)
    arguments = ["mount", "-d", "photos", str(point), "--home", str(home.path)]
    return subprocess.run(
        [sys.executable, "-c", script, *arguments, "--passphrase-file", _passphrase(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_in_the_background_the_parent_returns_when_the_mount_is_usable(
    home: NodeHome, point: Path, tmp_path: Path
) -> None:
    """The child is still waiting for its end when the parent is back: a pipe that it holds open proves it."""
    fifo = tmp_path / "fifo"
    body = f"os.mkfifo({str(fifo)!r}); ready(); open({str(fifo)!r}).read(); open({str(fifo)!r} + '.end', 'w'); return 0"
    outcome = _in_background(home, point, tmp_path, body)
    assert (outcome.returncode, outcome.stderr) == (exitcodes.OK, "")
    assert not fifo.with_name("fifo.end").exists()
    fifo.write_text("end")  # opening it waits for the child


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("raise UserError('that is not the passphrase', 8)", exitcodes.WRONG_PASSPHRASE, "not the passphrase"),
        ("from p2pfs.errors import Unavailable; raise Unavailable('nobody answers')", 7, "nobody answers"),
        ("os._exit(3)", exitcodes.FAILED, "ended before it was ready"),
        ("1 / 0", exitcodes.FAILED, "ended before it was ready"),
    ],
)
def test_in_the_background_a_failure_is_told_in_the_foreground(
    body: str, code: int, words: str, home: NodeHome, point: Path, tmp_path: Path
) -> None:
    outcome = _in_background(home, point, tmp_path, body)
    assert outcome.returncode == code
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert list((home.path / "log").iterdir()) == [home.path / "log" / "mount-mnt.log"]


@pytest.mark.parametrize("is_automount", [False, True])
def test_behind_an_automount_the_process_stays_in_the_group_that_may_look_there(
    home: NodeHome, point: Path, tmp_path: Path, is_automount: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []

    def daemonise(_log: Path, *, leaves_group: bool, meanwhile: object) -> process.Readiness:
        given.append(leaves_group)
        return process.Readiness()

    monkeypatch.setattr(process, "daemonise", daemonise)
    monkeypatch.setattr(mount, "serve", lambda _request, _ready: exitcodes.OK)
    monkeypatch.setattr(mount.mounts, "is_automount", lambda _path: is_automount)
    monkeypatch.chdir(tmp_path)
    arguments = ["mount", "photos", str(point), "-d", "--passphrase-file", str(_passphrase(tmp_path))]
    assert main.run([*arguments, "--home", str(home.path)]) == exitcodes.OK
    assert given == [not is_automount]


def test_the_helper_understands_what_mount_passes_on(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PFS_HOME", str(home.path))
    monkeypatch.setattr(mount, "serve_behind", lambda request: mount.serve(request, lambda: None))
    options = f"rw,nosuid,nodev,_netdev,passphrase_file={_passphrase(tmp_path)},cache_size=1G"
    arguments = ["photos", str(point), "-sn", "-v", "-t", "p2pfs", "-o", options]
    assert main.run(arguments, mount_helper.mount_command, "mount.p2pfs") == exitcodes.OK
    (call,) = mounted
    assert (call["volume"], call["mount_point"]) == ("0000000000001234", point)
    assert call["settings"].cache_size == 1 << 30
    assert not call["options"].read_only


def test_the_helper_knows_a_volume_that_mount_took_for_a_path(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """mount(8) makes the source of fstab absolute when a file of that name is in its directory: /home, for one."""
    monkeypatch.setenv("P2PFS_HOME", str(home.path))
    monkeypatch.setattr(mount, "serve_behind", lambda request: mount.serve(request, lambda: None))
    options = ["-o", f"passphrase_file={_passphrase(tmp_path)}"]
    assert main.run(["/photos", str(point), *options], mount_helper.mount_command) == exitcodes.OK
    assert mounted[0]["volume"] == "0000000000001234"


def test_the_helper_finds_the_passphrase_that_root_keeps(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PFS_HOME", str(home.path))
    monkeypatch.setattr(mount, "serve_behind", lambda request: mount.serve(request, lambda: None))
    monkeypatch.setattr(mount_helper, "PASSPHRASES", tmp_path)
    monkeypatch.setattr(mount_helper.os, "geteuid", lambda: 0)
    (tmp_path / "photos.passphrase").write_text("kept by root\n")
    (tmp_path / "other").write_text("another\n")
    given = ["-o", f"passphrase_file={tmp_path / 'other'}"]
    for options in (["-o", "nofail,x-systemd.automount"], given):
        assert main.run(["photos", str(point), *options], mount_helper.mount_command) == exitcodes.OK
    assert [call["passphrase"]() for call in mounted] == ["kept by root", "another"]
    monkeypatch.setattr(mount_helper.os, "geteuid", lambda: 1000)
    assert main.run(["photos", str(point)], mount_helper.mount_command) == exitcodes.OK
    with pytest.raises(UserError, match="no terminal"):
        mounted[-1]["passphrase"]()


def test_the_helper_knows_fake_and_read_only(
    home: NodeHome, point: Path, tmp_path: Path, mounted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PFS_HOME", str(home.path))
    monkeypatch.setattr(mount, "serve_behind", lambda request: mount.serve(request, lambda: None))
    options = ["-o", f"passphrase_file={_passphrase(tmp_path)}"]
    assert main.run(["photos", str(point), "-f", *options], mount_helper.mount_command) == exitcodes.OK
    assert mounted == []
    assert main.run(["photos", str(point), "-r", *options], mount_helper.mount_command) == exitcodes.OK
    assert mounted[0]["options"].read_only


def test_the_unmount_helper_waits_unless_told_otherwise(point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(umount, "unmount", lambda _path, _progress: done.append("waited"))
    monkeypatch.setattr(umount, "detach", lambda _path: done.append("detached"))
    for arguments in ([], ["-v", "-t", "fuse.p2pfs"], ["-l"], ["-f"]):
        assert main.run([str(point), *arguments], mount_helper.umount_command, "umount.p2pfs") == exitcodes.OK
    assert done == ["waited", "waited", "detached", "detached"]
