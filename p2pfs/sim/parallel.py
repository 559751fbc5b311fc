"""Work spread over processors. What comes out does not depend on how many there are."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


class Workers:
    """Calls functions, several at a time if there are processes for it."""

    def __init__(self, executor: Executor | None = None) -> None:
        self._executor = executor

    def map(self, function: Callable[[A], T], arguments: Iterable[A]) -> Iterator[T]:
        """`function` of each argument, in their order. Both must be picklable."""
        return map(function, arguments) if self._executor is None else self._executor.map(function, arguments)


@contextmanager
def workers(jobs: int | None = None) -> Iterator[Workers]:
    """So many processes, by default one for each processor this one may use; one works here."""
    jobs = len(os.sched_getaffinity(0)) if jobs is None else jobs
    if jobs == 1:
        yield Workers()
        return
    # Spawned: a fork would copy the threads' locks of whatever shows how far it is.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_serve)
    try:
        yield Workers(executor)
    finally:
        executor.shutdown(cancel_futures=True)


def _serve() -> None:
    """Ctrl-C is for the process that asked, which lets the others finish what they have begun; they end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
