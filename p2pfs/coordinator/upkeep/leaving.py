"""Peers that go: for a while (away), in peace (drain), or for good (forget). And what that would mean (plans).

    drain: DRAINING ─▶ `care` copies what depends on it ─▶ a survey finds nothing more ─▶ looked at once more
           ─▶ LEFT ─▶ its rows are dropped, a thousand at a time

Nothing is deleted on the disk of a peer that has left: it is no member, and its owner may remove the directory.
"""

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from p2pfs.coordinator.liveness import state_after
from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.roster import Peer, Roster
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.jobs import Job, Jobs
from p2pfs.errors import Denied, Invalid, NotFound, Unavailable
from p2pfs.meta import chunks_index, members, plans, usefulness, void_copies, volumes
from p2pfs.meta.database import Database
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import GONE_STATES, MIB, NodeId, PeerNumber, PeerState, Role, volume_name
from p2pfs.wire.jobs import JobAction, JobKind, JobState
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.plans import MOST_FILES, FilesAtRisk, PlanAnswer, PlanKind, PlanRequest

LONGEST_AWAY_S: Final = 31 * 86400.0
ASSUMED_RATE: Final = 16 * MIB
"""Bytes a second a peer is assumed to take while nothing was measured."""
_ROWS: Final = 1000
_EVERY_S: Final = 60.0

_log = logging.getLogger(__name__)


