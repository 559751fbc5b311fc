"""Heartbeats in, states of peers out.

Liveness is counted in memory on the monotonic clock (`liveness`, `roster`); the database hears of changed addresses,
capacity and states at once and of everything else now and then, so that a restarted coordinator knows roughly how full
the peers are. Called by `handlers`; noticing silence is a background worker of `daemon`.
"""

import logging
import math
import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from p2pfs.coordinator import offers
from p2pfs.coordinator.churn import Churn
from p2pfs.coordinator.dialability import Dialability
from p2pfs.coordinator.flow import Flow
from p2pfs.coordinator.liveness import REACHABLE, next_check_s
from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.roll import RollOffice
from p2pfs.coordinator.roster import Change, Peer, Roster
from p2pfs.coordinator.tokens import TokenSigner
from p2pfs.coordinator.traffic import Traffic
from p2pfs.coordinator.traffic import check as check_reads
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.coordinator.upkeep.orders import OrderBook
from p2pfs.coordinator.upkeep.scrubs import Scrubs
from p2pfs.errors import Denied, Invalid, Misuse, Unavailable
from p2pfs.meta import chunks_index, members, settings
from p2pfs.meta.database import Database
from p2pfs.net.addresses import RELAY, parse_address
from p2pfs.net.identity import Identity
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.worker import Progress
from p2pfs.types import GONE_STATES, ChunkId, PeerNumber, PeerState, VolumeId
from p2pfs.wire.membership import Heartbeat, HeartbeatAnswer, Resources, Scrub

KEEP_EVERY_S: Final = 60.0
"""How often the database takes over a peer's figures when nothing else changed."""
MAX_ADDRESSES: Final = 16
MAX_ADDRESS_LETTERS: Final = 255
MAX_VERSION_LETTERS: Final = 64
MAX_STATE_LETTERS: Final = 16
MAX_CORRUPT: Final = 10_000
"""Most damaged copies told in one heartbeat; the rest comes with the next."""
MAX_DRAINING: Final = 1000
_MAX_BYTES: Final = 1 << 62
_MAX_CLOCK_S: Final = 1e12
_PAUSE_S: Final = 1.0
_LEAST_PAUSE_S: Final = 0.01
"""Less than a tick before somebody counts as silent, a clock would stand still however often it is asked."""

_log = logging.getLogger(__name__)


