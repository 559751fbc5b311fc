"""`p2pfs init`: a new pool, with this machine as its coordinator."""

import getpass
import platform
import re
import sys
from pathlib import Path

import click

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option, set_option, yes_option
from p2pfs.cli.pool.init_questions import Wishes, ask, ask_kit_file, unresolved
from p2pfs.cli.pool.kits import HandOver, kit_file_option
from p2pfs.cli.show import print_json, say
from p2pfs.errors import UserError
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome, NodeRecord


@click.command("init")
@click.option("--name", help="What the pool is called (default: this machine's name).")
@click.option("--node", metavar="OWNER@MACHINE", help="What this node is called (default: you@this-machine).")
@click.option("--zone", default="", help="Where this machine stands, such as home.")
@click.option(
    "--address",
    "addresses",
    metavar="HOST:PORT",
    multiple=True,
    help="Where other machines reach this one; may be repeated, best first (default: worked out).",
)
@kit_file_option
@set_option
@yes_option
@home_option
@json_option
def command(
    name: str | None,
    node: str | None,
    zone: str,
    addresses: tuple[str, ...],
    kit_file: Path | None,
    overrides: dict[str, str],
    yes: bool,
    home: NodeHome,
    as_json: bool,
) -> None:
    """Make a new pool: its certificate authority, and this node with every role.

    At a terminal it asks for what is not given: names, zone, where others reach this machine, how much disk to offer, a
    file for the recovery kit. With --yes, --json or no terminal it takes defaults and asks nothing.

    Settings given with --set, such as replicas=3, are kept in the home's config.toml. The authority's key stays in the
    home: whoever copies it can admit anyone to the pool, but read nothing.

    The recovery kit is printed once, or written to a file. Without it the pool is lost with this machine's disk: see
    p2pfs coordinator restore.

    \b
    Examples:
      p2pfs init --name home
      p2pfs init --name club --node anna@server --address pool.example.org:9470 --set replicas=3
    """
    process.harden()
    home.require_vacant()
    from p2pfs.coordinator.init import initialise

    kit = HandOver(kit_file)
    if as_json and kit_file is None:
        raise UserError("--json needs --kit-file: a recovery kit is no part of a report", exitcodes.USAGE)
    kit.require_new()
    machine = _word(platform.node().partition(".")[0], "machine")
    default_node = f"{_word(_user(), 'owner')}@{machine}"
    wishes = Wishes(name or "", node or "", zone, addresses, overrides)
    if sys.stdin.isatty() and not (yes or as_json):
        wishes = ask(wishes, name=machine, node=default_node, home=home.path)
        kit = kit if kit_file is not None else HandOver(ask_kit_file())
    made = initialise(
        home.path,
        pool_name=wishes.name or machine,
        name=wishes.node or default_node,
        zone=wishes.zone,
        addresses=wishes.addresses,
        settings=wishes.settings,
        hand_over=kit.take,
    )
    record = made.record()
    for host in unresolved(record.addresses if wishes.addresses else ()):
        say(f"note: no address is known here for {host}; others must know one", err=True)
    if as_json:
        print_json({"home": str(made.path), "pool": record.pool, "node": record.node, "addresses": record.addresses})
        return
    _explain(made, record, wishes.name or machine)
    kit.show()
    _show_next(wishes)


def _explain(home: NodeHome, record: NodeRecord, pool: str) -> None:
    click.echo(f"Made the pool {pool} in {home.path}:")
    click.echo(f"  this node     {record.name}, coordinator and administrator")
    click.echo(f"  for others    {', '.join(record.addresses)}: let that port through firewall and router")
    click.echo("  an authority  its key, below coordinator/, admits machines; whoever copies it can admit any")
    if home.config_path.exists():
        click.echo(f"  settings      in {home.config_path}")
    click.echo("")


def _show_next(wishes: Wishes) -> None:
    steps = [
        ("put the recovery kit where the loss of this disk does not reach it", ""),
        ("p2pfs coordinator start", "as a service: systemctl enable --now p2pfs-coordinator"),
        ("p2pfs peer start", "offers this machine's disk; as a service: p2pfs-peer"),
        ("p2pfs invite OWNER@MACHINE", "for every other machine; there: p2pfs join"),
        ("p2pfs volume create NAME", "then: p2pfs mount NAME DIRECTORY"),
    ]
    if not wishes.offers_disk:
        del steps[2]
    click.echo("Next:")
    for number, (step, why) in enumerate(steps, 1):
        click.echo(f"  {number}. {step:28} {why}".rstrip())
    click.echo("p2pfs doctor says what is missing.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return "owner"


def _word(text: str, otherwise: str) -> str:
    """`text` as node names allow it: small letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9._-]", "-", text.lower()).strip("._-") or otherwise
