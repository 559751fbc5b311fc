"""Who was promised how many bytes on which peer: the reservations in memory, and every rule about them.

    promised ──stored under it (a commit's receipt says so)──▶ settling ──a heartbeat covers its put_seq──▶ in `used`
        └──returned, expired, session over───────────────────────┘

Between promise and the peer's own `used` no byte is counted by nobody, and hardly one twice, so promises never exceed a
peer's room and a nearly full pool can still be filled. Sync and without I/O; `reservations` keeps the database in step
and is the only caller.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import Invalid, Misuse
from p2pfs.types import SEALED_CHUNK_BYTES, NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.chunks import Token

MAX_ROOM_BYTES: Final = 1 << 34
"""Most bytes one token may promise: one greedy request must not take the pool for ten minutes."""
MAX_TOKENS: Final = 4096
"""Most tokens a session may hold; a mount gives back what it used up."""
CHUNK_OVERHEAD_BYTES: Final = 4096
"""What a chunk's file takes on a peer's disk beside the sealed bytes: its header page."""


def disk_bytes(room_bytes: int) -> int:
    """What whole chunks of so many sealed bytes take on a disk."""
    return room_bytes + -(-room_bytes // SEALED_CHUNK_BYTES) * CHUNK_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Promise:
    """One reservation as it was granted."""

    token: int
    session: SessionId
    node: NodeId
    volume: VolumeId
    peer: PeerNumber
    room_bytes: int
    expires_s: float  # UTC: it is persisted and crosses restarts

    def unsigned(self) -> Token:
        """The token to sign for it."""
        return Token(self.token, self.node, self.volume, self.peer, self.room_bytes, int(self.expires_s))


class Ledger:
    """Every outstanding promise."""

    def __init__(self, promises: Iterable[Promise] = ()) -> None:
        self._promises: dict[int, Promise] = {}
        self._left: dict[int, int] = {}  # token → promised disk bytes not stored yet
        self._by_session: dict[SessionId, dict[int, None]] = {}
        self._promised: dict[PeerNumber, int] = {}  # sum of _left, so that asking is O(1)
        self._settling: dict[PeerNumber, list[tuple[int, int]]] = {}  # (put_seq, bytes) on their way into `used`
        self.add(promises)

    def __len__(self) -> int:
        return len(self._promises)

    def promised(self, peer: PeerNumber) -> int:
        """Bytes of this peer that are spoken for and not in its `used` yet."""
        return self._promised.get(peer, 0) + sum(amount for _, amount in self._settling.get(peer, ()))

    def promised_to(self, node: NodeId) -> dict[PeerNumber, int]:
        """What is promised to one node and not yet stored, by peer."""
        mine: dict[PeerNumber, int] = {}
        for token, promise in self._promises.items():
            if promise.node == node:
                mine[promise.peer] = mine.get(promise.peer, 0) + self._left[token]
        return mine

    def check_request(self, session: SessionId, room_bytes: int, *, wanted: int) -> None:
        """Whether a session may ask for `wanted` more tokens of `room_bytes`.

        Raises:
            Invalid: No such amount can be promised, or the session holds too many tokens.
        """
        if not 0 < room_bytes <= MAX_ROOM_BYTES:
            raise Invalid(f"room for {room_bytes} bytes cannot be reserved: 1 to {MAX_ROOM_BYTES} can")
        if len(self._by_session.get(session, ())) + wanted > MAX_TOKENS:
            raise Invalid("this mount holds too many reservations: give back those that are used up")

    def add(self, promises: Iterable[Promise]) -> None:
        """Count these from now on."""
        for promise in promises:
            if promise.token in self._promises:
                raise Misuse(f"token {promise.token} is already promised")
            self._promises[promise.token] = promise
            self._left[promise.token] = room = disk_bytes(promise.room_bytes)
            self._by_session.setdefault(promise.session, {})[promise.token] = None
            self._promised[promise.peer] = self._promised.get(promise.peer, 0) + room

    def stored(self, session: SessionId, peer: PeerNumber, size: int, *, put_seq: int) -> None:
        """A receipt proved that this session stored a chunk of `size`: its bytes settle, oldest promise first."""
        size += CHUNK_OVERHEAD_BYTES
        for token in self._by_session.get(session, ()):
            if size <= 0:
                return
            promise = self._promises[token]
            if promise.peer == peer:
                taken = min(size, self._left[token])
                self._left[token] -= taken
                self._promised[peer] -= taken
                self._settle(peer, taken, put_seq=put_seq)
                size -= taken

    def release(self, session: SessionId, tokens: Iterable[int]) -> list[Promise]:
        """Forget these of the session's tokens; what was promised settles, for it may have been stored unseen.
        Tokens of others, and unknown ones, are passed over."""
        held = self._by_session.get(session, {})
        return [self._remove(token) for token in dict.fromkeys(tokens) if token in held]

    def withdraw(self, promises: Iterable[Promise]) -> None:
        """Undo `add` for promises nobody was told of."""
        for promise in promises:
            self._remove(promise.token, settles=False)

    def release_session(self, session: SessionId) -> list[Promise]:
        """Forget everything a session was promised."""
        return self.release(session, self.tokens_of(session))

    def release_expired(self, now_s: float) -> list[Promise]:
        """Forget what has run out."""
        over = [promise.token for promise in self._promises.values() if promise.expires_s < now_s]
        return [self._remove(token) for token in over]

    def tokens_of(self, session: SessionId) -> list[int]:
        """The tokens a session holds, oldest first."""
        return list(self._by_session.get(session, ()))

    def heard(self, peer: PeerNumber, put_seq: int) -> None:
        """A heartbeat of the peer was taken in whose `used` covers every PUT up to `put_seq` (-1: it does not say; then
        everything known by now)."""
        settling = self._settling.pop(peer, ())
        if put_seq >= 0 and (later := [entry for entry in settling if entry[0] > put_seq]):
            self._settling[peer] = later

    def _remove(self, token: int, *, settles: bool = True) -> Promise:
        promise = self._promises.pop(token)
        left = self._left.pop(token)
        self._promised[promise.peer] -= left
        held = self._by_session[promise.session]
        del held[token]
        if not held:
            del self._by_session[promise.session]
        if settles:
            # What was stored under it without a commit yet has a put_seq nobody told us: one heartbeat must do.
            self._settle(promise.peer, left, put_seq=0)
        return promise

    def _settle(self, peer: PeerNumber, amount: int, *, put_seq: int) -> None:
        if amount:
            self._settling.setdefault(peer, []).append((put_seq, amount))
