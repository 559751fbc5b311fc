"""`p2pfs bench`: its figures, what it refuses, and that nothing is left behind."""

import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.trying import bench, bench_phases
from p2pfs.cli.trying.bench_figures import MEANINGS, fetched_sentence, percentile, phase, row
from p2pfs.runtime import mounts
from p2pfs.types import MIB

pytestmark = pytest.mark.l0


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(0, 0.5, 0), (1, 0.5, 1), (1, 0.99, 1), (2, 0.5, 1), (100, 0.5, 50), (100, 0.99, 99), (101, 0.99, 100)],
)
def test_a_percentile_is_the_nearest_rank(count: int, share: float, expected: float) -> None:
    assert percentile(list(range(1, count + 1)), share) == expected


def test_a_phase_sums_up_steps_in_any_order() -> None:
    found = phase("create", "files/s", [0.003, 0.001, 0.002], 0.5)
    assert (found.rate, found.count, found.seconds) == (6.0, 3, 0.5)
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == (2.0, 3.0, 3.0)
    assert row(found) == ("create", "6.0 files/s", "2.00", "3.00", "3.00")
    assert phase("stat", "files/s", [], 0.0).rate == 0.0


def test_how_cold_it_was_is_said() -> None:
    assert "50 %" in fetched_sentence(2 * MIB, 4)
    assert "100 %" in fetched_sentence(5 * MIB, 4)  # sealed bytes are a few more
    assert "not known" in fetched_sentence(None, 4)


def ran(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = main.run(["bench", *map(str, words)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_every_phase_is_measured_and_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "--any", "--size", "2M", "--files", "3", "--json", tmp_path)
    told = json.loads(out)
    assert code == exitcodes.OK
    assert [found["name"] for found in told["phases"]] == list(MEANINGS)
    assert [found["count"] for found in told["phases"]] == [2, 2, 2, 500, 3, 3, 3, 3]
    assert (told["path"], told["size_mib"], told["files"], told["fetched_bytes"]) == (str(tmp_path), 2, 3, None)
    assert list(tmp_path.iterdir()) == []


def test_each_number_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "--any", "--size", "1M", "--files", "1", tmp_path)
    assert code == exitcodes.OK
    assert all(f"{name}: {meaning}" in out for name, meaning in MEANINGS.items())
    assert "p50, p95 and p99" in out


def test_only_a_mounted_volume_is_measured_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = ran(capsys, tmp_path)
    assert code == exitcodes.NOT_MOUNTED
    assert "--any" in err
    assert ran(capsys, "--any", tmp_path / "absent")[0] == exitcodes.NOT_FOUND
    assert ran(capsys, "--any", "--size", "1000", tmp_path)[0] == exitcodes.USAGE
    assert ran(capsys, "--any", "--files", "0", tmp_path)[0] == exitcodes.USAGE


@pytest.mark.parametrize(
    ("kinds", "is_ours"),
    [
        ({"/mnt": "fuse.p2pfs", "/": "ext4"}, True),
        ({"/mnt": "fuse.p2pfs", "/mnt/a": "tmpfs"}, False),  # something else lies over it
        ({"/": "ext4"}, False),
    ],
)
def test_the_nearest_mount_decides(
    monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str], is_ours: bool, tmp_path: Path
) -> None:
    monkeypatch.setattr(mounts, "mounted_type", lambda path: kinds.get(str(path)))
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    if is_ours:
        assert bench._require(Path("/mnt/a/b"), anywhere=False) is None
    else:
        with pytest.raises(bench.UserError, match="not in a mounted"):
            bench._require(Path("/mnt/a/b"), anywhere=False)


def fails(number: int) -> Callable[..., int]:
    def write(*_: Any) -> int:  # noqa: ANN401 - as os.write
        raise OSError(number, os.strerror(number))

    return write


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.ENOSPC, exitcodes.POOL_FULL, "choose a smaller --size"),
        (errno.EDQUOT, exitcodes.POOL_FULL, "add a peer"),
        (errno.EIO, exitcodes.UNREACHABLE, "ended early"),
        (errno.EROFS, exitcodes.DENIED, "Read-only"),
        (errno.ENOTCONN, exitcodes.NOT_MOUNTED, "not connected"),
        (errno.EMFILE, exitcodes.FAILED, "Too many open files"),
    ],
)
def test_what_the_file_system_refuses_is_explained(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    said: str,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(bench_phases, "_write_all", fails(number))
        found, _, err = ran(capsys, "--any", "--size", "1M", tmp_path)
    assert (found, said in err) == (code, True)
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_phases, "run", lambda *_, **__: pytest.fail("it began"))
    code, _, err = ran(capsys, "--any", "--size", "1E", tmp_path)
    assert code == exitcodes.POOL_FULL
    assert "choose a smaller --size" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_it_is_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    write, before = bench_phases._write_all, signal.getsignal(signal.SIGTERM)

    def interrupted(file: int, data: bytes) -> None:
        write(file, data)
        signal.pthread_kill(threading.get_ident(), number)

    monkeypatch.setattr(bench_phases, "_write_all", interrupted)
    code, _, err = ran(capsys, "--any", "--size", "4M", tmp_path)
    assert code == 130
    assert "interrupted" in err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_content_than_was_written_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda *words: read(*words)[1:] + b"?")
    code, _, err = ran(capsys, "--any", "--size", "1M", "--files", "1", tmp_path)
    assert code == exitcodes.FAILED
    assert "another content" in err
