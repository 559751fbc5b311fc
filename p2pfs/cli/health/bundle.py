"""What goes into `p2pfs debug bundle`: small texts about this machine's node, each from one source that may fail alone.

Nothing here reads a key, a passphrase or a file of a volume. Texts are redacted by the caller.
"""

import contextlib
import dataclasses
import heapq
import io
import os
import platform
import shutil
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from p2pfs.errors import PoolError
from p2pfs.runtime import mounts
from p2pfs.runtime.config import KINDS, format_setting
from p2pfs.runtime.home import NodeHome
from p2pfs.types import MIB

TAIL_BYTES: Final = MIB
MOST_LOGS: Final = 24
_MOST_FILES: Final = 400
_PROGRAM_S: Final = 10.0
_DUMPS_S: Final = 1.0
_JOURNAL: Final = ("journalctl", "--no-pager", "--quiet", "--output=short-iso", "--lines=4000", "--unit=p2pfs*")
_UNITS: Final = ("systemctl", "--no-pager", "--plain", "--all", "list-units", "p2pfs*")

Made = str | dict[str, Any] | list[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One file of the bundle: its name, what it is, and how it is made."""

    name: str
    about: str
    make: Callable[[], Made]


def sources(home: NodeHome) -> Iterator[Source]:
    """All of them, in the order they are made: what asks running processes comes before their logs are read."""
    yield Source("versions.json", "p2pfs, Python, libraries, kernel", versions)
    yield Source(
        "node.json", "who this node is, its settings that differ, public facts of its certificates", lambda: node(home)
    )
    yield Source("doctor.json", "what p2pfs doctor found", lambda: _doctor(home))
    yield Source("status.json", "what the coordinator says of the pool", lambda: _status(home))
    yield Source("mounts.json", "mounts from this home, with their counters", lambda: _mounts(home))
    yield Source("processes.json", "processes that use this home: memory, threads, files", lambda: processes(home))
    yield Source("files.txt", "names and sizes in the home: no chunk, no content", lambda: files(home.path))
    yield Source("disk.txt", "room on the home's disk", lambda: _disk(home.path))
    yield Source("systemd.txt", "units of p2pfs", lambda: _run(_UNITS))
    yield Source("journal.txt", "the newest lines of their journal", lambda: _run(_JOURNAL))
    for path in logs(home.path):
        yield Source(f"log/{path.name}", "the newest MiB of a log", lambda path=path: tail(path))  # type: ignore[misc]


def encode(made: Made) -> bytes:
    if isinstance(made, str):
        return made.encode("utf-8", "replace")
    return msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"


def pack(entries: dict[str, bytes], top: str) -> bytes:
    """A tar.gz of them below the directory `top`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in entries.items():
            about = tarfile.TarInfo(f"{top}/{name}")
            about.size, about.mode, about.mtime = len(data), 0o600, int(time.time())
            archive.addfile(about, io.BytesIO(data))
    return packed.getvalue()


# ---- sources --------------------------------------------------------------------------------------------------------


def versions() -> dict[str, Any]:
    from p2pfs.cli.versions import version_of

    names = (
        "p2pfs",
        "trio",
        "cryptography",
        "blake3",
        "msgspec",
        "httptools",
        "httpx",
        "pyfuse3",
        "psutil",
        "zeroconf",
        "starlette",
    )
    told = {name: version_of(name) for name in names}
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "") if os.path.exists("/etc/os-release") else ""
    return told | {"python": platform.python_version(), "kernel": platform.release(), "system": system}


def node(home: NodeHome) -> dict[str, Any]:
    from p2pfs.runtime.config import Settings

    settings, defaults = home.settings(), Settings()
    differing = {name: getattr(settings, name) for name in KINDS if getattr(settings, name) != getattr(defaults, name)}
    return {
        "record": msgspec.to_builtins(home.record()),
        "settings": {name: format_setting(name, value) for name, value in differing.items()} | dict(settings.offers),
        "certificates": [_certificate(path) for path in (home.ca_path, home.certificate_path)],
    }


def _certificate(path: Path) -> dict[str, str]:
    """Public facts only."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    found = x509.load_pem_x509_certificate(path.read_bytes())
    return {
        "file": path.name,
        "subject": found.subject.rfc4514_string(),
        "serial": f"{found.serial_number:x}",
        "from": found.not_valid_before_utc.isoformat(),
        "until": found.not_valid_after_utc.isoformat(),
        "sha256": found.fingerprint(SHA256()).hex(),
    }


def _doctor(home: NodeHome) -> list[Any]:
    from p2pfs.cli.health.doctor import findings

    return [dataclasses.asdict(finding) for finding in findings(home)]


def _status(home: NodeHome) -> dict[str, Any]:
    from p2pfs.cli import connect
    from p2pfs.cli.report import parse

    return parse(connect.fetch(home, "/status"))


def _mounts(home: NodeHome) -> list[Any]:
    from p2pfs.cli.asking import Mounted

    found = []
    for record in _mounted_from(home):
        told: dict[str, Any] = {"volume": record.volume, "pid": record.pid, "is_alive": record.alive()}
        if record.alive():
            try:
                told["stats"] = next(iter(Mounted(record, "").ask("stats")), {})
            except PoolError as error:
                told["error"] = str(error)
        found.append(told)
    return found


def _mounted_from(home: NodeHome) -> list[mounts.MountRecord]:
    """A demo's home of the mount counts for all homes of that demo."""
    is_demo = (home.path.parent / "demo.json").exists()
    places = {str(home.path), str(home.path.parent / "mount") if is_demo else ""}
    return [record for record in mounts.known() if record.home in places]


