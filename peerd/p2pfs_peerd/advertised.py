"""What a peer tells others to dial, when its owner did not say. Pure but for one question to the routing table."""

import socket
from collections.abc import Sequence

from p2pfs.net.addresses import format_address, parse_address


def advertised(bound: Sequence[str], advertise: str, coordinator: Sequence[str]) -> list[str]:
    """`advertise` (comma-separated) if given, a missing port filled in; else what the sockets are `bound` to, with
    "every address" replaced by the one this machine has on the way to the coordinator."""
    ports = [parse_address(address)[1] for address in bound]
    if advertise:
        return [_with_port(text.strip(), ports[0]) for text in advertise.split(",")]
    found = []
    for address in bound:
        host, port = parse_address(address)
        if host in {"", "0.0.0.0", "::"}:
            found += [format_address(own, port) for own in _own_hosts(coordinator, ipv6_only=False)]
        else:
            found.append(format_address(host, port))
    return list(dict.fromkeys(found))


def _with_port(text: str, port: int) -> str:
    """`text` as an address; its port is `port` if it has none."""
    is_bare = text.count(":") != 1 and not (text.startswith("[") and "]:" in text)
    return format_address(text.strip("[]"), port) if is_bare else text


def _own_hosts(coordinator: Sequence[str], *, ipv6_only: bool) -> list[str]:
    """This machine's addresses as seen on the way to the coordinator's; nothing is sent."""
    hosts = []
    for address in coordinator:
        host, port = parse_address(address)
        try:
            for family, *_, target in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect(target)
                    hosts.append(str(probe.getsockname()[0]))
        except OSError:
            continue
    return list(dict.fromkeys(hosts)) or ["127.0.0.1"]
