"""The processes of a demo pool: starting one and waiting until it is ready, seeing how it is, ending it for certain.

Knows nothing of pools: a part is a p2pfs command line with a home, a pid file and a log.
"""

import enum
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfs import exitcodes
from p2pfs.errors import UserError
from p2pfs.runtime.process import is_alive, read_pid

_POLL_S: Final = 0.05
_KILLED_WITHIN_S: Final = 5.0
_TAIL_BYTES: Final = 4096


class PartState(enum.StrEnum):
    """How a part's process is.

    STOPPED --start--> RUNNING --stop--> STOPPED
    RUNNING <--SIGCONT, SIGSTOP--> PAUSED
    RUNNING, PAUSED --killed, crashed--> DEAD --start--> RUNNING
    """

    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"  # there is a pid file, and its process is gone
    STOPPED = "stopped"  # never started, or ended on request


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the pool."""

    name: str
    home: Path
    arguments: tuple[str, ...]  # after `p2pfs`
    pid_path: Path
    log_path: Path

    def pid(self) -> int | None:
        """What the pid file says, whether or not that process is still there."""
        return read_pid(self.pid_path)

    def state(self) -> PartState:
        """How its process is now."""
        pid = self.pid()
        if pid is None:
            return PartState.STOPPED
        if not is_alive(pid) or not self._is_ours(pid):
            return PartState.DEAD
        return PartState.PAUSED if _is_paused(pid) else PartState.RUNNING

    def is_there(self) -> bool:
        """Whether there is a process, running or paused."""
        return self.state() in (PartState.RUNNING, PartState.PAUSED)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is there."""
        pid = self.pid()
        if pid is not None and self.is_there():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return

    def forget(self) -> None:
        """The part has ended on request."""
        self.pid_path.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        """Process ids are used again: the command line must be that of this part."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(self.home) in words and b"p2pfs.cli.main" in words


class Launched:
    """A part's process that was started and may not be ready yet."""

    def __init__(self, part: Part) -> None:
        self.part = part
        part.log_path.parent.mkdir(parents=True, exist_ok=True)
        part.pid_path.parent.mkdir(parents=True, exist_ok=True)
        # The part says READY=1 as it would to systemd. An abstract name: no file to clean up, no limit of length.
        name = f"p2pfs-demo-{os.getpid()}-{secrets.token_hex(8)}"
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notices.bind("\0" + name)
        with part.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "p2pfs.cli.main", *part.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"NOTIFY_SOCKET": f"@{name}"},
            )
        part.pid_path.write_text(f"{self._process.pid}\n", encoding="ascii")

    def await_ready(self, within_s: float) -> None:
        """Return when the part is ready.

        Raises:
            UserError: It ended (with its own sentence and exit status) or did not get ready in time.
        """
        deadline = time.monotonic() + within_s
        with self._notices:
            self._notices.settimeout(_POLL_S)
            while time.monotonic() < deadline:
                if self._has_said_ready():
                    return
                if self._process.poll() is not None:
                    raise UserError(
                        f"{self.part.name} did not start: {self._last_words()}",
                        self._process.returncode if self._process.returncode > 0 else exitcodes.FAILED,
                    )
        raise UserError(
            f"{self.part.name} was not ready after {within_s:.0f} s; see {self.part.log_path}", exitcodes.FAILED
        )

    def _has_said_ready(self) -> bool:
        try:
            return b"READY=1" in self._notices.recv(4096).splitlines()
        except TimeoutError:
            return False

    def _last_words(self) -> str:
        """The part's own sentence, and where there is more."""
        with self.part.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            begun = self._log_start if self._log_start <= end else 0  # a full log was set aside meanwhile
            log.seek(max(begun, end - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
        spoken = [line.removeprefix("p2pfs: ") for line in lines if line.startswith("p2pfs: ")]
        return f"{spoken[-1]} ({self.part.log_path})" if spoken else f"see {self.part.log_path}"


def end(parts: Sequence[Part], within_s: float) -> list[Part]:
    """End all of them, paused ones too; those that had to be killed. Their pid files are gone then."""
    for part in parts:
        part.signal(signal.SIGTERM)
        part.signal(signal.SIGCONT)
    stubborn = await_end(parts, within_s)
    for part in stubborn:
        part.signal(signal.SIGKILL)
    await_end(stubborn, _KILLED_WITHIN_S)
    for part in parts:
        part.forget()
    return stubborn


def await_end(parts: Sequence[Part], within_s: float) -> list[Part]:
    """Wait for processes to end; those that did not."""
    deadline = time.monotonic() + within_s
    left = list(parts)
    while left := [part for part in left if part.is_there()]:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    return left


def _is_paused(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in ("T", "t")
