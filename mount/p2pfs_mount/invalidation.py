"""Telling the kernel that something it remembers is stale, without ever waiting for it.

The two notifications block while the kernel has a request under way that holds the same inode or directory (a read, a
mkdir): the answer to that request must come first. Called from the event loop they would therefore hang the mount, so
threads of their own call them, from a queue that is bounded and holds each item once. A thread that hangs in the kernel
cannot be ended, nor can its process: `watch` sees to it that the connection is cut before anybody needs to.

Made by `main` behind `pyfuse3.init`; closed before `pyfuse3.close`, which frees what the threads use.
"""

import contextlib
import errno
import logging
import math
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

import pyfuse3
import trio

log = logging.getLogger(__name__)

THREADS: Final = 2
"""One that hangs behind a slow request leaves another for the rest. Measured: queueing costs the
event loop 2 µs; a call takes 1.5 µs (an inode) or 4 µs (a name) in the kernel, 17 µs all in all with two threads."""
MOST_WAITING: Final = 10_000
JOIN_S: Final = 2.0
_UNKNOWN: Final = frozenset((errno.ENOENT,))  # the kernel does not remember it: nothing is stale
_GONE: Final = frozenset((errno.ENODEV, errno.ENOTCONN, errno.EBADF, errno.ECONNABORTED))  # the mount has ended


class _Name(NamedTuple):
    parent: int
    name: bytes


class _Inode(NamedTuple):
    number: int


class KernelCache:
    """What the kernel remembers of one mount.

    Nothing is promised of when a notification takes effect: it may come late, after an older request's answer, or never
    (an overflow drops all that wait; `overflows` counts them). The kernel's own timeouts (`KERNEL_CACHE_S`) bound how
    long names and attributes stay stale then; it drops pages when a newer mtime or size comes with the attributes, and
    an open checks content by its change.
    """

    def __init__(
        self,
        *,
        deadline_s: float,
        stuck: Callable[[], None],
        hangs: Callable[[], bool] = lambda: True,
        invalidate_inode: Callable[[int, bool], None] = pyfuse3.invalidate_inode,
        invalidate_entry: Callable[[int, bytes], None] = pyfuse3.invalidate_entry,
        most_waiting: int = MOST_WAITING,
        threads: int = THREADS,
        keeps_pages: bool = False,
    ) -> None:
        """`stuck` is called in the event loop when a call has hung for `deadline_s` (inf: only at the end) and `hangs`
        says that it is the mount that does not answer. It must make the kernel let go, and end the process when it is
        asked again. A kernel that `keeps_pages` has unwritten ones among them: told that they are stale it loses them
        (seen with 6.18), and nobody else changes them."""
        self._keeps_pages = keeps_pages
        self._deadline_s, self._stuck, self._hangs, self._most = deadline_s, stuck, hangs, most_waiting
        self._invalidate_inode, self._invalidate_entry = invalidate_inode, invalidate_entry
        # the values say of inodes whether content is stale too
        self._waiting: dict[_Name | _Inode, bool] = {}
        self._changed = threading.Condition()  # held for a few statements, never over a call
        self._closed = False
        self._under_way = [0] * threads  # the number of each thread's call, 0 between calls
        self._calls = 0
        self._is_held_up = False
        self._awaited: list[Callable[[], None]] = []  # who waits until nothing waits
        self.done = 0
        self.overflows = 0
        self._threads = [
            threading.Thread(target=self._run, args=(index,), name=f"kernel-cache-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        return f"KernelCache({len(self._waiting)} waiting, {self.done} done, {self.overflows} overflows)"

    @property
    def waiting(self) -> int:
        """How many notifications are queued."""
        return len(self._waiting)

    # ---- from the event loop

    def stale_inode(self, inode: int, *, content: bool) -> None:
        """The kernel's attributes of an inode are stale, and with `content` its pages."""
        self._put(_Inode(inode), content and not self._keeps_pages)

    def stale_name(self, parent: int, name: bytes) -> None:
        """What the kernel knows of a name is stale, that there is none included."""
        self._put(_Name(parent, name), False)

    def _put(self, item: _Name | _Inode, content: bool) -> None:
        with self._changed:
            if self._closed:
                return
            if len(self._waiting) >= self._most and item not in self._waiting:
                self._waiting.clear()
                self.overflows += 1
            self._waiting[item] = content or self._waiting.get(item, False)
            self._changed.notify()

    async def idle(self) -> None:
        """Wait until the kernel was told all that waits, or it was dropped (`overflows`, or at the end). That takes as
        long as calls hang."""
        token, told = trio.lowlevel.current_trio_token(), trio.Event()
        with self._changed:
            self._awaited.append(lambda: token.run_sync_soon(told.set))
            self._tell_if_idle()
        await told.wait()

    def _tell_if_idle(self) -> None:
        """Called with the lock held."""
        if self._closed or (not self._waiting and not any(self._under_way)):
            with contextlib.suppress(trio.RunFinishedError):
                for tell in self._awaited:
                    tell()
            self._awaited.clear()

    async def watch(self) -> None:
        """Call `stuck` once a call has hung for the deadline because of this mount, then return; until then, run until
        cancelled. A program can hold what a call waits for as long as it likes (a directory while it reads it into
        memory that does not come): that costs notifications, which the kernel's timeouts make up for."""
        if self._deadline_s == math.inf:
            await trio.sleep_forever()
        seen: dict[int, float] = {}
        while True:
            now = trio.current_time()
            seen = {call: seen.get(call, now) for call in self._under_way if call}
            if any(now - since >= self._deadline_s for since in seen.values()):
                if self._hangs():
                    self._stuck()
                    return
                if not self._is_held_up:
                    log.warning("the kernel takes no notification: a program holds what it is about")
                self._is_held_up = True
            await trio.sleep(self._deadline_s / 4)

    async def aclose(self) -> None:
        """Drop what waits and end the threads; calls `stuck` as long as one hangs. Shielded; takes `JOIN_S` at most for
        each time that `stuck` returns."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._tell_if_idle()
            self._changed.notify_all()
        with trio.CancelScope(shield=True):
            while not await trio.to_thread.run_sync(self._joined):
                self._stuck()

    def _joined(self) -> bool:
        for thread in self._threads:
            thread.join(JOIN_S / len(self._threads))
        return not any(thread.is_alive() for thread in self._threads)

    # ---- in the threads

    def _run(self, index: int) -> None:
        while True:
            with self._changed:
                self._under_way[index] = 0
                self._tell_if_idle()
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                item = next(iter(self._waiting))
                content = self._waiting.pop(item)
                self._calls += 1
                self._under_way[index] = self._calls
            self._call(item, content)

    def _call(self, item: _Name | _Inode, content: bool) -> None:
        try:
            if isinstance(item, _Inode):
                self._invalidate_inode(item.number, not content)
            else:
                self._invalidate_entry(item.parent, item.name)
        except OSError as error:
            if error.errno not in _UNKNOWN | _GONE:
                log.warning("the kernel was not told of a change: %s", error)
        except Exception:
            log.exception("the kernel was not told of a change")
        self.done += 1
