"""Memory that is free within this process, given back to the system: what a busy moment needed is not kept for ever."""

import contextlib
import ctypes
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol
from weakref import WeakSet

import trio

EVERY_S: Final = 30.0


class Keeping(Protocol):
    """Keeps memory to use it again."""

    def look(self) -> None:
        """Let go of what nobody needed since the last look."""
        ...


_keeping: Final = WeakSet[Keeping]()


def watch(keeping: Keeping) -> None:
    """Have it look now and then, as long as it is there."""
    _keeping.add(keeping)


def give_back(trim: Callable[[int], object] | None) -> None:
    """Once. Takes a few milliseconds, most of them `trim`'s (malloc_trim(3) with what to keep; None where there is no
    such thing): a burst of chunks leaves tens of MiB free between what is in use, which only that returns.

    Garbage first: an error and the frames that it went through often keep each other, and with them the chunks that
    were under way, until somebody looks for such cycles; a process that has come to rest makes too little for that.
    """
    gc.collect()
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
    while True:
        await trio.sleep(EVERY_S)
        give_back(trim)
