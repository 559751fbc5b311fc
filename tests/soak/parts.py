"""The processes of the pool that is soaked: each with the tree of sources it runs from, started and ended one by one.

`p2pfs demo` makes the pool; from then on the soak starts the parts itself, with the words the demo started them with,
because a part may run from another version and there are parts that a demo has not got.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from soak.launcher import Launcher

from p2pfs.runtime import mounts

READY_S: Final = 90.0
SLOW_S: Final = 15.0
"""Longer than a server lets requests finish: what ends later hangs somewhere."""
COMMAND_S: Final = 180.0
MAIN: Final = "p2pfs.cli.main"


class Failed(Exception):
    """Something did not do as it was told: which, and what it said."""


@dataclass(frozen=True, slots=True)
class Version:
    """A tree of sources."""

    name: str
    root: Path

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(str(self.root / part) for part in ("", "mount", "peerd"))
        return os.environ | {"PYTHONPATH": path}


@dataclass
class Part:
    """One process. `mount` is where, if it is one."""

    name: str
    home: Path
    words: list[str]
    log: Path
    version: Version
    launcher: Launcher
    pid: int = 0
    mount: Path | None = None
    is_ours: bool = False
    """Started by the launcher, not by `p2pfs demo`."""

    def start(self) -> None:
        """Return when it says that it is ready.

        Raises:
            Failed: It ended, or was not ready in time.
        """
        name = f"p2pfs-soak-{os.getpid()}-{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind("\0" + name)
            notices.settimeout(0.2)
            environment = self.version.environment() | {"NOTIFY_SOCKET": f"@{name}"}
            words = [sys.executable, "-P", "-m", MAIN, *self.words]
            self.pid, self.is_ours = self.launcher.start(words, environment, self.log), True
            limit = time.monotonic() + READY_S
            while time.monotonic() < limit:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in notices.recv(4096).splitlines():
                        return
                if not self.is_there():
                    raise Failed(f"{self.name} ended with {self.launcher.poll(self.pid)}; see {self.log}")
        raise Failed(f"{self.name} was not ready after {READY_S} s; see {self.log}")

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, number: signal.Signals) -> None:
        """Send it, and wait until the process is gone.

        Raises:
            Failed: It is still there when it should be gone; its log says where its tasks are.
        """
        self.send(number)
        if not self.await_end(SLOW_S):
            self.send(signal.SIGUSR1)
            self.await_end(SLOW_S)
            raise Failed(f"{self.name} did not end within {SLOW_S} s of {number.name}; its log says where it was")

    def await_end(self, within_s: float) -> bool:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([descriptor], [], [], within_s)[0])
        finally:
            os.close(descriptor)

    def is_there(self) -> bool:
        return self.launcher.poll(self.pid) is None if self.is_ours else Path(f"/proc/{self.pid}").exists()

    def mount_is_there(self) -> bool:
        return self.mount is not None and mounts.mounted_type(self.mount) is not None


class Commands:
    """`p2pfs` as a person would run it, always of the newest version."""

    def __init__(self, version: Version) -> None:
        self.version = version

    def run(self, *words: str, home: Path, expect: int | None = 0) -> str:
        """Its standard output.

        Raises:
            Failed: Another exit status than expected.
        """
        return self._run(words, home, () if expect is None else (expect,)).stdout

    def exit_code(self, *words: str, home: Path, expect: Sequence[int]) -> int:
        """Raises Failed: it is none of those expected."""
        return self._run(words, home, expect).returncode

    def _run(self, words: Sequence[str], home: Path, expect: Sequence[int]) -> subprocess.CompletedProcess[str]:
        environment = self.version.environment() | {"P2PFS_HOME": str(home)}
        result = subprocess.run(
            [sys.executable, "-P", "-m", MAIN, *words],
            capture_output=True, text=True, timeout=COMMAND_S, env=environment, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if expect and result.returncode not in expect:
            raise Failed(f"p2pfs {' '.join(words)} gave {result.returncode}: {result.stderr or result.stdout}")
        return result

    def json(self, *words: str, home: Path, expect: int | None = 0) -> Any:  # noqa: ANN401 - what JSON holds
        answer = self.run(*words, "--json", home=home, expect=expect)
        try:
            return json.loads(answer)
        except ValueError:
            raise Failed(f"p2pfs {' '.join(words)} said no JSON: {answer[:200]!r}") from None


def running(root: Path, name: str, version: Version, launcher: Launcher, mount: Path | None) -> Part:
    """A part that `p2pfs demo` has started."""
    pid = int((root / "run" / f"{name}.pid").read_text())
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    words = words[words.index(MAIN) + 1 :]
    return Part(name, root / name, words, root / "log" / f"{name}.log", version, launcher, pid, mount)


def users_of(mount: Path) -> list[str]:
    """Processes that have a file or a directory in it open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(link)).is_relative_to(mount):
                found.add(f"{(link.parents[1] / 'comm').read_text().strip()} ({link.parents[1].name})")
    return sorted(found)


def copied(sources: Path, to: Path, version: str) -> Version:
    """A copy of the sources that says it is another version."""
    for package in ("p2pfs", "mount", "peerd"):
        shutil.copytree(sources / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    return _named(to, version)


def of_commit(repository: Path, commit: str, to: Path) -> Version:
    """The sources of a commit.

    Raises:
        Failed: There is no such commit.
    """
    to.mkdir(parents=True)
    words = ["git", "-C", str(repository), "archive", commit, "p2pfs", "mount", "peerd"]
    archive = subprocess.run(words, capture_output=True, check=False)
    if archive.returncode:
        raise Failed(f"git has no sources of {commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(to)], input=archive.stdout, check=True)
    return _named(to, f"0+{commit[:12].replace('/', '.').replace('~', '.')}")


def _named(to: Path, version: str) -> Version:
    """Metadata beside the packages come before those that are installed: `p2pfs version` says this."""
    metadata = to / "p2pfs-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: p2pfs\nVersion: {version}\n")
    return Version(version, to)
