"""`p2pfs coordinator find`: the coordinator has another address than this node remembers."""

from typing import Final

import click
import msgspec

from p2pfs import exitcodes
from p2pfs.cli.looking import look_around
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json, say
from p2pfs.cli.waiting import waiting
from p2pfs.errors import UserError
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.types import Role

_MOST_ADDRESSES: Final = 8


@click.command("find")
@home_option
@json_option
def find(home: NodeHome, as_json: bool) -> None:
    """Look for this pool's coordinator on the local network, and remember where it is.

    For when it has moved. Whoever answers is recognised by certificate. What runs here already learns of it when it is
    started again.

    \b
    Example:
      p2pfs coordinator find
    """
    process.harden()
    record = home.record()
    if Role.COORDINATOR in record.roles:
        raise UserError("this node is the coordinator itself: see `p2pfs doctor`", exitcodes.USAGE)
    with waiting("looking around"):
        found = look_around(home, record)
    if found is None:
        raise UserError(
            "nobody on the local network is this pool's coordinator: see that it runs, and has announce=on",
            exitcodes.UNREACHABLE,
        )
    is_new = found not in record.addresses
    if is_new:
        record = msgspec.structs.replace(record, addresses=[found, *record.addresses][:_MOST_ADDRESSES])
        home.save(record)
    if as_json:
        print_json({"found": found, "is_new": is_new, "addresses": record.addresses})
    elif is_new:
        say(f"the coordinator is at {found}; start again what runs here: p2pfs-peer, mounts")
    else:
        say(f"the coordinator is at {found}, as this node knew")
