"""`p2pfs coordinator restore`, `confirm` and `kit`: what to do when the coordinator's disk is gone, and before."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pfs import exitcodes
from p2pfs.cli import completing
from p2pfs.cli.options import home_option, set_option, yes_option
from p2pfs.cli.pool.kits import HandOver, kit_file_option, read_kit
from p2pfs.cli.waiting import waiting
from p2pfs.errors import Denied, NotFound, PoolError, Unavailable, UserError
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_duration

if TYPE_CHECKING:
    from p2pfs.coordinator.backup.restore import Found
    from p2pfs.format.kits import Kit
    from p2pfs.runtime.home import NodeRecord


@click.command("restore")
@click.option(
    "--kit",
    metavar="FILE",
    shell_complete=completing.files,
    help="The recovery kit; - reads standard input. Asked for when not given.",
)
@click.option(
    "--peer", "peers", metavar="HOST:PORT", multiple=True, required=True, help="A peer that answers; may be repeated."
)
@set_option
@yes_option
@home_option
def restore(kit: str | None, peers: tuple[str, ...], overrides: dict[str, str], yes: bool, home: NodeHome) -> int:
    """Make this machine the pool's coordinator again, from the newest backup on its peers.

    For when the coordinator's disk is gone. Needs the recovery kit that p2pfs init printed, and one peer that answers;
    the others are found through it. Nodes look for the coordinator where it was: give this machine that address. What
    was committed after the backup is lost; everything is mounted anew.

    \b
    Examples:
      p2pfs coordinator restore --kit kit.txt --peer 192.0.2.8:9471
      p2pfs coordinator restore --peer nas.local:9471 --set listen=192.0.2.7:9470
    """
    process.harden()
    home.require_vacant()
    opened = read_kit(kit)
    was_there = home.path.exists()
    from p2pfs.coordinator.backup.restored_home import discard

    try:
        home.prepare()
        with home.lock("coordinator"):
            return _restore(home, opened, peers, overrides, yes)
    except (NotFound, Denied) as error:
        raise UserError(str(error), exitcodes.NOT_FOUND if isinstance(error, NotFound) else exitcodes.BUSY) from None
    finally:
        discard(home, was_there=was_there)


def _restore(home: NodeHome, kit: "Kit", peers: tuple[str, ...], overrides: dict[str, str], yes: bool) -> int:
    from p2pfs.coordinator.backup import restored_home

    directory = home.path / "restore"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = _find(kit, directory, peers)
    record = restored_home.record_of(found, kit)
    _show(found, record)
    if not yes and not click.confirm("Make this machine the coordinator, from this backup?"):
        return exitcodes.FAILED
    now_s = time.time()
    with waiting("making this machine the coordinator"):
        made = restored_home.establish(home, found, kit, settings=overrides, now_s=now_s)
    click.echo(
        f"this machine is the coordinator {made.name} now; others will look for it at {', '.join(made.addresses)}"
    )
    click.echo(
        f"lost is what was committed after {_moment(found.state_s)}: members that joined, nodes that were revoked,"
    )
    click.echo("files that changed. Revoke again, invite again; unmount what is still mounted, and mount it again.")
    click.echo(
        "next: p2pfs coordinator start, p2pfs status; when nothing is missing: p2pfs coordinator confirm orphans"
    )
    return exitcodes.OK


def _find(kit: "Kit", directory: Path, peers: tuple[str, ...]) -> "Found":
    import trio

    from p2pfs.coordinator.backup.restore import Restore
    from p2pfs.coordinator.backup.restored_home import record_of
    from p2pfs.runtime.clocks import SystemClock

    async def find(say: Callable[[str], None]) -> "Found":
        attempt = Restore(kit, directory, clock=SystemClock(), say=lambda text: say(f"  {text}"))
        found = await attempt.find(peers)
        await attempt.expect_no_coordinator(record_of(found, kit).addresses)
        return found

    try:
        with waiting("looking for the newest backup") as say:
            return trio.run(find, say)
    except Unavailable as error:
        raise UserError(str(error), exitcodes.UNREACHABLE) from None


def _show(found: "Found", record: "NodeRecord") -> None:
    click.echo(f"pool          {record.pool}")
    click.echo(f"coordinator   {record.name} ({record.node})")
    click.echo(f"backup        {found.generation:016x}, part {found.number}, incarnation {found.incarnation}")
    click.echo(f"its state     {_moment(found.state_s)}, {_age(time.time() - found.state_s)} ago")
    click.echo(f"from          {', '.join(found.sources)}")


def _moment(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _age(seconds: float) -> str:
    return format_duration(max(0.0, round(seconds)))


@click.command("confirm")
@click.argument("what", type=click.Choice(["backup", "clock", "orphans"]))
@home_option
def confirm(what: str, home: NodeHome) -> int:
    """Say that all is well after a warning. Needs the role admin.

    backup: a backup that suddenly shrank is right; the one before is let go. clock: this machine's clock is right as it
    is, and what is old may be deleted again. orphans: after a restore nothing is missing; chunks that no file needs may
    be deleted again.

    \b
    Examples:
      p2pfs coordinator confirm orphans
      p2pfs coordinator confirm backup
    """
    from p2pfs.cli import connect
    from p2pfs.wire.backups import Confirm

    connect.call(home, "POST", "/confirmations", Confirm(what), type(None))
    click.echo(f"confirmed: {what}")
    return exitcodes.OK


@click.command("kit")
@kit_file_option
@yes_option
@home_option
def kit(kit_file: Path | None, yes: bool, home: NodeHome) -> int:
    """Make a new recovery kit; the old one opens no peer any more. The coordinator must be stopped.

    For when the kit was lost or seen by others, and for pools from before there were kits. Who copied backups with the
    old kit can still read those.

    \b
    Examples:
      p2pfs coordinator kit
      p2pfs coordinator kit --kit-file /media/stick/kit.txt
    """
    process.harden()
    home.record()
    handing = HandOver(kit_file)
    handing.require_new()
    if not yes and not click.confirm("Backups made from now on open with the new kit only. Go on?"):
        return exitcodes.FAILED
    from p2pfs.coordinator.backup.renewed_kit import renew_kit

    try:
        with home.lock("coordinator"):
            renew_kit(home, now_s=time.time(), hand_over=handing.take)
    except PoolError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(str(error), exitcodes.FAILED) from error
    handing.show()
    return exitcodes.OK
