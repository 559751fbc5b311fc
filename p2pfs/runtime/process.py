"""What a daemon does to its own process: no core dumps, pid files, going to the background, and ending for certain.

Not service logic. Called by the command line around `trio.run`.
"""

import contextlib
import ctypes
import faulthandler
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from p2pfs import exitcodes
from p2pfs.errors import UserError
from p2pfs.runtime.files import write_durably

_PR_SET_DUMPABLE: Final = 4
_YOUNG_OBJECTS: Final = 20_000
"""So many more objects before the garbage collector looks for cycles: with Python's 700 it looked for nearly
half the time while a large directory was listed. One look takes about a millisecond."""


def harden() -> None:
    """Keep keys out of core dumps and from other processes of the same user (ptrace, /proc/PID/mem)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    with contextlib.suppress(OSError, AttributeError):  # a libc without prctl: the limit above remains
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def raise_file_limit() -> None:
    """As many open files as the system lets us have: servers hold a connection per node."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def collect_rarely() -> None:
    """For a process that keeps very much that has no cycles, and makes few. What there is already is not looked through
    again. Called once, when the program is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)


@contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """`path` names this process while the block runs."""
    write_durably(path, f"{os.getpid()}\n".encode())
    try:
        yield
    finally:
        if read_pid(path) == os.getpid():  # a successor may have replaced it
            path.unlink(missing_ok=True)


def read_pid(path: Path) -> int | None:
    """The pid in a pid file, or None when there is none or it is no number."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def end_within(seconds: float, exit_code: int = exitcodes.FAILED) -> threading.Timer:
    """The last resort of a graceful stop: if this process still lives after `seconds`, say where every thread is and
    end it. A thread stuck in the kernel (dead disk, dead mount) cannot be cancelled otherwise.

    Cancel the returned timer when everything ended by itself.
    """

    def end() -> None:
        sys.stderr.write(f"p2pfs: did not stop within {seconds:.0f} s, ending now\n")
        faulthandler.dump_traceback(all_threads=True)
        os._exit(exit_code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


class Readiness:
    """The child's end of the pipe its parent waits on. Does nothing in the foreground."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd

    def ready(self) -> None:
        """The service works: the parent exits with OK."""
        self._send(f"{exitcodes.OK}\n")

    def failed(self, message: str, exit_code: int) -> None:
        """The service cannot start: the parent prints `message` and exits with `exit_code`."""
        self._send(f"{exit_code}\n{message}")

    def _send(self, text: str) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        with contextlib.suppress(OSError):  # the parent gave up waiting
            os.write(fd, text.encode())
        os.close(fd)


def daemonise(
    log: Path,
    *,
    timeout_s: float = 120.0,
    leaves_group: bool = True,
    meanwhile: contextlib.AbstractContextManager[object] | None = None,
) -> Readiness:
    """Go on in a background process whose output goes to `log`; only the child returns.

    The parent stays until the child is ready, has failed, has died or `timeout_s` is over, and exits accordingly. Call
    it before trio runs and before any thread starts. `leaves_group`: the child gets a session of its own, away from the
    terminal; otherwise it stays with whoever started it. `meanwhile` is entered by the parent alone while it waits.

    Raises:
        UserError: The log cannot be written.
    """
    try:
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"cannot write the log {log}: {error.strerror}", exitcodes.FAILED) from error
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writer)
        _await_child(child, reader, log, timeout_s, meanwhile or contextlib.nullcontext())
    os.close(reader)
    if leaves_group:
        os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log_fd)
    return Readiness(writer)


def _await_child(
    child: int, reader: int, log: Path, timeout_s: float, meanwhile: contextlib.AbstractContextManager[object]
) -> NoReturn:
    """The parent's end: read until the child closes the pipe, then exit without running anybody's clean-up twice."""

    def give_up(_signal: int, _frame: object) -> NoReturn:
        shown.close()
        os.write(2, f"p2pfs: not ready after {timeout_s:.0f} s; see {log}\n".encode())
        os._exit(exitcodes.FAILED)

    answer = b""
    with contextlib.ExitStack() as shown:
        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        shown.enter_context(meanwhile)
        while piece := os.read(reader, 4096):
            answer += piece
    first, _, message = answer.partition(b"\n")
    if not first.isdigit():
        message = f"the background process ({child}) ended before it was ready; see {log}".encode()
        first = str(exitcodes.FAILED).encode()
    if message:
        os.write(2, b"p2pfs: " + message + b"\n")
    os._exit(int(first))
