"""`p2pfs revoke`."""

import click

from p2pfs import exitcodes
from p2pfs.cli.members import find_node
from p2pfs.cli.options import home_option, yes_option
from p2pfs.cli.show import say
from p2pfs.errors import UserError
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Role


@click.command("revoke")
@click.argument("node")
@yes_option
@home_option
def command(node: str, yes: bool, home: NodeHome) -> int:
    """Throw a node out of the pool, for good. Needs the role admin.

    NODE is a name, an id, or an unambiguous beginning of either. Its certificate stops working everywhere within one
    heartbeat and its connections are closed; copies on a revoked peer no longer count.

    \b
    Examples:
      p2pfs revoke anna@laptop
      p2pfs revoke 3f2a --yes
    """
    from p2pfs.cli import connect
    from p2pfs.wire.membership import NodeInfo

    if Role.ADMIN not in home.record().roles:
        raise UserError(f"the node in {home.path} has not the role admin, which this needs", exitcodes.DENIED)
    found = find_node(connect.call(home, "GET", "/nodes", None, list[NodeInfo]), node)
    if found.revoked:
        say(f"{found.name} ({found.node}) was revoked already")
        return exitcodes.OK
    if not yes:
        say(f"This throws out {found.name} ({found.node}), {' and '.join(sorted(found.roles))}.")
        if "peer" in found.roles:
            say("The copies it keeps no longer count; `p2pfs status` shows which chunks are short then.")
        if not click.confirm("It cannot be undone; the machine would have to join anew. Go on?"):
            return exitcodes.FAILED
    connect.call(home, "POST", f"/nodes/{found.node}/revoke", None, NodeInfo)
    say(f"revoked {found.name} ({found.node})")
    return exitcodes.OK
