"""What others wrote is shown, and commands no terminal."""

import json
import os

import pytest
from rich.text import Text

from p2pfs.cli import show
from p2pfs.cli.plans import print_plan
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.plans import FilesAtRisk, PlanAnswer, PlanKind

pytestmark = pytest.mark.l0

HOSTILE = "\x1b]52;c;cm0gLXJm\x07\x9b2J\u202e"


def unprintable(said: str) -> set[str]:
    return {letter for letter in said if not letter.isprintable()} - {"\n"}


def test_tables_and_sentences_show_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_table(("name", "state"), [(f"nas{HOSTILE}", Text(f"up{HOSTILE}", style="green"))])
    show.say(f"nas{HOSTILE} is up\n  and well")
    said = capsys.readouterr().out
    assert "nas" in said
    assert said.endswith(" is up\n  and well\n")
    assert unprintable(said) == set()


def test_a_name_that_is_no_text_does_not_end_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9")
    show.print_json({"path": f"/mnt/{name}", name: [{"é": (name, 1, True)}]})
    assert json.loads(capsys.readouterr().out) == {
        "path": "/mnt/caf\ufffd",
        "caf\ufffd": [{"é": ["caf\ufffd", 1, True]}],
    }


def test_styles_of_a_cell_stay_where_they_were() -> None:
    cell = Text.assemble("a\x1b", ("b", "bold"))
    table = show.make_table(("name",), [(cell,)])
    (shown,) = table.columns[0].cells
    assert isinstance(shown, Text)
    assert (shown.plain, shown.spans) == ("a\N{REPLACEMENT CHARACTER}b", cell.spans)
    assert cell.plain == "a\x1bb"  # the caller's own


def test_a_plan_shows_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    node = NodeInfo("d" * 32, f"anna@nas{HOSTILE}", "anna", "", ["peer"], False, 1)
    risk = FilesAtRisk("7" * 16, f"photos{HOSTILE}", f"anna{HOSTILE}", 1, [2])
    plan = PlanAnswer(2, 2, 1, 1, 1, 1, [risk], room_bytes=0, staying=2, wanted=2, rate=1.0, is_measured=True)
    print_plan(plan, PlanKind.LOSE, [node], {risk.volume: [f"/mnt/{HOSTILE}"]})
    said = capsys.readouterr().out
    assert "photos" in said
    assert unprintable(said) == set()
