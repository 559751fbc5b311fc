"""The peer as a process: until a signal, or, if that lets it leave in peace first, until the pool has let it go.

`run` is what the command line calls; `serve` is the same within somebody else's trio (tests). What runs is put together
by `composition`.
"""

import functools
import logging
import signal
from collections.abc import AsyncIterator

import trio

from p2pfs.runtime import process
from p2pfs.runtime.config import Settings
from p2pfs.runtime.daemons import run_daemon
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.inspection import inspectable
from p2pfs.runtime.memory import thrifty
from p2pfs.runtime.notify import notify
from p2pfs.runtime.watchdog import watched
from p2pfs_peerd import sleep
from p2pfs_peerd.composition import Peerd, assemble

log = logging.getLogger(__name__)


async def serve(home: NodeHome, settings: Settings, *, drains: bool = False) -> None:
    """Run until SIGTERM or SIGINT, then stop gracefully. `drains`: leave the pool before, unless told twice."""
    peerd = await assemble(home, settings)
    async with inspectable(), watched(), thrifty(), trio.open_nursery() as nursery:
        addresses = await nursery.start(peerd.serve)
        log.info("peer %d of pool %s serves at %s", home.record().peer, home.record().pool, ", ".join(addresses))
        notify("READY=1")
        if settings.away_for:
            nursery.start_soon(sleep.watch, peerd.away, settings.away_for)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await anext(signals)
            if drains:
                await _leave(peerd, signals)
        notify("STOPPING=1")
        log.info("stopping")
        process.end_within(settings.stop_timeout + 5)  # the last resort, also against threads stuck in a dead disk
        await peerd.server.stop(settings.stop_timeout)
        nursery.cancel_scope.cancel()


async def _leave(peerd: Peerd, signals: AsyncIterator[int]) -> None:
    """Until the peer has left, or another signal comes."""
    async with trio.open_nursery() as leaving:

        async def leave() -> None:
            await peerd.leave()
            leaving.cancel_scope.cancel()

        leaving.start_soon(leave)
        await anext(signals)
        log.warning("told to stop again: this peer goes before everything on it was copied")
        leaving.cancel_scope.cancel()


def run(home: NodeHome, settings: Settings, *, drains: bool = False) -> int:
    """The process of `p2pfs peer start`.

    Raises:
        UserError: It cannot start, and why.
    """
    with home.lock("peer"):
        return run_daemon(functools.partial(serve, home, settings, drains=drains))
