"""Processes: hardening, pid files, the background, the last resort, sd_notify, log lines."""

import gc
import logging
import os
import re
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pfs import exitcodes
from p2pfs.errors import Invalid, Unavailable
from p2pfs.meta.memory_state import Name
from p2pfs.runtime import log, process
from p2pfs.runtime.notify import notify
from p2pfs.runtime.process import is_alive, pid_file, read_pid
from p2pfs.runtime.watchdog import watchdog_s, watched
from p2pfs.types import Kind
from p2pfs.wire.namespace import Attributes, Entry

pytestmark = pytest.mark.l0

ROOT = Path(__file__).parents[2]


def _python(program: str, *arguments: str | Path, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        check=False,
    )


def test_a_hardened_process_dumps_no_core() -> None:
    done = _python(
        """
        import ctypes, resource
        from p2pfs.runtime.process import harden
        harden()
        print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
        """
    )
    assert (done.stdout, done.stderr) == ("0 0\n", "")


def test_a_pid_file_names_the_process_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "peer.pid"
    with pid_file(path):
        assert read_pid(path) == os.getpid()
    assert not path.exists()
    with pid_file(path):
        path.write_text("1\n")  # a successor took over
    assert read_pid(path) == 1


@pytest.mark.parametrize("text", ["", "x", "-3", "0"])
def test_a_broken_pid_file_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "pid").write_text(text)
    assert read_pid(tmp_path / "pid") is None
    assert read_pid(tmp_path / "none") is None


def test_the_living_and_the_dead_are_told_apart() -> None:
    assert is_alive(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child.pid)  # a zombie
    child.wait()
    assert not is_alive(child.pid)


DAEMON = """
    import contextlib, os, sys
    from pathlib import Path
    from p2pfs.runtime.process import daemonise
    log, mode = Path(sys.argv[1]), sys.argv[2]
    @contextlib.contextmanager
    def shown():
        print("waiting", file=sys.stderr, flush=True)
        yield
        print("over", file=sys.stderr, flush=True)

    readiness = daemonise(log, timeout_s=20 if mode != "slow" else 0.3, meanwhile=shown())
    print("in the log", os.getsid(0) == os.getpid(), flush=True)
    if mode == "ready":
        readiness.ready()
    elif mode == "fail":
        readiness.failed("no such pool", 13)
        sys.exit(13)
    elif mode == "die":
        os._exit(9)
    else:
        import signal
        signal.alarm(5)
        signal.pause()
"""


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("ready", exitcodes.OK, ""),
        ("fail", exitcodes.NOT_FOUND, "p2pfs: no such pool"),
        ("die", exitcodes.FAILED, "ended before it was ready; see"),
        ("slow", exitcodes.FAILED, "not ready after"),
    ],
)
def test_the_parent_of_a_daemon_tells_how_it_started(tmp_path: Path, mode: str, code: int, words: str) -> None:
    done = _python(DAEMON, tmp_path / "log", mode)
    assert done.returncode == code
    first, second, *rest = done.stderr.splitlines()
    assert (first, second) == ("waiting", "over")  # of the parent alone, and over before it says how it went
    assert words in "\n".join(rest)
    assert bool(rest) is bool(words)
    assert done.stdout == ""
    assert (tmp_path / "log").read_text() == "in the log True\n"


def test_the_last_resort_ends_a_process_that_does_not_stop() -> None:
    done = _python(
        """
        import threading
        from p2pfs.runtime.process import end_within
        end_within(0.2, 7)
        threading.Event().wait(20)
        """
    )
    assert done.returncode == 7
    assert "did not stop within" in done.stderr
    assert "most recent call first" in done.stderr


def test_the_last_resort_can_be_called_off() -> None:
    done = _python("from p2pfs.runtime.process import end_within; end_within(20, 7).cancel()")
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    assert not notify("STOPPING=1")  # nobody listens any more: no error


async def test_a_watchdog_hears_from_the_loop_three_times_in_its_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        async with watched():
            for _ in range(3):
                await trio.sleep(9)
                assert listener.recv(100) == b"WATCHDOG=1"
                with pytest.raises(BlockingIOError):
                    listener.recv(100)
                await trio.sleep(1)


