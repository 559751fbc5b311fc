"""A request that was sent and whose answer one task after another may wait for.

Made by `net.client` for a question over an idle connection: who asks several nodes starts by waiting for the first one
by itself, and only if that takes long makes a task that goes on waiting while another node is asked.
"""

from collections.abc import Awaitable, Callable

import trio

from p2pfs.errors import Unavailable
from p2pfs.net.dialled import LARGEST_REFUSAL, Dialled, Incoming, Reply
from p2pfs.net.watch import Watch
from p2pfs.wire import failures


class Asked:
    """Over `connection`, which `done` gets back, once, whatever happened to it. It sets no deadlines."""

    __slots__ = ("_connection", "_done", "_incoming", "_is_sent", "_watch")

    def __init__(
        self,
        connection: Dialled,
        head: bytes,
        into: memoryview,
        watch: Watch,
        done: Callable[[Dialled], Awaitable[None]],
    ) -> None:
        """Sends `head`, a GET; the answer's body is received into `into`."""
        self._connection = connection
        self._incoming = Incoming(has_body=True, into=into, limit=LARGEST_REFUSAL)
        self._watch = watch
        self._done: Callable[[Dialled], Awaitable[None]] | None = done
        watch.follow(connection.stream.arrived)
        self._is_sent = connection.send_now(head)

    async def answer(self) -> Reply:
        """The answer.

        Cancellation: it is still on its way; call this again, or `aclose`.

        Raises:
            Unavailable: The connection broke, perhaps before it was used, or what came is no answer.
            PoolError: What the other end raised.
        """
        try:
            if not self._is_sent:
                raise Unavailable("the connection was lost")
            reply = await self._connection.receive(self._incoming)
        except trio.Cancelled:
            raise
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        if reply.status >= 400:
            raise failures.decode_failure(reply.status, reply.body)
        return reply

    async def aclose(self) -> None:
        """Nobody waits any more: the connection is closed unless the answer has come. Again is fine; takes no
        checkpoint."""
        done, self._done = self._done, None
        if done is not None:
            self._watch.leave()
            await done(self._connection)
