"""`p2pfs umount` against a mount that behaves, refuses, hangs, dies, or was dead all along."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.volumes import umount
from p2pfs.errors import UserError
from p2pfs.runtime import mounts

pytestmark = pytest.mark.l0


@dataclass
class World:
    """A pretended kernel and registry, with one mount at `path`."""

    path: Path
    socket: Path
    mounted: str | None = mounts.KERNEL_TYPE
    dead: bool = False
    detached: list[Path] = field(default_factory=list)

    def register(self, pid: int) -> None:
        mounts.register(mounts.MountRecord(pid, str(self.path.parent), str(self.socket), str(self.path), "photos"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(Path(os.path.realpath(tmp_path)) / "mnt", tmp_path / "m.sock")

    def detach(path: Path) -> None:
        world.detached.append(path)
        world.mounted = None

    monkeypatch.setattr(mounts, "_directories", lambda: [tmp_path / "run" / "mounts"])
    monkeypatch.setattr(mounts, "mounted_type", lambda path: world.mounted if path == world.path else None)
    monkeypatch.setattr(umount, "_is_dead", lambda _path: world.dead)
    monkeypatch.setattr(umount, "_run_umount", detach)
    return world


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the mount's."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def _serve(world: World, answer: bytes, then: Callable[[], None] = lambda: None) -> threading.Thread:
    """A mount that says `answer` to one request."""
    listener = mounts.listen(world.socket)

    def talk() -> None:
        with listener, listener.accept()[0] as connection:
            assert connection.recv(100) == b'{"op":"umount"}\n'
            connection.sendall(answer)
            then()

    thread = threading.Thread(target=talk)
    thread.start()
    return thread


def test_progress_is_told_and_the_mount_and_its_process_are_gone_on_return(
    world: World, sleeper: subprocess.Popen[bytes]
) -> None:
    world.register(sleeper.pid)

    def leave() -> None:
        world.mounted = None
        sleeper.kill()
        sleeper.wait()

    thread = _serve(world, b'{"pending_bytes": 5242880}\n{"pending_bytes": 1048576}\n{"done": true}\n', leave)
    pending: list[int] = []
    umount.unmount(world.path, pending.append)
    thread.join()
    assert pending == [5 << 20, 1 << 20]
    assert sleeper.returncode is not None
    assert world.detached == []


@pytest.mark.parametrize(
    ("is_mounted", "words"), [(True, "is still in use: close"), (False, "a container or a service has files open")]
)
def test_what_keeps_it_although_all_is_stored_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, is_mounted: bool, words: str
) -> None:
    monkeypatch.setattr(umount, "_GONE_WITHIN_S", 0.0)
    world.register(os.getpid())

    def leave(_pending: int) -> None:
        world.mounted = mounts.KERNEL_TYPE if is_mounted else None

    thread = _serve(world, b'{"pending_bytes": 0}\n{"done": true}\n')
    with pytest.raises(UserError, match=words) as caught:
        umount.unmount(world.path, leave)
    thread.join()
    assert caught.value.exit_code == exitcodes.BUSY


def test_data_that_cannot_be_stored_leaves_it_mounted(world: World) -> None:
    world.register(os.getpid())
    thread = _serve(world, b'{"pending_bytes": 9}\n{"error": "too few peers answer"}\n')
    with pytest.raises(UserError, match=r"stays mounted: too few peers") as caught:
        umount.unmount(world.path, lambda _pending: None)
    thread.join()
    assert caught.value.exit_code == exitcodes.DATA_NOT_STORED
    assert world.mounted is not None


def test_what_is_lost_for_good_is_told_and_keeps_nobody_mounted(world: World, sleeper: subprocess.Popen[bytes]) -> None:
    world.register(sleeper.pid)

    def leave() -> None:
        world.mounted = None
        sleeper.kill()
        sleeper.wait()

    thread = _serve(world, b'{"done": true, "lost": "2 KiB were given up"}\n', leave)
    with pytest.raises(UserError, match=r"is unmounted, but .* 2 KiB were given up") as caught:
        umount.unmount(world.path, lambda _pending: None)
    thread.join()
    assert (caught.value.exit_code, sleeper.returncode is None) == (exitcodes.DATA_NOT_STORED, False)


def test_the_mount_may_name_another_exit_code(world: World) -> None:
    world.register(os.getpid())
    thread = _serve(world, b'{"error": "in use", "exit_code": 17}\n')
    with pytest.raises(UserError) as caught:
        umount.unmount(world.path, lambda _pending: None)
    thread.join()
    assert caught.value.exit_code == exitcodes.BUSY


def test_a_mount_that_hangs_is_given_up_after_the_silence(world: World) -> None:
    world.register(os.getpid())
    with mounts.listen(world.socket), pytest.raises(UserError, match="does not answer") as caught:
        umount.unmount(world.path, lambda _pending: None, silence_s=0.05)
    assert caught.value.exit_code == exitcodes.FAILED


@pytest.mark.parametrize("answer", [b"nonsense\n", b'{"pending_bytes": "many"}\n'])
def test_a_strange_answer_is_a_failure(world: World, answer: bytes) -> None:
    world.register(os.getpid())
    thread = _serve(world, answer)
    with pytest.raises(UserError, match="does not answer"):
        umount.unmount(world.path, lambda _pending: None)
    thread.join()


def test_a_process_that_dies_while_storing_is_not_taken_for_success(
    world: World, sleeper: subprocess.Popen[bytes]
) -> None:
    world.register(sleeper.pid)

    def die() -> None:
        sleeper.kill()
        sleeper.wait()
        world.dead = True

    thread = _serve(world, b'{"pending_bytes": 9}\n', die)
    with pytest.raises(UserError, match="died while it was storing") as caught:
        umount.unmount(world.path, lambda _pending: None)
    thread.join()
    assert caught.value.exit_code == exitcodes.DATA_NOT_STORED
    assert world.detached == [world.path]


def test_a_dead_mount_is_cleared_away_with_a_warning(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.register(2**22 + 1)
    world.dead = True
    assert main.run(["umount", str(world.path)]) == exitcodes.OK
    assert world.detached == [world.path]
    assert "had died" in capsys.readouterr().err
    assert mounts.find(world.path) is not None  # the next mount there learns from it whose session is over


def test_nothing_mounted_is_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.mounted = None
    assert main.run(["umount", str(world.path)]) == exitcodes.NOT_MOUNTED
    assert "no p2pfs volume" in capsys.readouterr().err


def test_another_file_system_is_left_alone(world: World) -> None:
    world.mounted = "ext4"
    assert main.run(["umount", str(world.path)]) == exitcodes.NOT_MOUNTED
    assert world.detached == []


def test_a_living_mount_of_another_user_is_left_alone(world: World) -> None:
    assert main.run(["umount", str(world.path)]) == exitcodes.DENIED
    assert world.detached == []


def test_force_does_not_ask_the_mount(world: World) -> None:
    world.register(os.getpid())
    assert main.run(["umount", "--force", str(world.path)]) == exitcodes.OK
    assert world.detached == [world.path]


def test_if_dead_touches_only_dead_mounts(world: World) -> None:
    world.register(os.getpid())
    assert main.run(["umount", "--if-dead", str(world.path)]) == exitcodes.OK
    assert world.detached == []
    world.register(2**22 + 1)
    world.dead = True
    assert main.run(["umount", "--if-dead", str(world.path)]) == exitcodes.OK
    assert world.detached == [world.path]
    assert main.run(["umount", "--if-dead", str(world.path)]) == exitcodes.OK  # nothing there any more


def test_the_connection_uses_the_socket_of_the_record(world: World) -> None:
    """Not one derived from this user's own home: a mount tells where it listens."""
    world.register(os.getpid())
    with socket.socket(socket.AF_UNIX) as unrelated:
        unrelated.bind(str(world.socket.with_name("other.sock")))
        thread = _serve(world, b'{"error": "heard"}\n')
        with pytest.raises(UserError, match="heard"):
            umount.unmount(world.path, lambda _pending: None)
        thread.join()
