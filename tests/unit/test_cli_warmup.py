"""`p2pfs warmup`: what it says of what could not be had, also by a mount of an earlier version."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.files.warmup import command
from p2pfs.types import MIB

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

    record: Any = SimpleNamespace(mount_point="/mnt/photos")
    monkeypatch.setattr(asking, "located", lambda _: (Mounted(record, ""), 7))
    result = CliRunner().invoke(command, [str(tmp_path), str(tmp_path)], standalone_mode=False)
    assert "not fetched or not kept: 1 chunk, of 1 file\n  /mnt/photos/a\n" in result.stderr
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


def _record(mount_point: str) -> Any:  # noqa: ANN401
    return SimpleNamespace(mount_point=mount_point)
