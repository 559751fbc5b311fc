"""`p2pfs search`: what it says beside what it found."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.files import search
from p2pfs.cli.files.search import command
from p2pfs.errors import Unavailable
from p2pfs.runtime.mounts import MountRecord

pytestmark = pytest.mark.l0

FOUND = {
    "inode": 5, "path": "bill", "kind": "file", "size": 1, "expires_s": 0, "copies": None, "tags": [], "note": "",
    "relevance": 1.0, "stale": False,
}  # fmt: skip


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the one mount answers."""
    told: list[dict[str, Any]] = []

    class Mounted(asking.Mounted):
        def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
            return iter(told)

    record: Any = SimpleNamespace(mount_point="/mnt/photos", volume_id="")
    monkeypatch.setattr(asking, "mounts_of", lambda _: [Mounted(record, "")])
    return told


def test_labels_that_could_not_be_read_are_counted_beside_what_was_found(lines: list[dict[str, Any]]) -> None:
    lines += [FOUND, {"unreadable": 1}]
    result = CliRunner().invoke(command, ["bill"], standalone_mode=False)
    assert (result.return_value, "/mnt/photos/bill" in result.stdout) == (exitcodes.OK, True)
    assert result.stderr == "/mnt/photos: 1 label or name could not be read, and may be what you look for\n"


def test_who_finds_no_content_is_told_which_contents_are_known(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    result = CliRunner().invoke(command, ["--hash", str(file)], standalone_mode=False)
    assert (result.return_value, "--content" in result.stdout) == (exitcodes.NOT_FOUND, True)
    assert lines == []


@pytest.mark.parametrize(
    ("stands_in", "shown"),
    [("", ["one/bill", "other/bill"]), ("two", ["other/bill", "two/bill"]), ("two/below", ["other/bill", "two/bill"])],
)
def test_a_file_of_a_volume_mounted_twice_is_found_once_near_the_current_directory(
    stands_in: str, shown: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Mounted(asking.Mounted):
        def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
            return iter([FOUND])

    mounted = [("one", "ab"), ("two", "ab"), ("other", "cd")]
    records: list[Any] = [SimpleNamespace(mount_point=str(tmp_path / at), volume_id=of) for at, of in mounted]
    (tmp_path / "two" / "below").mkdir(parents=True)
    monkeypatch.setattr(asking, "mounts_of", lambda _: [Mounted(record, "") for record in records])
    monkeypatch.chdir(tmp_path / stands_in)
    result = CliRunner().invoke(command, ["bill", "--json"], standalone_mode=False)
    assert sorted(str(Path(one["path"]).relative_to(tmp_path)) for one in json.loads(result.stdout)) == shown


def test_mounts_are_asked_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=20)

    class Mounted(asking.Mounted):
        def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
            together.wait()
            return iter([FOUND])

    records: list[Any] = [SimpleNamespace(mount_point=f"/mnt/{at}", volume_id=at) for at in ("one", "two")]
    monkeypatch.setattr(asking, "mounts_of", lambda _: [Mounted(record, "") for record in records])
    result = CliRunner().invoke(command, ["bill"], standalone_mode=False)
    assert (result.return_value, result.stderr) == (exitcodes.OK, "")


@pytest.mark.parametrize("silent", [Unavailable("it hung up"), None], ids=["refuses", "hangs"])
def test_another_mount_of_a_volume_is_asked_when_the_first_does_not_answer(
    silent: Unavailable | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    over = threading.Event()

    class Mounted(asking.Mounted):
        def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
            if self.record.mount_point == str(tmp_path):
                if silent is not None:
                    raise silent
                over.wait(60)
            return iter([FOUND])

    records: list[Any] = [SimpleNamespace(mount_point=at, volume_id="ab") for at in ("/mnt/other", str(tmp_path))]
    monkeypatch.setattr(asking, "mounts_of", lambda _: [Mounted(record, "") for record in records])
    monkeypatch.setattr(search, "_PATIENCE_S", 0.01)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, ["bill", "--json"], standalone_mode=False)
    over.set()
    assert [one["path"] for one in json.loads(result.stdout)] == ["/mnt/other/bill"]


def test_what_the_nearest_mount_refused_is_told_when_all_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Mounted(asking.Mounted):
        def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
            raise Unavailable(f"nothing from {self.record.mount_point}")

    records: list[Any] = [SimpleNamespace(mount_point=at, volume_id="ab") for at in ("/mnt/other", str(tmp_path))]
    monkeypatch.setattr(asking, "mounts_of", lambda _: [Mounted(record, "") for record in records])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match=f"nothing from {tmp_path}"):
        CliRunner().invoke(command, ["bill"], standalone_mode=False, catch_exceptions=False)


def test_a_current_directory_that_is_gone_keeps_nothing_from_being_found(
    lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    lines += [FOUND]
    result = CliRunner().invoke(command, ["bill"], standalone_mode=False)
    assert (result.return_value, result.stderr) == (exitcodes.OK, "")


def test_ctrl_c_does_not_wait_for_a_mount_that_is_silent() -> None:
    """The interpreter joins what threads it knows of before it ends."""
    program = """if True:
        import os, signal, threading
        from types import SimpleNamespace
        from p2pfs.cli import asking
        from p2pfs.cli.files import search

        class Mounted(asking.Mounted):
            def ask(self, op, **request):
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait()

        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have it ignored
        asking.mounts_of = lambda _: [Mounted(SimpleNamespace(mount_point="/mnt/a", volume_id="a"), "")]
        search.command(["bill"])
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=False)
    assert b"Aborted" in ended.stderr


@pytest.mark.parametrize(
    ("pid", "hint"), [(os.getpid(), "look into its log"), (2**22 + 1, "p2pfs umount --if-dead /mnt/photos")]
)
def test_a_mount_that_does_not_answer_is_told_in_words(pid: int, hint: str, tmp_path: Path) -> None:
    record = MountRecord(pid, str(tmp_path), str(tmp_path / "no.sock"), "/mnt/photos", "photos")
    with pytest.raises(Unavailable) as caught:
        list(asking.Mounted(record, "").ask("search"))
    assert "Errno" not in str(caught.value)
    assert "it does not run" in str(caught.value)
    assert hint in str(caught.value)
