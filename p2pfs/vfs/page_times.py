"""Times of files whose pages a kernel keeps: it tells them once, and they are set when the coordinator answers.

Called by `vfs.filesystem` and `vfs.attribute_changes`. What is still to be set is with the inode (`times_of_pages`),
which is kept for it.
"""

from collections.abc import Iterable
from contextlib import suppress

import trio

from p2pfs.errors import PoolError, Unavailable
from p2pfs.meta.protocol import Namespace
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.tree import Tree
from p2pfs.wire.namespace import SetAttributes


class PageTimes:
    """Those of one volume."""

    def __init__(self, namespace: Namespace, tree: Tree) -> None:
        self._namespace, self._tree = namespace, tree

    async def keep(self, inode: Inode, mtime_ns: int, ctime_ns: int) -> None:
        """Set them; those that cannot be set now are set by the next close or fsync, or at unmount."""
        inode.times_of_pages = mtime_ns, ctime_ns
        with suppress(Unavailable):
            await self.send(inode)

    async def send(self, inode: Inode) -> None:
        """Set those of an inode that are not set yet. Raises PoolError; they are kept then."""
        times = inode.times_of_pages
        if times is not None:
            mtime_ns, ctime_ns = times
            self._tree.took(await self._namespace.apply([SetAttributes(inode.id, ctime_ns, mtime_ns=mtime_ns)]), inode)
            inode.changes += 1
            if inode.times_of_pages is times:
                inode.times_of_pages = None

    async def settle(self, inodes: Iterable[Inode], patience_s: float) -> None:
        """Set those of all. Raises the first error met once all had their chance, Unavailable when time is over."""
        errors: list[PoolError] = []
        with trio.move_on_after(patience_s) as waiting:
            for inode in inodes:
                try:
                    await self.send(inode)
                except PoolError as error:
                    errors.append(error)
        if waiting.cancelled_caught:
            raise Unavailable("the times of some files could not be set in time")
        if errors:
            raise errors[0]
