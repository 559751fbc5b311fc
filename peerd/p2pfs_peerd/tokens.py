"""Checks reservation tokens and counts what is stored under each.

The coordinator signs, a sender shows, this peer believes the signature and nothing else. Counts live in memory: after a
restart a token covers its room anew, but never more than this peer has. Called by `app` for every PUT.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pfs.errors import Denied, Misuse, NoSpace, Unavailable
from p2pfs.runtime.clocks import Clock
from p2pfs.types import NodeId, PeerNumber, PoolId, VolumeId
from p2pfs.wire import codec
from p2pfs.wire.chunks import Token, token_message

_MOST: Final = 40_000
_MOST_PER_SENDER: Final = 4000
"""Accounts of tokens that have not expired. None of them is ever forgotten, for it would start from zero again."""
_LONGEST_HEADER: Final = 1024
_MOST_DRAINING: Final = 1000


@dataclass(slots=True)
class _Account:
    token: Token
    used: int = 0


class TokenBook:
    """Tokens seen so far. `key` is the coordinator's public key, unknown until the first heartbeat was answered."""

    def __init__(self, pool: PoolId, peer: PeerNumber, clock: Clock) -> None:
        self._pool = pool
        self._peer = peer
        self._clock = clock
        self._raw_key = b""
        self._key: Ed25519PublicKey | None = None
        self._accounts: dict[int, _Account] = {}
        self._ends: list[tuple[int, int]] = []  # a heap of (expires_s, token id), one for each account
        self._senders: Counter[str] = Counter()  # accounts of each
        self._busy: Counter[int] = Counter()  # tokens that something is stored under at the moment
        self._withdrawn: dict[int, int] = {}  # token id → expires_s
        self._withdrawn_seq = 0

    def trust(self, key: bytes) -> None:
        """Take over the coordinator's public key (raw). Raises Misuse if it is none."""
        if key == self._raw_key:
            return
        try:
            self._key = Ed25519PublicKey.from_public_bytes(key)
        except ValueError:
            raise Misuse("the coordinator's token key is no Ed25519 key") from None
        self._raw_key = key
        self._accounts.clear()
        self._ends.clear()
        self._senders.clear()
        self._withdrawn.clear()
        self._withdrawn_seq = 0

    def withdraw(self, seq: int, tokens: Iterable[tuple[int, int]]) -> None:
        """Take nothing more under these, (token id, expires_s) each; `seq` is the coordinator's number of the last."""
        now_s = self._clock.time()
        known = {number: expires_s for number, expires_s in self._withdrawn.items() if expires_s > now_s}
        known |= {number: expires_s for number, expires_s in tokens if expires_s > now_s}
        if len(known) <= _MOST:  # else the coordinator tells them again
            self._withdrawn, self._withdrawn_seq = known, seq

    def withdrawn(self) -> tuple[int, list[int]]:
        """What heartbeats say: the number of the last withdrawal that this peer heeds, and those of the tokens under
        which something is still being stored that was begun before."""
        draining = [number for number in self._busy if number in self._withdrawn]
        return (self._withdrawn_seq, draining) if len(draining) <= _MOST_DRAINING else (0, [])

    @contextmanager
    def spend(self, header: str | None, *, sender: NodeId, volume: VolumeId, size: int) -> Iterator[None]:
        """Count `size` bytes under the token while they are stored; given back if the block raises.

        Raises:
            Denied: No token, a forged one, or one for another sender, volume or peer.
            NoSpace: It has run out, of time or of room, or was withdrawn.
            Unavailable: The coordinator's key is not known yet, or more tokens are in use than this peer can count.
        """
        token = _parse(header)
        if (token.sender, token.volume, token.peer) != (sender, volume, self._peer):
            raise Denied("the reservation is for another sender, volume or peer")
        account = self._account(token)
        if token.id in self._withdrawn:
            raise NoSpace("the reservation was given back")
        if token.expires_s <= self._clock.time():
            raise NoSpace("the reservation has expired")
        if account.used + size > token.room_bytes:
            raise NoSpace("the reservation is used up")
        account.used += size
        self._busy[token.id] += 1
        try:
            yield
        except BaseException:
            account.used -= size
            raise
        finally:
            self._busy[token.id] -= 1
            if not self._busy[token.id]:
                del self._busy[token.id]

    def _account(self, token: Token) -> _Account:
        """The account of a token that is the coordinator's and this caller's: the one there is, or a new one."""
        known = self._accounts.get(token.id)
        if known is not None and known.token == token:
            return known
        self._verify(token)
        if known is not None:  # the coordinator never gives a number twice
            raise Denied("the reservation differs from the one this peer knows under its number")
        self._forget_expired()
        if self._senders[token.sender] >= _MOST_PER_SENDER or len(self._accounts) >= _MOST:
            raise Unavailable("too many reservations on this peer are in use")
        account = _Account(token)
        if token.expires_s > self._clock.time():
            self._accounts[token.id] = account
            self._senders[token.sender] += 1
            heapq.heappush(self._ends, (token.expires_s, token.id))
        return account

    def _verify(self, token: Token) -> None:
        if self._key is None:
            raise Unavailable("this peer has not heard from its coordinator yet")
        try:
            self._key.verify(token.signature, token_message(self._pool, token))
        except (InvalidSignature, ValueError, OverflowError):
            raise Denied("the reservation is not signed by the coordinator") from None

    def _forget_expired(self) -> None:
        now_s = self._clock.time()
        while self._ends and self._ends[0][0] <= now_s:
            _, number = heapq.heappop(self._ends)
            sender = self._accounts.pop(number).token.sender
            self._senders[sender] -= 1
            if not self._senders[sender]:
                del self._senders[sender]


def _parse(header: str | None) -> Token:
    if header is None:
        raise Denied("a PUT needs a reservation")
    if len(header) > _LONGEST_HEADER:
        raise Misuse("the reservation is too long")
    try:
        data = bytes.fromhex(header)
    except ValueError:
        raise Misuse("the reservation is not hexadecimal") from None
    return codec.decode(data, Token)
