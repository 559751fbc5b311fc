"""How long a mount waits: for news of what it knows already not as long as for what it does not know; and with
`-o hard`, or when it leaves, for what nobody can give it now.

While the coordinator is away, reads go on from what is known (design: errors people see). Used by tree and filesystem.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from p2pfs.errors import CoordinatorAway, Unavailable
from p2pfs.runtime.retry import backoff

log = logging.getLogger(__name__)

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

    def heard(self) -> None:
        """The coordinator spoke of itself: whoever asks now is likely to be answered, however vain the last wait."""
        self._not_before = -math.inf


async def until_available(effort: Callable[[], Awaitable[T]]) -> T:
    """Make an effort again and again while it is Unavailable. It may be repeated without harm. Only a cancellation or
    another error ends it."""
    for pause_s in backoff(0.5, 5.0):
        try:
            return await effort()
        except Unavailable as error:
            log.info("tried again in %.1f s: %s", pause_s, error)
        await trio.sleep(pause_s)
    raise AssertionError("pauses are endless")
