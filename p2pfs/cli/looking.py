"""Looking for the coordinator on the local network, and shaking hands with a node to see that it is itself."""

from functools import partial
from typing import Final

from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId, Role

_DIAL_S: Final = 3.0


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
