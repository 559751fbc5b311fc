"""Finding a coordinator on the local network, by multicast DNS (RFC 6762, 6763): `_p2pfs._tcp`.

A coordinator announces where it listens, under a hash of its pool's id, and no name. What is found is an address and no
more: anybody on the network can announce anything, and TLS decides who answers there, as everywhere.

The library (zeroconf, the extra `lan`) is imported when something is announced or sought; it has a thread of its own.
Called by the coordinator's daemon and by `p2pfs join` and `doctor`.
"""

import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, cast

import trio
from blake3 import blake3

from p2pfs.errors import Unavailable
from p2pfs.net.addresses import format_address, parse_address
from p2pfs.net.interfaces import own_addresses
from p2pfs.types import PoolId

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceListener, Zeroconf

SERVICE: Final = "_p2pfs._tcp.local."
LOOK_S: Final = 4.0
_LINGER_S: Final = 1.0
"""How long to go on after the first answer: it may be somebody else's."""
_ASK_MS: Final = 1000
_MOST_FOUND: Final = 16
_MOST_ADDRESSES: Final = 8
_LOOK_AGAIN_S: Final = 60.0
"""How often the machine's own addresses are looked at: it may have moved to another network."""
_FAREWELL_S: Final = 3.0

_log = logging.getLogger(__name__)


def pool_mark(pool: PoolId) -> str:
    """What a pool is announced as."""
    return blake3(b"p2pfs lan 1\0" + bytes.fromhex(pool)).hexdigest(8)


# ---- announcing -----------------------------------------------------------------------------------------------------


async def announce(pool: PoolId, bound: Sequence[str]) -> None:
    """Announce the coordinator that listens at `bound` until cancelled; why that cannot be is said once. What listens
    on loopback alone is announced to nobody.

    Cancellation: the network is told that it is gone, for 3 s at most.
    """
    said = ""
    while True:
        addresses, responder = _announced(bound), None
        try:
            responder = await trio.to_thread.run_sync(_announce, pool, addresses)
        except Unavailable as error:
            if str(error) != said:
                said = str(error)
                _log.info("not announced on the local network: %s", said)
        try:
            await _until_moved(bound, None if responder is None else addresses)
        finally:
            if responder is not None:
                with trio.move_on_after(_FAREWELL_S, shield=True):
                    await trio.to_thread.run_sync(_close, responder, abandon_on_cancel=True)


async def _until_moved(bound: Sequence[str], addresses: list[tuple[str, int]] | None) -> None:
    """Until this machine has other addresses than these; None: until it is worth another try."""
    while True:
        await trio.sleep(_LOOK_AGAIN_S)
        if addresses is None or _announced(bound) != addresses:
            return


def _announced(bound: Sequence[str]) -> list[tuple[str, int]]:
    """(address, port), of the first port only: a service has one."""
    found: list[tuple[str, int]] = []
    for text in bound:
        host, port = parse_address(text)
        address = _address(host or "0.0.0.0")
        if address is None or address.is_loopback or (found and port != found[0][1]):
            continue
        if not address.is_unspecified:
            found.append((str(address), port))
            continue
        wanted = (own.address for own in own_addresses() if (":" in own.address) == (address.version == 6))
        found += ((own, port) for own in wanted)
    return list(dict.fromkeys(found))[:_MOST_ADDRESSES]


def _announce(pool: PoolId, addresses: Sequence[tuple[str, int]]) -> "Zeroconf":
    """Blocking, a second or two. Raises Unavailable."""
    if not addresses:
        raise Unavailable("it has no address that other machines can dial")
    with _told_as_unavailable():
        from zeroconf import ServiceInfo, Zeroconf

        hosts = [address for address, _ in addresses]
        name = f"{pool_mark(pool)}-{secrets.token_hex(4)}"
        service = ServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            port=addresses[0][1],
            server=f"p2pfs-{name}.local.",  # the machine's own name is nobody's business
            parsed_addresses=hosts,
        )
        responder = Zeroconf(interfaces=list(hosts), use_asyncio=False)
        try:
            responder.register_service(service)
        except BaseException:
            responder.close()
            raise
        return responder


def _close(responder: "Zeroconf") -> None:
    """Blocking, a second."""
    try:
        with _told_as_unavailable():
            responder.close()
    except Unavailable as error:
        _log.debug("the network was not told that nothing is announced any more: %s", error)


# ---- looking --------------------------------------------------------------------------------------------------------


async def look(pool: PoolId, *, within_s: float = LOOK_S) -> list[str]:
    """Where somebody on the local network says that the coordinator of `pool` is; `host:port`, bounded.

    Raises:
        Unavailable: This machine cannot look, and why.
    """
    return await trio.to_thread.run_sync(_look, pool_mark(pool), within_s)


def _look(mark: str, within_s: float) -> list[str]:
    with _told_as_unavailable():
        from zeroconf import ServiceBrowser, Zeroconf

        own = [one.address for one in own_addresses()]
        if not own:
            raise Unavailable("this machine is in no network")
        asking = Zeroconf(interfaces=list(own), use_asyncio=False)
        try:
            heard = _Heard(mark)
            ServiceBrowser(asking, SERVICE, listener=cast("ServiceListener", heard))
            until_s = time.monotonic() + within_s
            if heard.any.wait(within_s):
                time.sleep(max(min(_LINGER_S, until_s - time.monotonic()), 0))
            return heard.addresses()
        finally:
            asking.close()


class _Heard:
    """A ServiceListener: what is announced under one mark. The library calls its methods, in a thread of its own, by
    the names that it gives the parameters."""

    def __init__(self, mark: str) -> None:
        self._prefix = f"{mark}-"
        self._names: set[str] = set()
        self._found: dict[str, None] = {}
        self.any = threading.Event()

    def add_service(self, zc: "Zeroconf", type_: str, name: str) -> None:
        if not name.startswith(self._prefix) or len(self._names) >= _MOST_FOUND:
            return
        self._names.add(name)
        service = zc.get_service_info(type_, name, timeout=_ASK_MS)
        if service is not None:
            self._found |= dict.fromkeys(_dialled(service))
            self.any.set()

    def update_service(self, zc: "Zeroconf", type_: str, name: str) -> None:
        if name not in self._names:
            self.add_service(zc, type_, name)

    def remove_service(self, zc: "Zeroconf", type_: str, name: str) -> None:
        """It may come back: TLS finds out."""

    def addresses(self) -> list[str]:
        return list(self._found)


def _dialled(service: "ServiceInfo") -> Iterator[str]:
    """What of an announcement can be dialled from another machine."""
    for text in service.parsed_addresses()[:_MOST_ADDRESSES]:
        address = _address(text)
        unusable = address is None or address.is_loopback or address.is_link_local or address.is_unspecified
        if address is not None and not unusable and not address.is_multicast and service.port:
            yield format_address(str(address), service.port)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@contextmanager
def _told_as_unavailable() -> Iterator[None]:
    """The library's errors, and that it is not there, as one of ours."""
    try:
        import zeroconf
    except ImportError:
        raise Unavailable("that needs the library zeroconf: install p2pfs with the extra [lan]") from None
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # it warns of what strangers send
    try:
        yield
    except (OSError, RuntimeError, zeroconf.Error) as error:
        raise Unavailable(f"multicast DNS: {error or type(error).__name__}") from error
