"""Bars and signs of life: late, on a terminal only, and gone when it is over."""

import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from p2pfs.cli import progress, waiting
from p2pfs.vfs.fsck.findings import Tally

pytestmark = pytest.mark.l0


class Screen:
    """What a sign of life writes, and an event for the first frame."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.shown = threading.Event()

    def write(self, text: str) -> None:
        self.written.append(text)
        if text.startswith("\r⠋"):
            self.shown.set()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    found = Screen()
    monkeypatch.setattr(waiting, "is_wanted", lambda: True)
    monkeypatch.setattr(waiting._Sign, "_write", staticmethod(found.write))
    yield found
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting"]


def test_it_says_what_goes_on_and_clears_the_line_for_others(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "LATE_S", 0.0)
    with waiting.waiting("working") as say:
        assert screen.shown.wait(30)
        say("a line")
    assert screen.written[0] == "\r⠋ working, 0 s"
    assert screen.written[-1] == "\r\033[K"
    assert capsys.readouterr().err == "a line\n"


def test_what_is_quick_shows_nothing(screen: Screen) -> None:
    with pytest.raises(KeyError), waiting.waiting("working"):
        raise KeyError
    assert screen.written == []


def asked(*words: str) -> bool:
    """Whether a command run with these words would show anything."""
    found: list[bool] = []

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    @click.option("--quiet", is_flag=True)
    def command(as_json: bool, quiet: bool) -> None:
        found.append(waiting.is_wanted())

    assert CliRunner().invoke(command, words).exit_code == 0
    return found[0]


def test_only_who_watches_is_shown_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 2)
    assert [asked(), asked("--json"), asked("--quiet"), waiting.is_wanted()] == [True, False, False, True]
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert not asked()


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_a_bar_comes_late(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    clock = itertools.chain((0.0,), itertools.repeat(seconds))
    updates: list[dict[str, object]] = []
    monkeypatch.setattr(progress, "is_wanted", lambda: False)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.Progress, "update", recording(updates))
    with progress.late_bar("looking", "files") as show:
        show(3, 7)
        show(4, None)
    assert [(one["visible"], one["counted"]) for one in updates] == [
        (seconds > waiting.LATE_S, "3/7 files"), (seconds > waiting.LATE_S, "4 files"),
    ]  # fmt: skip


def test_a_check_counts_nothing_before_it_knows_of_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_wanted", lambda: True)
    bars: list[progress.Progress] = []

    def drawn() -> str:
        screen = io.StringIO()
        Console(width=120, file=screen).print(bars[0].get_renderable())
        return screen.getvalue()

    class Bar(Progress):
        def __init__(self, *columns: ProgressColumn, **_options: object) -> None:
            super().__init__(*columns, console=Console(file=io.StringIO()), disable=True)
            bars.append(self)

    monkeypatch.setattr(progress, "Progress", Bar)
    with progress.checked_bar() as bar:
        before = drawn()
        bar.show(Tally(inodes=3, copies=1, bytes_read=1024), 7)
        after = drawn()
    assert "None" not in before
    assert "files" not in before
    assert "3/7 files" in after
    assert "1 copy, 1 KiB read" in after


def recording(updates: list[dict[str, object]]) -> Callable[..., None]:
    def update(_self: object, _task: object, **fields: object) -> None:
        updates.append(fields)

    return update
