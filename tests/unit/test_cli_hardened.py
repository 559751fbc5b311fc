"""Commands that hold secrets keep them out of core dumps and from other processes, before they do anything else."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pfs.cli.pool import init, invite, join
from p2pfs.cli.trying import demo
from p2pfs.runtime import process

pytestmark = pytest.mark.l0


class Hardened(Exception):
    """The process would be hardened now."""


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (init.command, ["--home", "home"]),
        (join.command, ["--home", "home", "invite.txt"]),
        (invite.command, ["--home", "home", "anna@laptop"]),
        (demo.command, ["start", "--root", "demo"]),
    ],
    ids=["init", "join", "invite", "demo start"],
)
def test_it_is_the_first_thing_they_do(
    command: object, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harden() -> None:
        raise Hardened

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "harden", harden)
    result = CliRunner().invoke(command, arguments)  # type: ignore[arg-type]
    assert isinstance(result.exception, Hardened), result.output
    assert list(tmp_path.iterdir()) == []
