"""`p2pfs peer`."""

from pathlib import Path

import click

from p2pfs.cli import daemon_start, leaving
from p2pfs.cli.options import holding_pid_file, home_option, log_file_option, pid_file_option, set_option
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Role


@click.group("peer")
def command() -> None:
    """Offer this machine's spare disk to the pool, and take it back in peace.

    \b
    Examples:
      p2pfs peer start
      p2pfs peer away 8h
      p2pfs peer drain bob@nas
    """


for _command in (leaving.away, leaving.drain, leaving.undrain, leaving.safe_to_stop, leaving.forget):
    command.add_command(_command)


@command.command("start")
@home_option
@set_option
@log_file_option
@pid_file_option
def start(home: NodeHome, overrides: dict[str, str], log_file: Path | None, pid_file: Path | None) -> int:
    """Run the peer daemon in the foreground until SIGTERM or Ctrl-C.

    Needs a node with the role peer, made by `p2pfs join`. As a service: systemctl enable --now p2pfs-peer.

    \b
    Examples:
      p2pfs peer start
      p2pfs peer start --set capacity=200G --set reserve=20G
    """
    with holding_pid_file(pid_file):
        return daemon_start.start(home, overrides, role=Role.PEER, log_file=log_file, load=_load)


def _load() -> daemon_start.Run:
    from p2pfs_peerd import daemon

    return daemon.run
