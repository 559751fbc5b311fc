"""`p2pfs peer`."""

import functools
import json
from pathlib import Path

import click

from p2pfs import exitcodes
from p2pfs.cli import daemon_start
from p2pfs.cli.options import (
    holding_pid_file,
    home_option,
    json_option,
    log_file_option,
    pid_file_option,
    require_answer,
    set_option,
    yes_option,
)
from p2pfs.cli.pool import leaving
from p2pfs.cli.show import print_json
from p2pfs.cli.waiting import waiting
from p2pfs.errors import UserError
from p2pfs.runtime import mounts
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_count, format_duration, format_size
from p2pfs.types import Role

_EMPTYING_S = 600.0


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
@click.option("--drain", "drains", is_flag=True, help="Leave the pool in peace when told to stop; told twice, stop.")
def start(home: NodeHome, overrides: dict[str, str], log_file: Path | None, pid_file: Path | None, drains: bool) -> int:
    """Run the peer daemon in the foreground until SIGTERM or Ctrl-C.

    Needs a node with the role peer, made by `p2pfs join`. As a service: systemctl enable --now p2pfs-peer.

    \b
    Examples:
      p2pfs peer start
      p2pfs peer start --set capacity=200G --set reserve=20G
      p2pfs peer start --drain                    a machine that is lent for a while
    """

    def load() -> daemon_start.Run:
        from p2pfs_peerd import daemon

        return functools.partial(daemon.run, drains=drains)

    with holding_pid_file(pid_file):
        return daemon_start.start(home, overrides, role=Role.PEER, log_file=log_file, load=load)


@command.command("status")
@home_option
@json_option
def status(home: NodeHome, as_json: bool) -> int:
    """Show what this home's own peer knows, coordinator or not: how long that has been silent, and who stands in.

    \b
    Example:
      p2pfs peer status
    """
    told = _ask(home, "status", 30.0)
    if as_json:
        print_json(told)
        return exitcodes.OK
    click.echo(f"coordinator   last answered {format_duration(told['coordinator_silent_s'])} ago")
    if not told["knows_members"]:
        click.echo("members       not known: without a list that the coordinator signed nobody can be elected")
    elif told["leader"]:
        who = "this peer" if told["leads"] else f"peer {told['leader']}"
        click.echo(f"elected       {who} asks for copies; it hears {format_count(told['fellows_heard'], 'other peer')}")
        click.echo(f"asked for     {format_count(told['copies_requested'], 'copy')}")
        click.echo(f"taken in      {format_count(told['copies_taken'], 'copy')}, {format_size(told['bytes_taken'])}")
        click.echo(f"room          {format_size(told['room_bytes'])} for more of them")
    else:
        click.echo("elected       nobody")
    return exitcodes.OK


@command.group("trash", invoke_without_command=True)
@home_option
@json_option
@click.pass_context
def trash(context: click.Context, home: NodeHome, as_json: bool) -> int | None:
    """Show how much lies in the trash of this home's own peer: deleted chunks are kept there for `trash_keep`.

    \b
    Example:
      p2pfs peer trash
    """
    if context.invoked_subcommand is not None:
        return None
    size = _ask(home, "trash", 30.0)["trash"]
    if as_json:
        print_json({"trash": size})
    else:
        click.echo(f"{format_size(size)} in the trash")
    return exitcodes.OK


@trash.command("empty")
@yes_option
@home_option
@json_option
def empty(yes: bool, home: NodeHome, as_json: bool) -> int:
    """Empty the trash of this home's own peer now. What was deleted by mistake cannot be brought back after that.

    \b
    Example:
      p2pfs peer trash empty
    """
    require_answer(yes, as_json)
    if not yes:
        size = _ask(home, "trash", 30.0)["trash"]
        if not click.confirm(f"Remove {format_size(size)} of deleted chunks for good?"):
            return exitcodes.FAILED
    with waiting("emptying the trash"):
        done = _ask(home, "empty_trash", _EMPTYING_S)
    if as_json:
        print_json({"removed": done["removed"], "freed": done["freed"]})
    else:
        click.echo(f"removed {format_count(done['removed'], 'chunk')}, {format_size(done['freed'])}")
    return exitcodes.OK


@waiting("asking the peer")
def _ask(home: NodeHome, what: str, timeout_s: float) -> dict[str, int]:
    """What the running daemon of this home answers on its socket."""
    home.record()
    try:
        with mounts.dial(home.path / "run" / "peer.sock", timeout_s) as connection, connection.makefile("rb") as lines:
            connection.sendall(json.dumps({"op": what}).encode() + b"\n")
            if not (line := lines.readline()).endswith(b"\n"):
                raise ConnectionError
            answer: dict[str, int] = json.loads(line)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no peer daemon answers for {home.path}: {mounts.why_silent(error)}; {_what_to_do(error)}",
            exitcodes.UNREACHABLE,
        ) from None
    if "error" in answer:
        raise UserError(f"the peer refuses: {answer['error']}", exitcodes.FAILED)
    return answer


def _what_to_do(error: Exception) -> str:
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return "start it with `p2pfs peer start`, or as a service with `systemctl start p2pfs-peer`"
        case PermissionError():
            return "run this as its user, or as root"
    return "try again; if that does not help, look into its log and start it anew"
