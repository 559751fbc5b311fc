"""Questions asked at the same time travel in one request: who asks first takes everybody along who asks before it
leaves. A few requests may be under way; while they are, the next one fills. No task of its own: the first who asks
carries it, and when that task is cancelled the others ask again.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from p2pfs.errors import Misuse, PoolError
from p2pfs.wire.answers import Answer
from p2pfs.wire.leases import ReadExpiring, ReadTrash
from p2pfs.wire.namespace import GetXattrs, Question, ReadDirectory, ReadExtents

MAX_FLIGHTS: Final = 4
"""Requests under way at once; more would take the connections that batches need."""
MAX_WEIGHT: Final = 128
"""Of one request; its answer must stay far below what a client takes."""
_HEAVY: Final = 16  # a page may have a megabyte

Send = Callable[[list[Question]], Awaitable[list[Answer]]]


class _Flight:
    """filling ──a slot is free──▶ away ──▶ landed (answers or error) | lost (its carrier was cancelled: neither)"""

    __slots__ = ("answers", "error", "landed", "questions", "weight")

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.answers: list[Answer] | None = None
        self.error: PoolError | None = None
        self.landed = trio.Event()
        self.weight = 0

    def board(self, question: Question) -> int:
        """Take a question along; its place."""
        self.questions.append(question)
        is_page = isinstance(question, ReadDirectory | ReadExtents | GetXattrs | ReadTrash | ReadExpiring)
        self.weight += _HEAVY if is_page else 1
        return len(self.questions) - 1


class Flights:
    """Groups questions into requests that `send` makes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._slots = trio.Semaphore(MAX_FLIGHTS)
        self._filling: _Flight | None = None

    async def ask(self, question: Question) -> Answer:
        """The answer to one question. Raises what `send` raises.

        Cancellation: only this question is given up.
        """
        while True:
            flight = self._filling
            if flight is None:
                flight = self._filling = _Flight()
                flight.board(question)
                await self._carry(flight)
            else:
                place = flight.board(question)
                if flight.weight >= MAX_WEIGHT:
                    self._filling = None
                await flight.landed.wait()
                if flight.answers is None and flight.error is None:
                    continue
                return _unpacked(flight, place)
            return _unpacked(flight, 0)

    async def _carry(self, flight: _Flight) -> None:
        """Wait for a slot, send, and wake the passengers whatever happens."""
        try:
            async with self._slots:
                self._close(flight)
                flight.answers = await self._send(flight.questions)
                if len(flight.answers) != len(flight.questions):
                    flight.answers = None
                    raise Misuse("the coordinator answered another number of questions")
        except PoolError as error:
            flight.error = error
        finally:
            self._close(flight)
            flight.landed.set()

    def _close(self, flight: _Flight) -> None:
        if self._filling is flight:
            self._filling = None


def _unpacked(flight: _Flight, place: int) -> Answer:
    if flight.error is not None:
        raise flight.error
    assert flight.answers is not None  # landed, and not lost
    return flight.answers[place]
