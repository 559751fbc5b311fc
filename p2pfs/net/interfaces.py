"""Which addresses this machine has: to offer them to a person, and to announce them on the local network.

Asks the kernel, sends nothing. Linux only, as the rest.
"""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfs.net.addresses import format_address
from p2pfs.net.advertising import advertised

_SIOCGIFADDR: Final = 0x8915
_IF_INET6: Final = Path("/proc/net/if_inet6")


@dataclass(frozen=True, slots=True)
class Own:
    """An address of this machine, and the interface that has it."""

    address: str
    interface: str


def own_addresses() -> list[Own]:
    """The first IPv4 address and every global IPv6 address of each interface but loopback, the one on the way to
    everybody else first; none where the kernel does not say: a process without descriptors left, a container."""
    try:
        found = [*_version_4(), *_version_6()]
    except OSError:
        return []
    usual = [text.rpartition(":")[0].strip("[]") for text in advertised(["0.0.0.0:1", "[::]:1"], "")]
    return sorted(found, key=lambda own: usual.index(own.address) if own.address in usual else len(usual))


def candidates(port: int) -> list[tuple[str, str]]:
    """(`host:port`, where it comes from), the likeliest first: what this machine may be reached at."""
    return [(format_address(own.address, port), own.interface) for own in own_addresses()]


def _version_4() -> Iterator[Own]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            address = ipaddress.IPv4Address(answer[20:24])
            if not address.is_loopback:
                yield Own(str(address), name)


def _version_6() -> Iterator[Own]:
    try:
        lines = _IF_INET6.read_text(encoding="ascii").splitlines()
    except OSError:  # a kernel without IPv6
        return
    for line in lines:
        digits, *_, name = line.split()
        address = ipaddress.IPv6Address(bytes.fromhex(digits))
        if not (address.is_loopback or address.is_link_local):
            yield Own(str(address), name)