class Leaving:
    """A worker, which lets go of who may leave and clears away what is left of who is gone."""

    name = "leaving"

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        reservations: Reservations,
        deletions: Deletions,
        jobs: Jobs,
        gone: Callable[[Mapping[str, int]], None],
        clock: Clock,
    ) -> None:
        """`gone` hears how many bytes of each owner's copies are forgotten that others held and went away with."""
        self._gone = gone
        self._database = database
        self._roster = roster
        self._reservations = reservations
        self._deletions = deletions
        self._jobs = jobs
        self._clock = clock
        self._ready: set[PeerNumber] = set()
        self._cleared: set[PeerNumber] = set()  # gone, and without rows
        self._planning: set[NodeId] = set()
        self._wake = trio.Event()
        jobs.on(JobKind.DRAIN, JobAction.CANCEL, self._cancelled)

    # ---- what people and peers ask for ------------------------------------------------------------------------------

    async def away(self, identity: Identity, node: str, for_s: float) -> NodeInfo:
        """The peer will be silent for so long; 0: it is back.

        Raises:
            Denied, NotFound: Not the asker's to say, or no such peer.
            Invalid: Nobody is away for so long.
        """
        peer = self._peer(identity, node)
        if not 0 <= for_s <= LONGEST_AWAY_S:
            raise Invalid("a peer can be away for up to 31 days; one that leaves is drained: p2pfs peer drain")
        until_s = self._clock.time() + for_s if for_s else 0.0
        await self._database.write(
            lambda connection: members.set_away(connection, peer.number, until_s=until_s),
            committed=lambda _: self._roster.announce(peer, away_until_s=until_s),
        )
        return self._roster.info(peer.node)

    async def drain(self, identity: Identity, node: str) -> NodeInfo:
        """Begin to copy what depends on the peer elsewhere; then it is let go. Again is fine.

        Raises:
            Denied, NotFound: Not the asker's to say, or no such peer.
            Invalid: It is the last one, or was forgotten.
        """
        peer = self._peer(identity, node)
        _expect_not_forgotten(peer)
        if peer.state is PeerState.LEFT:
            return self._roster.info(peer.node)
        await self._settle(peer, is_leaving=True)
        _log.info("peer %s is being drained", peer.node.name)
        return self._roster.info(peer.node)

    async def undrain(self, identity: Identity, node: str) -> NodeInfo:
        """The peer stays after all, or comes back after it had left.

        Raises:
            Denied, NotFound: Not the asker's to say, or no such peer.
            Invalid: It was forgotten.
        """
        peer = self._peer(identity, node)
        _expect_not_forgotten(peer)
        await self._settle(peer, is_leaving=False)
        return self._roster.info(peer.node)

    async def forget(self, identity: Identity, node: str) -> NodeInfo:
        """The peer is gone for good: its copies are none any more. If it is heard again after all, it is a member.

        Raises:
            NotFound: No such peer.
            Invalid: It is up, or has left, or nobody else stays for those who are being drained.
        """
        peer = self._peer(identity, node)
        if peer.state is PeerState.LEFT:
            raise Invalid(f"{peer.node.name} has left already: nothing depends on it")
        if peer.is_reachable:
            raise Invalid(
                f"{peer.node.name} is {peer.state.value}: drain it, or stop it first if it shall be forgotten"
            )
        await self._settle(peer, is_leaving=False, gone=PeerState.LOST)
        _log.warning("peer %s is forgotten: its copies do not count any more", peer.node.name)
        return self._roster.info(peer.node)

    def _peer(self, identity: Identity, node: str) -> Peer:
        """The peer meant, if the asker may speak for it: itself or an admin."""
        asker = self._roster.member(identity.node)
        found = self._roster.peer_of(self._roster.node(node).id)
        if found is None or not found.addresses or found.state is PeerState.REVOKED:  # it never served
            raise NotFound("this node is no peer of the pool")
        if Role.ADMIN not in identity.roles and asker.id != found.node.id:
            raise Denied("only an admin, or the peer itself, may do this")
        return found

    async def _cancelled(self, job: Job) -> None:
        """The drain's job was cancelled: the peer stays."""
        peer = self._roster.peer_of(self._roster.node(job.row.subject).id)
        if peer is not None and peer.is_leaving:
            await self._settle(peer, is_leaving=False)

    async def _settle(self, peer: Peer, *, is_leaving: bool, gone: PeerState | None = None) -> None:
        now_s, put_seq = self._clock.time(), peer.put_seq
        state = gone or self._alive(peer, is_leaving=is_leaving)
        others = [one.number for one in self._roster.members() if one is not peer]

        def settle(connection: sqlite3.Connection) -> int:
            before = members.peer(connection, peer.number)
            if before.state is PeerState.REVOKED:  # meanwhile, and for ever
                raise NotFound("this node is no peer of the pool (any more)")
            if before.state is PeerState.LOST and gone is None:
                raise _forgotten(peer)
            if not before.is_leaving and not members.staying(connection, others):
                if is_leaving:
                    raise Invalid("this is the only peer that stays: what it holds can go nowhere")
                if gone is not None and before.state is not gone and others:
                    raise Invalid(
                        f"{peer.node.name} is the last that is not being drained, and what the others hold could go"
                        " nowhere: let one of them stay first: p2pfs peer undrain"
                    )
            came_back = gone is None and before.state in GONE_STATES
            members.set_leaving(connection, peer.number, leaving=is_leaving)
            members.set_peer_state(connection, peer.number, state=state, now_s=now_s)
            return members.appear(connection, peer.number, put_seq=put_seq) if came_back else 0

        def committed(appearances: int) -> None:
            peer.appearances = max(peer.appearances, appearances)
            self._cleared.discard(peer.number)
            self._roster.settle(peer, state=state, is_leaving=is_leaving)
            self._wake.set()
            job = self._jobs.current(JobKind.DRAIN, peer.node.id)
            if is_leaving:
                self._jobs.open(JobKind.DRAIN, peer.node.id)
            elif job is not None and gone is None:
                self._jobs.end(job, JobState.CANCELLED)
            elif job is not None:
                self._jobs.end(job, JobState.FAILED, "the peer was forgotten before everything was copied")

        await self._database.write(settle, committed=committed)

    def _alive(self, peer: Peer, *, is_leaving: bool) -> PeerState:
        silence_s = self._clock.monotonic() - peer.heard_s
        is_announced = self._clock.time() < peer.away_until_s
        return state_after(silence_s, self._roster.patience, is_leaving=is_leaving, is_announced=is_announced)

    # ---- the worker -------------------------------------------------------------------------------------------------

    def surveyed(self, depend: Mapping[PeerNumber, int]) -> None:
        """A survey is over: how many chunks need what each leaving peer holds."""
        for peer in depend:
            if self._roster.peers[peer].is_leaving:
                self._jobs.open(JobKind.DRAIN, self._roster.peers[peer].node.id)  # a crash may have lost it
        self._ready = {peer for peer, chunks in depend.items() if not chunks}
        if self._ready:
            self._wake.set()

    async def work(self) -> Progress:
        self._wake = trio.Event()
        for number in list(self._ready):
            peer = self._roster.peers[number]
            if not peer.is_leaving or await self._let_go(peer):
                self._ready.discard(number)  # otherwise it is looked at again with the next survey, or in a minute
        return Progress.BUSY if await self._clear() else Progress.IDLE

    async def wait(self) -> None:
        with trio.move_on_after(_EVERY_S):
            await self._wake.wait()

    async def _let_go(self, peer: Peer) -> bool:
        """False: something depends on it after all. Between the look and the change nothing new can come to depend on
        it, because copies on a leaving peer do not count for a commit. Whether others lost something, came back or went
        meanwhile is asked once more in the change: what is committed just before it, nobody was told of yet."""
        now_s, number = self._clock.time(), peer.number
        for _ in range(2):  # what was to be kept before `now_s` waits ahead of the second, and is looked at
            await self._database.write(lambda _connection: None)
        staying = [one for one in self._roster.members() if not one.is_leaving]
        solid = [one.number for one in staying if one.is_reachable and one.is_heard and not one.has_appeared]
        wanted, _ = self._reservations.copies_wanted()
        as_of = self._roster.version

        def look(connection: sqlite3.Connection) -> tuple[plans.Dependence, dict[PeerNumber, int]]:
            others = members.staying(connection, solid)
            return plans.dependence(
                connection, [number], others=others, readable=others, wanted=wanted, only_proved=True
            ), others

        found, others = await self._database.scan(look)
        if found.short or self._roster.version != as_of:
            return False

        def let_go(connection: sqlite3.Connection) -> bool:
            before = members.peer(connection, number)
            if not before.is_leaving or before.state in GONE_STATES or members.staying(connection, others) != others:
                return False
            if plans.lost_since(connection, number, since_s=now_s):
                return False
            members.set_leaving(connection, number, leaving=False)
            members.set_peer_state(connection, number, state=PeerState.LEFT, now_s=now_s)
            return True

        def committed(has_left: bool) -> None:
            if has_left:
                self._roster.settle(peer, state=PeerState.LEFT, is_leaving=False)
                self._jobs.finish(JobKind.DRAIN, peer.node.id)
                _log.info("peer %s has left: nothing depends on it any more", peer.node.name)

        return await self._database.write(let_go, committed=committed)

    async def _clear(self) -> bool:
        """Drop some rows of peers that are gone; whether there may be more."""
        gone = [peer for peer in self._roster.peers.values() if peer.state in GONE_STATES]
        self._cleared &= {peer.number for peer in gone}
        numbers = [peer.number for peer in gone if peer.number not in self._cleared]
        if not numbers:
            return False
        taken = [peer.number for peer in gone if peer.state is not PeerState.LEFT]  # who left, left no copy lacking

        def clear(connection: sqlite3.Connection) -> tuple[int, Counter[str]]:
            before = usefulness.on_peers(connection, taken)
            still = [number for number in numbers if members.peer(connection, number).state in GONE_STATES]
            dropped = sum(chunks_index.drop_replicas_of(connection, number, limit=_ROWS) for number in still)
            dropped += void_copies.forget_peers(connection, still, limit=_ROWS)
            return dropped, before - usefulness.on_peers(connection, taken)

        dropped, of_owners = await self._database.write(clear)
        self._gone(of_owners)
        if not dropped:
            for one in gone:
                if one.state in GONE_STATES:  # it may be back meanwhile
                    self._cleared.add(one.number)
                    self._deletions.forget(one.number)
                    for kind in (JobKind.DRAIN, JobKind.RECOUNT, JobKind.SCRUB):
                        self._end_of(kind, one)
        return bool(dropped)

    def _end_of(self, kind: JobKind, peer: Peer) -> None:
        """Work on a peer that is gone comes to no end of its own."""
        job = self._jobs.current(kind, peer.node.id)
        if job is not None:
            self._jobs.end(job, JobState.CANCELLED, f"the peer is {peer.state.value}")

    # ---- plans ------------------------------------------------------------------------------------------------------

    async def plan(self, identity: Identity, request: PlanRequest) -> PlanAnswer:
        """What would happen to chunks and files, as things are now.

        Raises:
            Invalid, NotFound: No such plan or peer.
            Unavailable: The asker's last question is not answered yet: each is a long scan, and scans wait in a row.
        """
        self._roster.member(identity.node)
        if identity.node in self._planning:
            raise Unavailable("your last question is still being looked into: ask again when it is answered")
        self._planning.add(identity.node)
        try:
            return await self._plan(identity, request)
        finally:
            self._planning.discard(identity.node)

    async def _plan(self, identity: Identity, request: PlanRequest) -> PlanAnswer:
        if request.kind not in set(PlanKind) or not 1 <= len(request.nodes) <= 1000:
            raise Invalid("a plan is to stop, drain or lose one peer or more")
        peers = [self._named(node) for node in dict.fromkeys(request.nodes)]
        numbers = [peer.number for peer in peers]
        staying = [peer for peer in self._roster.members() if peer.number not in numbers and not peer.is_leaving]
        others = [peer.number for peer in staying if peer.is_reachable]
        readable = [peer.number for peer in self._roster.members() if peer.number not in numbers and peer.is_reachable]
        configured = self._reservations.configured.replicas
        wanted, replicas = max(1, min(configured, len(staying))), configured
        if request.kind == PlanKind.STOP:  # they would go on counting as members
            wanted, _ = self._reservations.copies_wanted()
            replicas = wanted

        def ask(connection: sqlite3.Connection) -> tuple[plans.Dependence, list[FilesAtRisk]]:
            found = plans.dependence(
                connection, numbers, others=others, readable=readable, wanted=wanted, replicas=replicas
            )
            known = {volume.volume: volume for volume in volumes.volumes(connection)}
            risky = plans.files_at_risk(connection, numbers, readable=readable, limit=MOST_FILES)
            return found, [
                FilesAtRisk(volume_name(volume), known[volume].name, known[volume].owner, files=count, inodes=inodes)
                for volume, count, inodes in risky
                if volume in known
            ]

        found, files = await self._database.scan(ask)
        rate = self._measured()
        return PlanAnswer(
            found.held,
            found.held_bytes,
            short=found.short,
            short_bytes=found.short_bytes,
            unreadable=found.unreadable,
            unreadable_bytes=found.unreadable_bytes,
            files=files if Role.ADMIN in identity.roles else [],
            room_bytes=sum(self._reservations.free(peer) for peer in staying if peer.is_reachable),
            staying=len(staying),
            wanted=wanted,
            rate=rate or float(ASSUMED_RATE * max(1, len(others))),
            is_measured=bool(rate),
            answering=len(others),
            thinned=found.thinned,
            replicas=configured,
        )

    def _named(self, node: str) -> Peer:
        peer = self._roster.peer_of(self._roster.node(node).id)
        if peer is None or not peer.is_member:
            raise NotFound("this node is no peer of the pool")
        return peer

    def _measured(self) -> float:
        """Bytes a second that repairs and drains took lately; 0: unknown."""
        rates: Iterable[float] = (
            job.done_bytes / (job.ended_s - job.started_s)
            for job in self._jobs.listed()
            if job.kind in _COPYING and job.ended_s and job.ended_s > job.started_s + 1 and job.done_bytes > 64 * MIB
        )
        return next(iter(rates), 0.0)


def _expect_not_forgotten(peer: Peer) -> None:
    """Raises Invalid."""
    if peer.state is PeerState.LOST:
        raise _forgotten(peer)


def _forgotten(peer: Peer) -> Invalid:
    return Invalid(f"{peer.node.name} was forgotten: it is a peer of the pool again when it is heard")


_COPYING: Final[Sequence[str]] = (JobKind.REPAIR.value, JobKind.DRAIN.value)
