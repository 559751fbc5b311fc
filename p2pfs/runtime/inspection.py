"""Where a running process waits: SIGUSR1 writes its tree of tasks, and its threads, to the log.

Names of functions, files and lines only: never the value of a variable, which may be a key. Used by the mount, the
coordinator and the peer.
"""

import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, Final

import trio

log = logging.getLogger(__name__)

MOST_LINES: Final = 300
_MOST_FRAMES: Final = 12
_THREAD_FRAMES: Final = 4
_CHAINS: Final = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
"""Of coroutines, generators and asynchronous generators: where it is, and what it waits for."""


@asynccontextmanager
async def inspectable() -> AsyncIterator[None]:
    """SIGUSR1 is answered while the block runs; before, it would end the process. For the main thread only. Errors
    leave in an exception group."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_answer)
        yield
        nursery.cancel_scope.cancel()


async def _answer(task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        task_status.started()
        async for _ in signals:
            for line in lines():
                log.info("%s", line)


def lines(most: int = MOST_LINES) -> list[str]:
    """The tasks of this event loop, indented by nursery, then the threads. Siblings that wait at the same place are one
    line with their number."""
    root = trio.lowlevel.current_root_task()
    found = list(_grouped([root], 0)) if root is not None else []
    found += _threads()
    if len(found) > most:
        found[most:] = [f"… and {len(found) - most} more lines"]
    return found


def _grouped(tasks: list[trio.lowlevel.Task], depth: int) -> Iterator[str]:
    counts: dict[tuple[str, ...], int] = {}
    for task in tasks:
        tree = tuple(_task(task, depth))
        counts[tree] = counts.get(tree, 0) + 1
    for (first, *below), count in counts.items():
        yield first if count == 1 else f"{first} × {count}"
        yield from below


def _task(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    frames = list(_frames(task.coro))
    own = [frame for frame in frames if not str(frame.f_globals.get("__name__")).startswith("trio.")]
    yield f"{'  ' * depth}{task.name}: {_places((own or frames)[-_MOST_FRAMES:])}"
    for nursery in task.child_nurseries:
        yield from _grouped(sorted(nursery.child_tasks, key=lambda child: child.name), depth + 1)


def _frames(awaited: Any) -> Iterator[FrameType]:  # noqa: ANN401 - whatever is awaited
    """From a task's function to where it waits. As `Task.iter_await_frames`, and through what Cython wraps (pyfuse3's
    handlers) too."""
    while awaited is not None:
        kind = next((kind for kind in _CHAINS if hasattr(awaited, kind[0])), None)
        if kind is None:  # a wrapper with no attributes: what it holds
            awaited = next(
                (held for held in gc.get_referents(awaited) if hasattr(held, "cr_frame") or hasattr(held, "ag_frame")),
                None,
            )
            continue
        frame = getattr(awaited, kind[0])
        if frame is not None:
            yield frame
        awaited = getattr(awaited, kind[1])


def _threads() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            yield f"thread {names.get(ident, 'of a library')}: {_places(_innermost(frame))}"


def _innermost(frame: FrameType) -> list[FrameType]:
    frames: list[FrameType] = []
    at: FrameType | None = frame
    while at is not None and len(frames) < _THREAD_FRAMES:
        frames.append(at)
        at = at.f_back
    return frames[::-1]


def _places(frames: list[FrameType]) -> str:
    return (
        " > ".join(f"{frame.f_code.co_name} {_file(frame)}:{frame.f_lineno or '?'}" for frame in frames)
        or "not started"
    )


def _file(frame: FrameType) -> str:
    """The path from its package on: where things are installed is nobody's business."""
    module = str(frame.f_globals.get("__name__", "")).split(".")
    return "/".join(frame.f_code.co_filename.split("/")[-max(len(module), 1) :])
