"""Which p2pfs mounts this machine has: a registry of small files, and what the kernel says.

Written by a mount when it is usable and removed by it when it ends; read by `p2pfs umount`, `p2pfs where` and the demo,
which learn from it whose process to talk to, and by the next mount there, which learns whose session is over. A record
outlives a killed mount, so the kernel's word (`mounted_type`) comes first; its file's time says when the mount last
lived, and a week later another one's beginning removes it. Nothing here touches the mount point itself: a dead or hung
mount must not hang who looks for it.
"""

import contextlib
import hashlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from p2pfs.errors import Denied
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.process import is_alive

KERNEL_TYPE: Final = "fuse.p2pfs"
"""The file system type the kernel shows for our mounts."""
REFRESHED_S: Final = 86_400.0
"""How often a mount that lives says so by its record's time."""
_KEPT_S: Final = 7 * 86_400.0
"""For how long the record of a dead mount is what `succeeded` goes by."""
_MOST_LINKS: Final = 40
_MOST_BYTES: Final = 65536
_SUN_PATH_BYTES: Final = 107
"""Longest path of a Unix socket on Linux, without its terminating zero."""


class MountRecord(msgspec.Struct, frozen=True):
    """One mount. `socket` answers JSON lines such as {"op": "umount"}; `session` is the coordinator's name for it."""

    pid: int
    home: str
    socket: str
    mount_point: str
    volume: str
    session: str = ""  # earlier versions did not write it down
    volume_id: str = ""  # nor this

    @property
    def identity(self) -> str:
        """What to ask for its volume by. The name is what it was called when it was mounted: it may be another's by
        now, and of a volume that somebody shares an own one may have it too."""
        return self.volume_id or self.volume

    def alive(self) -> bool:
        """Whether the mount's process is still there."""
        return is_alive(self.pid)


# ---- names ----------------------------------------------------------------------------------------------------------


def canonical(mount_point: str | Path) -> Path:
    """The absolute path the kernel knows a mount point by.

    Found by reading links only: a stat of the mount point would be a question to a file system that may be dead.
    """
    path = Path(os.path.abspath(mount_point))
    for _ in range(_MOST_LINKS):
        path = Path(os.path.realpath(path.parent)) / path.name
        try:
            path = Path(os.path.abspath(path.parent / os.readlink(path)))
        except OSError:  # not a link, or not there
            return path
    return path


def socket_path(home: Path, mount_point: Path) -> Path:
    """Where the mount at `mount_point` (canonical) of this home answers."""
    return home / "run" / f"mount-{_digest(mount_point)[:16]}.sock"


def _digest(mount_point: Path) -> str:
    return hashlib.sha256(os.fsencode(mount_point)).hexdigest()


# ---- the registry ---------------------------------------------------------------------------------------------------


def register(record: MountRecord) -> Path:
    """Write the record of a mount that became usable, and remove those of mounts that are long gone; the path it is
    kept under.

    Raises:
        Denied: The registry's directory belongs to somebody else.
        Unavailable: It cannot be written.
    """
    directory = _directories()[0]
    _make_private(directory)
    path = _record_path(directory, Path(record.mount_point))
    write_durably(path, msgspec.json.encode(record), 0o644)
    _tidy()
    return path


def _tidy() -> None:
    """Every look for a mount reads all records: tests and killed mounts would leave ever more."""
    for path in _record_paths():
        with contextlib.suppress(OSError):  # it went just now, or cannot go: no reason not to mount
            if time.time() - path.lstat().st_mtime < _KEPT_S:
                continue
            record = _read(path)
            if record is None or record.alive():
                continue
            # Looked up for each, and last: who mounts there anew is seen before its record takes this one's place.
            if all(kind != KERNEL_TYPE for _device, kind in _all_mounted(Path(record.mount_point), None)):
                path.unlink()


def forget(mount_point: Path) -> None:
    """Remove this process's record of a mount that ended; none is fine. Another's stays: that one lives on after it was
    detached, or has taken this one's place, or has died, and then its record is what `succeeded` goes by."""
    for directory in _own_directories():
        path = _record_path(directory, mount_point)
        record = _read(path)
        if record is not None and record.pid == os.getpid():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def find(mount_point: Path) -> MountRecord | None:
    """The record of the mount at this canonical path, whether or not its process still lives."""
    for directory in _own_directories():
        record = _read(_record_path(directory, mount_point))
        if record is not None and record.mount_point == str(mount_point):
            return record
    return None


def succeeded(mount_point: Path) -> str:
    """The session of the mount that was at this canonical path, if its process is certain to be gone; else ""."""
    record = find(mount_point)
    return "" if record is None or record.alive() else record.session


def known() -> list[MountRecord]:
    """All records of this user's mounts, whether or not their processes still live."""
    found = [_read(path) for path in _record_paths()]
    return [record for record in found if record is not None]


def find_above(path: Path) -> MountRecord | None:
    """The record of the nearest mount that holds `path`."""
    return next((record for above in (path, *path.parents) if (record := find(above))), None)


