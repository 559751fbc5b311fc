"""Whether peers can be dialled at the addresses they tell: tried from here, when they are new and now and then.

A background worker. What is found goes into the answer to the peer's next heartbeat; a peer that nobody can dial then
listens at the relay. From a coordinator in the peer's own network the answer says nothing about others: such a peer is
told with the setting `relay = on`.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from p2pfs.coordinator.roster import Peer
from p2pfs.errors import PoolError
from p2pfs.net.addresses import RELAY
from p2pfs.net.dialled import Endpoint, dial, expecting
from p2pfs.net.heads import request_head
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import KIB, NodeId, PoolId, Role

CONNECT_S: Final = 2.0
AGAIN_S: Final = 600.0
AGAIN_REFUSED_S: Final = 60.0
"""When to look again at a peer that could be dialled, and at one that could not."""
_PAUSE_S: Final = 2.0  # between two looks at one peer, whatever it tells
_LONGEST_S: Final = 10.0
_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)

Probe = Callable[[NodeId, tuple[str, ...]], Awaitable[bool]]
"""Whether this node answers at one of these addresses."""


@dataclass(slots=True)
class _Verdict:
    addresses: tuple[str, ...]
    is_dialable: bool
    found_s: float  # monotonic


class Dialability:
    """Worker: looks at the peers whose heartbeats say that it is time. Without a `probe` all can be dialled."""

    name = "dialability"

    def __init__(self, probe: Probe | None, clock: Clock) -> None:
        self._probe = probe
        self._clock = clock
        self._verdicts: dict[NodeId, _Verdict] = {}
        self._due: dict[NodeId, Peer] = {}
        self._heard = trio.Event()

    def heard(self, peer: Peer) -> bool:
        """A heartbeat told the peer's addresses; whether it could be dialled when last looked at."""
        node, verdict = peer.node.id, self._verdicts.get(peer.node.id)
        if self._probe is not None and self._is_due(peer, verdict):
            self._due[node] = peer
            self._heard.set()
        return verdict is None or verdict.is_dialable

    def _is_due(self, peer: Peer, verdict: _Verdict | None) -> bool:
        if verdict is None:
            return True
        if verdict.addresses != _direct(peer.addresses):
            pause_s = _PAUSE_S
        else:
            pause_s = AGAIN_S if verdict.is_dialable else AGAIN_REFUSED_S
        return self._clock.monotonic() >= verdict.found_s + pause_s

    async def work(self) -> Progress:
        """Look at some of those who are due."""
        now = [self._due.pop(node) for node in list(self._due)[:_AT_ONCE]]
        async with trio.open_nursery() as nursery:
            for peer in now:
                nursery.start_soon(self._look, peer)
        return Progress.BUSY if self._due else Progress.IDLE

    async def wait(self) -> None:
        await self._heard.wait()
        self._heard = trio.Event()

    async def _look(self, peer: Peer) -> None:
        assert self._probe is not None
        node, addresses = peer.node.id, _direct(peer.addresses)
        is_dialable = await self._probe(node, addresses)
        before = self._verdicts.get(node)
        self._verdicts[node] = _Verdict(addresses, is_dialable, self._clock.monotonic())
        if is_dialable != (before is None or before.is_dialable):
            can = "can" if is_dialable else "cannot"
            _log.info("peer %s (%d) %s be dialled at %s", peer.node.name, peer.number, can, ", ".join(addresses))


def _direct(addresses: Sequence[str]) -> tuple[str, ...]:
    return tuple(address for address in addresses if address != RELAY)


def prober(context: ssl.SSLContext, pool: PoolId, clock: Clock) -> Probe:
    """Dials, and asks how the peer is; with a connection of its own each time."""

    async def probe(node: NodeId, addresses: tuple[str, ...]) -> bool:
        endpoint = Endpoint(node, Role.PEER, addresses)
        check = expecting(endpoint, pool, now=clock.time)
        with trio.move_on_after(_LONGEST_S):
            try:
                connection = await dial(endpoint, context, check, connect_s=CONNECT_S)
            except PoolError:
                return False
            try:
                with trio.move_on_after(CONNECT_S):
                    head = request_head("GET", "/health", node)
                    await connection.exchange(head, (), has_body=True, into=None, limit=64 * KIB)
                    return True
            except PoolError:
                return False
            finally:
                await connection.aclose()
        return False

    return probe
