"""Who was promised how many bytes on which peer: the reservations in memory, and every rule about them.

    promised ──stored under it (a commit's receipt says so)──▶ settling ──a heartbeat covers its put_seq──▶ in `used`
      │ └──time is over──▶ lapsed ──a heartbeat came───────────────────────────────────────────▶ free, or in `used`
      └──given back, replaced, session over──▶ withdrawn ──the peer says it takes it no more───▶ free, or in `used`

A token is spent at the peer: one that its owner gave back is as good there as any, until the peer knows, or its time is
over. Until then it counts. What was stored under it and is committed later is told from what is stored under the next
by the heartbeat in which the peer said so (`_Late`).

Between promise and the peer's own `used` no byte is counted by nobody, and hardly one twice, so promises never exceed a
peer's room and a nearly full pool can still be filled. Sync and without I/O; `reservations` keeps the database in step
and is the only caller.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from p2pfs.errors import Invalid, Misuse
from p2pfs.types import SEALED_CHUNK_BYTES, NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.chunks import Token

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

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


MOST_WITHDRAWN: Final = 1000
"""Of a node on a peer at a time: a mount that renews without end must not fill memory; then it gets no more there."""
TOLD: Final = 1000
"""Withdrawn tokens told to a peer at once."""
REST_S: Final = 2.0
"""Peers are told so late of a withdrawn token, so that what was sent under it before arrives."""
_LATE_S: Final = 3600.0
"""For so long after a token's time a commit of what was stored under it is told from others."""
_SILENT_S: Final = 60.0
"""A peer that was not heard for so long since a token lapsed sleeps, or is cut off."""
_AT_ONCE: Final = 256
"""put_seqs that are given while a PUT with a lower one is not settled, generously."""
_EVERY_SEQ: Final = (1 << 63) - 1


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


@dataclass(slots=True)
class _Notice:
    """A withdrawn token, to be told to its peer."""

    promise: Promise
    seq: int
    told_from_s: float  # monotonic
    is_acknowledged: bool = False


@dataclass(slots=True)
class _Late:
    """Bytes that are in a peer's `used` if they were stored at all, and whose commits may come yet."""

    size: int
    put_seq: int  # of the latest that is meant
    until_s: float  # UTC


