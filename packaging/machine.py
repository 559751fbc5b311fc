"""A small system booted by systemd-nspawn, with /dev/fuse and a network of its own, and commands run in it."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = (
    "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root",
    "DEBIAN_FRONTEND=noninteractive",
)  # fmt: skip
DEVICES: Final = {"fuse": 0o666, "autofs": 0o600}
"""Of the mounts, and of the automount that fstab asks for; with their modes."""


class Machine:
    """A booted system in a directory."""

    def __init__(self, tree: Path, log: Path) -> None:
        self._tree, self._log = tree, log
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def boot(self) -> None:
        """Returns when everything that starts by itself has started."""
        command = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--machine=p2pfs-try",
            f"--directory={self._tree}", *self._devices(), "--boot",
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until("the machine has booted", self._has_booted, 90)

    def _devices(self) -> Iterator[str]:
        """As udev would make them: for everybody, which this machine's need not be."""
        for name, mode in DEVICES.items():
            node = self._log.with_name(name)
            node.unlink(missing_ok=True)
            os.mknod(node, stat.S_IFCHR | mode, os.stat(f"/dev/{name}").st_rdev)
            node.chmod(mode)
            yield f"--bind={node}:/dev/{name}"

    def _has_booted(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise SystemExit(f"the machine did not boot: see {self._log}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        return self.output("systemctl is-system-running || true") in ("running", "degraded")

    def run(self, script: str, *, timeout_s: float = 120, **given: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the machine, as root, with `given` as variables."""
        variables = [f"{name}={value}" for name, value in given.items()]
        return subprocess.run(
            ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "--", *ENVIRONMENT, *variables,
             "bash", "-euo", "pipefail", "-c", f"cd /\n{script}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def output(self, script: str, *, timeout_s: float = 120, **given: str) -> str:
        """What a script prints; one that fails ends everything."""
        done = self.run(script, timeout_s=timeout_s, **given)
        if done.returncode:
            raise SystemExit(f"FAILED ({done.returncode}): {script}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def shut_down(self) -> None:
        """Ordered, as a person would; units are stopped in their order."""
        assert self._process is not None
        self.output("systemctl poweroff")
        self._process.wait(120)

    def kill(self) -> None:
        """Whatever state it is in: the machine's first process takes all others with it."""
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader or self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()


def until(what: str, holds: Callable[[], bool], within_s: float) -> None:
    """Look every half second."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"FAILED: not within {within_s:.0f} s: {what}")
        time.sleep(0.5)


@contextlib.contextmanager
def booted(tree: Path, log: Path) -> Iterator[Machine]:
    machine = Machine(tree, log)
    try:
        machine.boot()
        yield machine
        machine.shut_down()
    except BaseException:
        with contextlib.suppress(Exception):
            print(machine.run("journalctl --no-pager -n 60; systemctl --failed --no-pager").stdout, file=sys.stderr)
        raise
    finally:
        machine.kill()