def _record_paths() -> list[Path]:
    found: list[Path] = []
    for directory in _own_directories():
        with contextlib.suppress(OSError):
            found += directory.glob("*.json")
    return found


def _own_directories() -> list[Path]:
    """Those that nobody else can have put anything into. Below /tmp anybody may have made one in this user's name."""
    found = []
    for directory in _directories():
        with contextlib.suppress(OSError):
            if _is_own(directory.parent) and _is_own(directory):
                found.append(directory)
    return found


def _is_own(directory: Path) -> bool:
    """Raises OSError."""
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _record_path(directory: Path, mount_point: Path) -> Path:
    return directory / f"{_digest(mount_point)}.json"


def _read(path: Path) -> MountRecord | None:
    """None for what is not there, not ours or not a record: a hint that cannot be read is no hint."""
    try:
        # A pipe would be waited for, in the loop of a mount.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            return None
        return msgspec.json.decode(os.read(fd, _MOST_BYTES), type=MountRecord)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _directories() -> list[Path]:
    """Where this user's records may be, the first being where new ones go.

    A shell without XDG_RUNTIME_DIR (cron, sudo -u) must find what a login session has mounted.
    """
    uid = os.geteuid()
    if uid == 0:
        return [Path("/run/p2pfs/mounts")]
    places = [Path(f"/run/user/{uid}"), Path(f"/tmp/p2pfs-{uid}")]
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/") and Path(given) not in places:
        places.insert(0, Path(given))
    places = [place for place in places if place.is_dir() or place.parent == Path("/tmp")]
    return [place / "mounts" if place.parent == Path("/tmp") else place / "p2pfs" / "mounts" for place in places]


def _make_private(directory: Path) -> None:
    """Make the registry. Below /tmp anybody could have made it first, with a record that leads elsewhere."""
    public = directory.is_relative_to("/run/p2pfs")
    directory.mkdir(parents=True, exist_ok=True, mode=0o755 if public else 0o700)
    for level in (directory.parent, directory):
        if not _is_own(level):
            raise Denied(f"{level} belongs to somebody else: remove it or set XDG_RUNTIME_DIR")
        if not public:
            level.chmod(0o700)


# ---- the socket -----------------------------------------------------------------------------------------------------


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, for the owner only, replacing what a killed process left.

    Raises:
        OSError: It cannot be made.
    """
    _make_with_owner(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


def _make_with_owner(directory: Path) -> None:
    """Make a directory of a home, for the home's user: root mounts from a home whose daemons have a user of their own,
    and who comes first makes it."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(parents=True)
        if os.geteuid() == 0:
            owner = directory.parent.stat()
            os.chown(directory, owner.st_uid, owner.st_gid, follow_symlinks=False)


def dial(path: Path, timeout_s: float) -> socket.socket:
    """A connection to the mount that listens at `path`; later operations have the same timeout.

    Raises:
        OSError: Nobody listens there, or it does not answer in time.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        with _address(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def why_silent(error: Exception) -> str:
    """What kept a daemon that was dialled from answering, in words that say what is the matter with it."""
    match error:
        case FileNotFoundError():
            return "it does not run"
        case ConnectionRefusedError():
            return "it has ended, or has not begun yet"
        case PermissionError():
            return "it belongs to another user"
        case TimeoutError():
            return "it says nothing: it is busy, stopped or hung"
        case ConnectionError():
            return "it hung up"
        case OSError():
            return error.strerror or "it cannot be spoken to"
    return "it said nothing that this version understands"


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name for `path` that fits a socket address: homes may lie deeper than 107 bytes."""
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


# ---- what the kernel says -------------------------------------------------------------------------------------------


def mounted_type(mount_point: Path, table: str | None = None) -> str | None:
    """The type of the topmost file system mounted exactly at this canonical path, or None.

    `table` is the text of /proc/self/mountinfo, read here when not given.
    """
    found = _mounted(mount_point, table)
    return found[1] if found else None


def device(mount_point: Path, table: str | None = None) -> int | None:
    """The minor device number of the topmost file system mounted exactly at this canonical path, or None; of a FUSE
    mount it is the connection's number in /sys/fs/fuse/connections."""
    found = _mounted(mount_point, table)
    return int(found[0].partition(":")[2]) if found else None


def is_automount(mount_point: Path, table: str | None = None) -> bool:
    """Whether systemd mounts here what somebody looks for (x-systemd.automount), whatever is mounted there by now.

    Until it hears that this is done, everybody who follows the path waits, whoever mounts there included.
    """
    return any(kind == "autofs" for _device, kind in _all_mounted(mount_point, table))


def _mounted(mount_point: Path, table: str | None) -> tuple[str, str] | None:
    """Device and type of the topmost."""
    found = _all_mounted(mount_point, table)
    return found[-1] if found else None


def _all_mounted(mount_point: Path, table: str | None) -> list[tuple[str, str]]:
    """Device and type of each, the topmost last."""
    if table is None:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    found = []
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) >= 5 and after and _unescape(fields[4]) == str(mount_point):
            found.append((fields[2], after.split()[0]))
    return found


def _unescape(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as octal."""
    for written, meant in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(written, meant)
    return field