class Ledger:
    """Every outstanding promise. Sums are kept, because every request for room and every statfs asks for them."""

    def __init__(self, promises: Iterable[Promise] = (), *, first_seq: int = 1) -> None:
        """`first_seq` is above every one that an earlier run gave a withdrawal."""
        self._seq = first_seq
        self._ending: dict[
            PeerNumber, dict[int, float | None]
        ] = {}  # withdrawn tokens that count yet; when they lapsed
        self._notices: dict[PeerNumber, dict[int, _Notice]] = {}  # until their time is over; by token, `seq` rises
        self._noticed: Counter[tuple[NodeId, PeerNumber]] = Counter()
        self._late: dict[tuple[SessionId, PeerNumber], _Late] = {}
        self._acknowledged: list[int] = []  # tokens, since `take_acknowledged`
        self._promises: dict[int, Promise] = {}
        self._left: dict[int, int] = {}  # token → promised disk bytes not stored yet
        self._of_session: dict[SessionId, dict[int, None]] = {}  # tokens, oldest first
        self._usable: dict[tuple[SessionId, PeerNumber], dict[int, None]] = {}  # those of them with bytes left
        self._promised: Counter[PeerNumber] = Counter()
        self._promised_to: dict[NodeId, Counter[PeerNumber]] = {}
        self._promised_in: dict[VolumeId, Counter[PeerNumber]] = {}
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

    def promised_in(self, volume: VolumeId) -> Mapping[PeerNumber, int]:
        """What the sessions of a volume were promised on each peer and have not stored as far as is known, with what
        they gave back and may store yet."""
        return self._promised_in.get(volume, {})

    def outstanding(self, nodes: Collection[NodeId], *, copies: int, but: SessionId | None = None) -> int:
        """Bytes that these nodes' sessions may still store on `copies` peers each, also under tokens that they gave
        back and that peers take all the same; without the tokens that one session is about to give back. Looks at every
        promise."""
        held = self._of_session.get(but, {}) if but is not None else {}
        left: dict[SessionId, Counter[PeerNumber]] = {}
        for token, promise in self._promises.items():
            if promise.node in nodes and token not in held and not self._has_lapsed(token):
                left.setdefault(promise.session, Counter())[promise.peer] += self._left[token]
        return sum(sorted(peers.values(), reverse=True)[copies - 1] for peers in left.values() if len(peers) >= copies)

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
        late = self._late.get((session, peer))
        if late is not None and put_seq <= late.put_seq:
            taken = min(size, late.size)
            late.size -= taken
            size -= taken
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

    def is_full(self, node: NodeId, peer: PeerNumber) -> bool:
        """Whether a node has so many withdrawn tokens on a peer that it gets no other until their time is over."""
        return self._noticed[node, peer] >= MOST_WITHDRAWN

    def withdraw(self, tokens: Iterable[int], *, now_s: float = 0.0) -> list[Promise]:
        """Take these back; they count until their peers know. `now_s` is monotonic. Unknown ones, and those that are
        withdrawn already, are passed over."""
        withdrawn = []
        for token in dict.fromkeys(tokens):
            promise = self._promises.get(token)
            if promise is None or token in self._ending.get(promise.peer, {}):
                continue
            self._seq += 1
            self._ending.setdefault(promise.peer, {})[token] = None
            self._notices.setdefault(promise.peer, {})[token] = _Notice(promise, self._seq, now_s + REST_S)
            self._noticed[promise.node, promise.peer] += 1
            _discard(self._of_session, promise.session, token)
            withdrawn.append(promise)
        return withdrawn

    def withdraw_session(self, session: SessionId, *, now_s: float = 0.0) -> list[Promise]:
        """Take back everything a session was promised."""
        return self.withdraw(self.tokens_of(session), now_s=now_s)

    def forget(self, promises: Iterable[Promise]) -> None:
        """Undo `add` for promises nobody was told of."""
        for promise in promises:
            if promise.token in self._promises:
                self._remove(promise.token)

    def lapse(self, token: int, now_s: float) -> None:
        """Its time is over. What was stored under it just before is in some heartbeat's `used`; until one comes it
        counts. `now_s` is UTC."""
        promise = self._promises[token]
        _discard(self._of_session, promise.session, token)
        self._ending.setdefault(promise.peer, {})[token] = now_s

    def _merge(self, token: int, now_s: float) -> None:
        """Of a volume's tokens to one node that lapsed while their peer is silent only the largest counts: who renews
        for hours must not eat up the room of a peer that sleeps."""
        promise = self._promises[token]
        alike = [
            one
            for one, lapsed_s in self._ending.get(promise.peer, {}).items()
            if lapsed_s is not None
            and lapsed_s <= now_s - _SILENT_S
            and (self._promises[one].node, self._promises[one].volume) == (promise.node, promise.volume)
        ]
        for one in sorted([*alike, token], key=lambda one: self._left[one])[:-1]:
            self._end(one, _EVERY_SEQ)

    def expire(self, now_s: float) -> int:
        """Let lapse what has run out, and forget whom nobody needs to be told of any more; how many lapsed."""
        over = [
            token
            for token, promise in self._promises.items()
            if promise.expires_s < now_s and not self._has_lapsed(token)
        ]
        for token in over:
            self.lapse(token, now_s)
            self._merge(token, now_s)
        for peer, notices in list(self._notices.items()):
            for token, notice in list(notices.items()):
                if notice.promise.expires_s < now_s:
                    self._forget_notice(peer, token)
        self._late = {key: late for key, late in self._late.items() if late.size and late.until_s >= now_s}
        return len(over)

    def restore(self, promise: Promise, *, is_withdrawn: bool, is_acknowledged: bool, now_s: float) -> None:
        """Count one that an earlier run granted, of which nobody knows any more how much was stored under it, nor in
        which figures that is. `now_s` is UTC."""
        self.add([promise])
        if promise.expires_s < now_s:
            self.lapse(promise.token, now_s)
            return
        if is_withdrawn or is_acknowledged:
            self.withdraw([promise.token])
        if is_acknowledged:
            self._notices[promise.peer][promise.token].is_acknowledged = True
            self.lapse(promise.token, now_s)

    def notices(self, peer: PeerNumber, known: int, *, now_s: float) -> tuple[int, list[tuple[int, int]]]:
        """(number of the last, (token, expires_s) each): what a peer that knows those up to `known` is to refuse from
        now on. `now_s` is monotonic."""
        found: list[tuple[int, int]] = []
        last = known if known <= self._seq else 0  # it is from another time: the database was restored
        for token, notice in self._notices.get(peer, {}).items():
            if notice.seq <= last:
                continue
            if notice.told_from_s > now_s or len(found) == TOLD:
                break
            found.append((token, int(notice.promise.expires_s)))
            last = notice.seq
        return last, found

    def take_acknowledged(self) -> list[int]:
        """Tokens whose peers said since the last call that they take them no more."""
        tokens, self._acknowledged = self._acknowledged, []
        return tokens

    def heard(
        self, peer: PeerNumber, put_seq: int, *, withdrawn: int = -1, draining: Collection[int] = frozenset()
    ) -> None:
        """A heartbeat of the peer was taken in whose `used` covers every PUT up to `put_seq` (-1: it does not say; then
        everything known by now), and every one under the tokens withdrawn up to `withdrawn` but for those `draining`:
        it takes no more under them."""
        later = [entry for entry in self._settling.pop(peer, ()) if 0 <= put_seq < entry[0]]
        self._settling_bytes[peer] = sum(amount for _, amount in later)
        if later:
            self._settling[peer] = later
        covered = put_seq + _AT_ONCE if put_seq >= 0 else _EVERY_SEQ
        for token, lapsed_s in list(self._ending.get(peer, {}).items()):
            notice = self._notices.get(peer, {}).get(token)
            is_known = notice is not None and notice.seq <= withdrawn <= self._seq and token not in draining
            if is_known and notice is not None and not notice.is_acknowledged:
                notice.is_acknowledged = True
                self._acknowledged.append(token)
            if lapsed_s is not None or is_known:
                self._end(token, covered)

    def _has_lapsed(self, token: int) -> bool:
        return self._ending.get(self._promises[token].peer, {}).get(token) is not None

    def _end(self, token: int, put_seq: int) -> None:
        """What was stored under a token is in `used`, or will be counted with another; commits of it may come yet."""
        promise, left = self._promises[token], self._left[token]
        self._remove(token)
        if left:
            key, until_s = (promise.session, promise.peer), promise.expires_s + _LATE_S
            late = self._late.setdefault(key, _Late(0, 0, 0.0))
            late.size += left
            late.put_seq, late.until_s = max(late.put_seq, put_seq), max(late.until_s, until_s)

    def _remove(self, token: int) -> None:
        promise = self._promises[token]
        self._change(promise, -self._left[token])
        del self._promises[token], self._left[token]
        _discard(self._of_session, promise.session, token)
        _discard(self._usable, (promise.session, promise.peer), token)
        _discard(self._ending, promise.peer, token)
        if not self._promised_to[promise.node].total():
            del self._promised_to[promise.node]
        if not self._promised_in[promise.volume].total():
            del self._promised_in[promise.volume]

    def _forget_notice(self, peer: PeerNumber, token: int) -> None:
        node = self._notices[peer][token].promise.node
        _discard(self._notices, peer, token)
        self._noticed[node, peer] -= 1
        if not self._noticed[node, peer]:
            del self._noticed[node, peer]

    def _change(self, promise: Promise, amount: int) -> None:
        self._left[promise.token] += amount
        self._promised[promise.peer] += amount
        self._promised_to.setdefault(promise.node, Counter())[promise.peer] += amount
        self._promised_in.setdefault(promise.volume, Counter())[promise.peer] += amount

    def _settle(self, peer: PeerNumber, amount: int, *, put_seq: int) -> None:
        if amount:
            self._settling.setdefault(peer, []).append((put_seq, amount))
            self._settling_bytes[peer] += amount


def _discard(index: dict[K, dict[int, V]], key: K, token: int) -> None:
    """Take a token out of an index, and the key with its last token."""
    held = index.get(key)
    if held is not None:
        held.pop(token, None)
        if not held:
            del index[key]
