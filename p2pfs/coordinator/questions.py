"""Questions about a volume, answered from its committed state; the rules of the tree are `meta.engine`'s.

A request brings many: they are answered a slice at a time, so that the event loop serves others in between. Called by
`handlers`.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.usefulness import Usefulness
from p2pfs.errors import Misuse
from p2pfs.meta import engine
from p2pfs.meta.database import Database
from p2pfs.net.identity import Identity
from p2pfs.types import NodeId, VolumeId
from p2pfs.wire.answers import Answer
from p2pfs.wire.fsck import ReadDangling, ReadInodes
from p2pfs.wire.leases import ReadExpiring, ReadTrash
from p2pfs.wire.namespace import GetSpace, GetXattrs, Locate, Question, ReadDirectory, ReadExtents
from p2pfs.wire.search import Find, FindContent, ReadLabels
from p2pfs.wire.usage import ReadFileUsage, ReadUsage

SLICE: Final = 32
"""Questions answered at a stretch: the event loop serves others in between."""
PAGE_COST: Final = 16
"""What a page of a directory or of extents, or all attributes of an inode count among them: about 3 ms."""
PLACES: Final = 60
"""Chunks located at the cost of one question."""
MAX_ANSWER_BYTES: Final = 24 << 20
"""Most bytes of answers to one request; clients refuse 32 MiB."""


class Questions:
    """Answers what mounts ask. Whether the asker may use the volume was checked before."""

    def __init__(self, database: Database, reservations: Reservations, usefulness: Usefulness) -> None:
        self._database = database
        self._reservations = reservations
        self._usefulness = usefulness
        self._searching: dict[NodeId, trio.Lock] = {}  # of nodes whose searches are at work

    async def answer(self, identity: Identity, volume: VolumeId, asked: Sequence[Question]) -> list[Answer]:
        """The answers in order, refusals among them, each from one committed state.

        Raises:
            Misuse: So much was asked for that the answer would be too long.
        """
        async with self._search(identity.node, asked):
            return await self._answer(identity, volume, asked)

    @asynccontextmanager
    async def _search(self, node: NodeId, asked: Sequence[Question]) -> AsyncIterator[None]:
        """With searches among the questions: when no others of the node are at work, for each takes a whole slice."""
        if not any(isinstance(question, _SEARCHES) for question in asked):
            yield
            return
        lock = self._searching.setdefault(node, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():  # it is nobody's, so nobody waits for it either
                self._searching.pop(node, None)

    async def _answer(self, identity: Identity, volume: VolumeId, asked: Sequence[Question]) -> list[Answer]:
        given: list[Answer] = []
        room_bytes = MAX_ANSWER_BYTES
        for some in slices(asked):
            asks_space = any(isinstance(question, GetSpace) for question in some)
            room = self._space(identity.node, volume) if asks_space else None
            look = partial(engine.answer_all, volume=volume, asked=some, room=room, most_bytes=room_bytes)
            answered = self._database.read(look)
            given += answered
            room_bytes -= sum(len(memoryview(answer.value)) for answer in answered)
            if len(given) < len(asked):
                await trio.lowlevel.checkpoint()
        return given

    def _space(self, node: NodeId, volume: VolumeId) -> tuple[int, int]:
        return self._usefulness.cap(node, self._reservations.space(node, volume))


def slices(asked: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """The questions in runs that are each answered quickly.

    Raises:
        Misuse: There are too many.
    """
    if len(asked) > engine.MAX_QUESTIONS:
        raise Misuse(f"at most {engine.MAX_QUESTIONS} questions can be asked at once")
    first = cost = 0
    for at, question in enumerate(asked):
        cost += _cost(question)
        if cost >= SLICE:
            yield asked[first : at + 1]
            first, cost = at + 1, 0
    if first < len(asked):
        yield asked[first:]


_PAGES = ReadDirectory | ReadExtents | GetXattrs | ReadTrash | ReadExpiring
_SURVEYS = ReadInodes | ReadDangling | ReadUsage | ReadFileUsage
_SEARCHES = Find | FindContent | ReadLabels
"""About 10 ms each at worst."""


def _cost(question: Question) -> int:
    if isinstance(question, _SEARCHES | _SURVEYS):
        return SLICE
    if isinstance(question, _PAGES):
        return PAGE_COST
    return len(question.chunks) // PLACES + 1 if isinstance(question, Locate) else 1
