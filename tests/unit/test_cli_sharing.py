"""What `p2pfs volume share` and `show` say of a volume with several people's keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.volumes import sharing_changes, volume, volume_sharing
from p2pfs.errors import CoordinatorAway
from p2pfs.format import sharing
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.wire.sharing import Member
from p2pfs.wire.volumes import VolumeInfo

pytestmark = pytest.mark.l0

THEIRS = bytes(range(sharing.FINGERPRINT_BYTES))


def _member(*, read_only: bool) -> Member:
    return Member(THEIRS, read_only, 0.0, ["bob@desk"])


@pytest.mark.parametrize(
    ("before", "wanted", "told", "new"),
    [
        ([], "--rw", "(bob@desk), to read and write\nthey accept it with: p2pfs volume accept anna/photos", True),
        ([_member(read_only=True)], "--rw", "(bob@desk), to read and write, and was to read\n", False),
        ([_member(read_only=False)], "--ro", "(bob@desk), to read, and was to read and write\n", False),
        ([_member(read_only=True)], "--ro", "(bob@desk), to read, as before\n", False),
    ],
)
def test_other_rights_need_not_be_accepted_again_by_who_knows_the_key_that_signs_them(
    before: list[Member],
    wanted: str,
    told: str,
    new: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _share(before, wanted, lambda _: "OURS", monkeypatch, tmp_path) == exitcodes.OK
    shown = capsys.readouterr().out
    assert told in shown
    again = (
        "Who accepted it from this machine's key need not do\nso once more; others, and who accepted it from another"
        " machine's key, do with: p2pfs volume accept anna/photos --from OURS\n"
    )
    assert (again in shown) != new


@pytest.mark.parametrize("before", [[], [_member(read_only=False)]])
def test_that_it_is_shared_is_told_though_the_coordinator_goes_away_then(
    before: list[Member], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(_: NodeHome) -> str:
        raise CoordinatorAway("the coordinator does not answer")

    assert _share(before, "--ro", away, monkeypatch, tmp_path) == exitcodes.UNREACHABLE
    shown = capsys.readouterr()
    assert "(bob@desk), to read" in shown.out
    assert "does not answer" in shown.err


def _share(
    before: list[Member],
    wanted: str,
    publish: Callable[[NodeHome], str],
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
) -> int:
    """The exit code of `p2pfs volume share` beside a coordinator that does it."""

    def share(*_: Any, read_only: bool) -> list[Member]:  # noqa: ANN401 - not looked at
        return [_member(read_only=read_only)]

    monkeypatch.setattr(volume_sharing, "_volumes", lambda _: [VolumeInfo(1, "photos", "anna", b"", 0, True, 0)])
    monkeypatch.setattr(sharing_changes, "members", lambda *_: before)
    monkeypatch.setattr(sharing_changes, "share", share)
    monkeypatch.setattr(sharing_changes, "publish", publish)
    (root / "passphrase").write_text("secret")
    (root / "passphrase").chmod(0o600)
    words = ["--to", sharing.shown(THEIRS), wanted, "--passphrase-file", str(root / "passphrase")]
    return main.run(["volume", "share", "photos", *words, "--home", str(root)])


@pytest.mark.parametrize(
    ("access", "told"),
    [
        ("", "access             owner\n"),
        ("ro", "access             shared by anna, who owns it, to read; mount it as anna/photos\n"),
        ("rw", "access             shared by anna, who owns it, to read and write; mount it as anna/photos\n"),
    ],
)
def test_a_shared_volume_says_who_owns_it(
    access: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = VolumeInfo(1, "photos", "anna", b"", 0, True, 0, access=access)
    monkeypatch.setattr(volume, "_volumes", lambda _: [shared])
    name = "anna/photos" if access else "photos"
    assert main.run(["volume", "show", name, "--home", str(tmp_path)]) == exitcodes.OK
    shown = capsys.readouterr().out
    assert told in shown
    assert ("members" in shown) != bool(access)


@pytest.mark.parametrize(
    "words",
    [
        ("volume", "delete", "photos"),
        ("volume", "accept", "anna/photos"),
        ("key", "remove", "photos", "3f9c"),
    ],
)
def test_a_question_is_no_part_of_an_answer_for_programs(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*words, "--json", "--home", str(tmp_path)]) == exitcodes.USAGE
    said = capsys.readouterr()
    assert (said.out, "say --yes too" in said.err) == ("", True)


def test_who_is_no_node_gets_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "harden", lambda: None)  # a test process stays dumpable
    assert main.run(["key", "fingerprint", "--home", str(tmp_path)]) == exitcodes.NO_HOME
    assert list(tmp_path.iterdir()) == []
