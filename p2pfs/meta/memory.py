"""The namespace as dictionaries: an independent second implementation of the rules, for tests of what is above it.

Shares no code with the SQL engine, so that the conformance suite compares two readings of the contract.
"""

from collections.abc import Sequence
from typing import Any

import trio

from p2pfs.errors import Busy, Denied, Fenced, Misuse, PoolError
from p2pfs.meta.events import Listeners, Publication
from p2pfs.meta.memory_delegation import MemoryDelegation
from p2pfs.meta.memory_rules import MemoryRules
from p2pfs.meta.memory_state import BatchLog
from p2pfs.types import ChunkId, DentryId, InodeId, SessionId
from p2pfs.wire.delegations import Delegation
from p2pfs.wire.events import Events, WaitEvents
from p2pfs.wire.found import LabelPage
from p2pfs.wire.namespace import (
    Applied,
    Attributes,
    ChunkPlace,
    DirectoryPage,
    Entry,
    ExpiringPage,
    ExtentPage,
    Named,
    Opened,
    Operation,
    Released,
    Space,
    TrashPage,
    XattrPage,
)
from p2pfs.wire.search import Hits


class MemoryVolume(MemoryRules):
    """One volume, shared by the sessions opened on it."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - MemoryState's
        super().__init__(**options)
        self.listeners = Listeners()
        self.delegation = MemoryDelegation()
        self._alone: int | None = None  # the session that nobody else may join

    def session(
        self, *, read_only: bool = False, exclusive: bool = False, succeeds: int | None = None
    ) -> "MemoryNamespace":
        """A new session of a mount, perhaps in place of one that is dead. Raises Busy."""
        in_the_way = [other for other in self._sessions if exclusive or other == self._alone]
        if not {*self.asleep, succeeds}.issuperset(in_the_way):
            raise Busy("another mount has the volume")
        for other in in_the_way:
            self.end(other)
        self._newest_session += 1
        number = self._newest_session
        if exclusive:
            self._alone = number
        self._sessions.add(number)
        self.delegation.recall(number)
        self.listeners.opened(_id(number), self.volume)
        return MemoryNamespace(self, number, read_only=read_only)

    def end(self, number: int) -> None:
        """End a session; nameless inodes only it held open go."""
        self._sessions.discard(number)
        self._alone = None if self._alone == number else self._alone
        batch = BatchLog(number)
        for inode, session in [key for key in self._open if key[1] == number]:
            del self._open[inode, session]
            self.settle(batch, inode)
        self.listeners.ended(_id(number))
        if self.delegation.holder == number:
            self.delegation.revoke()

    def lapse(self) -> None:
        """Two lifetimes pass: what a session did not say it has open is kept for it no longer."""
        for (inode, session), confirmed in list(self._open.items()):
            if not confirmed:
                del self._open[inode, session]
                self.settle(BatchLog(session), inode)

    def purge(self) -> None:
        """The trash's delay is over: all in it goes but what is open."""
        for inode in list(self._trash):
            batch = BatchLog(0)
            self.unsettle(batch, inode)
            self.settle(batch, inode)

    def require(self, session: int) -> None:
        """Raises Fenced when the session is over."""
        if session not in self._sessions:
            raise Fenced("this session is over")

    def apply(self, session: int, operations: Sequence[Operation]) -> Applied:
        """All operations or none."""
        batch = BatchLog(session)
        try:
            for operation in operations:
                self.do(batch, operation)
        except BaseException:
            for take_back in reversed(batch.undo):
                take_back()
            raise
        applied = Applied([self._inodes[i] for i in batch.touched if i in self._inodes], batch.removed)
        keepers = [_id(other) for other in self.awake(session)]
        self.listeners.publish(_id(session), Publication(self.volume, operations, applied, batch.held, keepers))
        return applied

    def grant_ids(self, count: int) -> range:
        """Numbers never granted before."""
        if count < 1:
            raise Misuse("at least one number is granted")
        first = self._next_id
        self._next_id += count
        return range(first, self._next_id)


