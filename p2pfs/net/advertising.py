"""Which addresses others are told to dial: what is configured, or what the listening sockets amount to.

Called by the daemons with their real sockets, and by `init` before anything listens.
"""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

from p2pfs.net.addresses import format_address, parse_address

_NOWHERE: Final = ("192.0.2.1:9", "[2001:db8::1]:9")  # reserved for documentation (RFC 5737, RFC 3849)


def advertised(bound: Sequence[str], advertise: str, *, towards: Sequence[str] = ()) -> list[str]:
    """Addresses to dial, best first. `advertise` (comma-separated) is the setting of that name, a missing port filled
    in from `bound`; empty: what the sockets are bound to, with "every address" replaced by the one this machine has on
    the way to `towards` (the coordinator, where there is one), or else to anybody.

    Raises:
        Invalid: One is no address.
    """
    if advertise:
        port = parse_address(bound[0])[1] if bound else None
        return [_written(text.strip(), port) for text in advertise.split(",")]
    found: dict[str, None] = {}
    for address in bound:
        host, port = parse_address(address)
        for reachable in _dialled_as(host, towards):
            found[format_address(reachable, port)] = None
    return list(found)


def _written(text: str, port: int | None) -> str:
    """`text` as an address; its port is `port` if it has none."""
    is_bare = text.count(":") != 1 and not (text.startswith("[") and "]:" in text)
    if is_bare and port is not None:
        return format_address(text.strip("[]"), port)
    return format_address(*parse_address(text))


def _dialled_as(host: str, towards: Sequence[str]) -> list[str]:
    """What others dial to reach a socket bound to `host`."""
    try:
        bound = ipaddress.ip_address(host or "0.0.0.0")
    except ValueError:
        return [host]  # a name
    if not bound.is_unspecified:
        return [host]
    own = [address for target in towards for address in _outgoing(target)]
    own = own or [address for target in _NOWHERE for address in _outgoing(target)]
    family = [address for address in own if ipaddress.ip_address(address).version == bound.version]
    return family or (["127.0.0.1"] if bound.version == 4 else [])


def _outgoing(target: str) -> list[str]:
    """The addresses this machine would use to reach `target`; nothing is sent."""
    host, port = parse_address(target)
    found = []
    try:
        for family, *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(place)
                found.append(str(probe.getsockname()[0]))
    except OSError:
        return found
    return found
