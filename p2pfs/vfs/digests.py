"""The digest of a file's whole content, for labels that tell it apart. Called by `vfs.filesystem` for `vfs.labels`."""

from collections.abc import Awaitable, Callable
from typing import Final

from blake3 import blake3

from p2pfs.errors import Unavailable
from p2pfs.types import MIB
from p2pfs.vfs.handles import Handle
from p2pfs.vfs.reader import Reader
from p2pfs.vfs.settling import Settler

PART_BYTES: Final = MIB
TRIES: Final = 3


async def digest(
    handle: Handle, reader: Reader, settler: Settler, count: Callable[[int], Awaitable[None]]
) -> tuple[bytes, int]:
    """BLAKE3 of what is committed of an open file, 32 bytes, and the change it is of; reads it a part at a time and
    tells `count` the bytes of each. Raises Unavailable when it keeps changing, and what reading raises."""
    inode = handle.inode
    for _ in range(TRIES):
        await settler.settle_for_others(inode)
        async with inode.content:  # a compaction behind that moves the change, and the content stays
            pass
        hasher, at, change = blake3(), 0, inode.head.change
        while part := await reader.read(inode, at, PART_BYTES, handle.ahead):
            hasher.update(part)
            at += len(part)
            await count(len(part))
        if inode.head.change == change and not inode.is_dirty:
            return hasher.digest(), change
    raise Unavailable("the file keeps changing while it is read")
