"""`p2pfs revoke`."""

from typing import TYPE_CHECKING

import click

from p2pfs import exitcodes
from p2pfs.cli.members import find_node
from p2pfs.cli.options import home_option, json_option, require_answer, yes_option
from p2pfs.cli.show import print_json, say
from p2pfs.errors import UserError
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Role

if TYPE_CHECKING:
    from p2pfs.wire.membership import NodeInfo


@click.command("revoke")
@click.argument("node")
@yes_option
@home_option
@json_option
def command(node: str, yes: bool, home: NodeHome, as_json: bool) -> int:
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

    require_answer(yes, as_json)
    if Role.ADMIN not in home.record().roles:
        raise UserError(f"the node in {home.path} has not the role admin, which this needs", exitcodes.DENIED)
    found = find_node(connect.call(home, "GET", "/nodes", None, list[NodeInfo]), node)
    if found.revoked:
        _tell(found, f"{found.name} ({found.node}) was revoked already", as_json)
        return exitcodes.OK
    if not yes:
        say(f"This throws out {found.name} ({found.node}), {' and '.join(sorted(found.roles))}.")
        if "peer" in found.roles:
            say("The copies it keeps no longer count; `p2pfs status` shows which chunks are short then.")
        if not click.confirm("It cannot be undone; the machine would have to join anew. Go on?"):
            return exitcodes.FAILED
    gone = connect.call(home, "POST", f"/nodes/{found.node}/revoke", None, NodeInfo)
    _tell(gone, f"revoked {found.name} ({found.node})", as_json)
    return exitcodes.OK


def _tell(node: "NodeInfo", sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(node)
    else:
        say(sentence)
