"""`p2pfs init`: a new pool, with this machine as its coordinator."""

import getpass
import platform
import re
from pathlib import Path

import click

from p2pfs import exitcodes
from p2pfs.cli.kits import HandOver, kit_file_option
from p2pfs.cli.options import home_option, json_option, set_option
from p2pfs.cli.show import print_json
from p2pfs.errors import UserError
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome


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
@home_option
@json_option
def command(
    name: str | None,
    node: str | None,
    zone: str,
    addresses: tuple[str, ...],
    kit_file: Path | None,
    overrides: dict[str, str],
    home: NodeHome,
    as_json: bool,
) -> None:
    """Make a new pool: its certificate authority, and this node with every role.

    Settings given with --set, such as replicas=3, are kept in the home's config.toml. The authority's key stays in the
    home: whoever copies it can admit anyone to the pool, but read nothing.

    The recovery kit is printed once. Without it the pool is lost with this machine's disk: see p2pfs coordinator
    restore.

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
    made = initialise(
        home.path,
        pool_name=name or machine,
        name=node or f"{_word(_user(), 'owner')}@{machine}",
        zone=zone,
        addresses=addresses,
        settings=overrides,
        hand_over=kit.take,
    )
    record = made.record()
    if as_json:
        print_json({"home": str(made.path), "pool": record.pool, "node": record.node, "addresses": record.addresses})
        return
    click.echo(f"made the pool {name or machine} in {made.path}; this node is {record.name}")
    click.echo(f"others will reach it at {', '.join(record.addresses)}")
    kit.show()
    click.echo("next: p2pfs coordinator start   (as a service: systemctl enable --now p2pfs-coordinator)")
    click.echo("      p2pfs peer start          to offer this machine's disk too")
    click.echo("      p2pfs invite OWNER@MACHINE  for every other machine")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return "owner"


def _word(text: str, otherwise: str) -> str:
    """`text` as node names allow it: small letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9._-]", "-", text.lower()).strip("._-") or otherwise
