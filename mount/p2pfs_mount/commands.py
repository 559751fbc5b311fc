"""What commands ask a mount to do for them, because it has the volume's keys: one line of JSON in, lines out.

Paths travel as text with `surrogateescape`, from the volume's root. Called by `life.Control`.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from p2pfs.errors import NotFound
from p2pfs.types import InodeId
from p2pfs.vfs.filesystem import Filesystem
from p2pfs.vfs.leases import Expiring, extended
from p2pfs.vfs.trash import Discarded, Restored
from p2pfs_mount.life import Command, Say
from p2pfs_mount.search_commands import SearchCommands

KERNEL_S: Final = 5.0
"""How long the kernel has to forget what it knew of names that are there again."""

Request = dict[str, Any]


class Commands:
    """The commands of one mount. `kernel_idle` returns once the kernel has heard all that it should forget."""

    def __init__(self, filesystem: Filesystem, kernel_idle: Callable[[], Awaitable[None]]) -> None:
        self._fs, self._kernel_idle = filesystem, kernel_idle

    def table(self) -> Mapping[str, Command]:
        """By name."""
        return {
            "trash list": self.list_trash,
            "trash restore": self.restore,
            "trash purge": self.purge,
            "undelete": self.undelete,
            "lease show": self.show_lease,
            "lease set": self.set_lease,
            "lease extend": self.extend_lease,
            "lease list": self.list_leases,
            **SearchCommands(self._fs.labels, self._fs.search).table(),
        }

    async def list_trash(self, request: Request, say: Say) -> None:
        """{"below": path} → a line for each thing in the trash."""
        await self._fs.trash.look(_bytes(request.get("below", "")), lambda found: say(_discarded(found)))

    async def restore(self, request: Request, say: Say) -> None:
        """{"inodes": […]} → a line for each thing that is back. All that can be is, before one that cannot is told."""
        missing: NotFound | None = None
        for inode in request["inodes"]:
            try:
                await self._fs.trash.restore(int(inode), lambda back: say(_restored(back)))
            except NotFound as error:
                if not await self._is_there(InodeId(int(inode))):  # else it came back with its directory
                    missing = error
        await self._forgotten()
        if missing is not None:
            raise missing

    async def purge(self, request: Request, say: Say) -> None:
        """{"inodes": […]} → how many went."""
        await say({"purged": await self._fs.trash.purge([int(inode) for inode in request["inodes"]])})

    async def undelete(self, request: Request, say: Say) -> None:
        """{"path": …, "at_s": UTC or null} → a line for each thing that is back."""
        at_s = None if request.get("at_s") is None else float(request["at_s"])
        row = await self._fs.trash.find(_bytes(request["path"]), at_s)
        await self._fs.trash.restore(row.entry.attributes.inode, lambda back: say(_restored(back)), at_s)
        await self._forgotten()

    async def show_lease(self, request: Request, say: Say) -> None:
        """{"inode": N} → {"expires_s": UTC, 0 for ever}."""
        await say({"expires_s": await self._fs.leases.of(InodeId(int(request["inode"])))})

    async def set_lease(self, request: Request, say: Say) -> None:
        """{"inode": N, "expires_s": UTC or 0, "only_new": bool} → {"changed": so many by now} …"""
        inode, expires_s = InodeId(int(request["inode"])), int(request["expires_s"])
        is_deep = not request.get("only_new", False)
        await self._fs.leases.change(inode, lambda _: expires_s, lambda done: say({"changed": done}), is_deep=is_deep)

    async def extend_lease(self, request: Request, say: Say) -> None:
        """{"inode": N, "span_s": N, "now_s": UTC, "only_new": bool} → as `lease set`."""
        inode, span_s, now_s = InodeId(int(request["inode"])), int(request["span_s"]), int(request["now_s"])
        is_deep = not request.get("only_new", False)
        await self._fs.leases.change(
            inode, lambda old: extended(old, now_s, span_s), lambda done: say({"changed": done}), is_deep=is_deep
        )

    async def list_leases(self, request: Request, say: Say) -> None:
        """{"before_s": UTC, "below": path} → a line for each inode whose lease ends before."""
        await self._fs.leases.look(
            int(request["before_s"]), _bytes(request.get("below", "")), lambda found: say(_expiring(found))
        )

    async def _is_there(self, number: InodeId) -> bool:
        try:
            return (await self._fs.inode(number)).attributes.links > 0
        except NotFound:
            return False

    async def _forgotten(self) -> None:
        with trio.move_on_after(KERNEL_S):
            await self._kernel_idle()


def _discarded(found: Discarded) -> dict[str, object]:
    return {
        "inode": found.inode,
        "path": _text(found.path),
        "kind": found.kind.name.lower(),
        "size": found.size,
        "reason": found.reason.name.lower(),
        "removed_s": found.removed_s,
        "purge_s": found.purge_s,
    }


def _restored(restored: Restored) -> dict[str, object]:
    return {"path": _text(restored.path), "was": _text(restored.was)}


def _expiring(found: Expiring) -> dict[str, object]:
    return {
        "inode": found.inode,
        "path": _text(found.path),
        "kind": found.kind.name.lower(),
        "size": found.size,
        "expires_s": found.expires_s,
    }


def _bytes(path: str) -> bytes:
    return os.fsencode(path)


def _text(path: bytes) -> str:
    return os.fsdecode(path)
