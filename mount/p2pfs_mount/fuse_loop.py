"""How pyfuse3's loop reads the kernel's requests.

It is a number of tasks: each waits for the FUSE device, reads a request, answers it and comes back. pyfuse3 settles who
may wait by a lock, which goes to another task with each request: two passes of the event loop for each, and a process
that goes to sleep while the program behind it is about to ask the next thing. Here

* a task keeps its turn to read for as long as its handlers answer without suspending; one that suspends passes the turn
  on, so that others are answered meanwhile;
* who comes back for the next request looks whether it is there already, and where that was worth it lately waits for it
  awake for `SPIN_NS`: a program that makes files asks again so soon, and waking this process takes longer.

pyfuse3 takes its lock, its waiting and its nursery from its own name `trio`, for which its mode for asyncio puts
something else in place, and so does `FuseLoop`.
"""

import inspect
import select
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

import pyfuse3
import trio

from p2pfs.runtime.looks import Looks

SPIN_NS: Final = 20_000
AWAKE_NS: Final = 1_000_000
"""Requests are read without letting other tasks run for no longer than that, and one more."""
SHARED_NS: Final = 100_000
"""The same while somebody's request waits for other tasks."""
_IDLE_TASKS: Final = 8
"""Kept for when they are needed again; pyfuse3 keeps one, and makes and ends one for each close otherwise."""

R = TypeVar("R")


def poller() -> Callable[[int], bool]:
    """Whether a descriptor can be read now, or never more."""
    poll = select.poll()
    known = set[int]()

    def is_ready(fd: int) -> bool:
        if fd not in known:
            poll.register(fd, select.POLLIN)
            known.add(fd)
        return bool(poll.poll(0))

    return is_ready


class Turn:
    """Whose turn it is to read: what pyfuse3 takes for a lock. A turn lasts until `pass_on`."""

    def __init__(self) -> None:
        self._owner: trio.lowlevel.Task | None = None
        self._waiting: list[trio.lowlevel.Task] = []
        self.was_kept = False  # by its owner, which answered a request since it last waited; until it waits again
        self.suspended = 0  # handlers that wait for something

    async def __aenter__(self) -> None:
        """Return when it is this task's turn, without a checkpoint when it is already.

        Cancellation: it has no turn and waits for none.
        """
        task = trio.lowlevel.current_task()
        self.was_kept = self._owner is task
        if self._owner is None or self.was_kept:
            self._owner = task
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)
        self.was_kept = False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is a request, which the same task reads."""

    def pass_on(self) -> None:
        """If it is this task's turn, it is that of one that waits now, or of whoever comes next."""
        if self._owner is trio.lowlevel.current_task():
            self._owner = self._waiting.pop() if self._waiting else None
            if self._owner is not None:
                trio.lowlevel.reschedule(self._owner)

    def passing_on(self, handler: Callable[..., Coroutine[Any, Any, R]]) -> "Callable[..., _Answer[R]]":
        """`handler`, which passes the turn on once it suspends."""
        return lambda *args: _Answer(handler(*args), self)


class _Answer(Generic[R]):
    """A handler's coroutine under way, as whoever awaits it sees it; `runtime.inspection` too."""

    __slots__ = ("_handler", "_is_suspended", "_turn")

    def __init__(self, handler: Coroutine[Any, Any, R], turn: Turn) -> None:
        self._handler: Any = handler  # with the frames that every real coroutine has
        self._turn, self._is_suspended = turn, False

    def __await__(self) -> "_Answer[R]":
        return self

    def __iter__(self) -> "_Answer[R]":
        return self

    def __next__(self) -> Any:  # noqa: ANN401 - a message for trio
        return self._step(self._handler.send, None)

    def send(self, value: Any) -> Any:  # noqa: ANN401 - trio's answer to it
        return self._step(self._handler.send, value)

    def throw(self, error: BaseException) -> Any:  # noqa: ANN401
        return self._step(self._handler.throw, error)

    def close(self) -> None:
        self._end()
        self._handler.close()

    @property
    def cr_frame(self) -> Any:  # noqa: ANN401
        return self._handler.cr_frame

    @property
    def cr_await(self) -> Any:  # noqa: ANN401
        return self._handler.cr_await

    def _step(self, step: Callable[[Any], Any], value: Any) -> Any:  # noqa: ANN401
        try:
            message = step(value)
        except BaseException:  # its result too
            self._end()
            raise
        if not self._is_suspended:
            self._is_suspended = True
            self._turn.suspended += 1
            self._turn.pass_on()
        return message

    def _end(self) -> None:
        if self._is_suspended:
            self._is_suspended = False
            self._turn.suspended -= 1


