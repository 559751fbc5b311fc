"""What `p2pfs warmup` and `p2pfs evict` ask a mount to do with its caches, as `commands` answers them."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import trio

from p2pfs.types import InodeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.warming import Warmth
from p2pfs_mount.invalidation import KernelCache
from p2pfs_mount.life import Command, Say

KERNEL_S: Final = 5.0
"""How long the kernel has to drop its pages before the answer."""
_EVERY_S: Final = 0.2

Request = dict[str, Any]


class CacheCommands:
    """Those of one mount."""

    def __init__(self, filesystem: Filesystem, kernel: KernelCache) -> None:
        self._fs, self._kernel = filesystem, kernel

    def table(self) -> Mapping[str, Command]:
        """By name."""
        return {"warmup": self.warm, "evict": self.evict}

    async def warm(self, request: Request, say: Say) -> None:
        """{"inode": N, "most": bytes or null} → a Warmth now and then, and at the end."""
        most = None if request.get("most") is None else int(request["most"])
        tell = _Seldom(say)
        await tell.last(await self._fs.warming.warm(InodeId(int(request["inode"])), tell, most=most))

    async def evict(self, request: Request, say: Say) -> None:
        """{"inode": N} → as `warm`. A kernel that keeps what is written keeps its pages."""
        tell = _Seldom(say)
        cooled = await self._fs.warming.cool(InodeId(int(request["inode"])), tell, self._forget)
        with trio.move_on_after(KERNEL_S):
            await self._kernel.idle()
        await tell.last(cooled)

    def _forget(self, inode: InodeId) -> None:
        if self._fs.may_drop_pages(inode):
            self._kernel.stale_inode(inode, content=True)


class _Seldom:
    """Tells how far it is, but not more often than anybody looks."""

    def __init__(self, say: Say) -> None:
        self._say, self._next = say, 0.0

    async def __call__(self, warmth: Warmth) -> None:
        if trio.current_time() >= self._next:
            self._next = trio.current_time() + _EVERY_S
            await self.last(warmth)

    async def last(self, warmth: Warmth) -> None:
        await self._say(msgspec.to_builtins(warmth))
