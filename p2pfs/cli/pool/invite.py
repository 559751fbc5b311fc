"""`p2pfs invite`."""

import click

from p2pfs.cli import completing
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_duration, given_duration, given_size


@click.command("invite")
@click.argument("name", metavar="OWNER@MACHINE")
@click.option(
    "--roles",
    default="client,peer",
    show_default=True,
    shell_complete=completing.roles,
    help="What the node may be: client, peer, admin.",
)
@click.option("--zone", default="", help="Where it stands, such as home: copies are spread over zones.")
@click.option("--capacity", metavar="SIZE", help="The most it may offer as a peer, such as 200G.")
@click.option("--lifetime", metavar="TIME", help="How long the invite can be used (default: invite_lifetime, 24h).")
@home_option
@json_option
def command(
    name: str, roles: str, zone: str, capacity: str | None, lifetime: str | None, home: NodeHome, as_json: bool
) -> None:
    """Print a one-time invite for a new machine; hand it over like a password. Needs the role admin.

    \b
    Examples:
      p2pfs invite anna@laptop
      p2pfs invite anna@nas --roles peer --zone home --capacity 2T --lifetime 1h
    """
    process.harden()
    from p2pfs.cli import connect
    from p2pfs.wire.membership import InviteAnswer, InviteRequest

    lifetime_s = given_duration(lifetime) if lifetime else home.settings().invite_lifetime
    request = InviteRequest(
        name=name,
        roles=[role.strip() for role in roles.split(",") if role.strip()],
        zone=zone,
        capacity=given_size(capacity) if capacity else 0,
        lifetime_s=int(lifetime_s),
    )
    answer = connect.call(home, "POST", "/invites", request, InviteAnswer)
    if as_json:
        print_json({"invite": answer.invite, "name": name, "lifetime_s": request.lifetime_s})
        return
    click.echo(answer.invite)
    machine = name.rpartition("@")[2]
    click.echo(
        f"Valid once within {format_duration(lifetime_s)}. On {machine}: run `p2pfs join` and paste it.", err=True
    )
