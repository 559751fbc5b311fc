"""Namespace over the network: one mount's session with the coordinator.

Batches carry sequence numbers, so a retry of one whose answer was lost gets that answer. Questions asked at the same
time travel together. Nothing is cached here. The mount runs `maintain` in its nursery.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import trio

from p2pfs.errors import CoordinatorAway, Fenced, Gone, PoolError, Unsupported
from p2pfs.meta.calls import CoordinatorCalls
from p2pfs.meta.flights import Flights
from p2pfs.meta.outstanding import OutstandingBatches
from p2pfs.meta.protocol import InDoubt
from p2pfs.net.client import Client, Endpoint
from p2pfs.types import ChunkId, DentryId, InodeId, PeerNumber, SessionId, VolumeId, volume_name
from p2pfs.wire import answers
from p2pfs.wire.answers import Answer
from p2pfs.wire.chunks import Token
from p2pfs.wire.delegations import AskDelegation, Delegation, ReturnDelegation
from p2pfs.wire.events import Events, WaitEvents
from p2pfs.wire.found import LabelPage
from p2pfs.wire.leases import ReadExpiring, ReadNames, ReadTrash
from p2pfs.wire.namespace import (
    Applied,
    Attributes,
    Batch,
    ChunkPlace,
    Commit,
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
from p2pfs.wire.volumes import (
    GrantIds,
    IdBlock,
    OpenSession,
    RenewedSession,
    RenewSession,
    Reserve,
    Reserved,
    SessionGrant,
)

T = TypeVar("T")

ID_BLOCK: Final = 4096
"""Numbers fetched at once; the next block is fetched when half are used."""
_CLOSE_DEADLINE_S: Final = 5.0
_DELEGATION_S: Final = 5.0
_LATE_S: Final = 10.0
"""How long after the time it was told the coordinator may answer that nothing happened."""
_RENEWALS: Final = 3  # per lifetime
_NEWS_S: Final = 5.0  # and at least as often as peers beat: the answer tells of a new pool map


class Reads(Protocol):
    """What was read where, told with renewals: chunks.traffic.Traffic."""

    def untold(self) -> list[tuple[int, PeerNumber, int]]: ...
    def told(self, rows: Iterable[tuple[int, PeerNumber, int]]) -> None: ...


class RemoteNamespace:
    """One volume within a session the coordinator granted. See Namespace.

    `_ids` and `_spare_ids` change only between checkpoints.
    """

    def __init__(
        self,
        client: Client,
        coordinator: Endpoint,
        grant: SessionGrant,
        volume: VolumeId,
        *,
        io_timeout_s: float,
        endless: bool = False,
        on_map_version: Callable[[int], None] | None = None,
        map_version: int = 0,
        on_batch: Callable[[Batch], None] | None = None,
        traffic: Reads | None = None,
    ) -> None:
        """`on_batch` hears of each batch before it is sent for the first time."""
        self._traffic = traffic
        self._on_batch = on_batch
        self.calls = CoordinatorCalls(client, coordinator, io_timeout_s=io_timeout_s, endless=endless)
        self._volume_path = f"/volumes/{volume_name(volume)}"
        self._session_path = f"/sessions/{grant.session}"
        self._lifetime_s = grant.lifetime_s
        self._on_map_version = on_map_version
        self._map_version = map_version
        self._ids = range(grant.first_id, grant.last_id + 1)
        self._ids_lock = trio.Lock()
        self._ids_wanted = trio.Event()
        self._spare_ids = range(0)
        self._outstanding = OutstandingBatches()
        self._flights = Flights(self._send_questions)
        self._stream = self._told = 0  # what the last `events` returned
        self._news_wanted = trio.Event()
        self.session = SessionId(grant.session)

    @classmethod
    async def open(
        cls,
        client: Client,
        coordinator: Endpoint,
        volume: VolumeId,
        *,
        request: OpenSession,
        io_timeout_s: float,
        endless: bool = False,
        on_map_version: Callable[[int], None] | None = None,
        map_version: int = 0,
        on_batch: Callable[[Batch], None] | None = None,
        traffic: Reads | None = None,
    ) -> "RemoteNamespace":
        """Open a session; everything asked in it waits without end if `endless`. Raises NotFound, Denied, Busy,
        CoordinatorAway, and Unsupported where the coordinator is too old to give a volume to one mount alone."""
        calls = CoordinatorCalls(client, coordinator, io_timeout_s=io_timeout_s)
        grant = await calls.ask("POST", f"/volumes/{volume_name(volume)}/sessions", request, SessionGrant)
        opened = cls(
            client,
            coordinator,
            grant,
            volume,
            io_timeout_s=io_timeout_s,
            endless=endless,
            on_map_version=on_map_version,
            map_version=map_version,
            on_batch=on_batch,
            traffic=traffic,
        )
        if request.exclusive and not grant.exclusive:
            await opened.aclose()
            raise Unsupported("the coordinator is of a version that cannot give a volume to one mount alone")
        return opened

    @property
    def is_away(self) -> bool:
        """Whether the coordinator did not answer for `io_timeout` and has not since."""
        return self.calls.is_away

    @property
    def is_fenced(self) -> bool:
        """Whether the session is over: every call raises Fenced from now on."""
        return self.calls.is_fenced

    # ---- questions --------------------------------------------------------------------------------------------------

    async def lookup(self, parent: InodeId, name: bytes) -> Entry:
        """See Namespace."""
        return await self._ask(Lookup(parent, name), Entry)

    async def attributes(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        return await self._ask(GetAttributes(inode), Attributes)

    async def content(self, inode: InodeId) -> Attributes:
        """See Namespace."""
        return await self.attributes(inode)

    async def directory(self, inode: InodeId, after: DentryId, limit: int, *, content: bool = False) -> DirectoryPage:
        """See Namespace."""
        return await self._ask(ReadDirectory(inode, after, limit, content), DirectoryPage)

    async def extents(self, inode: InodeId, range_number: int) -> ExtentPage:
        """See Namespace."""
        return await self._ask(ReadExtents(inode, range_number), ExtentPage)

    async def locate(self, chunks: Sequence[ChunkId]) -> list[ChunkPlace]:
        """See Namespace."""
        return await self._ask(Locate(list(chunks)), list[ChunkPlace])

    async def xattrs(self, inode: InodeId) -> XattrPage:
        """See Namespace."""
        return await self._ask(GetXattrs(inode), XattrPage)

    async def space(self) -> Space:
        """See Namespace."""
        return await self._ask(GetSpace(), Space)

    async def trash(self, after: int, limit: int, parent: int = 0) -> TrashPage:
        """See Namespace."""
        return await self._ask(ReadTrash(after, limit, parent), TrashPage)

    async def names(self, inode: InodeId, after: tuple[int, int] = (0, 0)) -> list[Named]:
        """See Namespace."""
        return await self._ask(ReadNames(inode, after), list[Named])

    async def expiring(self, before_s: int, after: tuple[int, int], limit: int) -> ExpiringPage:
        """See Namespace."""
        return await self._ask(ReadExpiring(before_s, after, limit), ExpiringPage)

    async def find(self, tokens: Sequence[bytes], after: tuple[int, int, int], limit: int) -> Hits:
        """See Namespace."""
        return await self._ask(Find(list(tokens), after, limit), Hits)

    async def find_content(self, token: bytes, after: int, limit: int) -> list[int]:
        """See Namespace."""
        return await self._ask(FindContent(token, after, limit), list[int])

    async def labels(self, inodes: Sequence[InodeId]) -> LabelPage:
        """See Namespace."""
        return await self._ask(ReadLabels(list(inodes)), LabelPage)

    async def _ask(self, question: Question, kind: type[T]) -> T:
        return answers.unwrap(await self._flights.ask(question), kind)

    async def _send_questions(self, asked: list[Question]) -> list[Answer]:
        return await self.calls.ask("POST", f"{self._volume_path}/questions", asked, list[Answer])

    # ---- changes ----------------------------------------------------------------------------------------------------

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        """See Namespace."""
        return await self._apply(
            operations, 0, may_doubt=any(isinstance(operation, Commit) for operation in operations)
        )

    async def _apply(self, operations: Sequence[Operation], epoch: int, *, may_doubt: bool) -> Applied:
        async with self._outstanding.number() as (seq, acked):
            batch = Batch(seq, acked, list(operations), epoch)
            if self._on_batch is not None:
                self._on_batch(batch)
            try:
                return await self._send(batch)
            except CoordinatorAway as error:
                if not may_doubt:
                    raise
                self._outstanding.keep(seq)
                give_up = partial(self._outstanding.release, seq)
                raise InDoubt(str(error), partial(self._again, batch), give_up) from error

    async def _send(self, batch: Batch) -> Applied:
        try:
            return await self.calls.ask("POST", f"{self._session_path}/batches", batch, Applied)
        except Gone:  # copies on a peer that leaves are none: by an old map they would be made there again
            self._news_wanted.set()
            raise

    async def _again(self, batch: Batch) -> Applied:
        """Raises CoordinatorAway, and then may be called again, and what the batch is refused with."""
        try:
            applied = await self._send(batch)
        except CoordinatorAway:
            raise
        except PoolError:
            self._outstanding.release(batch.seq)
            raise
        self._outstanding.release(batch.seq)
        return applied

    async def settle(self) -> None:
        """See Namespace: nothing is ever outstanding."""
        await trio.lowlevel.checkpoint()

    async def new_ids(self, count: int) -> range:
        """See Namespace."""
        if len(self._ids) < count:
            async with self._ids_lock:
                if len(self._ids) < count:
                    self._ids = await self._more_ids(count)
        taken, self._ids = self._ids[:count], self._ids[count:]
        if len(self._ids) < ID_BLOCK // 2 and not self._spare_ids:
            self._ids_wanted.set()
        return taken

    async def _more_ids(self, count: int) -> range:
        if len(self._spare_ids) >= count:
            spare, self._spare_ids = self._spare_ids, range(0)
            return spare
        return await self._fetch_ids(max(count, ID_BLOCK))

    async def _fetch_ids(self, count: int) -> range:
        block = await self.calls.ask("POST", f"{self._session_path}/ids", GrantIds(count), IdBlock)
        return range(block.first_id, block.last_id + 1)

    # ---- the delegation ---------------------------------------------------------------------------------------------

    async def delegate(self, epoch: int) -> Delegation:
        """See Delegable."""
        asked = AskDelegation(epoch)
        return await self.calls.await_late(
            "POST", f"{self._session_path}/delegation", asked, Delegation, timeout_s=_DELEGATION_S
        )

    async def return_delegation(self, epoch: int, timeouts_s: float) -> None:
        """See Delegable."""
        message = ReturnDelegation(epoch, timeouts_s)
        await self.calls.ask("POST", f"{self._session_path}/delegation/return", message, Delegation)

    async def apply_under(self, epoch: int, operations: Sequence[Operation]) -> Applied:
        """See Delegable."""
        return await self._apply(operations, epoch, may_doubt=True)

    # ---- what others change -----------------------------------------------------------------------------------------

    async def events(self, wait_s: float) -> Events:
        """See Namespace. One attempt; a coordinator that does not answer is not yet away for other calls."""
        asked = WaitEvents(self._stream, self._told, wait_s)
        events = await self.calls.await_late(
            "POST", f"{self._session_path}/events", asked, Events, timeout_s=wait_s + _LATE_S
        )
        self._stream, self._told = events.stream, events.last
        return events

    async def held(self) -> list[InodeId]:
        """See Namespace."""
        return await self.calls.ask("GET", f"{self._session_path}/held", None, list[InodeId])

    # ---- the session ------------------------------------------------------------------------------------------------

    async def reserve(self, room_bytes: int, returned: Sequence[int] = ()) -> list[Token]:
        """Tokens for `room_bytes` sealed bytes on each of enough peers; gives back those in `returned`. Raises NoSpace,
        Denied, CoordinatorAway, Fenced."""
        message = Reserve(room_bytes, list(returned))
        answer = await self.calls.ask("POST", f"{self._session_path}/reservations", message, Reserved)
        return answer.tokens

    async def renew(self) -> None:
        """Keep the session alive. Raises Fenced, CoordinatorAway."""
        fetched = self._traffic.untold() if self._traffic is not None else []
        message = RenewSession(self._map_version, [(day, int(peer), size) for day, peer, size in fetched])
        renewed = await self.calls.ask("POST", f"{self._session_path}/renew", message, RenewedSession)
        if self._traffic is not None:
            self._traffic.told(fetched)
        if renewed.map_version > self._map_version:
            self._map_version = renewed.map_version
            if self._on_map_version is not None:
                self._on_map_version(renewed.map_version)

    async def maintain(self) -> None:
        """Renew the session, at once when a commit met Gone, and fetch numbers ahead; until the session is over
        (`is_fenced`) or the task is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetch_ahead)
            while not self.is_fenced:
                with trio.move_on_after(min(self._lifetime_s / _RENEWALS, _NEWS_S)):
                    await self._news_wanted.wait()
                self._news_wanted = trio.Event()
                await _unless_away(self.renew)
            nursery.cancel_scope.cancel()

    async def _fetch_ahead(self) -> None:
        async def fetch() -> None:
            self._spare_ids = await self._fetch_ids(ID_BLOCK)

        while True:
            await self._ids_wanted.wait()
            self._ids_wanted = trio.Event()
            if not self._spare_ids:
                await _unless_away(fetch)

    async def aclose(self) -> None:
        """End the session, within a deadline; if nobody answers it ends by itself later."""
        with trio.move_on_after(_CLOSE_DEADLINE_S, shield=True):
            try:
                if self._traffic is not None and self._traffic.untold():
                    await self.renew()
                await self.calls.tell("DELETE", self._session_path)
            except PoolError:
                return  # away or over already: the coordinator expires it


async def _unless_away(effort: Callable[[], Any]) -> None:
    """What is tried again anyway."""
    try:
        await effort()
    except (CoordinatorAway, Fenced):
        return
