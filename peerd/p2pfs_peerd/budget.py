"""How much of chunks may be in memory at once for GETs, in all and for one node, until the answers are sent."""

import weakref
from typing import Final

import trio

from p2pfs.runtime.credits import ByteCredits
from p2pfs.types import MIB, NodeId

_TOTAL: Final = 128 * MIB
_PER_NODE: Final = 32 * MIB
"""So that one node which asks and does not read cannot keep the others waiting."""


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
