"""Tells the coordinator that this peer lives and how full it is; hears keys, limits and revocations in return.

One task of the daemon. Without an answer it goes on at the same pace: chunks are served meanwhile to whoever holds a
certificate, and PUTs are taken as long as the keys are known.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import trio

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.traffic import Traffic
from p2pfs.errors import PoolError
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.identity import Revocations
from p2pfs.net.wires import TOTAL
from p2pfs.runtime.clocks import Clock
from p2pfs.wire.membership import Heartbeat, HeartbeatAnswer, Scrub
from p2pfs.wire.offers import Offered
from p2pfs_peerd.resources import resources

log = logging.getLogger(__name__)

_MOST_DAMAGED: Final = 1000
MOST_ADDRESSES: Final = 16
"""A coordinator refuses a heartbeat that names more."""
_LONGEST_VERSION: Final = 64
_FIRST_PAUSE_S: Final = 0.2
"""Until the first answer there are no keys, so it is worth asking often."""

Hear = Callable[[HeartbeatAnswer], Awaitable[None]]
"""Takes over what the coordinator said; see `composition`."""


class Pulse:
    """Beats until cancelled. `addresses` may block; it is asked for each beat, for a machine that moves has others."""

    def __init__(
        self,
        client: Client,
        coordinator: Endpoint,
        *,
        store: DirectoryStore,
        root: Path,
        addresses: Callable[[], Sequence[str]],
        offered: Callable[[], int],
        scrub: Callable[[], Scrub],
        withdrawn: Callable[[], tuple[int, list[int]]],
        traffic: Traffic[str],
        offers: Callable[[], list[Offered]] = list,
        revocations: Revocations,
        hear: Hear,
        interval_s: float,
        clock: Clock,
    ) -> None:
        self._client = client
        self._coordinator = coordinator
        self._store = store
        self._root = root
        self._addresses = addresses
        self._offered = offered
        self._scrub = scrub
        self._withdrawn = withdrawn
        self._traffic = traffic
        self._offers = offers
        self._revocations = revocations
        self._hear = hear
        self._interval_s = interval_s
        self._clock = clock
        self._map_version = 0
        self._failures = 0
        self._run = secrets.randbits(63)
        self._hurried = trio.Event()
        self._beaten = trio.Event()
        self.answered = trio.Event()
        """Set by the first answer."""

    async def run(self) -> None:
        while True:
            began_s = trio.current_time()
            self._hurried = trio.Event()
            beaten, self._beaten = self._beaten, trio.Event()
            pause_s = self._interval_s
            try:
                await self._beat()
            except PoolError as error:
                self._failures += 1
                if self._failures == 1:
                    log.warning("the coordinator does not take this peer's heartbeat: %s", error)
                if not self.answered.is_set():
                    pause_s = min(_FIRST_PAUSE_S * self._failures, self._interval_s)
            beaten.set()
            with trio.move_on_after(max(0.0, began_s + pause_s - trio.current_time())):
                await self._hurried.wait()

    async def hurry(self) -> None:
        """Beat now; ends when that was answered, or was not."""
        self._hurried.set()
        await self._beaten.wait()

    async def _beat(self) -> None:
        damaged = self._store.damaged()[:_MOST_DAMAGED]
        served = self._traffic.untold()
        addresses = await trio.to_thread.run_sync(self._addresses, abandon_on_cancel=True)  # names may take long
        answer = await self._client.call(
            self._coordinator,
            "POST",
            "/heartbeat",
            await trio.to_thread.run_sync(
                partial(self._report, damaged, addresses, self._scrub(), self._withdrawn(), served, self._offers())
            ),
            HeartbeatAnswer,
            timeout_s=max(2.0, self._interval_s),
        )
        self._store.acknowledge(damaged)
        self._traffic.told(served)
        self._interval_s = bounded(answer.interval_s)
        self._map_version = answer.map_version
        await self._hear(answer)
        if self._failures:
            log.info("the coordinator answers again")
            self._failures = 0
        self.answered.set()

    def _report(
        self,
        damaged: Sequence[tuple[int, bytes]],
        addresses: Sequence[str],
        scrub: Scrub,
        withdrawn: tuple[int, list[int]],
        served: list[tuple[int, str, int]],
        offers: list[Offered],
    ) -> Heartbeat:
        """Blocking: psutil reads a dozen files. `withdrawn` was asked for before: the usage counts what came before."""
        settled = self._store.settled_seq()  # before the usage that counts it
        usage = self._store.usage()
        return Heartbeat(
            addresses=list(addresses)[:MOST_ADDRESSES],
            capacity=self._offered(),
            used=usage.used,
            trash=usage.trash,
            chunks=usage.chunks,
            clock_s=self._clock.time(),
            resources=resources(self._root),
            map_version=self._map_version,
            revocations_version=self._revocations.version,
            corrupt=[(volume, chunk) for volume, chunk in damaged],
            version=version("p2pfs")[:_LONGEST_VERSION],
            put_seq=settled,
            run=self._run,
            scrub=scrub,
            withdrawn_seq=withdrawn[0],
            draining=withdrawn[1],
            served=served,
            received=TOTAL.received,
            sent=TOTAL.sent,
            offers=offers,
        )


def bounded(interval_s: float) -> float:
    """A pace that neither floods the coordinator nor lets it forget this peer."""
    return min(max(0.05, interval_s), 300.0)  # in this order a NaN is the shortest