class _Passing(pyfuse3.Operations):
    """Others' handlers, as they are now, all of which pass the turn on."""

    def __init__(self, operations: pyfuse3.Operations, turn: Turn) -> None:
        super().__init__()
        for name in dir(pyfuse3.Operations):
            if not name.startswith("_"):
                own = getattr(operations, name)
                setattr(self, name, turn.passing_on(own) if inspect.iscoroutinefunction(own) else own)


class FuseLoop:
    """In the place of pyfuse3's `trio`: everything of trio's, but for how tasks wait to read."""

    ClosedResourceError = trio.ClosedResourceError
    from_thread = trio.from_thread

    def __init__(
        self,
        *,
        is_ready: Callable[[int], bool] | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.turn = Turn()
        self.lowlevel = self
        self._is_ready = is_ready or poller()
        self._now_ns = now_ns
        self._looks = Looks()
        self._awake_since_ns = 0

    def of(self, operations: pyfuse3.Operations) -> pyfuse3.Operations:
        """What `pyfuse3.init` is given, for `serve` to serve."""
        return _Passing(operations, self.turn)

    async def serve(self) -> None:
        """`pyfuse3.main`: until the kernel lets go of the mount, or `pyfuse3.terminate`."""
        pyfuse3.trio = self  # type: ignore[attr-defined]  # as pyfuse3.asyncio does
        await pyfuse3.main(min_tasks=_IDLE_TASKS)

    # ---- what pyfuse3 asks of trio

    def Lock(self) -> Turn:
        return self.turn

    @asynccontextmanager
    async def open_nursery(self) -> "AsyncIterator[_Nursery]":
        async with trio.open_nursery() as nursery:
            yield _Nursery(nursery, self.turn)

    async def wait_readable(self, fd: int) -> None:
        """As trio's, called with the turn to read; mostly without letting other tasks run when the turn was kept."""
        if self.turn.was_kept and self._is_soon_ready(fd):
            return
        await trio.lowlevel.wait_readable(fd)
        self._awake_since_ns = self._now_ns()

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def _is_soon_ready(self, fd: int) -> bool:
        now_ns = self._now_ns()
        if now_ns - self._awake_since_ns > (SHARED_NS if self.turn.suspended else AWAKE_NS):
            return False
        if self._is_ready(fd):
            return True
        if not self._looks.is_due():
            return False
        end_ns, found = now_ns + SPIN_NS, False
        while not found and self._now_ns() < end_ns:
            found = self._is_ready(fd)
        self._looks.note(found=found)
        return found


class _Nursery:
    """Of the loop's tasks: the turn of one that ends is passed on."""

    def __init__(self, nursery: trio.Nursery, turn: Turn) -> None:
        self._nursery, self._turn = nursery, turn

    def start_soon(self, session: Callable[..., Coroutine[Any, Any, None]], _: object, *args: int, name: str) -> None:
        """`session` is told the nursery to start others in, and how many there may be."""
        self._nursery.start_soon(self._run, session, *args, name=name)

    async def _run(self, session: Callable[..., Coroutine[Any, Any, None]], *args: int) -> None:
        try:
            await session(self, *args)
        finally:
            self._turn.pass_on()
