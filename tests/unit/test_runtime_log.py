"""Records as lines: for people, for the journal, and as JSON for programs."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfs.runtime import log

pytestmark = pytest.mark.l0


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A log of this test; what pytest set up comes back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:  # set-ups close those that they replace
        root.removeHandler(handler)
    yield tmp_path / "log"
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def test_json_has_the_documented_fields_one_object_a_line(file: Path) -> None:
    log.setup("info", file, form="json", part="peer")
    logging.getLogger("p2pfs.x").warning("two\nlines of %s", "“letters” \x1b[31m\u2028\udcff")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("p2pfs.y").exception("it failed")
    plain, failed = (json.loads(line) for line in lines(file))
    assert list(plain) == ["time", "level", "logger", "message", "part", "pid"]
    assert plain["message"] == "two\nlines of “letters” \x1b[31m\u2028\udcff"
    assert (plain["level"], plain["logger"], plain["part"]) == ("warning", "p2pfs.x", "peer")
    assert plain["time"].endswith("Z")
    assert failed["level"] == "error"
    assert failed["exception"].splitlines()[0].startswith("Traceback")
    assert failed["exception"].splitlines()[-1] == "ValueError: why"
    assert "\x1b" not in file.read_text(encoding="utf-8")
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")
    inside = page.split("<!-- log fields -->", 1)[1].split("<!-- /log fields -->", 1)[0]
    for field in failed:
        assert f"| `{field}` |" in inside


def test_text_is_as_before(file: Path) -> None:
    log.setup("info", file)
    logging.getLogger("p2pfs.x").warning("a\nb")
    assert lines(file)[0].endswith("Z WARNING p2pfs.x: a\\nb")


def test_warnings_and_errors_are_counted(file: Path) -> None:
    log.setup("error", file)
    before = log.counted()
    logging.getLogger("p2pfs.x").error("one")
    logging.getLogger("p2pfs.x").critical("two")
    after = log.counted()
    assert after["error"] - before["error"] == 2
