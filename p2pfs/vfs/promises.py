"""What calls promise about stable storage, by the mount's durability (docs/durability.md): who waits for what.

A namespace may acknowledge changes before they are committed (`Namespace.settle`); here is decided which calls wait.
Called by `vfs.filesystem` and `vfs.attribute_changes`; storing is the business of `vfs.storing`.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from p2pfs.errors import Fenced, Unavailable
from p2pfs.meta.protocol import Namespace
from p2pfs.runtime.sizes import format_size
from p2pfs.vfs.inodes import Inode
from p2pfs.vfs.journal.journal import NoJournal
from p2pfs.vfs.limits import Durability
from p2pfs.vfs.patience import until_available
from p2pfs.vfs.settling import Settler
from p2pfs.vfs.storing import Storer
from p2pfs.vfs.writer import Writer

T = TypeVar("T")

REMOVED_S: Final = 5.0
"""As long as storing what was closed may take under `fsync`: taking a file's last name waits no longer for that."""
HOPELESS_S: Final = 60.0
"""Nor does it wait at all so soon after it waited in vain: a tree of such files is to be removable."""


class Promises:
    """Of one mount. `Inode.changes` counts what programs did to an inode, `Inode.settled` how much of that is
    committed for certain: a close of a file nobody changed since waits for nothing."""

    def __init__(
        self,
        namespace: Namespace,
        *,
        writer: Writer,
        storer: Storer,
        settler: Settler,
        durability: Durability,
        journal: NoJournal,
        hard: bool,
        has_trash: bool = True,
    ) -> None:
        self._journal, self._has_trash = journal, has_trash
        self._writer, self._storer, self._settler = writer, storer, settler
        self._namespace, self._durability, self._hard = namespace, durability, hard
        self._lost: Fenced | None = None
        self._hopeless_until = -math.inf

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
        return, unless it has no name: nobody will see it again. Under `fsync` its bytes are in the journal or, where
        none can be kept, stored too. Raises an error of storing kept since."""
        if self._durability is Durability.FSYNC and inode.is_dirty and inode.attributes.links:
            self._writer.freeze(inode)
            inode.closed = inode.freezes
            if self._journal.keeps:
                await self._journal.keep(inode)
        waits = self._durability is not Durability.FSYNC or self._journal.has_ended
        if waits and inode.attributes.links and (inode.is_dirty or inode.changes > inode.settled):
            await self.synced(inode)
        else:
            inode.raise_error()

    @property
    def keeps_removed(self) -> bool:
        """Whether what was closed may not be stored yet, and the trash is to have it."""
        return self._has_trash and self._durability is Durability.FSYNC

    async def unnamed(self, inode: Inode) -> None:
        """A name of the inode is about to be taken, perhaps its last: where `keeps_removed`, what was closed and is not
        stored yet is stored before, so that the trash can give it back; what cannot be within 5 s is given up with it.
        Errors are left to who wrote."""
        if inode.attributes.links > 1 or trio.current_time() < self._hopeless_until:
            return
        with trio.move_on_after(REMOVED_S) as waiting:
            await self._settler.stored(inode, inode.closed)
        if waiting.cancelled_caught:
            self._hopeless_until = trio.current_time() + HOPELESS_S

    async def synced(self, inode: Inode) -> None:
        """fsync: everything done to the inode, and every name given before, is on stable storage on return.

        Raises:
            PoolError: See `Settler.settle` and `Namespace.settle`.
        """
        changes = inode.changes
        await self._settler.settle(inode)
        await self.committed()
        inode.settled = max(inode.settled, changes)

    async def committed(self) -> None:
        """fsync of a directory: every name given, changed or removed before is committed on return."""
        await self.lasting(self._namespace.settle)

    async def committed_at_last(self, patience_s: float) -> None:
        """As `committed`, for who leaves: what is lost is noted for `losses`, and nobody waits longer than that. A
        coordinator that is away may be back by then.

        Raises:
            Unavailable: Something is not committed yet; it is tried on.
        """
        with trio.move_on_after(patience_s) as waiting:
            try:
                await until_available(self._namespace.settle)
            except Fenced as error:
                self._lost = error
        if waiting.cancelled_caught:
            raise Unavailable("what was changed could not be committed in time; it is tried again")

    def losses(self) -> str:
        """What was acknowledged and this mount will never store, as a sentence; empty if nothing."""
        found = []
        if size := self._storer.lost_bytes:
            found.append(f"{format_size(size)} written to files were given up")
        if size := self._storer.left_bytes:
            found.append(f"{format_size(size)} written to files are left to the next mount of this node")
        return "; ".join([*found, str(self._lost)] if self._lost else found)

    async def lasting(self, effort: Callable[[], Awaitable[T]]) -> T:
        """In a hard mount, until somebody can answer. Calls to the coordinator, and waiting for what is being stored,
        are endless there by themselves."""
        return await (until_available(effort) if self._hard else effort())
