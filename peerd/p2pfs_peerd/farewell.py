"""What this peer tells the coordinator of its going: for a while, or for good once nothing depends on it."""

import logging
from typing import Final

import trio

from p2pfs.errors import Denied, Invalid, PoolError
from p2pfs.net.client import Client, Endpoint
from p2pfs.runtime.events import first_of
from p2pfs.types import NodeId, PeerState
from p2pfs.wire.membership import AwayRequest, NodeInfo

log = logging.getLogger(__name__)

_ANSWER_S: Final = 10.0
_PAUSE_S: Final = 2.0


class Farewell:
    """Made by the daemon, which passes on what heartbeats say."""

    def __init__(self, client: Client, coordinator: Endpoint, node: NodeId) -> None:
        self._client = client
        self._coordinator = coordinator
        self._node = node
        self._left = trio.Event()
        self._stays = trio.Event()
        self._is_draining = False

    def hear(self, state: str) -> None:
        """What the coordinator says this peer is."""
        if state == PeerState.DRAINING:
            self._is_draining = True
        elif self._is_draining and state == PeerState.UP:
            self._stays.set()
        if state != PeerState.LEFT:
            if self._left.is_set():
                self._left = trio.Event()
        elif not self._left.is_set():
            log.info("this peer has left the pool: nothing depends on it; back it comes with p2pfs peer undrain")
            self._left.set()

    async def away(self, for_s: float) -> None:
        """It will be silent for so long; 0: it is back. Raises PoolError: nobody heard, or they refuse."""
        await self._tell("away", AwayRequest(for_s))

    async def leave(self) -> None:
        """Ask to be drained and return when the coordinator has let go, refuses to, or an admin wants the peer to stay.
        The daemon must go on serving meanwhile. Cancellation: the drain goes on at the coordinator."""
        while True:
            try:
                await self._tell("drain", None)
                break
            except (Denied, Invalid) as error:
                log.warning("this peer is not drained: %s", error)
                return
            except PoolError as error:
                log.info("cannot ask to be drained yet: %s", error)
                await trio.sleep(_PAUSE_S)
        log.info("draining: what depends on this peer is being copied elsewhere")
        await first_of(self._left, self._stays)
        if not self._left.is_set():
            log.warning("this peer was told to stay: it stops all the same, and its copies are missed")

    async def _tell(self, action: str, message: AwayRequest | None) -> None:
        path = f"/peers/{self._node}/{action}"
        await self._client.call(self._coordinator, "POST", path, message, NodeInfo, timeout_s=_ANSWER_S)
