"""atime: reading updates it by relatime's rule, as local disks are mounted by default.

Times are shown at once and told to the coordinator in batches in the background. They are no promise: what is lost in a
crash is a date.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from p2pfs.errors import PoolError
from p2pfs.meta.protocol import Namespace
from p2pfs.types import InodeId
from p2pfs.vfs.inodes import Inode
from p2pfs.wire.namespace import Accessed, Operation

log = logging.getLogger(__name__)

SEND_AFTER_S: Final = 5.0
MOST: Final = 1000
"""Of one batch; more are sent before they are old."""
DAY_NS: Final = 24 * 3600 * 10**9


class AccessTimes:
    """Of one mount. `_pending` are times not yet told; `_telling` is held while some are on their way."""

    def __init__(self, namespace: Namespace, *, now_ns: Callable[[], int], enabled: bool) -> None:
        self._namespace, self._now_ns, self._enabled = namespace, now_ns, enabled
        self._pending: dict[InodeId, int] = {}
        self._since = 0.0
        self._telling = trio.Lock()

    def note(self, inode: Inode) -> None:
        """The inode is read. By relatime's rule that counts if it was not read since it changed, or for a day."""
        row = inode.attributes
        if not self._enabled:
            return
        read_ns, now_ns = max(row.atime_ns, inode.read_ns), self._now_ns()
        if max(row.mtime_ns, row.ctime_ns, inode.mtime_ns) < read_ns and now_ns - read_ns < DAY_NS:
            return
        inode.read_ns = now_ns
        if not self._pending:
            self._since = trio.current_time()
        self._pending[inode.id] = now_ns

    async def forget(self, inode: Inode) -> None:
        """A program sets the time itself: no earlier one may be told after it, nor one on its way arrive after it."""
        async with self._telling:
            inode.read_ns = 0
            self._pending.pop(inode.id, None)

    async def send_aged(self) -> None:
        """Tell what has waited for some seconds, or is much."""
        waited_s = trio.current_time() - self._since
        if self._pending and (waited_s >= SEND_AFTER_S or len(self._pending) >= MOST):
            await self.send_all()

    async def send_all(self) -> None:
        """Tell everything noted by now, as far as the coordinator listens."""
        async with self._telling:
            pending, self._pending = list(self._pending.items()), {}
            for at in range(0, len(pending), MOST):
                told: list[Operation] = [Accessed(inode, time_ns) for inode, time_ns in pending[at : at + MOST]]
                try:
                    await self._namespace.apply(told)
                except PoolError as error:
                    log.info("access times are lost: %s", error)
                    return
