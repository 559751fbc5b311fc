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
OVERSLEPT_S: Final = 2.0
"""A wait that ends this late was not in vain: nobody waited."""


class Patience:
    """Shared by everything of one mount that can fall back on what it knows.

    After a vain wait nobody who would wait no longer asks again for a while: a stat that was slow to answer must not
    keep an open from asking.
    """

    def __init__(self) -> None:
        self._not_before = -math.inf
        self._waited_s = 0.0

    async def ask(self, question: Callable[[], Awaitable[T]], seconds: float) -> T | None:
        """The answer, or None when the coordinator is away or took longer. Raises what the question raises."""
        while trio.current_time() >= self._not_before or seconds > self._waited_s:
            began = trio.current_time()
            waited_s = seconds
            try:
                with trio.move_on_after(seconds):
                    return await question()
                if trio.current_time() > began + seconds + OVERSLEPT_S:
                    continue  # this process was stopped: nobody had the time to answer
            except CoordinatorAway:
                waited_s = math.inf
            self._not_before, self._waited_s = trio.current_time() + PAUSE_S, waited_s
            break
        return None
