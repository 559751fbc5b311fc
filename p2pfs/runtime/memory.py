"""Memory that is free within this process, given back to the system: what a busy moment needed is not kept for ever."""

import contextlib
import ctypes
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import process_time
from typing import Final, Protocol
from weakref import WeakSet

import trio

EVERY_S: Final = 30.0
REST: Final = 0.05
"""Of a processor; who takes less is at rest."""


class Keeping(Protocol):
    """Keeps memory to use it again."""

    def look(self) -> None:
        """Let go of what nobody needed since the last look."""
        ...


_keeping: Final = WeakSet[Keeping]()


def watch(keeping: Keeping) -> None:
    """Have it look now and then, as long as it is there."""
    _keeping.add(keeping)


def give_back(trim: Callable[[int], object] | None, *, comes_to_rest: bool = False) -> None:
    """Once. Takes a few milliseconds, most of them `trim`'s (malloc_trim(3) with what to keep; None where there is no
    such thing): a burst of chunks leaves tens of MiB free between what is in use, which only that returns.

    Garbage goes too when a process comes to rest: an error and the frames that it went through often keep each other,
    and with them the chunks that were under way, until somebody looks for such cycles. Under load Python does; that
    takes up to 0.1 s where much is known of a large cache, too long to do it each time.
    """
    if comes_to_rest:
        gc.collect()
        for keeping in list(_keeping):
            keeping.look()  # what came back just now is not needed either
    for keeping in list(_keeping):
        keeping.look()
    if trim is not None:
        trim(0)


@asynccontextmanager
async def thrifty() -> AsyncIterator[None]:
    """That is done each half a minute while the block runs. Errors leave in an exception group."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_give_back_now_and_then)
        yield
        nursery.cancel_scope.cancel()


async def _give_back_now_and_then() -> None:
    trim = None
    with contextlib.suppress(AttributeError):  # another libc
        trim = ctypes.CDLL(None).malloc_trim
    used_s, rested = process_time(), False
    while True:
        await trio.sleep(EVERY_S)
        before_s, used_s = used_s, process_time()
        rests = used_s - before_s < REST * EVERY_S
        give_back(trim, comes_to_rest=rests and not rested)
        rested = rests
