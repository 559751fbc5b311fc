"""docs/troubleshooting.md knows every reason, check and exit status there is, and quotes sentences that are said."""

import ast
import errno
import os
import re
from pathlib import Path

import pytest
from docs_blocks import ROOT

from p2pfs import exitcodes
from p2pfs.cli import report
from p2pfs.cli.health import checks, doctor
from p2pfs.coordinator import health

pytestmark = pytest.mark.l0

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def section(name: str) -> str:
    return PAGE.split(f"<!-- {name} -->", 1)[1].split(f"<!-- /{name} -->", 1)[0]


def rows(name: str) -> list[list[str]]:
    lines = [line for line in section(name).splitlines() if re.match(r"\| [`\d\w]", line)]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_every_reason_of_status_is_there() -> None:
    source = Path(health.__file__).read_text(encoding="utf-8")
    given = set(re.findall(r'_(?:error|warning|note)\(\s*"([A-Z_]+)"', source))
    given |= set(re.findall(r'"code": "([A-Z_]+)"', Path(report.__file__).read_text(encoding="utf-8")))
    assert len(given) > 20
    assert {row[0] for row in rows("status")} == given


def test_every_check_of_doctor_is_there() -> None:
    given = set()
    for module in (checks, doctor):
        source = Path(module.__file__ or "").read_text(encoding="utf-8")
        given |= set(re.findall(r'(?:Finding|well)\(\s*"([a-z ]+)"', source))
    assert len(given) > 8
    assert {row[0] for row in rows("doctor")} == given


def test_every_exit_status_is_there() -> None:
    given = {name: value for name, value in vars(exitcodes).items() if name.isupper() and value}
    assert {row[1]: int(row[0]) for row in rows("exit statuses")} == given


def test_errnos_are_named_as_programs_name_them() -> None:
    for told, name, *_ in rows("errno"):
        assert os.strerror(getattr(errno, name)) == told


def said() -> list[str]:
    """Every piece of text in the code."""
    found = []
    for folder in ("p2pfs", "mount", "peerd"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found


def test_every_sentence_that_is_quoted_is_said() -> None:
    texts = said()
    quoted = re.findall(r"^\| `([^`]+)` \|", section("sentences"), flags=re.MULTILINE)
    assert len(quoted) > 20
    pieces = [piece.strip() for sentence in quoted for piece in sentence.split("…") if len(piece.strip()) > 3]
    assert [piece for piece in pieces if not any(piece in text for text in texts)] == []
