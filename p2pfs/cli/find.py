"""`p2pfs coordinator find`: the coordinator has another address than this node remembers."""

from functools import partial
from typing import Final

import click
import msgspec

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json, say
from p2pfs.errors import UserError
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId, Role

_DIAL_S: Final = 3.0
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


def look_around(home: NodeHome, record: NodeRecord) -> str | None:
    """Where on the local network the coordinator itself answers.

    Raises:
        Unavailable: This machine cannot look.
    """
    import trio

    from p2pfs.net import lan
    from p2pfs.net.finding import first_that_answers

    async def look() -> str | None:
        greet = partial(shake_hands, home, record, record.coordinator, Role.COORDINATOR)
        return await first_that_answers(await lan.look(record.pool), greet)

    return trio.run(look)


async def shake_hands(home: NodeHome, record: NodeRecord, node: NodeId, role: Role, address: str) -> None:
    """With exactly that node at that address. Raises PoolError."""
    from p2pfs.net.client import Client, Endpoint
    from p2pfs.net.identity import Credentials, client_context

    context = client_context(Credentials(home.ca_path, home.certificate_path, home.key_path))
    path = "/status" if role is Role.COORDINATOR else "/health"
    async with Client(context, pool=record.pool, connect_s=_DIAL_S) as client:
        await client.request(Endpoint(node, role, (address,)), "GET", path, timeout_s=_DIAL_S)
