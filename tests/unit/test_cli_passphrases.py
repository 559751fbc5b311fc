"""Where passphrases come from, and what is said when they do not come."""

import os
from pathlib import Path

import pytest

from p2pfs import exitcodes
from p2pfs.cli import passphrases
from p2pfs.errors import UserError

pytestmark = pytest.mark.l0


def test_the_first_line_of_a_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "phrase"
    file.write_bytes("  correct horse ⚡\r\nanother line\n".encode())
    assert passphrases.source(file, None)() == "  correct horse ⚡"


def test_a_file_is_read_when_the_passphrase_is_needed(tmp_path: Path) -> None:
    ask = passphrases.source(tmp_path / "later", None)
    (tmp_path / "later").write_text("now")
    assert ask() == "now"


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\nsecond"])
def test_an_empty_first_line_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "phrase"
    file.write_bytes(content)
    with pytest.raises(UserError, match="no passphrase in the first line") as caught:
        passphrases.source(file, None)()
    assert caught.value.exit_code == exitcodes.USAGE


def test_an_endless_line_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "phrase"
    file.write_bytes(b"x" * 10_000)
    with pytest.raises(UserError, match="too long"):
        passphrases.source(file, None)()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        passphrases.source(tmp_path / "nowhere", None)()


def test_a_descriptor_is_read_up_to_its_first_line() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"from a pipe\nrest")
        assert passphrases.source(None, reader)() == "from a pipe"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_descriptor_that_is_not_open_is_told() -> None:
    with pytest.raises(UserError, match="file descriptor 987"):
        passphrases.source(None, 987)()


def test_file_and_descriptor_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not both"):
        passphrases.source(tmp_path, 3)


def _typing(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Answers the prompts; the list collects what was asked."""
    asked: list[str] = []
    left = list(answers)

    def getpass(prompt: str) -> str:
        asked.append(prompt)
        return left.pop(0)

    monkeypatch.setattr("getpass.getpass", getpass)
    monkeypatch.setattr(passphrases, "_require_terminal", lambda: None)
    return asked


def test_a_prompt_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _typing(monkeypatch, "", "typed")
    assert passphrases.source(None, None, prompt="Passphrase of photos")() == "typed"
    assert asked == ["Passphrase of photos: "] * 2  # the empty answer was not taken


def test_a_new_passphrase_is_asked_for_twice_until_both_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = _typing(monkeypatch, "a long passphrase", "another", "short", "short")
    assert passphrases.source(None, None, new=True)() == "short"
    assert len(asked) == 4
    said = capsys.readouterr().err
    assert "differ" in said
    assert "guess" in said


def test_without_a_terminal_the_other_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal(*_arguments: object) -> int:
        raise OSError(6, "No such device or address")

    monkeypatch.setattr(os, "open", no_terminal)
    with pytest.raises(UserError, match="--passphrase-file or --passphrase-fd"):
        passphrases.source(None, None)()
