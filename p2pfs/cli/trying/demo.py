"""`p2pfs demo start|stop|status|env`: a whole pool on this machine, each part a process of its own."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from p2pfs import exitcodes
from p2pfs.cli.options import MountPoint, json_option, set_option
from p2pfs.cli.show import print_json, print_table
from p2pfs.errors import UserError
from p2pfs.runtime import process
from p2pfs.runtime.sizes import format_count

if TYPE_CHECKING:
    from p2pfs.cli.trying.demo_pool import DemoPool

F = TypeVar("F", bound=Callable[..., object])


def _root_option(function: F) -> F:
    return click.option(
        "--root",
        metavar="DIR",
        required=True,
        type=click.Path(file_okay=False, path_type=Path),
        help="Where everything of this pool lives.",
    )(function)


@click.group("demo")
def command() -> None:
    """Run a whole pool on this machine, to try it or to test with it.

    \b
    Examples:
      p2pfs demo start --root .demo --mount .demo/mnt --peers 3 --replicas 2
      eval "$(p2pfs demo env --root .demo)"
      p2pfs demo stop --root .demo
    """


@command.command("start")
@_root_option
@click.option(
    "--mount",
    "mount_point",
    metavar="MNT",
    type=MountPoint(),
    help="Where to mount the volume (default: mnt below --root).",
)
@click.option("--peers", type=click.IntRange(1, 100), help="How many peers (default: 3).")
@click.option("--replicas", type=click.IntRange(1, 100), help="Copies of each chunk (default: 2).")
@click.option("-o", "options", metavar="OPTIONS", help="Options of the mount, as those of `p2pfs mount`: xattr, ro, …")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something fails.")
@set_option
def start(
    root: Path,
    mount_point: Path | None,
    peers: int | None,
    replicas: int | None,
    options: str | None,
    quiet: bool,
    overrides: dict[str, str],
) -> None:
    """Start a pool and mount its volume; return when the mount is usable.

    On a root used before, the same pool comes back with its data, and what had died is started. Each part is a process:
    pid files are in DIR/run, logs in DIR/log, homes in DIR/coordinator, DIR/peer-N and DIR/mount.

    \b
    Examples:
      p2pfs demo start --root .demo
      p2pfs demo start --root /tmp/pool --mount /mnt/pool --peers 5 --replicas 3 --set repair_delay=30s
    """
    from p2pfs.cli.trying import demo_plan, demo_pool

    process.harden()
    with demo_plan.locked(root.absolute()):
        pool = demo_pool.DemoPool.prepare(
            root, mount=mount_point, peers=peers, replicas=replicas, settings=overrides, options=options
        )
        pool.start(lambda text: None if quiet else click.echo(text, err=True))
    if not quiet:
        _print_hints(pool)


@command.command("stop")
@_root_option
def stop(root: Path) -> int:
    """End every part of the pool, the mount first and after it has stored everything. Data and identities stay.

    \b
    Example:
      p2pfs demo stop --root .demo
    """
    from p2pfs.cli.trying import demo_plan

    pool = _known(root)
    with demo_plan.locked(pool.root):
        return pool.stop(lambda text: click.echo(text, err=True))


@command.command("status")
@_root_option
@json_option
def status(root: Path, as_json: bool) -> None:
    """List the pool's parts with their process ids: running, paused (SIGSTOP), dead or stopped.

    How the pool itself is, `p2pfs status` tells.

    \b
    Example:
      p2pfs demo status --root .demo --json
    """
    parts = [(part.name, part.state(), part.pid()) for part in _known(root).parts()]
    if as_json:
        print_json([{"part": name, "pid": pid, "state": state} for name, state, pid in parts])
    else:
        print_table(("part", "pid", "state"), [(name, str(pid or "-"), state) for name, state, pid in parts])


@command.command("env")
@_root_option
def env(root: Path) -> None:
    """Print shell commands that point the other p2pfs commands at this pool.

    \b
    Example:
      eval "$(p2pfs demo env --root .demo)" && p2pfs status
    """
    pool = _known(root)
    click.echo(f"export P2PFS_HOME={shlex.quote(str(pool.mount_home.path))}")
    directory = Path(sys.executable).parent
    if shutil.which("p2pfs") is None and (directory / "p2pfs").exists():
        click.echo(f'export PATH={shlex.quote(str(directory))}:"$PATH"')


def _known(root: Path) -> "DemoPool":
    from p2pfs.cli.trying import demo_pool

    pool = demo_pool.DemoPool.load(root)
    if pool is None:
        raise UserError(f"there is no demo pool in {root}: p2pfs demo start --root {root}", exitcodes.NO_HOME)
    return pool


def _print_hints(pool: "DemoPool") -> None:
    script = "p2pfs" if shutil.which("p2pfs") else shlex.quote(str(Path(sys.executable).parent / "p2pfs"))
    root, mount = shlex.quote(_short(pool.root)), shlex.quote(_short(pool.mount_point))
    passphrase = shlex.quote(_short(pool.passphrase_path))
    hints = (
        (f"cp -r /usr/include {mount}/", "use it"),
        (f'eval "$({script} demo env --root {root})"', "point p2pfs at this pool, then:"),
        ("p2pfs status", "how the pool is"),
        ("p2pfs dashboard", "the same in a browser"),
        (f"p2pfs where {mount}/include/stdio.h", "who holds a file"),
        (f"p2pfs volume ls demo --passphrase-file {passphrase}", "all files, without a mount"),
        (f"kill -9 $(cat {root}/run/peer-1.pid)", "lose a peer: everything stays readable"),
        (f"{script} demo start --root {root}", "bring back what died"),
        (f"{script} demo stop --root {root}", "end it; the data stays"),
    )
    click.echo(
        f"\n{mount} is a directory of a pool of {format_count(len(pool.plan.peer_ports), 'peer')}. Things to try:\n"
    )
    width = max(len(line) for line, _ in hints)
    for line, meaning in hints:
        click.echo(f"  {line:{width}}  # {meaning}")


def _short(path: Path) -> str:
    """Relative to here where that is shorter to type."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
