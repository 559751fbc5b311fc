"""What a page shows stands for what is printed: loosely in quantities, strictly in words."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from docs_blocks import Event
from docs_runner import Reader, missing

pytestmark = pytest.mark.l0


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("pool club: healthy", "pool club: healthy\n  3 copies"),
        ("…\nchunks: …", "one\ntwo\nchunks: 5 (5 with 3)\n"),
        ("  free   76 GiB   seen  5s ago", "free 1.2 KiB    seen    12s ago"),
        ("seen now", "seen 3s"),
        ("until 2026-12-22 20:14 UTC: 29d 23h", "until 2031-01-02 03:04 UTC: 3d"),
        ("Passphrase: …", "Passphrase:"),
        ("a\n\nb", "a\nx\nb"),
    ],
)
def test_what_is_printed_is_what_is_shown(shown: str, printed: str) -> None:
    assert missing(shown.splitlines(), printed) == ""


@pytest.mark.parametrize(
    ("shown", "printed", "lost"),
    [
        ("pool club: healthy", "pool club: warning", "pool club: healthy"),
        ("a\nb", "b\na", "b"),
        ("5 chunks", "6 chunks", "5 chunks"),
        ("used 5 MiB", "used 5 s", "used 5 MiB"),
        ("one", "one more", "one"),
    ],
)
def test_what_is_not_is_told(shown: str, printed: str, lost: str) -> None:
    assert missing(shown.splitlines(), printed) == lost


def follow(page: Path, text: str, **answers: str) -> tuple[Reader, list[str]]:
    page.write_text(text, encoding="utf-8")
    happened: list[str] = []

    def happens(event: Event) -> None:
        happened.append(f"{event.machine}: {event.what}")

    def enter(_machine: str, words: Sequence[str]) -> list[str]:
        return list(words)

    reader = Reader(enter, happens, answers)
    reader.follow(page)
    return reader, happened


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("docs_blocks.ROOT", tmp_path)
    return tmp_path / "page.md"


def test_blocks_are_run_in_order_and_what_they_print_is_kept(page: Path) -> None:
    text = "```console on=a keeps=word\n$ echo one; echo two\none\n```\n<!-- machine b: power off -->\n"
    reader, happened = follow(page, text)
    assert reader.answers == {"word": "one"}
    assert happened == ["b: power off"]


def test_what_is_asked_for_is_typed_and_not_shown(page: Path) -> None:
    command = "read -rsp 'Word: ' word </dev/tty && echo; echo got $word"
    follow(page, f"```console on=a types=secret\n$ {command}\nWord: …\ngot it\n```\n", secret="it")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```console on=a\n$ echo no\nyes\n```\n", "did not print “yes”"),
        ("```console on=a\n$ false\n$ true\n```\n", "ended with 1, not 0"),
        ("```console on=a exit=20\n$ true\n```\n", "ended with 0, not 20"),
        ("```sh on=a\nfalse\ntrue\n```\n", "ended with 1, not 0"),
        ("```console on=a types=secret\n$ true\n```\n", "nobody asked for 1 answers"),
    ],
)
def test_a_block_that_does_not_hold_fails(page: Path, text: str, wrong: str) -> None:
    with pytest.raises(AssertionError, match=wrong):
        follow(page, text, secret="x")


def test_a_block_is_said_again_for_as_long_as_it_allows(page: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    text = f"```console on=a within=10\n$ echo x >> {count}; wc -l < {count}\n2\n```\n"
    follow(page, text)
