"""Machines for tests: each has a network, processes, mounts, a name and a state of its own on this kernel.

A machine is a set of namespaces around a first process; a bridge in one more network joins them, so nothing of this
machine's own network is touched, and all is gone with the processes. It shares this machine's files but for its p2pfs
state, /etc/p2pfs, its home directory, /run, and /media, which is the same for all: a memory stick. `systemctl` there
is stand_in_systemctl.py, which starts what the units of packaging/ start. Root only.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
STATE: Final = Path("/var/lib/p2pfs")
CONFIGURATION: Final = Path("/etc/p2pfs")
_FIRST: Final = f"""
set -eu
awk '$3 ~ /^fuse[.]/ {{ print $2 }}' /proc/self/mounts | while read -r mount; do umount -l "$(printf %b "$mount")"; done
hostname "$1"
mount --bind "$2/state" {STATE}
mount --bind "$2/etc" {CONFIGURATION}
mount --bind "$3" /media
mount -t tmpfs -o mode=755 run /run
ip link set lo up
echo ready
sleep infinity &
wait
"""
"""Bash as the first process takes care of orphans. Mounts that others have outside are let go of: they could not be
unmounted for as long as this machine is on."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """One that is on, until it is switched off. Its disk outlives that."""

    def __init__(self, network: "Network", name: str, address: str) -> None:
        self.name, self.address = name, address
        self.disk = network.directory / name
        self._network = network
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0
        self.new_disk()

    def new_disk(self) -> None:
        """Nothing of what it had is left."""
        assert self._process is None, f"{self.name} is on"
        shutil.rmtree(self.disk, ignore_errors=True)
        for folder in ("state", "etc", "home", "units"):
            (self.disk / folder).mkdir(parents=True)
        (self.disk / "state").chmod(0o700)

    def power_on(self) -> None:
        """What was enabled runs when this returns."""
        assert self._process is None, f"{self.name} is on"
        apart = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        console = self._network.directory / f"{self.name}.console"
        with console.open("a") as told:
            self._process = subprocess.Popen(
                [*apart, "bash", "-c", _FIRST, "bash", self.name, str(self.disk), str(self._network.stick)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told, text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", console.read_text()
        pid = self._process.pid
        self._pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        self._network.connect(self._pid, self.name, self.address)
        subprocess.run(self.entering("systemctl", "boot"), check=True, timeout=60)

    def power_off(self) -> None:
        """As when the plug is pulled: no process of it sees that coming."""
        if self._process is None:
            return
        if self._pid:  # else it did not come so far; 0 would be this process and all its group
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, 9)
        else:
            self._process.kill()
        self._process.wait(20)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process, self._pid = None, 0

    def entering(self, *words: str) -> list[str]:
        """The command line that runs `words` there, with the environment that root has after logging in."""
        assert self._process is not None, f"{self.name} is off"
        variables = {
            "PATH": f"{self._network.programs}:{_PATH}",
            "HOME": str(self.disk / "home"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "P2PFS_TRY_UNITS": str(self.disk / "units"),
        }
        inside = ["nsenter", "-t", str(self._pid), "-m", "-n", "-u", "-p", f"--wd={self.disk / 'home'}"]
        return [*inside, "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *words]


class Network:
    """The machines and the wire between them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stick, self.programs = directory / "stick", directory / "programs"
        self._machines: dict[str, Machine] = {}
        self._hub: subprocess.Popen[bytes] | None = None
        self._made: list[Path] = []

    def start(self) -> None:
        for folder in (self.stick, self.programs):
            folder.mkdir(parents=True)
        program("p2pfs", self.programs, [sys.executable, "-m", "p2pfs.cli.main"])
        program("systemctl", self.programs, [sys.executable, str(TESTS / "stand_in_systemctl.py")])
        for path in (STATE, CONFIGURATION, Path("/media")):  # something to mount theirs on
            if not path.exists():
                path.mkdir()
                self._made.append(path)
        self._hub = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE
        )
        assert self._hub.stdout is not None
        self._hub.stdout.readline()
        self._ip("link", "add", "bridge", "type", "bridge")
        self._ip("link", "set", "bridge", "up")

    def stop(self) -> None:
        for machine in self._machines.values():
            machine.power_off()
        if self._hub is not None:
            self._hub.kill()
            self._hub.wait(10)
            if self._hub.stdout is not None:
                self._hub.stdout.close()
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()

    def add(self, name: str, address: str) -> Machine:
        """A machine that is on and has nothing yet."""
        machine = self._machines[name] = Machine(self, name, address)
        machine.power_on()
        return machine

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def connect(self, pid: int, name: str, address: str) -> None:
        """Put a machine, by its first process, on the wire."""
        assert self._hub is not None
        end = f"to-{name}"[:15]
        # Its old end goes with the old namespace, but not at once.
        subprocess.run([*self._entering(), "ip", "link", "delete", end], stderr=subprocess.DEVNULL, check=False)
        self._ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._ip("link", "set", end, "master", "bridge", "up")
        inside = ["nsenter", "-t", str(pid), "-n", "ip"]
        subprocess.run([*inside, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)

    def _entering(self) -> list[str]:
        assert self._hub is not None
        return ["nsenter", "-t", str(self._hub.pid), "-n"]

    def _ip(self, *words: str) -> None:
        subprocess.run([*self._entering(), "ip", *words], check=True)


def program(name: str, folder: Path, words: Sequence[str]) -> None:
    """A command of that name which runs `words`."""
    path = folder / name
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)


@contextlib.contextmanager
def network(directory: Path) -> Iterator[Network]:
    """One that is gone at the end with all that ran in it."""
    made = Network(directory)
    try:
        made.start()
        yield made
    finally:
        made.stop()
