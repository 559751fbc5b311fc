"""What one node may hold of a peer: memory for GETs until the answers are sent, and buffers that its PUTs fill."""

import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from p2pfs.runtime.credits import ByteCredits
from p2pfs.types import MIB, NodeId

_TOTAL: Final = 128 * MIB
_PER_NODE: Final = 32 * MIB
"""So that one node which asks and does not read cannot keep the others waiting."""
_RECEIVING_PER_NODE: Final = 4
"""Of the 16 buffers of a peer."""


class ReadBudget:
    """Bytes are taken before a read and given back when the view that answers it is garbage, that is, sent."""

    def __init__(self, total: int = _TOTAL, per_node: int = _PER_NODE) -> None:
        self._all = ByteCredits(total)
        self._per_node = per_node
        self._nodes: dict[NodeId, ByteCredits] = {}

    @property
    def taken(self) -> int:
        return self._all.taken

    async def take(self, node: NodeId, size: int) -> "Lease":
        """Wait until `size` bytes more may be held for `node`."""
        credits = self._nodes.setdefault(node, ByteCredits(self._per_node))
        await credits.take(size)
        try:
            await self._all.take(size)
        except trio.Cancelled:
            credits.give(size)
            raise
        return Lease(self, node, size)

    def give(self, node: NodeId, size: int) -> None:
        """Return what a lease held."""
        self._all.give(size)
        credits = self._nodes[node]
        credits.give(size)
        if not credits.taken and not credits.waiting:
            del self._nodes[node]


class Lease:
    """Bytes taken. End it, or attach it to the view whose life it shares."""

    def __init__(self, budget: ReadBudget, node: NodeId, size: int) -> None:
        self._budget = budget
        self._node = node
        self._size = size

    def end(self) -> None:
        """Give the bytes back, once."""
        size, self._size = self._size, 0
        if size:
            self._budget.give(self._node, size)

    def follow(self, view: memoryview) -> None:
        """End when `view` is garbage."""
        weakref.finalize(view, self.end).atexit = False


class Turns:
    """At most `per_node` chunks are received from one node at once; its others wait, and nobody else does."""

    def __init__(self, per_node: int = _RECEIVING_PER_NODE) -> None:
        self._per_node = per_node
        self._nodes: dict[NodeId, ByteCredits] = {}

    @asynccontextmanager
    async def taken(self, node: NodeId) -> AsyncIterator["Turn"]:
        """A turn of `node`, until the block ends or the turn is ended."""
        credits = self._nodes.setdefault(node, ByteCredits(self._per_node))
        try:
            await credits.take(1)
            turn = Turn(credits)
            try:
                yield turn
            finally:
                turn.end()
        finally:
            if not credits.taken and not credits.waiting and self._nodes.get(node) is credits:
                del self._nodes[node]


class Places:
    """`total` places for all nodes. One that has some is given another only while more are free than it has, so that a
    few nodes which give theirs back late do not have all of them."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._taken: Counter[NodeId] = Counter()
        self._waiting = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def taken(self, node: NodeId) -> AsyncIterator[None]:
        """A place of `node`, until the block ends."""
        while self._taken[node] >= self._free:
            await self._waiting.park()
        self._free -= 1
        self._taken[node] += 1
        try:
            yield
        finally:
            self._free += 1
            self._taken[node] -= 1
            if not self._taken[node]:
                del self._taken[node]
            self._waiting.unpark_all()


class Turn:
    """One of a node's turns."""

    def __init__(self, credits: ByteCredits) -> None:
        self._credits = credits
        self._is_over = False

    def end(self) -> None:
        """Give it back, once."""
        if not self._is_over:
            self._is_over = True
            self._credits.give(1)
