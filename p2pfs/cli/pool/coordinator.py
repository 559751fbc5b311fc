"""`p2pfs coordinator`."""

from pathlib import Path

import click

from p2pfs.cli import daemon_start
from p2pfs.cli.options import holding_pid_file, home_option, log_file_option, pid_file_option, set_option
from p2pfs.cli.pool import restore
from p2pfs.cli.pool.find import find
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Role


@click.group("coordinator")
def command() -> None:
    """Run the pool's coordinator, or bring it back when its disk is gone.

    \b
    Examples:
      p2pfs coordinator start
      p2pfs coordinator restore --kit kit.txt --peer 192.0.2.8:9471
    """


command.add_command(restore.restore)
command.add_command(restore.confirm)
command.add_command(restore.kit)
command.add_command(find)


@command.command("start")
@home_option
@set_option
@log_file_option
@pid_file_option
def start(home: NodeHome, overrides: dict[str, str], log_file: Path | None, pid_file: Path | None) -> int:
    """Run the coordinator in the foreground until SIGTERM or Ctrl-C.

    Needs a pool made by `p2pfs init`. As a service: systemctl enable --now p2pfs-coordinator.

    \b
    Examples:
      p2pfs coordinator start
      p2pfs coordinator start --set listen=192.0.2.7:9470 --set log_level=debug
    """
    with holding_pid_file(pid_file):
        return daemon_start.start(home, overrides, role=Role.COORDINATOR, log_file=log_file, load=_load)


def _load() -> daemon_start.Run:
    from p2pfs.coordinator import daemon

    return daemon.run