class MemoryNamespace:
    """One session on a MemoryVolume. See Namespace."""

    def __init__(self, volume: MemoryVolume, number: int, *, read_only: bool) -> None:
        self._volume = volume
        self._read_only = read_only
        self._stream = self._told = 0
        self.number = number

    async def _begin(self) -> MemoryVolume:
        await trio.lowlevel.checkpoint()
        self._volume.require(self.number)
        return self._volume

    async def lookup(self, parent: InodeId, name: bytes) -> Entry:
        """See Namespace."""
        return (await self._begin()).lookup(parent, name)

    async def attributes(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        return (await self._begin()).attributes(inode)

    async def content(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        return await self.attributes(inode)

    async def directory(self, inode: InodeId, after: DentryId, limit: int, *, content: bool = False) -> DirectoryPage:
        """See Namespace."""
        return (await self._begin()).directory(inode, after, limit, content=content)

    async def extents(self, inode: InodeId, range_number: int) -> ExtentPage:
        """See Namespace."""
        return (await self._begin()).extents(inode, range_number)

    async def locate(self, chunks: Sequence[ChunkId]) -> list[ChunkPlace]:
        """See Namespace."""
        return (await self._begin()).locate(chunks)

    async def xattrs(self, inode: InodeId) -> XattrPage:
        """See Namespace."""
        return (await self._begin()).xattrs(inode)

    async def trash(self, after: int, limit: int, parent: int = 0) -> TrashPage:
        """See Namespace."""
        return (await self._begin()).trash(after, limit, parent)

    async def names(self, inode: InodeId, after: tuple[int, int] = (0, 0)) -> list[Named]:
        """See Namespace."""
        return [
            named for named in (await self._begin()).names(inode) if (named.parent, named.entry.dentry) > tuple(after)
        ][:100]

    async def expiring(self, before_s: int, after: tuple[int, int], limit: int) -> ExpiringPage:
        """See Namespace."""
        return (await self._begin()).expiring(before_s, after, limit)

    async def find(self, tokens: Sequence[bytes], after: tuple[int, int, int], limit: int) -> Hits:
        """See Namespace."""
        return (await self._begin()).find(tokens, after, limit)

    async def find_content(self, token: bytes, after: int, limit: int) -> list[int]:
        """See Namespace."""
        return (await self._begin()).find_content(token, after, limit)

    async def labels(self, inodes: Sequence[InodeId]) -> LabelPage:
        """See Namespace."""
        return (await self._begin()).labels(inodes)

    async def space(self) -> Space:
        """See Namespace."""
        return (await self._begin()).space()

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        """See Namespace."""
        volume = await self._begin()
        if self._read_only and not all(isinstance(operation, Opened | Released) for operation in operations):
            raise Denied("the volume is mounted read-only")
        await volume.delegation.returned(self.number)
        return volume.apply(self.number, operations)

    async def delegate(self, epoch: int) -> Delegation:
        """See Delegable."""
        volume = await self._begin()
        is_alone = not self._read_only and not volume.awake(self.number)
        return volume.delegation.ask(self.number, epoch, is_alone=is_alone)

    async def return_delegation(self, epoch: int, timeouts_s: float) -> None:
        """See Delegable."""
        (await self._begin()).delegation.give_back(self.number, epoch, timeouts_s)

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        """See Delegable."""
        volume = await self._begin()
        volume.delegation.require(self.number, epoch)
        return Applied([], volume.apply(self.number, operations).removed)

    async def settle(self) -> None:
        """See Namespace: nothing is ever outstanding."""
        await self._begin()

    async def new_ids(self, count: int) -> range:
        """See Namespace."""
        return (await self._begin()).grant_ids(count)

    async def events(self, wait_s: float) -> Events:
        """See Namespace."""
        volume = await self._begin()
        asked = WaitEvents(self._stream, self._told, wait_s)
        answers: list[Events | PoolError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_recall, volume, nursery.cancel_scope)
            try:
                answers.append(await volume.listeners.wait(_id(self.number), volume.volume, asked))
            except PoolError as error:
                answers.append(error)  # raised out here: a nursery would wrap it
            nursery.cancel_scope.cancel()
        if not answers:
            return Events(self._stream, self._told, recall=volume.delegation.epoch)
        (events,) = answers
        if isinstance(events, PoolError):
            raise events
        self._stream, self._told = events.stream, events.last
        return events

    async def _watch_recall(self, volume: MemoryVolume, waiting: trio.CancelScope) -> None:
        await volume.delegation.recalled(self.number)
        waiting.cancel()

    async def held(self) -> list[InodeId]:
        """See Namespace."""
        return [InodeId(inode) for inode in (await self._begin()).held(self.number)]


def _id(number: int) -> SessionId:
    return SessionId(str(number))
