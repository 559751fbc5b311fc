"""The terminal that pictures are taken of: text, colours, moving about, clearing, scrolling."""

import importlib.util

import pytest
from docs_blocks import ROOT

pytestmark = pytest.mark.l0

_specification = importlib.util.spec_from_file_location("screen", ROOT / "packaging" / "screenshots" / "screen.py")
assert _specification is not None
assert _specification.loader is not None
screen = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(screen)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("one\r\ntwo", ["one", "two"]),
        ("abcdefghijkl", ["abcdefghij", "kl"]),
        ("a\x1b[31mred\x1b[0mb", ["a\x1b[0m\x1b[31mred\x1b[0mb"]),
        ("\x1b[1m\x1b[32mx\x1b[0;33my", ["\x1b[0m\x1b[1;32mx\x1b[0m\x1b[33my\x1b[0m"]),
        ("old\r\x1b[2Knew", ["new"]),
        ("1\r\n2\r\n3\x1b[2A\x1b[2Jx", [" x"]),
        ("1\r\n2\r\n3\r\n4\r\n5", ["2", "3", "4", "5"]),
        ("shell\x1b[?1049h\x1b[2;3Hlive", ["", "  live"]),
        ("\x1b]0;title\x07\x1b(Btext\x1b[?25l", ["text"]),
        ("a\tb\x1b[5D!", ["a   !   b"]),
    ],
)
def test_the_screen_shows_what_a_terminal_would(written: str, expected: list[str]) -> None:
    shown = screen.Screen(10, 4)
    shown.feed(written)
    assert shown.lines() == expected