def processes(home: NodeHome) -> list[Any]:
    """Those that use the home."""
    found = []
    for kind, pid in _at_work(home):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        about: dict[str, Any] = {"kind": kind, "pid": pid}
        about |= {key: status.get(key, "").strip() for key in ("State", "VmRSS", "VmHWM", "Threads")}
        about["files"] = len(os.listdir(f"/proc/{pid}/fd")) if os.access(f"/proc/{pid}/fd", os.R_OK) else None
        found.append(about)
    return found


def _at_work(home: NodeHome) -> list[tuple[str, int]]:
    return [*holders(home.path), *(("mount", record.pid) for record in _mounted_from(home) if record.alive())]


def holders(home: Path) -> list[tuple[str, int]]:
    """(kind, pid) of the processes that hold a lock of this home, by the kernel's table."""
    found = []
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if len(words) < 6 or words[1] != "FLOCK" or not words[4].isdigit():
            continue
        for kind in ("coordinator", "peer", "mount"):
            with_lock = home / f".{kind}.lock"
            if with_lock.exists() and words[5].rpartition(":")[2] == str(with_lock.stat().st_ino):
                found.append((kind, int(words[4])))
    return found


def ask_for_dumps(home: NodeHome) -> int:
    """Have the processes of this home write to their logs where their tasks wait; how many were asked."""
    asked = 0
    for pid in {pid for _, pid in _at_work(home)}:
        if _catches(pid, signal.SIGUSR1):
            os.kill(pid, signal.SIGUSR1)
            asked += 1
    if asked:
        time.sleep(_DUMPS_S)
    return asked


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a signal would be answered, and not end the process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    return bool(caught >> (number - 1) & 1)


def files(home: Path) -> str:
    """Names, modes and sizes, two levels deep: what is below is counted, so that no chunk and no volume is named."""
    lines: list[str] = []
    for entry in _first(home):
        lines.append(_line(entry, home))
        if entry.is_dir(follow_symlinks=False):
            for inner in _first(entry.path):
                count = f" {_count(inner.path)} below" if inner.is_dir(follow_symlinks=False) else ""
                lines.append(_line(inner, home) + count)
    return "\n".join(lines[:_MOST_FILES]) + "\n"


def _first(directory: str | Path) -> list[os.DirEntry[str]]:
    """The first by name of a directory, which may have a million; of one that cannot be read none."""
    try:
        with os.scandir(directory) as found:
            return heapq.nsmallest(_MOST_FILES, found, key=lambda entry: entry.name)
    except OSError:
        return []


def _line(entry: os.DirEntry[str], home: Path) -> str:
    name = os.path.relpath(entry.path, home)
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return f"{name} is gone"
    return f"{stat.filemode(found.st_mode)} {found.st_size:>12} {name}"


def _count(directory: str) -> int:
    """How much is below."""
    count, left = 0, [directory]
    while left:
        with contextlib.suppress(OSError), os.scandir(left.pop()) as found:
            for entry in found:
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
    return count


def _disk(home: Path) -> str:
    usage = shutil.disk_usage(home)
    return f"total {usage.total}\nused {usage.used}\nfree {usage.free}\n"


def _run(words: tuple[str, ...]) -> str:
    """What a program of the system says, of this user's services where that is not root; "" where there is none."""
    if shutil.which(words[0]) is None:
        return ""
    words = words if os.geteuid() == 0 else (words[0], "--user", *words[1:])
    result = subprocess.run(
        words,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PROGRAM_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return result.stdout[-TAIL_BYTES:]


def logs(home: Path) -> list[Path]:
    """Log files of the home, and of the demo it may be part of, the newest first. Links are none: they lead anywhere,
    and root may be who packs another user's home."""
    places = [home / "log", *([home.parent / "log"] if (home.parent / "demo.json").exists() else [])]
    found = (entry for place in places if not place.is_symlink() for entry in _regular(place) if ".log" in entry.name)
    return [Path(path) for _, path in heapq.nlargest(MOST_LOGS, ((_modified_s(entry), entry.path) for entry in found))]


def _regular(directory: Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(directory) as found:
        yield from (entry for entry in found if entry.is_file(follow_symlinks=False))


def _modified_s(entry: os.DirEntry[str]) -> float:
    with contextlib.suppress(OSError):  # gone since
        return entry.stat(follow_symlinks=False).st_mtime
    return 0.0


def tail(path: Path) -> str:
    """The end of a file, from the beginning of a line; "" of what is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - TAIL_BYTES))
        data = opened.read(TAIL_BYTES)
    whole = data if size <= TAIL_BYTES else data.partition(b"\n")[2]
    return whole.decode("utf-8", "replace")


def attempt(source: Source) -> Made:
    """What the source gives, or why it gives nothing: in a bundle a fault is a finding."""
    try:
        return source.make()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def name_now() -> str:
    return datetime.now(UTC).strftime("p2pfs-debug-%Y%m%d-%H%M%S")
