"""What `systemctl` is on machines.py's machines: it starts what p2pfs' units say, waits until that is ready, stops it.

    systemctl enable|disable [--now] UNIT…    systemctl start|stop|restart|is-active UNIT…    systemctl boot

It knows services of packaging/ only and of a unit its command, its environment and its stop; who a service runs as and
what it may see is tried under a real systemd by `make test-package`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

UNITS: Final = Path(__file__).parents[1] / "packaging"
ENABLED: Final = Path(os.environ["P2PFS_TRY_UNITS"])
RUNNING: Final = Path("/run/units")
START_S: Final = 60.0
STOP_S: Final = 30.0


def read(name: str) -> dict[str, list[str]]:
    """The assignments of a unit, a list for each key."""
    base, _, instance = name.partition("@")
    path = UNITS / (f"{base}@.service" if instance else f"{base}.service")
    if not path.exists():
        sys.exit(f"Unit {name}.service not found.")
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        key, is_assignment, value = line.partition("=")
        if is_assignment and not line.startswith("#"):
            found.setdefault(key, []).append(value.replace("%i", instance))
    return found


def start(name: str) -> None:
    if pid_of(name):
        return
    unit = read(name)
    needed = unit.get("ConditionPathExists", [])
    if not all(Path(path).exists() for path in needed):
        return  # systemd says so in the journal, and nothing else
    [command] = unit["ExecStart"]
    RUNNING.mkdir(exist_ok=True)
    notices = RUNNING / f"{name}.notify"
    notices.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(notices))
        listening.settimeout(0.2)
        environment = os.environ | dict(line.split("=", 1) for line in unit.get("Environment", []))
        environment["NOTIFY_SOCKET"] = str(notices)
        with (ENABLED / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                words_of(command.replace("@PREFIX@/bin/", ""), environment), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        (RUNNING / f"{name}.pid").write_text(f"{process.pid}\n")
        await_ready(name, listening, process)


def words_of(command: str, environment: dict[str, str]) -> list[str]:
    """As systemd has it: a word that is $NAME stands for the words of that variable, which may be none."""
    found: list[str] = []
    for word in command.split():
        found += environment.get(word[1:], "").split() if word[1:].isidentifier() and word[0] == "$" else [word]
    return found


def await_ready(name: str, listening: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if b"READY=1" in listening.recv(4096).split(b"\n"):
                return
        except TimeoutError:
            continue
    sys.exit(f"Job for {name}.service failed:\n{(ENABLED / f'{name}.log').read_text()}")


def pid_of(name: str) -> int:
    """The running service's; 0: it does not run."""
    try:
        pid = int((RUNNING / f"{name}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if state == "Z" else pid


def stop(name: str) -> None:
    pid = pid_of(name)
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while pid_of(name):
        if time.monotonic() > deadline:
            sys.exit(f"{name}.service does not stop")
        time.sleep(0.02)


def main(verb: str, *words: str) -> None:
    names = [word.removesuffix(".service") for word in words if not word.startswith("-")]
    if verb == "boot":
        for path in sorted(ENABLED.glob("*.enabled")):
            start(path.stem)
    for name in names:
        if verb == "enable":
            read(name)
            (ENABLED / f"{name}.enabled").touch()
        elif verb == "disable":
            (ENABLED / f"{name}.enabled").unlink(missing_ok=True)
        if verb == "restart" or verb == "stop" or (verb == "disable" and "--now" in words):
            stop(name)
        if verb in ("start", "restart") or (verb == "enable" and "--now" in words):
            start(name)
        if verb == "is-active":
            print("active" if pid_of(name) else "inactive")
    if verb not in ("boot", "enable", "disable", "start", "stop", "restart", "is-active"):
        sys.exit(f"this stand-in has no {verb}")


if __name__ == "__main__":
    main(*sys.argv[1:])
