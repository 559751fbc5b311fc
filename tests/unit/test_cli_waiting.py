"""Bars and signs of life: late, on a terminal only, and gone when it is over."""

import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
import pytest
import trio
from click.testing import CliRunner
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from p2pfs.cli import connect, main, progress, waiting
from p2pfs.cli.files import lease
from p2pfs.errors import Unavailable
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId, PoolId, Role
from p2pfs.vfs.fsck.findings import Tally
from p2pfs.wire.jobs import JobInfo

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


def test_there_is_one_sign_at_a_time(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "LATE_S", 0.0)
    with waiting.waiting("the whole"):
        assert screen.shown.wait(30)
        with waiting.waiting("a part") as say_inside:
            say_inside("a line")
        assert len([thread for thread in threading.enumerate() if thread.name == "waiting"]) == 1
    assert not any("a part" in text for text in screen.written)
    assert capsys.readouterr().err == "a line\n"
    screen.shown.clear()
    with waiting.waiting("another"):  # the line is free again
        assert screen.shown.wait(30)


def test_where_a_bar_is_drawn_there_is_no_sign(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LATE_S", 0.0)
    with waiting.drawing(), waiting.waiting("a part"):
        assert [thread for thread in threading.enumerate() if thread.name == "waiting"] == []
    assert screen.written == []


def test_who_asks_the_coordinator_sees_that_it_goes_on(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a command asks: a coordinator that does not answer holds it up for many seconds."""
    monkeypatch.setattr(waiting, "LATE_S", 0.0)

    class Silent:
        async def request(self, *_words: object, **_content: object) -> Any:  # noqa: ANN401 - as httpx has it
            assert await trio.to_thread.run_sync(screen.shown.wait, 30)
            raise Unavailable("nobody answers")

    coordinator = object.__new__(connect.Coordinator)
    coordinator._http = Silent()  # type: ignore[assignment]  # nothing of httpx's is needed
    with pytest.raises(Unavailable):
        trio.run(coordinator.fetch, "/status")
    assert screen.written[0] == "\r⠋ asking the coordinator, 0 s"
    assert screen.written[-1] == "\r\033[K"


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        ("p2pfs.cli.pool.find.look_around", ("coordinator", "find")),
        ("p2pfs.cli.health.debug._entries", ("debug", "bundle", "--out", "{home}/bundle")),
        ("p2pfs.runtime.mounts.dial", ("peer", "status")),
    ],
)
def test_what_may_take_long_has_a_sign(
    slow: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = NodeHome(tmp_path / "home")
    record = NodeRecord(
        pool=PoolId("a" * 32), node=NodeId("d" * 32), name="anna@nas", owner="anna", roles=[Role.PEER],
        coordinator=NodeId("c" * 32), addresses=["192.0.2.1:9470"],
    )  # fmt: skip
    home.create(record, ca=b"", certificate=b"", key=b"")
    seen: list[bool] = []

    def busy(*_words: object, **_options: object) -> None:
        seen.append(waiting._terminal.is_taken)
        raise OSError("that is enough")

    monkeypatch.setattr(slow, busy)
    monkeypatch.setattr("p2pfs.runtime.process.harden", lambda: None)
    main.run([*(word.format(home=tmp_path) for word in words), "--home", str(home.path)])
    assert seen == [True]
    assert not waiting._terminal.is_taken


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


@pytest.mark.parametrize("is_wanted", [False, True])
def test_no_bar_is_drawn_for_who_wants_none(monkeypatch: pytest.MonkeyPatch, is_wanted: bool) -> None:
    """With --json for example, also on a terminal."""
    drawn: list[bool] = []

    class Bar(Progress):
        def __init__(self, *columns: ProgressColumn, disable: bool, **_options: object) -> None:
            super().__init__(*columns, console=Console(file=io.StringIO(), force_terminal=True), disable=True)
            drawn.append(not disable)

    monkeypatch.setattr(progress, "Progress", Bar)
    monkeypatch.setattr(progress, "is_wanted", lambda: is_wanted)
    bars: tuple[AbstractContextManager[object], ...] = (
        progress.stored_bar(), progress.drain_bar("nas"), progress.counted_bar("tagging"), progress.checked_bar(),
        progress.late_bar("looking", "files"),
    )  # fmt: skip
    for bar in bars:
        with bar:
            assert waiting._terminal.is_taken
    assert drawn == [is_wanted] * len(bars)


def test_leases_are_counted_for_who_watches_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(progress, "is_wanted", lambda: False)
    assert lease._followed(iter([{"changed": 3}, {"changed": 7}])) == 7
    assert capsys.readouterr().err == ""


def test_why_a_drain_is_stuck_is_told_where_no_bar_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "is_wanted", lambda: False)
    stuck = JobInfo(1, "drain", "anna@nas", "running", 0, 4, 0, 4, 0.0, None, 1.0, None, "no room")
    with progress.drain_bar("anna@nas") as show:
        show(stuck)
        show(stuck)
    assert capsys.readouterr().err == "the drain of anna@nas does not get on: no room\n"


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
    clock = itertools.chain((0.0,), itertools.repeat(seconds))
    with progress.counted_bar("tagging") as tell:
        tell(3, 7, 1024)
    assert (updates[-1]["visible"], updates[-1]["read"]) == (seconds > waiting.LATE_S, "1 KiB read")


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
