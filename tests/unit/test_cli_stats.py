"""`p2pfs stats` and `p2pfs accesslog`: what is made of a mount's counters, for people and for programs."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfs import exitcodes
from p2pfs.cli import asking, main
from p2pfs.cli.health import stats
from p2pfs.cli.schemas import LINES, OUTPUTS
from p2pfs.errors import PoolError
from p2pfs.runtime.mounts import MountRecord
from p2pfs_mount import life

pytestmark = pytest.mark.l0

SECOND = 1_000_000_000


class Mount:
    """Says each time what comes next."""

    def __init__(self, *looks: dict[str, Any]) -> None:
        self.record = MountRecord(1, "/home", "/socket", "/mnt", "photos")
        self.looks = iter(looks)

    def ask(self, op: str) -> Iterator[dict[str, Any]]:
        if op == "stats":
            yield next(self.looks)
            return
        yield from self.looks
        raise KeyboardInterrupt


def looks(*, count: int = 3) -> list[dict[str, Any]]:
    """In each second ten reads of 2 ms, 1 MiB, and as much of the cache's hits as misses."""
    return [
        {
            "monotonic_ns": number * SECOND,
            "cpu_ns": number * SECOND // 2,
            "resident_bytes": 100 << 20,
            "unsaved_bytes": 5000,
            "read_bytes": number << 20,
            "memory_cache_hits": number,
            "memory_cache_misses": number,
            "op_read_count": 10 * number,
            "op_read_ns": 20_000_000 * number,
            "op_read_errors": 0,
        }
        for number in range(count)
    ]


def run(monkeypatch: pytest.MonkeyPatch, mount: Mount, *words: str) -> int:
    monkeypatch.setattr(stats.time, "sleep", lambda _: None)
    monkeypatch.setattr(asking, "mounted", lambda _: mount)
    return main.run(words)


def test_totals_and_rates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, Mount(*looks()), "stats", "/mnt") == exitcodes.OK
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["read", "10", "10.0", "2.000", "0"] in shown
    assert ["read_bytes", "1", "MiB", "1", "MiB"] in shown
    assert ["unsaved_bytes", "4.9", "KiB"] in shown


def test_json_has_counters_and_rates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, Mount(*looks()), "stats", "/mnt", "--json") == exitcodes.OK
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"volume", "seconds", "counters", "rates"}
    assert (told["volume"], told["seconds"]) == ("photos", 1.0)
    assert told["counters"]["op_read_count"] == 10
    assert told["rates"]["read_bytes"] == 1 << 20
    assert "unsaved_bytes" not in told["rates"]  # rises and falls


def test_lines_go_on_until_there_are_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("stats", "/mnt", "--interval", "1s", "--count", "2")
    assert run(monkeypatch, Mount(*looks()), *words) == exitcodes.OK
    groups, heads, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert len({len(line) for line in (groups, heads, *lines)}) == 1
    assert lines[0].replace("|", " ").split() == [
        "50%", "100M", "4.9K", "10", "2.00", "1.0M", "0", "0", "50%", "0", "0", "0", "0",
    ]  # fmt: skip
    assert run(monkeypatch, Mount(*looks()), *words, "--json") == exitcodes.OK
    assert [json.loads(line)["seconds"] for line in capsys.readouterr().out.splitlines()] == [1.0, 1.0]


def test_a_mount_that_was_mounted_anew_has_no_negative_rates() -> None:
    before, now = {"monotonic_ns": 5 * SECOND, "read_bytes": 1000}, {"monotonic_ns": SECOND, "read_bytes": 10}
    assert stats.Span(before, now).more("read_bytes") == 0


@pytest.mark.parametrize("words", [["--interval", "1ms"], ["--count", "3"], ["--interval", "soon"]])
def test_what_cannot_be_meant_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(monkeypatch, Mount(*looks()), "stats", "/mnt", *words) != exitcodes.OK


def test_not_in_a_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("stats", "accesslog"):
        assert main.run([command, str(tmp_path)]) == exitcodes.NOT_MOUNTED


@pytest.mark.parametrize("value", [0, 999, 1000, 1023, 1536, 10 << 10, 5 << 40, 1 << 60])
def test_sizes_in_lines_are_short(value: int) -> None:
    assert len(stats._short(value)) <= 5 or value == 1 << 60


def test_the_access_log_is_shown_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [{"lines": [], "missed": 0}, {"lines": ["one", "two"], "missed": 3}]
    assert run(monkeypatch, Mount(*told), "accesslog", "/mnt") == exitcodes.OK
    shown = capsys.readouterr()
    assert shown.out.split() == ["one", "two"]
    assert "3 lines were missed" in shown.err
    assert run(monkeypatch, Mount(*told), "accesslog", "/mnt", "--json") == exitcodes.OK
    told_as_json = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line]
    assert told_as_json == [{"line": "one"}, {"line": "two"}]
    assert "accesslog" in LINES
    for value in told_as_json:
        assert msgspec.to_builtins(msgspec.convert(value, OUTPUTS["accesslog"])) == value


def test_an_older_mount_is_called_that(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Older(Mount):
        def ask(self, op: str) -> Iterator[dict[str, Any]]:
            yield from ()
            raise PoolError("this request is not known")

    assert "this request is not known" in inspect.getsource(life)
    assert run(monkeypatch, Older(), "accesslog", "/mnt") == exitcodes.FAILED
    assert "older version" in capsys.readouterr().err
