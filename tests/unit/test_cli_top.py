"""What `p2pfs top` draws: what fits and no more, what was asked for first, and nothing that commands a terminal."""

import io
import json
import socket
from collections.abc import Callable
from typing import Any, cast
from unittest.mock import MagicMock

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from p2pfs import exitcodes
from p2pfs.cli import connect, main
from p2pfs.cli.health import top
from p2pfs.cli.health.top_view import View
from p2pfs.coordinator.report import (
    ChunksReport,
    CoordinatorReport,
    PeerReport,
    PoolReport,
    Reason,
    StatusReport,
    VolumeReport,
)
from p2pfs.errors import Denied, Misuse, Unavailable
from p2pfs.types import GIB, MIB
from p2pfs.wire.jobs import JobInfo
from p2pfs.wire.membership import Resources
from p2pfs.wire.offers import Offered, PooledOffer

pytestmark = pytest.mark.l0


def _peer(number: int, name: str = "", *, used: int = 0, up: int = 0, state: str = "up") -> PeerReport:
    offers = [Offered("upload", "bytes/s", None, up), Offered("download", "bytes/s", 2_500_000, 125_000)]
    return PeerReport(
        number, "ab" * 16, name or f"owner{number}@machine{number}", "owner", "home", state, ["192.0.2.1:9471"],
        8 * GIB, used, 0, 8 * GIB - used, 10, silent_s=2.0, clock_ahead_s=0.0, certificate_expires_s=0.0, version="1",
        resources=Resources(1, 1, 1, 1, 2, 0.25, 0, 0), offers=offers,
    )  # fmt: skip


def _report(peers: list[PeerReport], *, jobs: int = 0, volumes: int = 0, reasons: int = 0) -> dict[str, Any]:
    report = StatusReport(
        "warning" if reasons else "healthy",
        [Reason("CODE", f"reason {number} " + "that needs many words " * 8, "warning") for number in range(reasons)],
        PoolReport("ab", "home", 3, 2, 80 * GIB, 20 * GIB, 0, 30 * GIB, 20 * GIB, 1, 1, 2),
        CoordinatorReport("cd" * 16, "anna@server", ["192.0.2.9:9470"], "1", 3600.0, 0.0),
        peers=peers,
        volumes=[VolumeReport("00", f"volume{number}", "anna", 5, MIB, "laptop:/mnt") for number in range(volumes)],
        chunks=ChunksReport(100, 3, 1, {"2": 4, "3": 96}),
        jobs=[
            JobInfo(number, "repair", "", "running", 5, 10, 5 * MIB, 10 * MIB, MIB, 5.0, 1.0, None, "")
            for number in range(jobs)
        ],
        offers=[PooledOffer("upload", "bytes/s", "", True, 0, 1_250_000, 0, 3, 3)],
    )
    found: dict[str, Any] = msgspec.to_builtins(report)
    return found


def _drawn(view: View, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(view.screen(width, height))
    return [line.rstrip() for line in capture.get().splitlines()]


def _view(report: dict[str, Any]) -> View:
    view = View(2.0)
    view.take(report)
    return view


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (132, 50), (60, 18), (40, 24)])
@pytest.mark.parametrize("peers", [1, 3, 40])
@pytest.mark.parametrize("others", [0, 1, 9])
def test_it_fits_on_any_terminal(peers: int, others: int, width: int, height: int) -> None:
    crowd = [_peer(number, "somebody-with-a-name@a-machine-far-away" * (number % 2)) for number in range(peers)]
    lines = _drawn(_view(_report(crowd, jobs=others, volumes=others, reasons=others)), width, height)
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    shown = "\n".join(lines)
    assert "home: " in shown
    assert sum(line.startswith(("own", "som")) for line in lines) >= min(peers, 3 if height >= 18 else 2)
    if height >= 24:
        assert any(line.startswith("vol") for line in lines) == (others > 0)
        assert ("repair" in shown) == (others > 0)
    if peers == 40 and height < 40:
        assert "more" in shown


def test_a_screenful_says_how_the_pool_is() -> None:
    peers = [_peer(1, "anna@nas", used=4 * GIB, up=1_250_000), _peer(2, "bob@pc", state="down")]
    lines = _drawn(_view(_report(peers, jobs=1, volumes=1, reasons=1)))
    assert lines[0].endswith("q quits, + - every 2s, s r by name")
    assert lines[1] == "home: warning  1 of 2 peers up, 2 mounted, coordinator up 1h"
    assert lines[2] == "██░░░░░░ 20 GiB of 80 GiB, 20 GiB writable   up 10 Mbit/s, down 0 kbit/s"
    assert lines[3] == "chunks 100 (copies 4×2  96×3)  3 short  1 unreadable"
    assert lines[4].startswith("! reason 0 that needs")
    cells = [line.split() for line in lines]
    assert ["anna@nas", "up", "4G", "8G", "████░░░░", "10M", "1M", "0.25", "2s"] in cells
    assert ["bob@pc", "down", "0", "8G", "░░░░░░░░", "0k", "0k", "0.25", "2s"] in cells  # what it said is long over
    assert ["repair", "the", "pool", "running", "████░░░░", "50%", "1MB/s", "5s"] in cells


