"""`p2pfs warmup`: what it says of what could not be had, also by a mount of an earlier version."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.files.warmup import command
from p2pfs.errors import Misuse, PoolError, TooLarge
from p2pfs.types import MIB
from p2pfs_mount.life import REQUEST_BYTES

pytestmark = pytest.mark.l0

EARLIER = {
    "files": 3, "of_files": 3, "fetched_bytes": 1, "cached_bytes": 0, "dropped_bytes": 0, "failed": 0, "is_full": False,
}  # fmt: skip


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The last line that the one mount answers."""
    last: dict[str, Any] = dict(EARLIER)

    class Mounted(asking.Mounted):
        def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
            assert (op, request["named"]) == ("warmup", True)
            return iter([dict(EARLIER), dict(last)])

    record: Any = SimpleNamespace(mount_point="/mnt/photos")
    monkeypatch.setattr(asking, "located", lambda _: (Mounted(record, ""), 7))
    return last


def test_files_that_could_not_be_had_are_named(line: dict[str, Any], tmp_path: Path) -> None:
    line |= {"failed": 30, "lacking": 22, "gave_up": False, "missing": ["a", "b/c"]}
    result = CliRunner().invoke(command, [str(tmp_path)], standalone_mode=False)
    assert result.return_value == exitcodes.UNREACHABLE
    told = "not fetched or not kept: 30 chunks, of 22 files\n  /mnt/photos/a\n  /mnt/photos/b/c\n  … and 20 more\n"
    assert result.stderr == f"{told}`p2pfs why PATH` says who holds them\n"


def test_that_the_rest_was_not_tried_is_told(line: dict[str, Any], tmp_path: Path) -> None:
    line |= {"files": 2, "of_files": 9, "lacking": 1, "gave_up": True, "missing": []}
    result = CliRunner().invoke(command, [str(tmp_path)], standalone_mode=False)
    assert result.return_value == exitcodes.UNREACHABLE
    assert "gave up, as nothing came for long: 7 files not tried" in result.stderr


def test_what_one_mount_lacks_is_told_also_before_one_of_an_earlier_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    new = EARLIER | {"failed": 1, "lacking": 1, "gave_up": True, "of_files": 4, "missing": ["a"]}
    answers = [new, EARLIER]

    class Mounted(asking.Mounted):
        def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
            return iter([dict(answers.pop(0))])

    at = iter("xy")
    monkeypatch.setattr(asking, "located", lambda _: (Mounted(_record(f"/mnt/{next(at)}"), ""), 7))
    result = CliRunner().invoke(command, [str(tmp_path), str(tmp_path)], standalone_mode=False)
    assert "not fetched or not kept: 1 chunk, of 1 file\n  /mnt/x/a\n" in result.stderr
    assert "gave up, as nothing came for long: 1 file not tried" in result.stderr


def test_a_mount_of_an_earlier_version_is_understood(line: dict[str, Any], tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path)], standalone_mode=False)
    assert (result.return_value, result.stderr) == (exitcodes.OK, "")
    line["failed"] = 1
    result = CliRunner().invoke(command, [str(tmp_path)], standalone_mode=False)
    assert (result.return_value, result.stderr) == (exitcodes.UNREACHABLE, "not fetched or not kept: 1 chunk\n")


def test_most_bounds_all_paths_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    allowed: list[int] = []

    class Mounted(asking.Mounted):
        def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
            allowed.append(request["most"])
            return iter([EARLIER | {"fetched_bytes": 100, "cached_bytes": 50}])

    at = iter("abc")
    monkeypatch.setattr(asking, "located", lambda _: (Mounted(_record(f"/mnt/{next(at)}"), ""), 7))
    result = CliRunner().invoke(command, ["--most", "1M", *[str(tmp_path)] * 3], standalone_mode=False)
    assert result.return_value == exitcodes.OK
    assert allowed == [MIB, MIB - 150, MIB - 300]


class Several:
    """Mounts that answer each request with the next line; `asked` of what."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, takes_many: bool = True, refused: PoolError | None = None
    ) -> None:
        self.asked: list[tuple[str, Any, Any]] = []
        self.answers: list[dict[str, Any]] = []
        several = self

        class Mounted(asking.Mounted):
            def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
                several.asked.append((self.record.mount_point, request.get("inode"), request.get("inodes")))
                if not takes_many and "inode" not in request:
                    raise refused or Misuse("this request is not understood")
                return iter([EARLIER | several.answers.pop(0)])

        def located(path: Path) -> tuple[asking.Mounted, int]:
            return Mounted(_record(f"/mnt/{path.parent.name}"), ""), int(path.name)

        monkeypatch.setattr(asking, "located", located)

    def warm(self, *paths: str) -> Result:
        return CliRunner().invoke(command, paths, standalone_mode=False)


def test_paths_of_one_mount_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Several(monkeypatch)
    several.answers = [{}, {}]
    result = several.warm("a/1", "b/2", "a/3")
    assert result.return_value == exitcodes.OK
    assert several.asked == [("/mnt/a", None, [1, 3]), ("/mnt/b", 2, None)]
    assert "6 files" in result.stdout


def test_more_paths_than_fit_into_a_request_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs.cli.files.warmup._AT_ONCE", 2)
    several = Several(monkeypatch)
    several.answers = [{}, {}]
    several.warm("a/1", "a/2", "a/3")
    assert several.asked == [("/mnt/a", None, [1, 2]), ("/mnt/a", 3, None)]
    number = {"inodes": [2**63 - 1] * 2000, "op": "warmup", "most": 2**63 - 1, "named": True}
    assert len(json.dumps(number)) < REQUEST_BYTES


@pytest.mark.parametrize("why", ["gave_up", "is_full"])
def test_a_mount_that_gave_up_or_is_full_is_asked_for_nothing_more(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an earlier version, which takes one path at a time, would wait and let go of things for each."""
    several = Several(monkeypatch, takes_many=False)
    several.answers = [{}, {why: True, "files": 2}, {}]
    result = several.warm("a/1", "a/2", "a/3", "a/4", "b/9")
    singly = [("/mnt/a", 1, None), ("/mnt/a", 2, None), ("/mnt/b", 9, None)]
    assert several.asked == [("/mnt/a", None, [1, 2, 3, 4]), *singly]
    if why == "gave_up":
        assert "gave up, as nothing came for long: 3 files not tried" in result.stderr  # one, and two paths


def test_paths_that_have_too_much_below_them_together_are_asked_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Several(monkeypatch, takes_many=False, refused=TooLarge("more than 1000000 files"))
    several.answers = [{}, {}]
    assert several.warm("a/1", "a/2").return_value == exitcodes.OK
    assert several.asked == [("/mnt/a", None, [1, 2]), ("/mnt/a", 1, None), ("/mnt/a", 2, None)]


def test_no_mount_is_asked_when_a_path_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Several(monkeypatch)
    result = several.warm("a/1", "a/none")
    assert isinstance(result.exception, ValueError)
    assert several.asked == []


def _record(mount_point: str) -> Any:  # noqa: ANN401
    return SimpleNamespace(mount_point=mount_point)
