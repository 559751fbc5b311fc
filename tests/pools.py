"""A whole pool of real processes for tests: what `p2pfs demo` runs, with handles on its parts.

Everything lives below one directory and on loopback; `stop` ends it and fails if a mount is left behind.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from p2pfs.runtime import mounts

COMMAND = [sys.executable, "-m", "p2pfs.cli.main"]
START_S = 90
STOP_S = 60


def mount_stats(mount: Path) -> dict[str, int]:
    """The counters of whatever mount is there."""
    record = mounts.find(mount)
    assert record is not None
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(START_S)
        asking.connect(record.socket)
        asking.sendall(b'{"op": "stats"}\n')
        with asking.makefile("rb") as answer:
            numbers: dict[str, int] = json.loads(answer.readline())
    return numbers


class DemoPool:
    """One `p2pfs demo` below `root`, mounted at `mount`."""

    def __init__(
        self,
        root: Path,
        *,
        peers: int = 3,
        replicas: int = 2,
        settings: dict[str, str] | None = None,
        options: str = "",
    ) -> None:
        self.root = root / "pool"
        self.mount = root / "mnt"
        self._replicas = replicas
        self._peers, self._settings, self._options = peers, settings or {}, options
        self._children: list[subprocess.Popen[bytes]] = []

    def p2pfs(
        self, *arguments: str, home: Path | None = None, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run one command as a person would, with nobody to answer it; `expect` is its exit status, None for any."""
        environment = dict(os.environ, P2PFS_HOME=str(home or self.root / "mount"))
        result = subprocess.run(
            [*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_S,
            env=environment, check=False,
        )  # fmt: skip
        assert expect is None or result.returncode == expect, (
            f"p2pfs {' '.join(arguments)} gave {result.returncode}: {result.stderr or result.stdout}"
        )
        return result

    def start(self) -> None:
        """Start it, or bring back what died; its data is as it was."""
        if (self.root / "demo.json").exists():  # it knows what it is to be, and its mount need not answer now
            self.p2pfs("demo", "start", "--root", str(self.root))
            return
        settings = [word for key, value in self._settings.items() for word in ("--set", f"{key}={value}")]
        options = ["-o", self._options] if self._options else []
        self.p2pfs(
            "demo", "start", "--root", str(self.root), "--mount", str(self.mount),
            "--peers", str(self._peers), "--replicas", str(self._replicas), *options, *settings,
        )  # fmt: skip

    def stop(self) -> None:
        self.p2pfs("demo", "stop", "--root", str(self.root))
        for child in self._children:
            child.wait(10)
        assert mounts.mounted_type(self.mount) is None, "the mount was left behind"

    def pid(self, part: str) -> int:
        """Of "coordinator", "peer-1"…, "mount"."""
        return int((self.root / "run" / f"{part}.pid").read_text())

    def signal(self, part: str, number: signal.Signals) -> None:
        os.kill(self.pid(part), number)

    def kill(self, part: str) -> None:
        """SIGKILL, and wait until the process is gone."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                import select

                assert select.select([descriptor], [], [], STOP_S)[0], f"{part} outlives SIGKILL"
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """Within the block it does nothing, and its files are as a crash would have left them."""
        threads = Path(f"/proc/{self.pid(part)}/task")
        self.signal(part, signal.SIGSTOP)
        try:
            while not all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads.glob("*/stat")):
                os.sched_yield()
            yield
        finally:
            self.signal(part, signal.SIGCONT)

    def status(self) -> dict[str, Any]:
        """`p2pfs status --json`, whatever it thinks of the pool's health."""
        answer: dict[str, Any] = json.loads(self.p2pfs("status", "--json", expect=None).stdout)
        return answer

    def stats(self) -> dict[str, int]:
        """The mount's own counters."""
        return mount_stats(self.mount)

    def unmount(self) -> None:
        self.p2pfs("umount", str(self.mount))

    def empty_caches(self) -> None:
        """The mount's disk cache and the kernel's; only while it is not mounted."""
        shutil.rmtree(self.root / "mount" / "cache", ignore_errors=True)
        drop_kernel_caches()

    def remount_empty(self) -> None:
        """Mount anew with every cache empty."""
        if mounts.mounted_type(self.mount) is not None:
            self.unmount()
        self.empty_caches()
        self.start()

    def mount_alone(self) -> None:
        """Mount, and start nothing else: what is dead stays dead."""
        plan = json.loads((self.root / "demo.json").read_text())
        settings = [f"--set={key}={value}" for key, value in plan["settings"].items()]
        self.p2pfs(
            "mount", "-d", "--passphrase-file", str(self.root / "passphrase"), "demo", str(self.mount),
            "--home", str(self.root / "mount"), "--pid-file", str(self.root / "run" / "mount.pid"),
            "--log-file", str(self.root / "log" / "mount.log"), *settings,
        )  # fmt: skip

    def remount_alone(self) -> None:
        """Mount anew with every cache empty; what is dead or stopped stays so."""
        self.unmount()
        self.empty_caches()
        self.mount_alone()

    def clear_dead_mount(self) -> None:
        """After the mount's process was killed."""
        self.p2pfs("umount", "--if-dead", str(self.mount))

    def words(self, part: str) -> list[str]:
        """The running part's command line, from the first p2pfs word on."""
        words = Path(f"/proc/{self.pid(part)}/cmdline").read_bytes().decode().split("\0")[:-1]
        return words[words.index("p2pfs.cli.main") + 1 :]

    def make_hostile(self, part: str) -> "Hostile":
        """Put a daemon that misbehaves on command in a peer's place; well-behaved until told."""
        words, pid_path = self.words(part), self.root / "run" / f"{part}.pid"
        self.kill(part)
        mode = self.root / f"{part}.mode"
        mode.write_text("")
        program = [sys.executable, str(Path(__file__).parent / "hostile_peer.py"), str(mode), "p2pfs.cli.main", *words]
        with (self.root / "log" / f"{part}.log").open("ab") as log:
            process = subprocess.Popen(program, stdout=log, stderr=log, start_new_session=True)
        self._children.append(process)
        pid_path.write_text(f"{process.pid}\n")
        return Hostile(mode)

    def log(self, part: str) -> str:
        return (self.root / "log" / f"{part}.log").read_text(encoding="utf-8")


class Hostile:
    """A peer that does as `be` says; see hostile_peer.py for the words."""

    def __init__(self, mode: Path) -> None:
        self._mode = mode

    def be(self, mode: str) -> None:
        new = self._mode.with_suffix(".new")
        new.write_text(mode)
        new.rename(self._mode)

    @property
    def served(self) -> int:
        """How many reads it answered, rightly or wrongly."""
        return self._counted(".served")

    @property
    def count(self) -> int:
        """How many of its answers were wrong so far."""
        return self._counted(".count")

    def _counted(self, suffix: str) -> int:
        counted = self._mode.with_suffix(suffix)
        return counted.stat().st_size if counted.exists() else 0


def drop_kernel_caches() -> None:
    """As root; elsewhere the caches stay and the test is only weaker."""
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


@contextlib.contextmanager
def demo_pool(
    root: Path, *, peers: int = 3, replicas: int = 2, settings: dict[str, str] | None = None, options: str = ""
) -> Iterator[DemoPool]:
    """A started pool that is stopped at the end, also when parts of it were killed or stopped by signals."""
    pool = DemoPool(root, peers=peers, replicas=replicas, settings=settings, options=options)
    try:
        pool.start()
        yield pool
    finally:
        pool.stop()


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
