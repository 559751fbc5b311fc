"""News of what a mount knows already: asked for, but not waited for as long as for what it does not know.

While the coordinator is away, reads go on from what is known (design: errors people see). Used by tree and filesystem.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from p2pfs.errors import CoordinatorAway

T = TypeVar("T")

OPEN_S: Final = 5.0
"""For names and for files about to be opened: what another mount closed before must show, if anybody can tell."""
STAT_S: Final = 1.0
"""For attributes of open files, which the kernel asks for between reads."""
PAUSE_S: Final = 5.0
"""After a vain wait, how long nothing is asked about what is known."""


class Patience:
    """Shared by everything of one mount that can fall back on what it knows."""

    def __init__(self) -> None:
        self._not_before = -math.inf

    async def ask(self, question: Callable[[], Awaitable[T]], seconds: float) -> T | None:
        """The answer, or None when the coordinator is away or took longer. Raises what the question raises."""
        if trio.current_time() < self._not_before:
            return None
        try:
            with trio.move_on_after(seconds):
                return await question()
        except CoordinatorAway:
            pass
        self._not_before = trio.current_time() + PAUSE_S
        return None
