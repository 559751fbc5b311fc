"""Promising room on peers, and what statfs says of the room there is.

The ledger decides and counts a promise at once, without a checkpoint in between; the database follows before anybody is
told, so that promises survive a restart. What is replaced counts until its peer takes it no more. Called by `handlers`,
`namespace` (what was stored) and `pulse`.
"""

import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from p2pfs.coordinator.booked import Booked, Shares, set_aside
from p2pfs.coordinator.ledger import Ledger, Promise, check_amount, disk_bytes
from p2pfs.coordinator.room import free_room, peers_with_room, writable
from p2pfs.coordinator.roster import Peer, Roster
from p2pfs.coordinator.tokens import TokenSigner
from p2pfs.meta import reservations as rows
from p2pfs.meta.database import Database
from p2pfs.placement.policy import capped
from p2pfs.runtime.clocks import Clock
from p2pfs.types import NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.volumes import Reserve, Reserved

_log = logging.getLogger(__name__)


Require = Callable[[SessionId, VolumeId, int], None]
"""Raises OverQuota when the owner of this node may not be promised so many bytes for this session."""


@dataclass(frozen=True, slots=True)
class Copies:
    """The pool's policy as configured."""

    replicas: int
    min_replicas: int


class Reservations:
    """Room of the whole pool: asked for by mounts, counted by the ledger."""

    def __init__(
        self,
        *,
        database: Database,
        roster: Roster,
        ledger: Ledger,
        booked: Booked,
        signer: TokenSigner,
        copies: Copies,
        lifetime_s: float,
        early_purge: float,
        clock: Clock,
        require: Require = lambda _session, _volume, _room_bytes: None,
    ) -> None:
        """`require` says whether the owner's share allows it."""
        self._require = require
        self._database = database
        self._roster = roster
        self._ledger = ledger
        self._booked = booked
        self._signer = signer
        self._copies = copies
        self._lifetime_s = lifetime_s
        self._early_purge = early_purge
        self._clock = clock

    @property
    def configured(self) -> Copies:
        """What the pool was told to keep, however many members it has."""
        return self._copies

    def copies_wanted(self) -> tuple[int, int]:
        """(replicas, min_replicas), capped by the number of members that stay."""
        return capped(self._copies.replicas, self._copies.min_replicas, self._roster.staying())

    def free(self, peer: Peer, *, own: int = 0) -> int:
        """Bytes of a peer that nobody uses or was promised, except for `own` promised to whoever asks. What is booked
        counts as free: a copy that is lacking comes before it."""
        disk = peer.resources
        return free_room(
            peer.offered,
            peer.used,
            trash_kept=max(0, peer.trash - int(self._early_purge * peer.offered)),
            disk_free=disk.disk_free if disk is not None and disk.disk_total else None,
            promised=self._ledger.promised(peer.number) - own,
        )

    def promised(self, peer: PeerNumber) -> int:
        """Bytes of a peer that are spoken for."""
        return self._ledger.promised(peer)

    def space(self, node: NodeId, volume: VolumeId | None = None, *, with_booked: bool = False) -> tuple[int, int]:
        """(total, free) bytes after replication as `node` can use them for `volume`: what is promised to others is
        gone, unless `with_booked` that which others booked, too; what is promised to itself is not. Silent peers count
        only where too few others are left to hold all copies."""
        wanted, _ = self.copies_wanted()
        taken = {} if with_booked else self._taken(volume)
        return (
            writable([peer.offered for peer in self._staying()], wanted),
            writable(
                [
                    self.free(peer, own=self._ledger.promised_to(node, peer.number)) - taken.get(peer.number, 0)
                    for peer in self._counted(wanted)
                ],
                wanted,
            ),
        )

    def _staying(self) -> list[Peer]:
        return [peer for peer in self._roster.members() if not peer.is_leaving]

    def _counted(self, wanted: int) -> list[Peer]:
        reachable = [peer for peer in self._staying() if peer.is_reachable]
        return reachable if len(reachable) >= wanted else self._staying()

    async def reserve(self, session: SessionId, node: NodeId, volume: VolumeId, *, request: Reserve) -> Reserved:
        """Promise `room_bytes` on every peer that has them, instead of all the session was promised before: a request
        repeated because its answer was lost promises nothing twice. 0 gives everything back and promises nothing.

        Raises:
            Invalid: No such amount; what was promised stays.
            OverQuota: The owner's share does not allow it; what was promised stays.
            NoSpace: Too few peers have room; what was promised stays.
        """
        if request.room_bytes:
            check_amount(request.room_bytes)
        self._require(session, volume, request.room_bytes)
        replaced = self._ledger.tokens_of(session)  # if it is refused, they stay
        granted = self._grant(session, node, volume, room_bytes=request.room_bytes) if request.room_bytes else []
        await self._keep(session, granted, replaced)
        return Reserved([self._signer.sign(promise.unsigned()) for promise in granted])

    def stored(self, session: SessionId, promises: Sequence[tuple[PeerNumber, int, int]]) -> None:
        """Receipts of a commit were accepted: (peer, put_seq, bytes) each."""
        for peer, put_seq, size in promises:
            self._ledger.stored(session, peer, size, put_seq=put_seq)

    def drawn(self, chunks: Sequence[tuple[VolumeId, int]]) -> None:
        """Chunks of these sizes are stored in these volumes now: what those booked grows less."""
        for volume, size in chunks:
            self._booked.draw(volume, size)

    def arrived(self, peer: PeerNumber, size: int, *, put_seq: int) -> None:
        """A peer stored a chunk that nobody had to promise room for: its bytes are on their way into `used`."""
        self._ledger.arrived(peer, size, put_seq=put_seq)

    def heard(self, peer: PeerNumber, put_seq: int, *, withdrawn: int = -1, draining: Sequence[int] = ()) -> None:
        """A heartbeat's figures were taken over; see `Ledger.heard`."""
        self._ledger.heard(peer, put_seq, withdrawn=withdrawn, draining=frozenset(draining))

    def notices(self, peer: PeerNumber, known: int) -> tuple[int, list[tuple[int, int]]]:
        """Tokens that a peer is to refuse; see `Ledger.notices`."""
        return self._ledger.notices(peer, known, now_s=self._clock.monotonic())

    def session_over(self, session: SessionId) -> None:
        """Its promises are withdrawn; their rows lapse by themselves."""
        self._ledger.withdraw_session(session, now_s=self._clock.monotonic())

    async def expire(self) -> None:
        """Let lapse what has run out."""
        now_s = self._clock.time()
        self._ledger.expire(now_s)
        has_lapsed = self._database.read(lambda connection: rows.lapsed(connection, now_s=now_s))
        tokens = self._ledger.take_acknowledged()  # if that cannot be kept, they count again after a restart
        if tokens or has_lapsed:

            def keep(connection: sqlite3.Connection) -> None:
                rows.withdraw(connection, tokens, is_acknowledged=True)
                rows.expire(connection, now_s=now_s)

            await self._database.write(keep)

    def bookable(self) -> int:
        """Bytes of disk that can be promised once more in enough copies, also while those that are silent stay so."""
        wanted, needed = self.copies_wanted()
        booked = sum(self._booked.needs(self._under_way).values())
        return max(
            0,
            min(
                writable([self.free(peer) for peer in peers], needed) - booked
                for peers in (self._staying(), self._counted(wanted))
            ),
        )

    def short(self) -> dict[VolumeId, int]:
        """For how many bytes of disk that were booked for a volume there is no room any more; those that lack some."""
        return self._set_aside()[1]

    def _under_way(self, volume: VolumeId) -> int:
        """What its sessions were promised and may store in enough copies without asking, or may have stored unseen."""
        _, needed = self.copies_wanted()
        return writable(list(self._ledger.promised_in(volume).values()), needed)

    def _set_aside(self) -> tuple[Shares, dict[VolumeId, int]]:
        """What is set aside for whom by the room there is now, and what is lacking."""
        if not len(self._booked):
            return {}, {}
        peers = self._staying()
        return set_aside(
            self._booked.needs(self._under_way),
            {peer.number: self.free(peer) for peer in peers},
            {peer.number: peer.capacity for peer in peers},
            self.copies_wanted(),
        )

    def _taken(self, volume: VolumeId | None) -> Mapping[PeerNumber, int]:
        """What is set aside for other volumes than this."""
        taken: Counter[PeerNumber] = Counter()
        for other, share in self._set_aside()[0].items():
            if other != volume:
                taken.update(share)
        return taken

    def _grant(self, session: SessionId, node: NodeId, volume: VolumeId, *, room_bytes: int) -> list[Promise]:
        taken = self._taken(volume)
        rooms = {
            peer.number: self.free(peer) - taken.get(peer.number, 0)
            for peer in self._staying()
            if not self._ledger.is_full(node, peer.number)
        }
        _, needed = self.copies_wanted()
        expires_s = float(int(self._clock.time() + self._lifetime_s))
        granted = [
            Promise(secrets.randbits(63), session, node, volume, peer, room_bytes, expires_s)
            for peer in peers_with_room(rooms, disk_bytes(room_bytes), needed)
        ]
        self._ledger.add(granted)
        return granted

    async def _keep(self, session: SessionId, granted: Sequence[Promise], replaced: Sequence[int]) -> None:
        if not granted and not replaced:
            return

        def keep(connection: sqlite3.Connection) -> None:
            rows.withdraw(connection, replaced)
            rows.add(connection, session, tokens=[promise.unsigned() for promise in granted])

        def kept(_: None) -> None:
            self._ledger.withdraw(replaced, now_s=self._clock.monotonic())

        try:
            await self._database.write(keep, committed=kept)
        except BaseException:
            self._ledger.forget(granted)  # nobody was told of them
            raise
