"""Being reached through the coordinator: a few connections wait there, each served like one that was accepted here.

A task of the daemon. It listens while told to (the setting `relay`, or the coordinator finds that nobody can dial this
peer), comes back with growing pauses after the coordinator was away, and opens another connection when one is taken.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from p2pfs.errors import PoolError, Unavailable
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.dialled import Dialled
from p2pfs.net.raw import RawStream
from p2pfs.runtime.retry import backoff
from p2pfs.wire import codec
from p2pfs.wire.membership import Listen

log = logging.getLogger(__name__)

SPARES: Final = 3
_WAIT_S: Final = 60.0
"""The coordinator waits less. Without any answer for so long and a little more the connection is dead."""
_GRACE_S: Final = 10.0
_LONGEST_PAUSE_S: Final = 10.0

Accept = Callable[[trio.abc.Stream], Awaitable[None]]
"""Serves a connection until it is over, and closes it: `net.server.Server.accept`."""


class RelayListener:
    """Listens while `mode` is "on", or "auto" and `tell` was told that nobody can dial this peer."""

    def __init__(self, client: Client, coordinator: Endpoint, accept: Accept, *, mode: str) -> None:
        self._client = client
        self._coordinator = coordinator
        self._accept = accept
        self._mode = mode
        self._is_wanted = mode == "on"
        self._changed = trio.Event()
        self._listening = trio.CancelScope()
        self.is_listening = False
        """Whether the coordinator takes part: others may be told to come through it."""

    def tell(self, is_dialable: bool) -> None:
        """What the coordinator found."""
        if self._mode == "auto" and self._is_wanted == is_dialable:
            self._is_wanted = not is_dialable
            self.restart()

    def restart(self) -> None:
        """Let go of connections that wait, and look again whether to have some: this machine's addresses changed."""
        self._listening.cancel()
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. What was taken is served to its end, also when nothing waits any more."""
        async with trio.open_nursery() as serving:
            while True:
                self._changed = trio.Event()
                if self._is_wanted:
                    await self._listen(serving)
                else:
                    self.is_listening = False
                    await self._changed.wait()

    async def _listen(self, serving: trio.Nursery) -> None:
        with trio.CancelScope() as self._listening:
            async with trio.open_nursery() as waiting:
                for _ in range(SPARES):
                    waiting.start_soon(self._keep_spare, serving)

    async def _keep_spare(self, serving: trio.Nursery) -> None:
        pauses = backoff(0.2, _LONGEST_PAUSE_S)
        while True:
            try:
                stream = await self._next()
            except PoolError as error:
                log.info("the coordinator's relay is not reached: %s", error)
                await trio.sleep(next(pauses))
                continue
            pauses = backoff(0.2, _LONGEST_PAUSE_S)
            serving.start_soon(self._accept, stream)

    async def _next(self) -> RawStream:
        """The next dialler's stream, over a new connection."""
        connection = await self._client.open(self._coordinator)
        try:
            while True:
                wait_s = _WAIT_S if self.is_listening else 0.0  # the first answer comes at once: so it does relay
                stream = await self._ask(connection, wait_s)
                self.is_listening = True
                if stream is not None:
                    return stream
        except BaseException:
            await connection.aclose()
            raise

    async def _ask(self, connection: Dialled, wait_s: float) -> RawStream | None:
        with trio.move_on_after(wait_s + _GRACE_S):
            return await connection.upgrade("/relay/listen", codec.encode(Listen(wait_s)))
        raise Unavailable("the coordinator fell silent")
