"""Blocking work in threads, for paths where `trio.to_thread` costs more than the work.

That names its thread by two system calls, copies a context and takes a turn of the event loop before it starts. Each
system call of a thread is also one more fight for the interpreter's lock.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from p2pfs.errors import Unavailable
from p2pfs.runtime.credits import ByteCredits

if TYPE_CHECKING:
    from outcome import Outcome

T = TypeVar("T")


class Threads:
    """At most `most` at once; whoever comes later waits, in order."""

    def __init__(self, most: int) -> None:
        self._free = ByteCredits(most)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, done in a thread.

        Raises:
            Unavailable: The system starts no more threads now.

        Cancellation: the thread goes on, and counts until it ends; what it finds is dropped.
        """
        await self._free.take(1)
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        is_waiting = True

        def arrive(result: "Outcome[T]") -> None:
            self._free.give(1)
            if is_waiting:
                trio.lowlevel.reschedule(task, result)

        def deliver(result: "Outcome[T]") -> None:
            with suppress(trio.RunFinishedError):  # nobody is left to be told
                token.run_sync_soon(arrive, result)

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal is_waiting
            is_waiting = False
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            trio.lowlevel.start_thread_soon(work, deliver)
        except RuntimeError as error:  # a limit of processes or of memory; there is nobody to deliver
            self._free.give(1)
            raise Unavailable(f"no thread: {error}") from error
        found: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return found
