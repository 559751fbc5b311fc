"""A demo pool of its own for the time of a benchmark, and what its processes and its mount say of themselves.

Shared by the benchmarks; not for tests, which have `tests/pools.py`.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from p2pfs.runtime import mounts

COMMAND = [sys.executable, "-m", "p2pfs.cli.main"]
MIB = 1 << 20
ANSWER_S = 2.0


class Pool:
    """Three peers, two copies, encryption and TLS, below one directory. `options` are those of the mount."""

    def __init__(self, root: Path, options: str = "") -> None:
        self.root, self.mount = root.resolve() / "pool", root.resolve() / "mnt"
        self._options = options

    def p2pfs(self, *arguments: str) -> str:
        return said(*COMMAND, *arguments)

    def start(self) -> None:
        options = ["-o", self._options] if self._options else []
        words = ["--root", str(self.root), "--mount", str(self.mount), "--replicas", "2"]
        self.p2pfs("demo", "start", "-q", *words, *options)

    def stop(self) -> None:
        self.p2pfs("demo", "stop", "--root", str(self.root))

    def remount_command(self) -> str:
        """Unmount, delete the mount's cache, mount again."""
        p2pfs, root, mount = shlex.join(COMMAND), shlex.quote(str(self.root)), shlex.quote(str(self.mount))
        empty = f"rm -rf {root}/mount/cache"
        return f"{p2pfs} umount -q {mount} && {empty} && {p2pfs} demo start -q --root {root} --mount {mount}"

    def stats(self) -> dict[str, int]:
        """The counters of the mount that runs now; empty where it does not answer."""
        path = mounts.socket_path(self.root / "mount", self.mount)
        try:
            with mounts.dial(path, ANSWER_S) as connection:
                connection.sendall(b'{"op": "stats"}\n')
                counters: dict[str, int] = json.loads(connection.makefile("rb").readline())
                return counters
        except (OSError, ValueError):
            return {}

    def fetched_bytes(self) -> int:
        """What the mount that runs now has fetched from peers, by its own count."""
        return self.stats().get("fetched_bytes", 0)

    def unsaved_bytes(self) -> int:
        """What was written to the mount and waits to be stored."""
        return sum(count for name, count in self.stats().items() if name.startswith("unsaved"))

    def pids(self) -> dict[str, int]:
        return {path.stem: int(path.read_text()) for path in (self.root / "run").glob("*.pid")}


def said(*command: str) -> str:
    """Run a command; what it printed. Ctrl-C does not reach it: whoever cleans up can do so in peace.

    Raises:
        CalledProcessError: It failed; why has been shown, and is in the error's `stderr`.
    """
    result = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    if result.returncode:
        sys.stderr.write(result.stderr)
        result.check_returncode()
    return result.stdout


def processor_s(pid: int) -> float:
    """Processor time a process has used, threads that ended included. Raises OSError when it is gone."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Raises OSError when the process is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def forget_peak(pid: int) -> None:
    """Let the peak of a process's resident memory begin anew. As root; raises OSError."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """The most memory a process had resident since `forget_peak`. Raises OSError when it is gone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)
