"""What `p2pfs warmup` and `p2pfs evict` ask a mount to do with its caches, as `commands` answers them."""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import trio

from p2pfs.errors import PoolError
from p2pfs.types import InodeId
from p2pfs.vfs.fetching import Warmth
from p2pfs.vfs.filesystem import Filesystem
from p2pfs_mount.invalidation import KernelCache
from p2pfs_mount.life import Command, Say

KERNEL_S: Final = 5.0
"""How long the kernel has to drop its pages before the answer."""
MOST_NAMED: Final = 20
"""Of the files that could not be had."""
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
        """{"inodes": [N, …], "most": bytes or null, "named": bool} → a Warmth now and then, and at the end, with
        "missing" then if `named`: paths of the first files of which something failed. "inode": N is [N]."""
        most = None if request.get("most") is None else int(request["most"])
        tell, lacking = _Seldom(say), list[InodeId]()
        tops = [InodeId(int(number)) for number in request.get("inodes") or [request["inode"]]]
        told = await self._fs.warming.warm(tops, tell, most=most, lacks=lacking.append)
        warmth: dict[str, Any] = msgspec.to_builtins(told)
        if request.get("named"):
            warmth["missing"] = [os.fsdecode(path) for path in await self._paths(lacking[:MOST_NAMED])]
        await say(warmth)

    async def _paths(self, numbers: Sequence[InodeId]) -> list[bytes]:
        found: list[bytes] = []
        with suppress(PoolError):  # the files count without; each other name would be waited for, too
            for number in numbers:
                path = await self._fs.warming.path(number)
                found += [path] if path is not None else []
        return found

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
    """Tells how far it is, but not more often than anybody looks, nor while one that was told is still reading."""

    def __init__(self, say: Say) -> None:
        self._say, self._next = say, 0.0

    async def __call__(self, warmth: Warmth) -> None:
        if trio.current_time() >= self._next:
            self._next = math.inf
            await self.last(warmth)
            self._next = trio.current_time() + _EVERY_S

    async def last(self, warmth: Warmth) -> None:
        await self._say(msgspec.to_builtins(warmth))
