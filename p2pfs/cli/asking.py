"""Asking the mount that holds a path: it has the volume's keys, so nobody types a passphrase again."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from p2pfs import errors, exitcodes
from p2pfs.errors import PoolError, Unavailable, UserError
from p2pfs.runtime import mounts
from p2pfs.runtime.terminal import printable

SILENCE_S: Final = 120.0
"""Longest time without a line: a change may have to wait for its turn."""


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
            raise Unavailable(f"the mount at {self.record.mount_point} does not answer: {error}") from None
        raise Unavailable(f"the mount at {self.record.mount_point} ended before it had answered")

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
    """The mount of a path that is there, and the inode's number. Raises UserError (NOT_FOUND, NOT_MOUNTED)."""
    try:
        inode = path.lstat().st_ino
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", exitcodes.NOT_FOUND) from None
    return mounted(path), inode


def mounts_of(path: Path | None) -> list[Mounted]:
    """The mount that holds a path, or all that this user has. Raises UserError (NOT_MOUNTED)."""
    if path is not None:
        return [mounted(path)]
    found = [Mounted(record, "") for record in mounts.known() if record.alive()]
    if not found:
        raise UserError("no volume is mounted by this user", exitcodes.NOT_MOUNTED)
    return found


def _error(line: dict[str, Any]) -> PoolError:
    kind = getattr(errors, str(line.get("code")), PoolError)
    is_ours = isinstance(kind, type) and issubclass(kind, PoolError) and kind is not UserError
    return (kind if is_ours else PoolError)(str(line["error"]))
