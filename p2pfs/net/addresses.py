"""`host:port` ⇄ (host, port), and listening sockets.

The one place that knows how an address is written: `192.0.2.7:9470`, `[2001:db8::7]:9470`, `host.example:9470`.
"""

import errno
import ipaddress
import re
from collections.abc import Sequence
from typing import Final

import trio

from p2pfs import exitcodes
from p2pfs.errors import Invalid, UserError

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):(\d{1,5})", re.ASCII)
RELAY: Final = "relay"
"""In a list of addresses: through the coordinator, for a node that nobody can dial."""
_BACKLOG: Final = 1024
_LONGEST: Final = 255
_LONGEST_LABEL: Final = 63  # RFC 1035, 2.3.4


def parse_address(text: str) -> tuple[str, int]:
    """(host, port); the host is empty for "every address of this machine".

    Raises:
        Invalid: It is no address.
    """
    found = _ADDRESS.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None or int(found[3]) > 65535 or not _can_be_looked_up(found[1], found[2]):
        shown = text if text.isprintable() and len(text) <= _LONGEST else ascii(text[:40])
        raise Invalid(f"“{shown}” is no address: write host:port, such as 192.0.2.7:9470")
    return found[1] or found[2] or "", int(found[3])


def _can_be_looked_up(bracketed: str | None, host: str | None) -> bool:
    """What is no IPv6 address or no host name makes the system's resolver raise other errors than OSError."""
    if bracketed is not None:
        try:
            ipaddress.IPv6Address(bracketed)
        except ValueError:
            return False
    labels = (host or "").removesuffix(".").split(".")
    return not host or all(0 < len(label) <= _LONGEST_LABEL for label in labels)


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def open_listeners(listen: str) -> list[trio.SocketListener]:
    """Sockets listening on every address of a comma-separated list; port 0 takes any free one.

    Raises:
        Invalid: One is no address.
        UserError: BUSY, or the machine has no such address.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for text in listen.split(","):
            host, port = parse_address(text.strip())
            listeners += await trio.open_tcp_listeners(port, host=host or None, backlog=_BACKLOG)
    except (OSError, ExceptionGroup) as error:
        close_listeners(listeners)
        raise UserError(f"cannot listen on {listen}: {_reason(error)}", exitcodes.BUSY) from error
    except BaseException:
        close_listeners(listeners)
        raise
    return listeners


def bound_addresses(listeners: Sequence[trio.SocketListener]) -> list[str]:
    """What the listeners really listen on, port 0 resolved."""
    return [format_address(*listener.socket.getsockname()[:2]) for listener in listeners]


def close_listeners(listeners: Sequence[trio.SocketListener]) -> None:
    """Close at once, without awaiting."""
    for listener in listeners:
        listener.socket.close()


def _reason(error: OSError | ExceptionGroup[Exception]) -> str:
    while isinstance(error, ExceptionGroup):
        inner = error.exceptions[0]
        if not isinstance(inner, OSError | ExceptionGroup):
            return str(inner)
        error = inner
    if error.errno == errno.EADDRINUSE:
        return "another process already uses that port"
    return error.strerror or str(error)
