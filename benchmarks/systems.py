"""The file systems that `peers.py` compares: how each is brought up, emptied of caches, looked into and ended.

Each lives below one directory, in processes of its own, and is alone: it is started for one run of the workload and
ended after it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

from pool import Pool

HERE = Path(__file__).resolve().parent
READY_S = 20.0
END_S = 30.0
VOLUME = "demo"


class Refused(Exception):
    """A system did not start as it was asked to; the sentence says why."""


class System(Protocol):
    """One file system under test."""

    directory: Path
    """Where the workload works."""
    remount: str
    """The shell command that empties the system's own caches; empty where it has none."""

    def start(self) -> None:
        """Raises Refused."""

    def stop(self) -> None:
        """End everything that runs and unmount; may be called at any time, and twice."""

    def processes(self) -> dict[int, str]:
        """The part each process id belongs to, now."""

    def fetched_bytes(self) -> int | None:
        """What its mount has got over the network so far; None where there is no network."""

    def unsaved_bytes(self) -> int:
        """What was acknowledged and is still on its way, as far as the system says."""


class Local:
    """What is no network file system: the defaults."""

    remount = ""

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def stop(self) -> None:
        return

    def processes(self) -> dict[int, str]:
        return {}

    def fetched_bytes(self) -> int | None:
        return None

    def unsaved_bytes(self) -> int:
        return 0

    def __init__(self, root: Path) -> None:
        self.directory = root.resolve() / "directory"


class Nothing(Local):
    """`nothing.py`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        super().start()
        command = [sys.executable, str(HERE / "nothing.py"), str(self.directory)]
        self._process = subprocess.Popen(command, start_new_session=True)
        limit = time.monotonic() + READY_S
        while not self.directory.is_mount():
            if self._process.poll() is not None or time.monotonic() > limit:
                raise Refused("nothing.py did not mount")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            _unmount(self.directory, self._process)

    def processes(self) -> dict[int, str]:
        return {} if self._process is None else {self._process.pid: "mount"}


class Ours:
    """A demo pool. With `shared` another node has the volume mounted too."""

    def __init__(self, root: Path, *, options: str, shared: bool) -> None:
        self._pool, self._options, self._shared = Pool(root, options), options, shared
        self.directory, self.remount = self._pool.mount, self._pool.remount_command()
        self._second = root.resolve() / "second"

    def start(self) -> None:
        self._pool.root.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._pool.start()
            if self._shared:
                self._mount_second()
        except subprocess.CalledProcessError as error:
            raise Refused(f"p2pfs {error.cmd[3]} ended with {error.returncode}: {error.stderr.strip()}") from None

    def _mount_second(self) -> None:
        home, mount, invite = (str(self._second / name) for name in ("home", "mnt", "invite"))
        (self._second / "mnt").mkdir(parents=True)
        admin = ("--home", str(self._pool.root / "mount"))
        answer = self._pool.p2pfs("invite", "demo@second", "--roles", "client", "--json", *admin)
        Path(invite).write_text(json.loads(answer)["invite"])
        self._pool.p2pfs("join", invite, "--home", home)
        words = ["--passphrase-file", str(self._pool.root / "passphrase"), "--pid-file", str(self._second / "pid")]
        options = ["-o", self._options] if self._options else []
        self._pool.p2pfs("mount", "-d", VOLUME, mount, "--home", home, *words, *options)

    def stop(self) -> None:
        second = self._second / "mnt"
        with contextlib.suppress(subprocess.CalledProcessError):  # it has said why
            if second.is_mount():
                self._pool.p2pfs("umount", "-q", str(second))
        with contextlib.suppress(subprocess.CalledProcessError):
            if (self._pool.root / "demo.json").exists():
                self._pool.stop()

    def processes(self) -> dict[int, str]:
        found = {pid: part for part, pid in self._pool.pids().items()}
        with contextlib.suppress(OSError, ValueError):
            found[int((self._second / "pid").read_text())] = "second mount"
        return found

    def fetched_bytes(self) -> int | None:
        return self._pool.fetched_bytes()

    def unsaved_bytes(self) -> int:
        return self._pool.unsaved_bytes()


class MooseFS:
    """`moosefs.sh`: one master, three chunkservers, two copies. With `shared` it is mounted twice."""

    NAMESPACE = "moosefs-bench"
    ADDRESS = "10.99.99.1"

    def __init__(self, root: Path, *, sync: bool, shared: bool) -> None:
        self._root, self._sync, self._shared = root.resolve(), sync, shared
        self.directory, self._second = self._root / "mnt", root.resolve() / "mnt2"
        self.remount = f"{HERE}/moosefs.sh remount {self._root}"

    def start(self) -> None:
        if Path(f"/run/netns/{self.NAMESPACE}").exists():
            raise Refused(f"a MooseFS of this script runs already, or was left: ip netns pids {self.NAMESPACE}")
        self._script("up", FSYNC=str(int(self._sync)))
        if self._shared:
            self._second.mkdir()
            words = ["mfsmount", str(self._second), "-H", self.ADDRESS, "-o", "mfssubfolder=/"]
            entered = ["nsenter", f"--net=/run/netns/{self.NAMESPACE}", *words]
            if subprocess.run(entered, capture_output=True, check=False).returncode:
                raise Refused("MooseFS cannot be mounted a second time")

    def stop(self) -> None:
        if self._second.is_mount():
            subprocess.run(["umount", str(self._second)], check=False)
        try:
            if (self._root / "master.cfg").exists():
                self._script("down")
        except Refused as error:
            print(error, file=sys.stderr)

    def _script(self, verb: str, **environment: str) -> None:
        command = [str(HERE / "moosefs.sh"), verb, str(self._root)]
        # Its daemons inherit the output, so it goes to a file: a pipe would stay open as long as they live.
        with tempfile.TemporaryFile() as log:
            result = subprocess.run(
                command, stdout=log, stderr=log, env=os.environ | environment, start_new_session=True, check=False
            )
            log.seek(0)
            said = log.read()
        if result.returncode:
            raise Refused(
                f"moosefs.sh {verb} ended with {result.returncode}: {said.decode(errors='replace').strip()[-500:]}"
            )

    def processes(self) -> dict[int, str]:
        listed = subprocess.run(["ip", "netns", "pids", self.NAMESPACE], capture_output=True, text=True, check=False)
        return {pid: part for pid in map(int, listed.stdout.split()) if (part := self._part(pid))}

    def _part(self, pid: int) -> str:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return ""
        if words.startswith("mfsmount"):
            return "second mount" if f"{self._second})" in words else "mount"
        if words.startswith("mfschunkserver"):
            return next((f"chunkserver-{number}" for number in (1, 2, 3) if f"/cs{number}/" in words), "")
        return "master" if words.startswith("mfsmaster") else ""

    def fetched_bytes(self) -> int | None:
        """Everything its parts sent each other: they have a loopback of their own."""
        pid = next(iter(self.processes()), None)
        if pid is None:
            return None
        for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == "lo":
                return int(counters.split()[0])
        return None

    def unsaved_bytes(self) -> int:
        return 0


def _unmount(directory: Path, process: subprocess.Popen[bytes]) -> None:
    """Unmount, by force if need be, and wait for the process that served it."""
    limit = time.monotonic() + END_S
    while directory.is_mount() and time.monotonic() < limit:
        if subprocess.run(["umount", str(directory)], capture_output=True, check=False).returncode:
            time.sleep(0.2)
    if directory.is_mount():
        subprocess.run(["umount", "-l", str(directory)], check=False)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
