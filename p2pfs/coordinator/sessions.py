"""Mounts at work: their sessions, and the batches that change a volume.

The rules of the tree are `meta.engine`'s; here is who may use which session, what receipts a commit needs, and what
follows from it for reservations. Called by `handlers`; `Expiry` and `Reaper` are background workers of `daemon`.
"""

import logging
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
import trio

from p2pfs.coordinator import traffic
from p2pfs.coordinator.delegations import Delegations
from p2pfs.coordinator.receipts import ReceiptChecker
from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.coordinator.usefulness import Arrival, Usefulness
from p2pfs.errors import Denied, Misuse
from p2pfs.meta import chunks_index, engine, open_inodes, reaper
from p2pfs.meta import sessions as rows
from p2pfs.meta.database import Database
from p2pfs.meta.events import Listeners
from p2pfs.meta.sessions import Outcome, Session
from p2pfs.meta.work import Rules
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import ChunkId, InodeId, NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire import answers
from p2pfs.wire.events import Events, WaitEvents
from p2pfs.wire.namespace import Batch, Commit, NewChunk
from p2pfs.wire.volumes import IdBlock, OpenSession, RenewedSession, Reserve, Reserved, SessionGrant

GRACE: Final = 1440
"""How many lifetimes a silent session is really kept (60 s → a day). A laptop that slept, or a network that was cut for
an hour, must not find its mount fenced: nothing but open unlinked files hangs on a session."""
MISSED: Final = 3
"""Lifetimes without a renewal after which a session no longer counts as a mount, though it is kept."""
HELD: Final = 2
"""Lifetimes for which an inode without a name is kept for a mount that does not say it has it open."""
MAX_TEXT: Final = 4096
MAX_SESSIONS: Final = 64
"""Most sessions of a node; those it no longer renews make room for new ones."""
_SWEEP_S: Final = 10.0
_REAP_ROWS: Final = 1000
_LAPSE_ROWS: Final = 500

_log = logging.getLogger(__name__)


