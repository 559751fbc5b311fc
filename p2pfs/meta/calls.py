"""Requests to the coordinator that outlast its short absences: tried again until `io_timeout` is over, then refused at
once while it stays away. An endless one (`-o hard`) never refuses: it says that the coordinator is away, and goes on
trying. Every request through here may be repeated without harm; that is its caller's promise.

    answering ──no answer for io_timeout──▶ away (each call tries once, briefly)
        ◀────────────any answer────────────┘

A change that another mount's delegation is in the way of is answered so (Recalling), and is asked for again for
TURN_S.
"""

import math
import random
import time
from typing import Any, Final, TypeVar

import trio

from p2pfs.errors import CoordinatorAway, Fenced, Overruled, PoolError, Recalling, Unavailable
from p2pfs.net.client import Client, Endpoint, Reply
from p2pfs.runtime.latency import Latency
from p2pfs.runtime.retry import backoff
from p2pfs.types import Buffer
from p2pfs.wire import codec

T = TypeVar("T")

_ATTEMPT_SHARE: Final = 3  # one attempt takes at most a third of io_timeout: a hung connection must not be all of it
_AWAY_ATTEMPT_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 1.0
_TURN_PAUSE_S: Final = 0.02  # the coordinator did the waiting
TURN_S: Final = 90.0
"""How long a change waits for its turn: a holder that has fallen silent keeps its delegation for less."""


class CoordinatorCalls:
    """One mount's requests to its coordinator, and whether it is away or has fenced us out."""

    def __init__(
        self,
        client: Client,
        coordinator: Endpoint,
        *,
        io_timeout_s: float,
        endless: bool = False,
        chance: random.Random | None = None,
    ) -> None:
        self._client = client
        self._coordinator = coordinator
        self._io_timeout_s = io_timeout_s
        self._endless = endless
        self._chance = chance
        self._fenced: Fenced | None = None
        self._answers = 0
        self.is_away = False
        self.latency = Latency()
        """Of answers that came, but those that come late on purpose."""

    @property
    def is_fenced(self) -> bool:
        """Whether the session is over: every further call raises Fenced without asking."""
        return self._fenced is not None

    async def ask(self, method: str, path: str, message: Any, kind: type[T]) -> T:  # noqa: ANN401 - any wire message
        """Send a message, get one of `kind`.

        Raises:
            CoordinatorAway: No answer within the deadline; never, if these calls are endless.
            Recalling: Another mount's delegation was in the way for TURN_S; never, if these calls are endless.
            Fenced: The session is over.
            PoolError: What the coordinator refused it with.
        """
        reply = await self._request(method, path, b"" if message is None else codec.encode(message))
        return codec.decode(reply.body, kind)

    async def await_late(self, method: str, path: str, message: Any, kind: type[T], *, timeout_s: float) -> T:  # noqa: ANN401
        """One attempt at what the coordinator answers late on purpose. Its silence says nothing about other requests,
        so that it does not make the coordinator `is_away`. Raises as `ask`."""
        if self._fenced is not None:
            raise self._fenced
        try:
            reply = await self._attempt(method, path, codec.encode(message), timeout_s)
        except Unavailable as error:
            raise CoordinatorAway(f"the coordinator does not answer: {error}") from error
        return codec.decode(reply.body, kind)

    async def tell(self, method: str, path: str) -> None:
        """A request whose answer holds nothing. Raises as `ask`."""
        await self._request(method, path, b"")

    async def _request(self, method: str, path: str, body: Buffer) -> Reply:
        deadline = trio.current_time() + self._io_timeout_s
        share_s = max(self._io_timeout_s / _ATTEMPT_SHARE, _AWAY_ATTEMPT_S)
        pauses = backoff(0.05, _LONGEST_PAUSE_S, chance=self._chance)
        turn_by = trio.current_time() + (math.inf if self._endless else TURN_S)
        while True:
            if self._fenced is not None:
                raise self._fenced
            left_s = math.inf
            if not self._endless:
                left_s = min(deadline - trio.current_time(), _AWAY_ATTEMPT_S if self.is_away else math.inf)
            answers = self._answers
            try:
                began_ns = time.perf_counter_ns()
                reply = await self._attempt(method, path, body, min(left_s, share_s))
                self.latency.note(time.perf_counter_ns() - began_ns)
                return reply
            except Recalling:
                if trio.current_time() >= turn_by:
                    raise
                deadline = trio.current_time() + self._io_timeout_s
                await trio.sleep(_TURN_PAUSE_S)
            except Unavailable as error:
                pause_s = next(pauses)
                # That it was away when this request began does not count once another one got an answer.
                if self.is_away or trio.current_time() + pause_s >= deadline:
                    self.is_away = self._answers == answers
                    if not self._endless:
                        raise CoordinatorAway(f"the coordinator does not answer: {error}") from error
                await trio.sleep(pause_s)

    async def _attempt(self, method: str, path: str, body: Buffer, timeout_s: float) -> Reply:
        try:
            reply = await self._client.request(
                self._coordinator, method, path, parts=(body,) if body else (), timeout_s=timeout_s
            )
        except Recalling:
            self.is_away = False
            raise
        except Unavailable:
            raise
        except PoolError as error:
            self._answered()  # a refusal is an answer
            if isinstance(error, Fenced) and not isinstance(error, Overruled):
                self._fenced = error
            raise
        self._answered()
        return reply

    def _answered(self) -> None:
        self._answers += 1
        self.is_away = False
