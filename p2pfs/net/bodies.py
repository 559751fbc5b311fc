"""How much of request bodies a server holds in memory: a share for each node, then one budget for all of them.

A node's share is taken for what it announces, so that whoever announces much and sends nothing holds up only itself;
the common budget is taken for what has really arrived, step by step. Small bodies, such as heartbeats, take nothing:
their number is bounded by the number of connections. Called by `net.server` and `net.messages`.
"""

from typing import Final

import trio

from p2pfs.errors import Unavailable
from p2pfs.runtime.credits import ByteCredits
from p2pfs.types import KIB, MIB, NodeId

SLOWEST_BYTES_PER_S: Final = 8 * KIB
"""At which a member's body may come: what is left of a thin uplink for one of many."""
SMALL_BYTES: Final = 64 * KIB
STEP_BYTES: Final = MIB
_PATIENCE_S: Final = 10.0
"""Bodies that wait for each other's memory, each half arrived, give up: the sender asks again."""


class BodyBudget:
    """Everything held for bodies by one server."""

    def __init__(self, total: int, per_node: int, small: int = SMALL_BYTES) -> None:
        self.small = small
        self.all = ByteCredits(total)
        self._per_node = per_node
        self._nodes: dict[NodeId | None, ByteCredits] = {}

    def __repr__(self) -> str:
        return f"BodyBudget({self.all}, {len(self._nodes)} nodes)"

    async def announce(self, node: NodeId | None, size: int) -> None:
        """Wait until `node` may send `size` bytes more."""
        share = self._nodes.setdefault(node, ByteCredits(self._per_node))
        try:
            await share.take(size)
        except trio.Cancelled:
            self._forget(node)
            raise

    def withdraw(self, node: NodeId | None, size: int) -> None:
        """The bytes announced are held no longer."""
        self._nodes[node].give(size)
        self._forget(node)

    def _forget(self, node: NodeId | None) -> None:
        share = self._nodes.get(node)
        if share is not None and not share.taken and not share.waiting:
            del self._nodes[node]


class BodyRoom:
    """What one body takes of the budget, until `release`."""

    __slots__ = ("_announced", "_budget", "_node", "_taken")

    def __init__(self, budget: BodyBudget, node: NodeId | None) -> None:
        self._budget = budget
        self._node = node
        self._announced = 0
        self._taken = 0

    async def announce(self, size: int) -> int:
        """A body of `size` bytes comes; how many of them may be received without `grow`."""
        if size <= self._budget.small:
            return size
        await self._budget.announce(self._node, size)
        self._announced += size
        return self._budget.small

    async def grow(self, size: int) -> None:
        """Take memory for `size` bytes more.

        Raises:
            Unavailable: Other bodies hold it and do not come to an end.
        """
        with trio.move_on_after(_PATIENCE_S):
            await self._budget.all.take(size)
            self._taken += size
            return
        raise Unavailable("too many large requests are under way")

    def release(self) -> None:
        """The body is held no longer; again is fine."""
        taken, self._taken = self._taken, 0
        self._budget.all.give(taken)
        announced, self._announced = self._announced, 0
        if announced:
            self._budget.withdraw(self._node, announced)
