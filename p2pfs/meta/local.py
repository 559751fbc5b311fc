"""Namespace over the SQL engine in this process: for the conformance suite, tools, and whoever mounts where the
coordinator runs. Same sessions and batches as over the network, without the network.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import trio

from p2pfs.meta import engine, sessions
from p2pfs.meta.database import Database
from p2pfs.meta.events import Listeners
from p2pfs.meta.outstanding import OutstandingBatches
from p2pfs.meta.sessions import Outcome
from p2pfs.meta.work import Verify
from p2pfs.runtime.clocks import Clock
from p2pfs.types import ChunkId, DentryId, InodeId, SessionId, VolumeId
from p2pfs.wire import answers
from p2pfs.wire.events import Events, WaitEvents
from p2pfs.wire.found import LabelPage
from p2pfs.wire.leases import ReadExpiring, ReadNames, ReadTrash
from p2pfs.wire.namespace import (
    Applied,
    Attributes,
    Batch,
    ChunkPlace,
    DirectoryPage,
    Entry,
    ExpiringPage,
    ExtentPage,
    GetAttributes,
    GetSpace,
    GetXattrs,
    Locate,
    Lookup,
    Named,
    Operation,
    Question,
    ReadDirectory,
    ReadExtents,
    Space,
    TrashPage,
    XattrPage,
)
from p2pfs.wire.search import Find, FindContent, Hits, ReadLabels


class LocalNamespace:
    """One volume within one session that somebody opened by `sessions.open_session`. See Namespace.

    Sessions that share `listeners` tell each other what they change. A session counts as awake until it expires.
    """

    def __init__(
        self,
        database: Database,
        volume: VolumeId,
        session: SessionId,
        *,
        verify: Verify,
        wanted_min: Callable[[], int],
        clock: Clock,
        listeners: Listeners | None = None,
    ) -> None:
        self._database = database
        self._volume = volume
        self.session = session
        self._verify = verify
        self._wanted_min = wanted_min
        self._clock = clock
        self._listeners = listeners or Listeners()
        self._listeners.opened(session, volume)
        self._stream = self._told = 0
        self._outstanding = OutstandingBatches()

    async def lookup(self, parent: InodeId, name: bytes) -> Entry:
        """See Namespace."""
        return self._ask(Lookup(parent, name))  # type: ignore[no-any-return]  # the question's own answer, below too

    async def attributes(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        return self._ask(GetAttributes(inode))  # type: ignore[no-any-return]

    async def content(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        return await self.attributes(inode)

    async def directory(self, inode: InodeId, after: DentryId, limit: int, *, content: bool = False) -> DirectoryPage:
        """See Namespace."""
        return self._ask(ReadDirectory(inode, after, limit, content))  # type: ignore[no-any-return]

    async def extents(self, inode: InodeId, range_number: int) -> ExtentPage:
        """See Namespace."""
        return self._ask(ReadExtents(inode, range_number))  # type: ignore[no-any-return]

    async def locate(self, chunks: Sequence[ChunkId]) -> list[ChunkPlace]:
        """See Namespace."""
        return self._ask(Locate(list(chunks)))  # type: ignore[no-any-return]

    async def xattrs(self, inode: InodeId) -> XattrPage:
        """See Namespace."""
        return self._ask(GetXattrs(inode))  # type: ignore[no-any-return]

    async def space(self) -> Space:
        """See Namespace."""
        return self._ask(GetSpace())  # type: ignore[no-any-return]

    async def trash(self, after: int, limit: int, parent: int = 0) -> TrashPage:
        """See Namespace."""
        return self._ask(ReadTrash(after, limit, parent))  # type: ignore[no-any-return]

    async def names(self, inode: InodeId, after: tuple[int, int] = (0, 0)) -> list[Named]:
        """See Namespace."""
        return self._ask(ReadNames(inode, after))  # type: ignore[no-any-return]

    async def expiring(self, before_s: int, after: tuple[int, int], limit: int) -> ExpiringPage:
        """See Namespace."""
        return self._ask(ReadExpiring(before_s, after, limit))  # type: ignore[no-any-return]

    async def find(self, tokens: Sequence[bytes], after: tuple[int, int, int], limit: int) -> Hits:
        """See Namespace."""
        return self._ask(Find(list(tokens), after, limit))  # type: ignore[no-any-return]

    async def find_content(self, token: bytes, after: int, limit: int) -> list[int]:
        """See Namespace."""
        return self._ask(FindContent(token, after, limit))  # type: ignore[no-any-return]

    async def labels(self, inodes: Sequence[InodeId]) -> LabelPage:
        """See Namespace."""
        return self._ask(ReadLabels(list(inodes)))  # type: ignore[no-any-return]

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        """See Namespace."""
        async with self._outstanding.number() as (seq, acked):
            batch = Batch(seq, acked, list(operations))
            outcome = await self._database.write(
                lambda connection: self._apply(connection, batch),
                committed=lambda outcome: self._listeners.publish(self.session, outcome.news),
            )
            return answers.unwrap(outcome.answer, Applied)

    def _apply(self, connection: sqlite3.Connection, batch: Batch) -> Outcome:
        return sessions.apply_batch(
            connection,
            self.session,
            batch=batch,
            verify=self._verify,
            wanted_min=self._wanted_min(),
            now_s=self._clock.time(),
        )

    async def settle(self) -> None:
        """See Namespace: nothing is ever outstanding."""
        await trio.lowlevel.checkpoint()

    async def new_ids(self, count: int) -> range:
        """See Namespace."""
        block = await self._database.write(lambda connection: sessions.grant_ids(connection, self.session, count=count))
        return range(block.first_id, block.last_id + 1)

    async def events(self, wait_s: float) -> Events:
        """See Namespace."""
        self._database.read(lambda connection: sessions.session(connection, self.session))  # Fenced when it is over
        asked = WaitEvents(self._stream, self._told, wait_s)
        events = await self._listeners.wait(self.session, self._volume, asked)
        self._stream, self._told = events.stream, events.last
        return events

    async def held(self) -> list[InodeId]:
        """See Namespace."""
        return self._database.read(lambda connection: sessions.held(connection, self.session))

    def _ask(self, question: Question) -> Any:  # noqa: ANN401 - the message that belongs to the question
        def asked(connection: sqlite3.Connection) -> Any:  # noqa: ANN401
            sessions.session(connection, self.session)  # Fenced when it is over
            return engine.answer(connection, self._volume, question)

        return self._database.read(asked)
