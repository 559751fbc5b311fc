"""`p2pfs mount`: everything before and around the mount's own `run`: options, passphrase, background."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pfs import exitcodes
from p2pfs.cli import completing, failures, passphrases
from p2pfs.cli.daemon_start import require_addresses
from p2pfs.cli.members import find_volume
from p2pfs.cli.options import MountPoint, holding_pid_file, home_option, log_file_option, pid_file_option, set_option
from p2pfs.cli.waiting import waiting
from p2pfs.errors import Invalid, PoolError, UserError
from p2pfs.runtime import log, mounts, process
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.notify import notify
from p2pfs.types import Role, VolumeId, volume_name
from p2pfs.wire.volumes import VolumeInfo

if TYPE_CHECKING:
    from p2pfs_mount.options import MountOptions


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What shall be mounted where, and how."""

    home: NodeHome
    volume: str
    mount_point: Path  # canonical
    options: "MountOptions"
    settings: Settings
    passphrase: passphrases.Passphrase
    log_file: Path | None = None  # None in the foreground: standard error
    pid_file: Path | None = None


@click.command("mount")
@click.argument("volume")
@click.argument("mount_point", type=MountPoint())
@click.option("-d", "--background", is_flag=True, help="Return when the mount is usable and leave it running.")
@click.option(
    "-o",
    "options",
    metavar="OPTIONS",
    multiple=True,
    shell_complete=completing.mount_options,
    help="ro, allow_other, xattr, writeback_cache, idmap=u:1000:0, uid=N, home=DIR, …: all are in mount.p2pfs(8).",
)
@log_file_option
@pid_file_option
@passphrases.passphrase_options
@set_option
@home_option
def command(
    volume: str,
    mount_point: Path,
    background: bool,
    options: tuple[str, ...],
    log_file: Path | None,
    pid_file: Path | None,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    overrides: dict[str, str],
    home: NodeHome,
) -> int:
    """Mount VOLUME at MOUNT_POINT, an empty directory; in the foreground until unmounted, or with -d behind it.

    Settings (io_timeout, cache_size, memory_cache, durability and the others of docs/commands.md) can be given with
    --set or -o. Unmount with `p2pfs umount`, which waits until everything is stored. With -o writeback_cache the kernel
    collects small writes and nobody else can mount the volume meanwhile; exit status 17 says that somebody has it.

    \b
    Examples:
      p2pfs mount photos ~/photos
      p2pfs mount photos ~/photos -d -o ro --passphrase-file ~/.photos.pass
      p2pfs mount photos ~/photos --set cache_size=2G
    """
    request = prepare(
        volume, mount_point, ",".join(options),
        home=home, overrides=overrides, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd,
        log_file=log_file, background=background, pid_file=pid_file,
    )  # fmt: skip
    if background:
        return serve_behind(request)
    return serve(request, lambda: click.echo(f"{volume} is mounted at {mount_point}", err=True))


def prepare(
    volume: str,
    mount_point: Path,
    options: str,
    *,
    home: NodeHome,
    overrides: dict[str, str],
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    log_file: Path | None,
    background: bool,
    pid_file: Path | None = None,
) -> Request:
    """Check everything that can be checked before a passphrase is asked for.

    Raises:
        UserError: What is wrong, with its exit code.
    """
    run_options = parse_options(options)
    home = NodeHome(run_options.home.absolute()) if run_options.home else home
    record = home.record()
    if Role.CLIENT not in record.roles:
        raise UserError(
            f"the node in {home.path} may not use volumes: join with an invite for the role client", exitcodes.DENIED
        )
    settings = home.settings(overrides | run_options.settings)
    if run_options.writeback_cache and settings.durability == "sync":
        raise UserError(
            "writeback_cache contradicts durability=sync: the kernel answers writes before they are stored",
            exitcodes.BAD_CONFIGURATION,
        )
    require_addresses(settings)
    path = mounts.canonical(mount_point)
    require_machine(path)
    if background and log_file is None:
        log_file = home.path / "log" / f"mount-{path.name or 'root'}.log"
    return Request(
        home=home,
        volume=volume,
        mount_point=path,
        options=run_options,
        settings=settings,
        passphrase=passphrases.source(
            passphrase_file or run_options.passphrase_file, passphrase_fd, prompt=f"Passphrase of {volume}"
        ),
        log_file=log_file.absolute() if log_file else None,
        pid_file=pid_file.absolute() if pid_file else None,
    )


def serve(request: Request, ready: Callable[[], None]) -> int:
    """Serve the mount until it ends; the exit code."""
    from p2pfs.cli import connect
    from p2pfs.vfs.shared_keys import READ_ONLY
    from p2pfs_mount.main import run

    log.setup(request.settings.log_level, request.log_file, form=request.settings.log_format, part="mount")
    process.harden()
    process.raise_file_limit()
    # A stranger at the coordinator's address, a wrong name and an aged certificate are met here, before a passphrase is
    # asked for in the foreground.
    volumes = connect.call(request.home, "GET", "/volumes", None, list[VolumeInfo])
    found = find_volume(volumes, request.volume)

    options = request.options
    if found.access == READ_ONLY and not options.read_only:
        click.echo(f"{request.volume} is shared with you to read only, and mounted so", err=True)
        options = dataclasses.replace(options, read_only=True)

    def tell() -> None:
        notify("READY=1")
        ready()

    with holding_pid_file(request.pid_file):
        return run(
            request.home,
            request.settings,
            volume=volume_name(VolumeId(found.volume)),
            mount_point=request.mount_point,
            passphrase=request.passphrase,
            options=options,
            ready=tell,
        )


def serve_behind(request: Request) -> int:
    """Serve the mount in a background process. The parent exits once it is usable, or with what went wrong; only the
    child returns, when the mount has ended."""
    assert request.log_file is not None, "prepare chose one"
    from p2pfs.vfs.shared_keys import is_accepted

    # The terminal is the parent's: what must be asked is asked before.
    secret = "" if is_accepted(request.home, request.volume) else request.passphrase()
    request.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Where systemd mounts on demand, the kernel lets nobody follow the path before it is done but systemd's own process
    # group, in which it starts mount(8).
    readiness = process.daemonise(
        request.log_file,
        leaves_group=not mounts.is_automount(request.mount_point),
        meanwhile=waiting(f"mounting {request.volume}"),
    )
    os.chdir("/")
    try:
        return serve(dataclasses.replace(request, passphrase=lambda: secret), readiness.ready)
    except PoolError as error:
        readiness.failed(str(error), failures.exit_code_of(error))
        raise
    except Exception as error:
        known = failures.expected(error)
        if known is not None:
            readiness.failed(str(known), failures.exit_code_of(known))
        raise


def parse_options(text: str) -> "MountOptions":
    """Raises UserError (BAD_CONFIGURATION)."""
    from p2pfs_mount.options import MountOptions

    try:
        return MountOptions.parse(text)
    except Invalid as error:
        raise UserError(str(error), exitcodes.BAD_CONFIGURATION) from None


def require_machine(path: Path) -> None:
    """Raises UserError (NO_FUSE, BAD_MOUNT_POINT)."""
    from p2pfs_mount import life

    try:
        import pyfuse3
    except ImportError as error:
        raise UserError(
            f"pyfuse3 is missing or does not load ({error}): install fuse3 and p2pfs with its extra “mount”",
            exitcodes.NO_FUSE,
        ) from None
    del pyfuse3
    life.require_fuse()
    life.require_mount_point(path)
