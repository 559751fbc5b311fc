"""`p2pfs bench MNT`: how fast a mounted volume is for who uses it, with ordinary system calls and nothing else.

What it measures is in `bench_phases`, what the figures mean in `bench_figures`. Here: whether it may run at all, that
nothing is left behind, and how it is shown.
"""

import errno
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from p2pfs import exitcodes
from p2pfs.cli.options import json_option
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime import mounts
from p2pfs.runtime.sizes import format_size, given_size
from p2pfs.types import MIB

LEAST_FILES: Final = 1
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_CODES: Final = {
    errno.EROFS: exitcodes.DENIED,
    errno.EACCES: exitcodes.DENIED,
    errno.EPERM: exitcodes.DENIED,
    errno.ENOTCONN: exitcodes.NOT_MOUNTED,
    errno.EIO: exitcodes.UNREACHABLE,
    errno.ETIMEDOUT: exitcodes.UNREACHABLE,
}


@click.command("bench")
@click.argument("directory", metavar="MNT", type=click.Path(path_type=Path))
@click.option("--size", default="256M", show_default=True, metavar="SIZE", help="Of the large file; at least 1M.")
@click.option("--files", default=500, show_default=True, type=click.IntRange(LEAST_FILES), help="How many small files.")
@click.option("--any", "anywhere", is_flag=True, help="Also where no p2pfs volume is mounted, to compare with.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def command(directory: Path, size: str, files: int, anywhere: bool, quiet: bool, as_json: bool) -> int:
    """Measure how fast the volume mounted at MNT (or a directory in it) is, and say what the numbers mean.

    Writes SIZE and a few small files into a new directory there, reads them, and deletes all of it again, also after
    Ctrl-C. Cold is as cold as a user can make it: the kernel forgets the file, the mount keeps its own cache, and how
    much came from peers is told.

    \b
    Examples:
      p2pfs bench ~/photos
      p2pfs bench --size 1G --files 2000 ~/photos
      p2pfs bench --any /tmp --json          a plain directory, to compare with
    """
    from p2pfs.cli.trying import bench_phases, bench_show

    size_mib = _mib(size)
    path = mounts.canonical(directory)
    record = _require(path, anywhere=anywhere)
    with _explained(path, size_mib), _workplace(path) as place:
        _require_room(place, size_mib, files)
        with bench_show.progress(quiet=quiet) as show:
            found = bench_phases.run(place, size_mib=size_mib, files=files, record=record, show=show)
    bench_show.show(path, record.volume if record else "", found, as_json=as_json)
    return exitcodes.OK


def _mib(size: str) -> int:
    mib = given_size(size) // MIB
    if mib < 1:
        raise Invalid("--size must be at least 1M")
    return mib


def _require(path: Path, *, anywhere: bool) -> mounts.MountRecord | None:
    """The mount's record, if there is one.

    Raises:
        UserError: NOT_FOUND, or no p2pfs volume is mounted there (NOT_MOUNTED) and it must be.
    """
    kinds = (mounts.mounted_type(above) for above in (path, *path.parents))
    if not anywhere and next((kind for kind in kinds if kind is not None), None) != mounts.KERNEL_TYPE:
        raise UserError(
            f"{path} is not in a mounted p2pfs volume: mount one, or use --any to measure what is there",
            exitcodes.NOT_MOUNTED,
        )
    if not path.is_dir():
        raise UserError(f"there is no directory {path}", exitcodes.NOT_FOUND)
    return mounts.find_above(path)


def _require_room(place: Path, size_mib: int, files: int) -> None:
    needed = size_mib * MIB + files * 4096
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise UserError(
            f"there is room for {format_size(free)}, and the benchmark writes {format_size(needed)}: choose a smaller"
            " --size",
            exitcodes.POOL_FULL,
        )


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A new directory below `path` that is gone afterwards, whatever happens short of a kill."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = Path(tempfile.mkdtemp(prefix=".p2pfs-bench-", dir=path))
    try:
        yield place
    finally:
        try:
            shutil.rmtree(place, ignore_errors=True)
        finally:
            signal.signal(signal.SIGTERM, before)
            if os.path.lexists(place):
                click.echo(f"{place} could not be removed: remove it by hand", err=True)


@contextmanager
def _explained(path: Path, size_mib: int) -> Iterator[None]:
    """Failures of the file system as a person understands them. Raises UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"the pool behind {path} became full before {size_mib} MiB and the small files were written: choose a"
                " smaller --size, free some space, or add a peer (p2pfs status shows how much room there is)",
                exitcodes.POOL_FULL,
            ) from None
        code = _CODES.get(error.errno or 0, exitcodes.FAILED)
        raise UserError(f"the benchmark ended early: {error.strerror or error} ({path})", code) from None
