"""Where a peer is reached, which may change while it runs: another network, or only through the relay."""

import logging
from collections.abc import Callable, Sequence

from p2pfs.net.addresses import RELAY
from p2pfs_peerd.heartbeat import MOST_ADDRESSES
from p2pfs_peerd.relay import RelayListener

log = logging.getLogger(__name__)


class Whereabouts:
    """Where this peer is reached, worked out anew for each heartbeat."""

    def __init__(self, addresses: Callable[[], Sequence[str]], relay: RelayListener) -> None:
        self._addresses = addresses
        self._relay = relay
        self._found = self._settled = tuple(addresses())

    def now(self) -> list[str]:
        """Addresses to dial, the relay last. Blocking: it may ask for the coordinator's name."""
        self._found = tuple(self._addresses())
        relay = [RELAY] if self._relay.is_listening else []
        return [*self._found[: MOST_ADDRESSES - len(relay)], *relay]

    def last(self) -> list[str]:
        """What was found last. Does not block."""
        return list(self._found)

    def settle(self) -> None:
        """The coordinator has heard. Connections that wait there from another address are dead, and nobody says so."""
        if self._found != self._settled:
            log.info("this machine is now at %s", ", ".join(self._found))
            self._settled = self._found
            self._relay.restart()