class Sessions:
    """All mounts' conversations. `reapable` is set when rows wait for the reaper."""

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        reservations: Reservations,
        receipts: ReceiptChecker,
        listeners: Listeners,
        delegations: Delegations,
        noticed: Noticed,
        usefulness: Usefulness,
        lifetime_s: float,
        clock: Clock,
    ) -> None:
        self._database = database
        self._roster = roster
        self._reservations = reservations
        self._receipts = receipts
        self._listeners = listeners
        self._delegations = delegations
        self._noticed = noticed
        self._usefulness = usefulness
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._rows: dict[SessionId, Session] = {}  # of those that were heard here; only their expiry changes
        self.reapable = trio.Event()
        self.batches = 0  # answered since the start

    @property
    def kept_s(self) -> float:
        """How long a session lives without being renewed."""
        return self._lifetime_s * GRACE

    def alive_s(self) -> float:
        """A session that is kept beyond this (UTC) was renewed lately: its mount is there."""
        return self._clock.time() + self._lifetime_s * (GRACE - MISSED)

    # ---- life -------------------------------------------------------------------------------------------------------

    async def open(self, identity: Identity, volume: VolumeId, request: OpenSession) -> SessionGrant:
        """Begin a session of the asking node; that its owner may use the volume was checked before. Raises Busy."""
        node, now_s = self._roster.member(identity.node), self._clock.time()
        if any(len(text) > MAX_TEXT or not text.isprintable() for text in (request.host, request.mount_point)):
            raise Misuse("a host or mount point is too long, or is no text for a person")

        is_silent = self._delegations.unheard(self._lifetime_s)

        def begin(connection: sqlite3.Connection) -> tuple[SessionGrant, list[SessionId]]:
            given_up = rows.make_way(connection, volume, node=node.id, request=request, is_silent=is_silent)
            given_up += self._make_room(connection, node.id, now_s)
            grant = rows.open_session(
                connection,
                volume,
                node=node.id,
                owner=node.owner,
                request=request,
                now_s=now_s,
                lifetime_s=self.kept_s,
            )
            return grant, given_up

        def listen(begun: tuple[SessionGrant, list[SessionId]]) -> None:
            grant, given_up = begun
            for session in given_up:
                self.over(session)
            self._listeners.opened(SessionId(grant.session), volume)
            self._delegations.opened(SessionId(grant.session))

        grant, _ = await self._database.write(begin, committed=listen)
        _log.info("%s mounts volume %016x", node.name, volume)
        return msgspec.structs.replace(grant, lifetime_s=self._lifetime_s)

    def _make_room(self, connection: sqlite3.Connection, node: NodeId, now_s: float) -> list[SessionId]:
        """A node that crashes and mounts again all day must not fill the table, nor be locked out. The session that was
        given up for it, if any."""
        own = [row for row in rows.sessions(connection) if row.node == node]
        if len(own) < MAX_SESSIONS:
            return []
        oldest = min(own, key=lambda row: row.expires_s)
        if oldest.expires_s - self.kept_s > now_s - MISSED * self._lifetime_s:
            raise Denied(f"this node has {MAX_SESSIONS} mounts at work: unmount one")
        rows.close_session(connection, oldest.id)
        return [oldest.id]

    async def renew(self, session: SessionId, fetched: Sequence[tuple[int, int, int]] = ()) -> RenewedSession:
        """`fetched` is what the mount read where. Raises Fenced, Misuse."""
        traffic.check(fetched, len(fetched))
        row, now_s = self._known(session), self._clock.time()
        await self._database.write(
            lambda connection: rows.renew_session(connection, session, now_s=now_s, lifetime_s=self.kept_s)
        )
        self._usefulness.traffic.fetched(row.node, row.number, fetched)
        return RenewedSession(self._roster.version)

    async def close(self, session: SessionId) -> None:
        """The mount is done: what only it held open goes, what it was promised is free again."""
        await self._database.write(
            lambda connection: rows.close_session(connection, session),
            committed=lambda _: self.over(session),
        )

    async def expire(self) -> None:
        """End sessions that nobody renews."""
        now_s = self._clock.time()
        if self._database.read(lambda connection: all(row.expires_s >= now_s for row in rows.sessions(connection))):
            return
        for session in await self._database.write(lambda connection: rows.expire_sessions(connection, now_s=now_s)):
            self.over(session)
            _log.info("session %s was not renewed and is over", session)

    async def lapse(self) -> bool:
        """Let go of some inodes that were kept for mounts which did not say they have them open; whether there were
        any."""
        now_s = self._clock.time()
        if not self._database.read(lambda connection: open_inodes.has_lapsed(connection, now_s=now_s)):
            return False
        await self._database.write(lambda connection: open_inodes.lapse(connection, now_s=now_s, limit=_LAPSE_ROWS))
        self.reapable.set()
        return True

    def rules(self) -> Rules:
        """For a change of the coordinator's own: what mounts may have open is kept for them as after any other."""
        now_s = self._clock.time()
        awake_s = now_s + self.kept_s - self._lifetime_s
        return Rules(self._receipts.verify, 0, now_s, awake_s, HELD * self._lifetime_s)

    def wake_reaper(self) -> None:
        """Sealed rows wait to be destroyed."""
        self.reapable.set()

    def over(self, session: SessionId) -> None:
        """It has ended in the database: nothing is kept for it here any more."""
        self._rows.pop(session, None)
        self._listeners.ended(session)
        self._delegations.ended(session)
        self._reservations.session_over(session)
        self.reapable.set()

    # ---- work -------------------------------------------------------------------------------------------------------

    def require_holder(self, identity: Identity, session: SessionId) -> Session:
        """Its row, when the session is the asking node's.

        Raises:
            Denied: It is another node's.
            Fenced: It is over.
        """
        self._roster.member(identity.node)
        # One that has ended otherwise (its node was revoked) is Fenced where it is used.
        row = self._known(session)
        if row.node != identity.node:
            raise Denied("this session is another node's")
        return row

    def heard(self, row: Session) -> None:
        """It said something, and may: what it is kept for, it is kept for longer."""
        self._delegations.heard(row)

    async def grant_ids(self, session: SessionId, count: int) -> IdBlock:
        """Numbers for new inodes and dentries. Raises Fenced, Misuse."""
        return await self._database.write(lambda connection: rows.grant_ids(connection, session, count=count))

    async def reserve(self, session: SessionId, request: Reserve) -> Reserved:
        """Room on peers; see `Reservations.reserve`. Raises Denied: the session is read-only."""
        row = self._row(session)
        if row.read_only and request.room_bytes:
            raise Denied("the volume is mounted read-only")
        return await self._reservations.reserve(session, row.node, row.volume, request=request)

    async def apply(self, session: SessionId, batch: Batch) -> bytes:
        """Do a batch once; the encoded `Applied`.

        Durability: on return it is committed on stable storage.

        Raises:
            Semantic: What the first refused operation raises; a retry gets the same.
            Recalling: It is not its turn yet: another session has to return the volume's delegation.
            Overruled: The delegation that it was decided under is over.
            Fenced: The session is over.
            Misuse: The batch breaks the protocol, is too large, or a receipt is not genuine.
        """
        engine.check(batch.operations)
        accepted: list[tuple[VolumeId, NewChunk]] = []
        stored: dict[tuple[VolumeId, bytes], int] = {}  # once, whatever the batch does with it
        arrivals: list[Arrival] = []
        row = self._known(session)
        brings = any(isinstance(operation, Commit) and operation.chunks for operation in batch.operations)
        growth = self._usefulness.growth(row.volume) if brings else None

        def verify(connection: sqlite3.Connection, volume: VolumeId, chunk: NewChunk) -> None:
            self._receipts.verify(volume, chunk)
            accepted.append((volume, chunk))
            if growth is not None:
                growth.begin(connection)

        def added(chunk: NewChunk, _: Sequence[PeerNumber], first: Sequence[PeerNumber]) -> None:
            arrivals.extend(Arrival(row.volume, peer, chunk.size) for peer in first)

        def is_stored(volume: VolumeId, chunk: NewChunk) -> None:
            stored[volume, chunk.chunk] = chunk.size

        _, wanted_min = self._reservations.copies_wanted()
        now_s = self._clock.time()

        frugal = self._usefulness.frugal_of(row.volume)

        def change(fences: int, connection: sqlite3.Connection) -> Outcome:
            return rows.apply_batch(
                connection,
                session,
                batch=batch,
                verify=partial(verify, connection),
                wanted_min=wanted_min,
                frugal=frugal,
                now_s=now_s,
                grace_s=self.kept_s - self._lifetime_s,
                hold_s=HELD * self._lifetime_s,
                fences=fences,
                added=added,
                grown=growth.check if growth is not None else lambda _connection: None,
                stored=is_stored,
            )

        def tell(outcome: Outcome) -> None:
            self._listeners.publish(session, outcome.news)

        async def attempt(fences: int) -> Outcome:  # others are told even if the sender is gone
            return await self._database.write(partial(change, fences), committed=tell)

        outcome = await self._delegations.in_turn(session, attempt)
        self.batches += 1
        if outcome.is_too_much:
            await self._delegations.withdraw(row.volume)
        if not outcome.answer.code:  # a repeated batch gets its old answer without a receipt being looked at
            if accepted:
                self._usefulness.arrived(arrivals, row.node)
                self._settle(session, [chunk for _, chunk in accepted])
                self._reservations.drawn([(volume, size) for (volume, _), size in stored.items()])
                self._notice(accepted)
            self.reapable.set()
        return answers.value_of(outcome.answer)

    async def events(self, session: SessionId, asked: WaitEvents) -> Events:
        """What other sessions changed; see `Listeners.wait`. Raises Fenced, Misuse."""
        return await self._listeners.wait(session, self._row(session).volume, asked)

    def held(self, session: SessionId) -> list[InodeId]:
        """Inodes without a name that are kept for the session. Raises Fenced."""
        return self._database.read(lambda connection: rows.held(connection, session))

    def stop(self) -> None:
        """Answer the requests that wait for events, and those to come: the server is about to stop."""
        self._listeners.stop()

    async def reap(self) -> bool:
        """Delete some rows that nobody sees any more; whether there were any."""
        now_s = self._clock.time()
        return bool(
            await self._database.write(lambda connection: reaper.reap(connection, now_s=now_s, limit=_REAP_ROWS))
        )

    def _notice(self, accepted: Sequence[tuple[VolumeId, NewChunk]]) -> None:
        """Copies that came late, did not come at all, are more than there should be, or have yet to be shown are looked
        after. What the index has counts, not what came now: equal content may be elsewhere, too."""
        wanted, _ = self._reservations.copies_wanted()

        def uneven(connection: sqlite3.Connection) -> list[tuple[VolumeId, bytes]]:
            return [
                (volume, new.chunk)
                for volume, new in accepted
                if not chunks_index.is_settled(connection, volume, chunk=ChunkId(new.chunk), copies=wanted)
            ]

        self._noticed.expect(self._database.read(uneven))

    def _settle(self, session: SessionId, accepted: Sequence[NewChunk]) -> None:
        self._reservations.stored(
            session,
            [
                (PeerNumber(receipt.peer), receipt.put_seq, chunk.size)
                for chunk in accepted
                for receipt in chunk.receipts
            ],
        )

    def _known(self, session: SessionId) -> Session:
        """Its row as it was first heard."""
        return self._rows.get(session) or self._rows.setdefault(session, self._row(session))

    def _row(self, session: SessionId) -> Session:
        return self._database.read(lambda connection: rows.session(connection, session))


class Reaper:
    """Worker: deletes what unlink, truncate and closed sessions left."""

    name = "reaper"

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def work(self) -> Progress:
        self._sessions.reapable = trio.Event()
        return Progress.BUSY if await self._sessions.reap() else Progress.IDLE

    async def wait(self) -> None:
        with trio.move_on_after(_SWEEP_S * 6):
            await self._sessions.reapable.wait()
            await trio.sleep(0.5)  # let a burst of unlinks become one run


class Expiry:
    """Worker: ends silent sessions, and withdraws promises and lets go of inodes whose time ran out."""

    name = "expiry"

    def __init__(self, sessions: Sessions, reservations: Reservations) -> None:
        self._sessions = sessions
        self._reservations = reservations

    async def work(self) -> Progress:
        await self._sessions.expire()
        await self._reservations.expire()
        return Progress.BUSY if await self._sessions.lapse() else Progress.IDLE

    async def wait(self) -> None:
        await trio.sleep(_SWEEP_S)
