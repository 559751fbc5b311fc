"""Which addresses others are told to dial: what is configured, or what the listening sockets amount to.

Called by `init` before anything listens and by `daemon` with the real sockets.
"""

import contextlib
import ipaddress
import socket
from collections.abc import Sequence

from p2pfs.net.addresses import format_address, parse_address

_NOWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # reserved for documentation (RFC 5737, 3849)


def advertised(listening: Sequence[str], advertise: str) -> list[str]:
    """Addresses to dial, best first. `advertise` is the setting of that name; empty: worked out from `listening`.

    Raises:
        Invalid: One is no address.
    """
    if advertise:
        return [_written(address) for address in advertise.split(",")]
    found: dict[str, None] = {}
    for address in listening:
        host, port = parse_address(address)
        for reachable in _dialled_as(host):
            found[format_address(reachable, port)] = None
    return list(found)


def _written(address: str) -> str:
    return format_address(*parse_address(address))


def _dialled_as(host: str) -> list[str]:
    """What others dial to reach a socket bound to `host`."""
    try:
        bound = ipaddress.ip_address(host or "0.0.0.0")
    except ValueError:
        return [host]  # a name
    if not bound.is_unspecified:
        return [host]
    family = socket.AF_INET if bound.version == 4 else socket.AF_INET6
    outgoing = _outgoing(family)
    if outgoing:
        return [outgoing]
    return ["127.0.0.1"] if bound.version == 4 else []


def _outgoing(family: socket.AddressFamily) -> str | None:
    """The address this machine would use to reach others; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_NOWHERE[family], 9))
        return str(probe.getsockname()[0])
    return None
