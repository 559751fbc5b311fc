"""What calls promise about stable storage, by the mount's durability (docs/durability.md): who waits for what.

A namespace may acknowledge changes before they are committed (`Namespace.settle`); here is decided which calls wait.
Called by `vfs.filesystem`; storing is the writer's.
"""

from collections.abc import Awaitable, Callable

from p2pfs.meta.protocol import Namespace
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.limits import Durability
from p2pfs.vfs.patience import until_available
from p2pfs.vfs.writer import Writer


class Promises:
    """Of one mount. `Inode.changes` counts what programs did to an inode, `Inode.settled` how much of that is
    committed for certain: a close of a file nobody changed since waits for nothing."""

    def __init__(self, namespace: Namespace, writer: Writer, durability: Durability, *, hard: bool) -> None:
        self._namespace, self._writer, self._durability, self._hard = namespace, writer, durability, hard

    async def changed(self, inode: Inode) -> None:
        """A program wrote to an inode, set its attributes or made it. Under `sync` it is stored on return."""
        inode.changes += 1
        if self._durability is Durability.SYNC:
            await self.synced(inode)

    async def named(self) -> None:
        """Names changed. Under `sync` that is committed on return."""
        if self._durability is Durability.SYNC:
            await self.committed()

    async def closed(self, inode: Inode) -> None:
        """A descriptor is closed. Under `close` and `sync` what was done to the file, its making included, is stored on
        return, unless it has no name: nobody will see it again. Raises an error of storing kept since."""
        is_promised = self._durability is not Durability.FSYNC and inode.attributes.links
        if is_promised and (inode.is_dirty or inode.changes > inode.settled):
            await self.synced(inode)
        else:
            inode.raise_error()

    async def synced(self, inode: Inode) -> None:
        """fsync: everything done to the inode, and every name given before, is on stable storage on return.

        Raises:
            PoolError: See `Writer.settle` and `Namespace.settle`.
        """
        changes = inode.changes
        await self._writer.settle(inode)
        await self.committed()
        inode.settled = max(inode.settled, changes)

    async def committed(self) -> None:
        """Everything acknowledged so far is committed; in a hard mount, however long that takes."""
        await self._lasting(self._namespace.settle)

    async def _lasting(self, effort: Callable[[], Awaitable[None]]) -> None:
        await (until_available(effort) if self._hard else effort())
