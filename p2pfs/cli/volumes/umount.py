"""`p2pfs umount`: waits until everything written is stored, then until the mount is gone.

Talks to the mount's process over its socket; the kernel alone would not wait for the pool. A mount whose process died
is detached without asking anybody.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import msgspec

from p2pfs import exitcodes
from p2pfs.cli.options import MountPoint
from p2pfs.errors import UserError
from p2pfs.runtime import mounts

SILENCE_S: Final = 60.0
"""Longest time without any line from the mount. While it stores it says every 20 s at least how much is left; while
it has the kernel let go it says nothing."""
_GONE_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.05

Progress = Callable[[int], None]
"""Called with the bytes that still have to be stored."""


class _Line(msgspec.Struct):
    """One line of the mount's answer."""

    pending_bytes: int | None = None
    done: bool = False
    lost: str = ""
    error: str | None = None
    exit_code: int = exitcodes.DATA_NOT_STORED


@click.command("umount")
@click.argument("mount_point", type=MountPoint())
@click.option("-f", "--force", is_flag=True, help="Do not wait: what is not stored yet is lost.")
@click.option("--if-dead", is_flag=True, help="Only clear away a mount whose process has died.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(mount_point: Path, force: bool, if_dead: bool, quiet: bool) -> int:
    """Unmount a volume after everything written to it is stored in the pool.

    \b
    Examples:
      p2pfs umount ~/photos
      p2pfs umount --force ~/photos      give up what could not be stored
    """
    path = mounts.canonical(mount_point)
    if force:
        detach(path)
        return exitcodes.OK
    if if_dead:
        clear_dead(path)
        return exitcodes.OK
    if quiet:
        unmount(path, lambda _pending: None)
        return exitcodes.OK
    from p2pfs.cli.progress import stored_bar

    with stored_bar() as progress:
        unmount(path, progress)
    return exitcodes.OK


def unmount(path: Path, progress: Progress, *, silence_s: float = SILENCE_S) -> None:
    """Unmount `path` (canonical) once all is stored; on return the mount is gone.

    Raises:
        UserError: NOT_MOUNTED, BUSY (files are open), DATA_NOT_STORED (it stays mounted unless what is missing
            can never be stored by it), or the mount does not answer (FAILED).
    """
    kind = mounts.mounted_type(path)
    record = mounts.find(path)
    if kind != mounts.KERNEL_TYPE:
        raise UserError(f"no p2pfs volume is mounted at {path}", exitcodes.NOT_MOUNTED)
    if record is None or not record.alive():
        _detach_orphan(path, record)
        return
    lost = _converse(record, path, progress, silence_s)
    if lost is not None:
        _await_gone(record, path)
        if lost:
            raise UserError(
                f"{path} is unmounted, but not all was stored: {lost} (the mount's log says more)",
                exitcodes.DATA_NOT_STORED,
            )
    elif clear_dead(path):
        raise UserError(
            f"the process of the mount at {path} died while it was storing: what it had not stored is lost, unless its"
            " journal (durability=fsync) has it for the next mount",
            exitcodes.DATA_NOT_STORED,
        )


def clear_dead(path: Path) -> bool:
    """Detach the mount at `path` if its process has died; whether there was one.

    Raises:
        UserError: The system refused (DENIED).
    """
    record = mounts.find(path)
    if mounts.mounted_type(path) != mounts.KERNEL_TYPE:
        return False
    if (record is not None and record.alive()) or not _is_dead(path):
        return False
    detach(path)
    return True


def detach(path: Path) -> None:
    """Take the mount away at once, whatever its process does.

    Raises:
        UserError: NOT_MOUNTED, or the system refused (DENIED).
    """
    if mounts.mounted_type(path) != mounts.KERNEL_TYPE:
        raise UserError(f"no p2pfs volume is mounted at {path}", exitcodes.NOT_MOUNTED)
    _run_umount(path)


def _detach_orphan(path: Path, record: mounts.MountRecord | None) -> None:
    if record is None and not _is_dead(path):
        raise UserError(
            f"the volume at {path} was mounted by another user: unmount it as that user, or use --force",
            exitcodes.DENIED,
        )
    click.echo(
        f"the process of the mount at {path} had died: what was not stored by then is lost, unless its journal"
        " (durability=fsync) has it for the next mount",
        err=True,
    )
    detach(path)


def _is_dead(path: Path) -> bool:
    """Whether the kernel says that nobody serves this mount any more. A killed process answers at once."""
    try:
        os.statvfs(path)
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def _converse(record: mounts.MountRecord, path: Path, progress: Progress, silence_s: float) -> str | None:
    """What is not, once the mount says that all else is stored; None when its process ended without a
    verdict."""
    try:
        with mounts.dial(Path(record.socket), silence_s) as connection, connection.makefile("rb") as lines:
            connection.sendall(b'{"op":"umount"}\n')
            for text in lines:
                line = msgspec.json.decode(text, type=_Line)
                if line.pending_bytes is not None:
                    progress(line.pending_bytes)
                if line.error is not None:
                    raise UserError(f"{path} stays mounted: {line.error}", line.exit_code)
                if line.done:
                    return line.lost
    except (OSError, msgspec.DecodeError) as error:
        if record.alive():
            raise UserError(
                f"the mount at {path} does not answer: {mounts.why_silent(error)}; try again, or use --force",
                exitcodes.FAILED,
            ) from None
    return None


def _await_gone(record: mounts.MountRecord, path: Path) -> None:
    """Wait for the kernel to let go and for the process to end, so that the same home can mount again at once."""
    deadline = time.monotonic() + _GONE_WITHIN_S
    while mounts.mounted_type(path) == mounts.KERNEL_TYPE or record.alive():
        if time.monotonic() > deadline:
            if mounts.mounted_type(path) == mounts.KERNEL_TYPE:
                still = f"{path} is still in use: close what has files open there"
            else:
                still = (
                    f"a container or a service has files open in its own copy of {path}, which is unmounted:"
                    f" its process, {record.pid}, ends once they are closed"
                )
            raise UserError(f"everything is stored, but {still}", exitcodes.BUSY)
        time.sleep(_POLL_S)


def _run_umount(path: Path) -> None:
    """Detach lazily: a plain unmount would wait for, or be refused because of, a process that is not there."""
    if os.geteuid() == 0:
        arguments = ["umount", "-i", "-l", str(path)]
    else:
        arguments = [shutil.which("fusermount3") or "fusermount", "-u", "-z", str(path)]
    try:
        outcome = subprocess.run(arguments, capture_output=True, text=True, timeout=_GONE_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"cannot unmount {path}: {error}", exitcodes.FAILED) from None
    if outcome.returncode:
        raise UserError(f"cannot unmount {path}: {outcome.stderr.strip()}", exitcodes.DENIED)
