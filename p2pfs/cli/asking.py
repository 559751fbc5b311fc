"""Asking the mount that holds a path: it has the volume's keys, so nobody types a passphrase again."""

import json
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2pfs import errors, exitcodes
from p2pfs.errors import PoolError, Unavailable, UserError
from p2pfs.runtime import mounts
from p2pfs.runtime.terminal import printable
from p2pfs.types import VolumeId, volume_name
from p2pfs.wire.volumes import VolumeInfo

NOT_KNOWN: Final = "this request is not known"
"""What a mount says to whom it does not understand: it is of an older version."""
SILENCE_S: Final = 120.0
"""Longest time without a line: a change may have to wait for its turn."""


_SHOWN: Final = 1 << 63
"""Numbers of inodes from here on are those of `.p2pfs` (p2pfs.vfs.views)."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount, and a path in it from the volume's root; empty: the root itself."""

    record: mounts.MountRecord
    path: str

    def ask(self, op: str, **request: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - whatever the command takes
        """The lines of the answer, as they come.

        Raises:
            PoolError: What the mount refused it with.
            Unavailable: It does not answer, or hung up.
        """
        try:
            with mounts.dial(Path(self.record.socket), SILENCE_S) as connection, connection.makefile("rb") as lines:
                connection.sendall(json.dumps({"op": op, **request}).encode() + b"\n")
                for text in lines:
                    line: dict[str, Any] = json.loads(text)
                    if "error" in line:
                        raise _error(line)
                    if line.get("done"):
                        return
                    yield line
        except (OSError, ValueError) as error:
            why = mounts.why_silent(error)
            raise Unavailable(f"the mount at {self.record.mount_point} does not answer: {why}{self._cure()}") from None
        raise Unavailable(f"the mount at {self.record.mount_point} ended before it had answered")

    def _cure(self) -> str:
        if self.record.alive():
            return "; try again, and if that does not help, look into its log"
        return f"; `p2pfs umount --if-dead {shlex.quote(self.record.mount_point)}`, and mount it again"

    def shown(self, path: str) -> str:
        """A path of the volume as it is in this mount, safe on a terminal."""
        return printable(os.path.join(self.record.mount_point, path))


def mounted(path: Path) -> Mounted:
    """The mount that holds a path, which need not be there.

    Raises:
        UserError: NOT_MOUNTED.
    """
    above = Path(os.path.realpath(path.parent)) if path.name not in ("", ".", "..") else Path(os.path.realpath(path))
    absolute = above / path.name if path.name not in ("", ".", "..") else above
    record = mounts.find_above(absolute)
    if record is None or not record.alive():
        raise UserError(f"{path} is not in a volume mounted by this user", exitcodes.NOT_MOUNTED)
    inside = absolute.relative_to(record.mount_point)
    return Mounted(record, "" if inside == Path() else str(inside))


def located(path: Path) -> tuple[Mounted, int]:
    """The mount of a path that is there, and the inode's number; of what a search found, that of what it leads to.

    Raises:
        UserError: NOT_FOUND, NOT_MOUNTED, or USAGE for a directory of a search.
    """
    try:
        status = path.lstat()
        if status.st_ino >= _SHOWN and stat.S_ISLNK(status.st_mode):
            path = path.parent / path.readlink()
            status = path.lstat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", exitcodes.NOT_FOUND) from None
    if status.st_ino >= _SHOWN:
        raise UserError(f"{path} is what a search shows, and not in the volume: take what is in it", exitcodes.USAGE)
    return mounted(path), status.st_ino


def mounts_of(path: Path | None) -> list[Mounted]:
    """The mount that holds a path, or all that this user has. Raises UserError (NOT_MOUNTED)."""
    if path is not None:
        return [mounted(path)]
    found = [Mounted(record, "") for record in mounts.known() if record.alive()]
    if not found:
        raise UserError("no volume is mounted by this user", exitcodes.NOT_MOUNTED)
    return found


def holding(home: Path, volume: VolumeInfo) -> Mounted | None:
    """A mount of a volume from a home; None: this user has none. Only by its name is known what an earlier version
    mounted: that refuses what is meant for another."""
    meant = volume_name(VolumeId(volume.volume)), volume.name
    records = (record for record in mounts.known() if record.identity in meant and record.alive())
    place = os.path.realpath(home)
    return next((Mounted(record, "") for record in records if os.path.realpath(record.home) == place), None)


def _error(line: dict[str, Any]) -> PoolError:
    kind = getattr(errors, str(line.get("code")), PoolError)
    is_ours = isinstance(kind, type) and issubclass(kind, PoolError) and kind is not UserError
    return (kind if is_ours else PoolError)(str(line["error"]))
