"""Who was promised how many bytes on which peer: the reservations in memory, and every rule about them.

    promised ──stored under it (a commit's receipt says so)──▶ settling ──a heartbeat covers its put_seq──▶ in `used`
        └──returned, expired, session over───────────────────────┘

Between promise and the peer's own `used` no byte is counted by nobody, and hardly one twice, so promises never exceed a
peer's room and a nearly full pool can still be filled. Sync and without I/O; `reservations` keeps the database in step
and is the only caller.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from p2pfs.errors import Invalid, Misuse
from p2pfs.types import SEALED_CHUNK_BYTES, NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.chunks import Token

K = TypeVar("K", bound=Hashable)

MAX_ROOM_BYTES: Final = 1 << 34
"""Most bytes one token may promise: one greedy request must not take the pool for ten minutes."""
CHUNK_OVERHEAD_BYTES: Final = 4096
"""What a chunk's file takes on a peer's disk beside the sealed bytes: its header page."""


def check_amount(room_bytes: int) -> None:
    """Raises Invalid: so much cannot be promised."""
    if not 0 < room_bytes <= MAX_ROOM_BYTES:
        raise Invalid(f"room for {room_bytes} bytes cannot be reserved: 1 to {MAX_ROOM_BYTES} can")


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
    """Every outstanding promise. Sums are kept, because every request for room and every statfs asks for them."""

    def __init__(self, promises: Iterable[Promise] = ()) -> None:
        self._promises: dict[int, Promise] = {}
        self._left: dict[int, int] = {}  # token → promised disk bytes not stored yet
        self._of_session: dict[SessionId, dict[int, None]] = {}  # tokens, oldest first
        self._usable: dict[tuple[SessionId, PeerNumber], dict[int, None]] = {}  # those of them with bytes left
        self._promised: Counter[PeerNumber] = Counter()
        self._promised_to: dict[NodeId, Counter[PeerNumber]] = {}
        self._promised_in: dict[VolumeId, Counter[PeerNumber]] = {}
        self._returned_in: dict[VolumeId, Counter[PeerNumber]] = {}  # settling, and nobody knows whether stored
        self._settling: dict[PeerNumber, list[tuple[int, int]]] = {}  # (put_seq, bytes) on their way into `used`
        self._settling_bytes: Counter[PeerNumber] = Counter()
        self.add(promises)

    def __len__(self) -> int:
        return len(self._promises)

    def promised(self, peer: PeerNumber) -> int:
        """Bytes of this peer that are spoken for and not in its `used` yet."""
        return self._promised[peer] + self._settling_bytes[peer]

    def promised_to(self, node: NodeId, peer: PeerNumber) -> int:
        """What is promised to one node on one peer and not yet stored."""
        mine = self._promised_to.get(node)
        return mine[peer] if mine else 0

    def promised_in(self, volume: VolumeId) -> dict[PeerNumber, int]:
        """What the sessions of a volume were promised on each peer and have not stored as far as is known, with what
        they gave back and no heartbeat has settled yet."""
        return self._promised_in.get(volume, Counter()) + self._returned_in.get(volume, Counter())

    def outstanding(self, nodes: Collection[NodeId], *, but: SessionId | None = None) -> int:
        """Sealed bytes that these nodes' sessions, perhaps without one, may still store: of each the most that any of
        its tokens has left, for a chunk's copies go to several peers. Looks at every promise."""
        most: dict[SessionId, int] = {}
        for token, promise in self._promises.items():
            if promise.node in nodes and promise.session != but:
                most[promise.session] = max(most.get(promise.session, 0), self._left[token])
        return sum(most.values())

    def tokens_of(self, session: SessionId) -> list[int]:
        """The tokens a session holds, oldest first."""
        return list(self._of_session.get(session, ()))

    def add(self, promises: Iterable[Promise]) -> None:
        """Count these from now on."""
        for promise in promises:
            if promise.token in self._promises:
                raise Misuse(f"token {promise.token} is already promised")
            self._promises[promise.token] = promise
            self._left[promise.token] = 0
            self._of_session.setdefault(promise.session, {})[promise.token] = None
            self._usable.setdefault((promise.session, promise.peer), {})[promise.token] = None
            self._change(promise, disk_bytes(promise.room_bytes))

    def stored(self, session: SessionId, peer: PeerNumber, size: int, *, put_seq: int) -> None:
        """A receipt proved that this session stored a chunk of `size`: its bytes settle, oldest promise first."""
        size += CHUNK_OVERHEAD_BYTES
        usable = self._usable.get((session, peer), {})
        while size > 0 and usable:
            token = next(iter(usable))
            taken = min(size, self._left[token])
            self._change(self._promises[token], -taken)
            self._settle(peer, taken, put_seq=put_seq)
            size -= taken
            if not self._left[token]:
                del usable[token]

    def arrived(self, peer: PeerNumber, size: int, *, put_seq: int) -> None:
        """A peer stored a chunk that was promised nobody: its bytes settle."""
        self._settle(peer, size + CHUNK_OVERHEAD_BYTES, put_seq=put_seq)

    def unmeasured(self, peer: PeerNumber, size: int) -> None:
        """So much is known to be stored beyond the figures there are of the peer: it settles with any heartbeat."""
        self._settle(peer, size, put_seq=0)

    def returned(self, volume: VolumeId, peer: PeerNumber, size: int) -> None:
        """So much of a promise was given back: it settles, for it may have been stored under it without a commit yet,
        with a put_seq that nobody told us. One heartbeat must do."""
        self._settle(peer, size, put_seq=0)
        if size:
            self._returned_in.setdefault(volume, Counter())[peer] += size

    def release(self, session: SessionId, tokens: Iterable[int]) -> list[Promise]:
        """Forget these of the session's tokens; what was promised settles, for it may have been stored unseen.
        Tokens of others, and unknown ones, are passed over."""
        held = self._of_session.get(session, {})
        return [self._remove(token) for token in dict.fromkeys(tokens) if token in held]

    def withdraw(self, promises: Iterable[Promise]) -> None:
        """Undo `add` for promises nobody was told of."""
        for promise in promises:
            if promise.token in self._promises:
                self._remove(promise.token, settles=False)

    def release_session(self, session: SessionId) -> list[Promise]:
        """Forget everything a session was promised."""
        return self.release(session, self.tokens_of(session))

    def release_expired(self, now_s: float) -> list[Promise]:
        """Forget what has run out."""
        over = [promise.token for promise in self._promises.values() if promise.expires_s < now_s]
        return [self._remove(token) for token in over]

    def heard(self, peer: PeerNumber, put_seq: int) -> None:
        """A heartbeat of the peer was taken in whose `used` covers every PUT up to `put_seq` (-1: it does not say; then
        everything known by now)."""
        later = [entry for entry in self._settling.pop(peer, ()) if 0 <= put_seq < entry[0]]
        self._settling_bytes[peer] = sum(amount for _, amount in later)
        for volume in [volume for volume, returned in self._returned_in.items() if returned.pop(peer, 0)]:
            if not self._returned_in[volume]:
                del self._returned_in[volume]
        if later:
            self._settling[peer] = later

    def _remove(self, token: int, *, settles: bool = True) -> Promise:
        promise, left = self._promises[token], self._left[token]
        self._change(promise, -left)
        del self._promises[token], self._left[token]
        _discard(self._of_session, promise.session, token)
        _discard(self._usable, (promise.session, promise.peer), token)
        if not self._promised_to[promise.node].total():
            del self._promised_to[promise.node]
        if not self._promised_in[promise.volume].total():
            del self._promised_in[promise.volume]
        if settles:
            self.returned(promise.volume, promise.peer, left)
        return promise

    def _change(self, promise: Promise, amount: int) -> None:
        self._left[promise.token] += amount
        self._promised[promise.peer] += amount
        self._promised_to.setdefault(promise.node, Counter())[promise.peer] += amount
        self._promised_in.setdefault(promise.volume, Counter())[promise.peer] += amount

    def _settle(self, peer: PeerNumber, amount: int, *, put_seq: int) -> None:
        if amount:
            self._settling.setdefault(peer, []).append((put_seq, amount))
            self._settling_bytes[peer] += amount


def _discard(index: dict[K, dict[int, None]], key: K, token: int) -> None:
    """Take a token out of an index, and the key with its last token."""
    held = index.get(key)
    if held is not None:
        held.pop(token, None)
        if not held:
            del index[key]
