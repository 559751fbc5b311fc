"""`p2pfs search`: what it says beside what it found."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from p2pfs import exitcodes
from p2pfs.cli import asking
from p2pfs.cli.search import command

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

    record: Any = SimpleNamespace(mount_point="/mnt/photos")
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