def _printed(view: View, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(view.whole(width))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize("draw", [_drawn, _printed])
def test_on_a_narrow_terminal_columns_are_left_out_and_what_stays_is_readable(
    draw: Callable[[View, int], list[str]],
) -> None:
    peers = [_peer(1, "caroline@living-room-nas", used=4 * GIB, up=1_250_000), _peer(2, "bob@pc", state="down")]
    view = _view(_report(peers, jobs=1, volumes=1, reasons=1))
    lines = draw(view, 50)
    assert max(map(cell_len, lines)) <= 50
    cells = [line.split() for line in lines]
    assert ["bob@pc", "down", "0", "8G", "░░░░░░░░"] in cells
    assert ["caroline@living-room-n…", "up", "4G", "8G", "████░░░░"] in cells
    assert ["repair", "the", "p…", "running", "████░░░░", "50%", "1MB/s", "5s"] in cells
    assert ["volume0", "anna", "5", "1M", "0", "laptop:…"] in cells


def test_peers_are_sorted_by_what_is_asked_for() -> None:
    peers = [_peer(1, "c@x", used=1, up=50), _peer(2, "a@x", used=5, up=10), _peer(3, "b@x", used=3, state="down")]
    view = _view(_report(peers))

    def order() -> str:
        return "".join(line[0] for line in _drawn(view) if line[1:3] == "@x")

    assert order() == "abc"
    seen = {}
    for name in ("state", "used", "free", "up", "down"):
        view.sort_by_next()
        assert f"s r by {name}" in _drawn(view)[0]
        seen[name] = order()
    assert (seen["state"], seen["used"], seen["free"], seen["up"]) == ("bac", "abc", "cba", "cab")
    view.sort_by_next()
    view.is_reversed = True
    assert order() == "cba"


def test_a_coordinator_that_falls_silent_leaves_what_was_seen() -> None:
    view = View(2.0)
    view.silent("nobody answers")
    assert _drawn(view)[1] == "no answer: nobody answers"
    view.take(_report([_peer(1, "anna@nas")]))
    view.silent("nobody answers")
    lines = _drawn(view)
    assert lines[1].startswith("no answer, shown as it was now: nobody answers")
    assert any("anna@nas" in line for line in lines)
    view.take(_report([_peer(1)]))
    assert "no answer" not in "\n".join(_drawn(view))


def test_what_others_wrote_commands_no_terminal() -> None:
    report = _report([_peer(1, "a\x1b[2J@x")], jobs=1, volumes=1, reasons=1)
    report["jobs"][0]["error"] = "\x1b]0;title\x07"
    report["reasons"][0]["message"] = "\x1b[31mred\nsecond line"
    report["volumes"][0]["delegated_to"] = "\u202egnp.exe"
    report["pool"]["name"] = "\x9b2J"
    shown = "\n".join(_drawn(_view(report), 200))
    assert not any(letter in shown for letter in "\x1b\x07\x9b\u202e")


def test_a_report_of_another_version_is_no_traceback() -> None:
    with pytest.raises(Misuse, match="p2pfs status --json"):
        View(1.0).take(_report([]) | {"chunks": 7})
    view = _view(_report([_peer(1)]) | {"offers": [], "later": 1})
    view.take({key: value for key, value in _report([_peer(1)]).items() if key != "offers"})  # an older coordinator
    assert "up 0 kbit/s" in "\n".join(_drawn(view))


# ---- once -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    report = _report([_peer(number) for number in range(30)], reasons=5)
    monkeypatch.setattr(connect, "fetch", lambda _home, _path: json.dumps(report).encode())
    return report


def test_without_a_terminal_it_is_printed_once_and_whole(
    answering: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["top"]) == exitcodes.HEALTH_WARNING
    shown = capsys.readouterr().out
    assert shown.count("@machine") == 30
    assert shown.count("! reason") == 5
    assert "\x1b" not in shown


def test_json_is_that_of_status(answering: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["top", "--json"]) == exitcodes.HEALTH_WARNING
    assert json.loads(capsys.readouterr().out) == answering


def test_no_answer_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,  # noqa: ANN401
) -> None:
    from peer_processes import lone_peer

    def silent(*_: object) -> bytes:
        raise Unavailable("nobody answers")

    monkeypatch.setattr(connect, "fetch", silent)
    home = ["--home", str(lone_peer(tmp_path))]
    assert main.run(["top", "--once", *home]) == exitcodes.HEALTH_ERROR
    assert "nobody answers" in capsys.readouterr().err
    assert main.run(["top", "--json", *home]) == exitcodes.HEALTH_ERROR
    assert json.loads(capsys.readouterr().out)["health"] == "error"


async def test_a_refusal_is_told_as_such_and_not_as_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the conversation tells a stranger from a coordinator that refuses, by its class."""

    class Refusing:
        async def fetch(self, _path: str) -> bytes:
            raise Denied("this node was revoked")

    keys, hands = socket.socketpair()
    with keys, hands:
        monkeypatch.setattr(top.sys, "stdin", keys)
        with pytest.raises(Denied, match="revoked"):
            await top._watch(cast("Any", Refusing()), View(1.0), MagicMock())


@pytest.mark.parametrize("interval", ["0s", "10ms", "2h", "soon"])
def test_an_interval_is_within_reason(interval: str) -> None:
    assert main.run(["top", "-i", interval]) == exitcodes.USAGE