class Pulse:
    """Hears peers and notices their silence."""

    name = "pulse"

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        reservations: Reservations,
        signer: TokenSigner,
        orders: OrderBook,
        noticed: Noticed,
        scrubs: Scrubs,
        dialability: Dialability,
        churn: Churn,
        traffic: Traffic,
        flow: Flow,
        roll: RollOffice,
        clock: Clock,
    ) -> None:
        self._flow = flow
        self.heartbeats = 0  # taken, since the start
        self._traffic = traffic
        self._roll = roll
        self._database = database
        self._roster = roster
        self._reservations = reservations
        self._signer = signer
        self._orders = orders
        self._noticed = noticed
        self._scrubs = scrubs
        self._dialability = dialability
        self._churn = churn
        self._clock = clock

    async def heartbeat(self, identity: Identity, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Take in what a peer says of itself. Copies it calls corrupt are no longer counted once this returns.

        Raises:
            Denied: The node is no peer of this pool.
            Misuse: The figures are impossible.
        """
        node = self._roster.member(identity.node)
        peer = self._roster.peer_of(node.id)
        if peer is None:
            raise Denied(f"{node.name} is no peer")
        check(heartbeat)
        now_s = self._clock.monotonic()
        silent_s = now_s - peer.heard_s
        change, moved = self._roster.report(peer, heartbeat, now_s=now_s, time_s=self._clock.time())
        self._reservations.heard(
            peer.number, heartbeat.put_seq, withdrawn=heartbeat.withdrawn_seq, draining=heartbeat.draining
        )
        self._scrubs.heard(peer, heartbeat.scrub)
        self._traffic.served(node.id, heartbeat.run, heartbeat.served)
        self.heartbeats += 1
        self._flow.heard(peer.number, heartbeat.run, received=heartbeat.received, sent=heartbeat.sent)
        if change is not None:
            _tell(change)
            self._churn.heard(change, silent_s)
        is_news = moved or change is not None or peer.has_appeared or peer.back_from_s
        if is_news or heartbeat.corrupt or now_s >= peer.kept_s + KEEP_EVERY_S:
            await self._keep(peer, heartbeat)
            peer.kept_s = now_s
            self._roster.member(identity.node)  # it may have been revoked meanwhile
        return self._answer(peer, heartbeat)

    # ---- a worker: silence ------------------------------------------------------------------------------------------

    async def work(self) -> Progress:
        """Notice who fell silent."""
        self._churn.tick(self._clock.monotonic())
        self._flow.keep({peer.number for peer in self._roster.members()})
        changes = self._roster.refresh(self._clock.monotonic(), self._clock.time())
        self._churn.fell_silent(changes)
        for change in changes:
            _tell(change)
        self._orders.silence()
        if changes:
            await self._keep_states(changes)
        return Progress.IDLE

    async def wait(self) -> None:
        """Until somebody may have been silent for too long."""
        now_s, patience = self._clock.monotonic(), self._roster.patience
        pauses = [next_check_s(now_s - peer.heard_s, patience) for peer in self._roster.members()]
        await trio.sleep(max(_LEAST_PAUSE_S, min([_PAUSE_S, *pauses])))

    def _answer(self, peer: Peer, heartbeat: Heartbeat) -> HeartbeatAnswer:
        revocations = self._roster.revocations
        known = heartbeat.withdrawn_seq
        last, withdrawn = self._reservations.notices(peer.number, known) if known >= 0 else (0, [])
        return HeartbeatAnswer(
            peer.number,
            self._roster.version,
            self._roster.receipt_keys[peer.number],
            self._signer.public_key,
            capacity=peer.offered,
            interval_s=self._roster.patience.heartbeat_s,
            revocations=revocations if revocations.version > heartbeat.revocations_version else None,
            coordinator_clock_s=self._clock.time(),
            has_orders=peer.is_member and self._orders.call(peer.number),
            state=peer.state.value,
            withdrawn_seq=last,
            withdrawn=withdrawn,
            is_dialable=self._dialability.heard(peer),
            members=self._roll.members(self._roster.version),
        )

    async def _keep(self, peer: Peer, heartbeat: Heartbeat) -> None:
        now_s, number, capacity, state = self._clock.time(), peer.number, peer.capacity, peer.state
        is_new, back_from_s, put_seq = peer.has_appeared, peer.back_from_s, peer.put_seq
        tally = self._churn.taken_if_due()

        def keep(connection: sqlite3.Connection) -> tuple[int, bool, bool, int]:
            members.record_heartbeat(connection, number, heartbeat=heartbeat, capacity=capacity, now_s=now_s)
            is_so = _set_state(connection, number, state=state, now_s=now_s)
            if tally is not None:
                settings.write(connection, settings.CHURN, value=tally)
            has_returned = back_from_s > 0 and members.set_back(connection, number, from_s=back_from_s)
            dropped = sum(
                chunks_index.drop_replica(connection, VolumeId(volume), chunk=ChunkId(chunk), peer=number, now_s=now_s)
                for volume, chunk in heartbeat.corrupt
            )
            appearances = members.appear(connection, number, put_seq=put_seq) if is_new else 0
            return dropped, is_so, has_returned, appearances

        def committed(found: tuple[int, bool, bool, int]) -> None:
            _, is_so, has_returned, appearances = found
            if is_so and peer.state is PeerState.LOST:  # forgotten just before this was kept
                self._roster.settle(peer, state=state, is_leaving=peer.is_leaving)
            if has_returned:
                self._roster.announce(peer, away_until_s=0.0)
            elif peer.back_from_s == back_from_s:  # another one told of it, or it has announced to go again
                peer.back_from_s = 0.0
            if is_new:
                self._roster.appear(peer, appearances)

        try:
            dropped, *_ = await self._database.write(keep, committed=committed)
        except BaseException:
            self._roster.untold(peer, has_appeared=is_new, back_from_s=back_from_s)
            raise
        if dropped:
            _log.warning("peer %s set %d damaged copies aside", peer.node.name, dropped)
            self._noticed.tell(heartbeat.corrupt)

    async def _keep_states(self, changes: Sequence[Change]) -> None:
        now_s = self._clock.time()

        def keep(connection: sqlite3.Connection) -> None:
            for change in changes:
                _set_state(connection, change.peer.number, state=change.after, now_s=now_s)

        try:
            await self._database.write(keep)
        except Unavailable as error:  # states are counted in memory; the next change is written again
            _log.warning("cannot keep the states of peers: %s", error)


def check(heartbeat: Heartbeat) -> None:
    """Whether the figures are possible.

    Raises:
        Misuse: They are not.
    """
    figures = [heartbeat.capacity, heartbeat.used, heartbeat.trash, heartbeat.chunks, heartbeat.put_seq + 1]
    figures += [heartbeat.received, heartbeat.sent]
    if not all(0 <= figure <= _MAX_BYTES for figure in figures) or not 0 <= heartbeat.run < 1 << 63:
        raise Misuse("a heartbeat has impossible figures")
    if not math.isfinite(heartbeat.clock_s) or abs(heartbeat.clock_s) > _MAX_CLOCK_S:
        raise Misuse("a heartbeat has an impossible time")
    if heartbeat.withdrawn_seq >= 1 << 63 or len(heartbeat.draining) > MAX_DRAINING:
        raise Misuse(f"a heartbeat names at most {MAX_DRAINING} reservations that are under way")
    check_reads(heartbeat.served, len(heartbeat.served))
    _check_figures(heartbeat.resources)
    offers.check(heartbeat.offers)
    if heartbeat.scrub is not None:
        _check_figures(heartbeat.scrub)
    if len(heartbeat.version) > MAX_VERSION_LETTERS or not heartbeat.version.isprintable():
        raise Misuse("a heartbeat has an impossible version")
    if not 1 <= len(heartbeat.addresses) <= MAX_ADDRESSES or len(heartbeat.corrupt) > MAX_CORRUPT:
        raise Misuse(f"a heartbeat names 1 to {MAX_ADDRESSES} addresses and at most {MAX_CORRUPT} damaged copies")
    if not all(0 <= volume < 1 << 63 and len(chunk) == 32 for volume, chunk in heartbeat.corrupt):
        raise Misuse("a heartbeat names an impossible chunk")
    try:
        for address in heartbeat.addresses:
            if address == RELAY:
                continue
            if len(address) > MAX_ADDRESS_LETTERS or any(letter.isspace() for letter in address):
                raise Misuse(f"an address has at most {MAX_ADDRESS_LETTERS} letters and no white space")
            host, port = parse_address(address)
            if not host or not port:
                raise Misuse(f"nobody can dial {address}")
    except Invalid as error:
        raise Misuse(f"a heartbeat names an impossible address: {error}") from None


def _check_figures(told: Resources | Scrub) -> None:
    """Whether they can be kept and shown. Raises Misuse."""
    for figure in msgspec.structs.astuple(told):
        if isinstance(figure, str) and (len(figure) > MAX_STATE_LETTERS or not figure.isprintable()):
            raise Misuse("a heartbeat has an impossible state")
        if isinstance(figure, float) and not math.isfinite(figure):
            raise Misuse("a heartbeat has a figure that is no number")
        if isinstance(figure, int) and not 0 <= figure < 1 << 63:
            raise Misuse("a heartbeat has impossible figures")


def _set_state(connection: sqlite3.Connection, number: PeerNumber, *, state: PeerState, now_s: float) -> bool:
    """Whether it is so now. The peer may have been revoked, forgotten, let go or told to stay since this was decided by
    its silence or its voice: neither makes anybody gone, and only its voice brings back who was forgotten."""
    known = members.peer(connection, number).state
    is_settled = known in GONE_STATES and not (known is PeerState.LOST and state in REACHABLE)
    if state in GONE_STATES or is_settled:
        return False
    members.set_peer_state(connection, number, state=state, now_s=now_s)
    return True


def _tell(change: Change) -> None:
    name, number = change.peer.node.name, change.peer.number
    level = logging.WARNING if change.after is PeerState.DOWN else logging.INFO
    _log.log(level, "peer %s (%d) is %s", name, number, change.after.value)