@pytest.mark.parametrize(
    ("period", "pid", "seconds"),
    [("", "", None), ("no", "", None), ("0", "", None), ("2500000", "", 2.5), ("2500000", "1", None)],
)
def test_only_the_process_that_is_watched_reports(
    period: str, pid: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", period)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_s() == seconds


def test_the_journal_gets_priorities_and_no_times() -> None:
    done = _python(
        """
        import logging, os
        from p2pfs.runtime import log
        found = os.fstat(2)
        os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
        log.setup("debug")
        logger = logging.getLogger("p2pfs.x")
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            logger.log(level, "hello")
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("failed")
        """
    )
    lines = done.stderr.splitlines()
    assert lines[:5] == [f"<{priority}>p2pfs.x: hello" for priority in (7, 6, 4, 3, 3)]
    assert lines[5:7] == ["<3>p2pfs.x: failed", "<3>  Traceback (most recent call last):"]
    assert all(line.startswith("<3>") for line in lines[5:])


def test_log_lines_are_for_people(tmp_path: Path) -> None:
    done = _python(
        """
        import logging, sys
        from pathlib import Path
        from p2pfs.runtime import log
        log.setup("info", Path(sys.argv[1]))
        log.setup("info", Path(sys.argv[1]))
        logging.getLogger("p2pfs.x").info("hello %s", "there")
        logging.getLogger("p2pfs.x").debug("not this")
        """,
        tmp_path / "log",
    )
    assert done.stderr == ""
    line = (tmp_path / "log").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO p2pfs\.x: hello there\n", line)


def test_nothing_that_others_said_passes_for_a_log_line_or_an_order_to_the_terminal(tmp_path: Path) -> None:
    done = _python(
        r"""
        import logging, sys
        from pathlib import Path
        from p2pfs.runtime import log
        log.setup("info", Path(sys.argv[1]))
        evil = "no\n2026-11-22T02:00:00.000Z INFO p2pfs.x: all is well \x1b[2J\u202e “grün”"
        logging.getLogger("p2pfs.x").warning("it says: %s", evil)
        try:
            raise ValueError(evil)
        except ValueError:
            logging.getLogger("p2pfs.x").exception("failed")
        """,
        tmp_path / "log",
    )
    assert done.stderr == ""
    lines = (tmp_path / "log").read_text(encoding="utf-8").split("\n")
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith(r"it says: no\n2026-11-22T02:00:00.000Z INFO p2pfs.x: all is well \x1b[2J\u202e “grün”")
    assert [line.split()[1] for line in lines if line and not line.startswith("  ")] == ["WARNING", "ERROR"]
    assert "  Traceback (most recent call last):" in lines


_MUCH = """
    import logging, os, sys
    from pathlib import Path
    from p2pfs.runtime import log
    log.FILE_BYTES = 1000
    os.umask(0o022)
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 2)  # as process.daemonise does
    log.setup("info", Path(sys.argv[1]))
    for number in range(200):
        logging.getLogger("p2pfs.x").info("record %d", number)
    os.write(2, b"the last words\\n")
"""


def test_a_log_file_is_bounded_and_has_the_last_words_of_its_daemon(tmp_path: Path) -> None:
    assert _python(_MUCH, tmp_path / "log").returncode == 0
    files = [tmp_path / name for name in ("log.3", "log.2", "log.1", "log")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size < 1100 for file in files)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    *records, last = "".join(file.read_text() for file in files).splitlines()
    assert last == "the last words"
    numbers = [int(record.split()[-1]) for record in records]
    assert numbers == list(range(numbers[0], 200))


def test_a_log_that_cannot_be_set_aside_goes_on(tmp_path: Path) -> None:
    (tmp_path / "log.2").touch()
    (tmp_path / "log.3" / "in the way").mkdir(parents=True)
    assert _python(_MUCH, tmp_path / "log").returncode == 0
    *records, last = (tmp_path / "log").read_text().splitlines()
    assert ([int(record.split()[-1]) for record in records], last) == (list(range(200)), "the last words")


def test_an_impossible_log_is_refused_before_anything_changes(tmp_path: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(Invalid, match="no log level"):
        log.setup("loud")
    with pytest.raises(Unavailable, match="cannot write the log"):
        log.setup("info", tmp_path)
    assert logging.getLogger().handlers == handlers


def test_the_garbage_collector_looks_rarely_and_not_at_what_was_there_before() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        process.collect_rarely()
        assert gc.get_threshold()[0] > 7000
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_the_garbage_collector_does_not_look_at_rows_of_the_tree() -> None:
    row = Attributes(1, Kind.FILE, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, b"head")
    assert [gc.is_tracked(kept) for kept in (row, Entry(1, b"name", b"tag", row), Name(1, b"tag", 1))] == [False] * 3
