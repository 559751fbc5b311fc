"""Room promised by peers before data moves, so that a full pool is NoSpace at `write` and not a lost upload.

`Space` is what the writer asks; `ReservedSpace` keeps tokens from the coordinator and hands them to the peers' stores.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol

import trio

from p2pfs.errors import NoSpace, OverQuota, PoolError, Unavailable, bare
from p2pfs.types import KIB, MIB, PeerNumber
from p2pfs.wire.chunks import Token

FIRST_ROOM: Final = 64 * MIB
MOST_ROOM: Final = 1024 * MIB
SOON_S: Final = 30.0
LATE_S: Final = 120.0
"""Tokens that are used up sooner are replaced by larger ones, those that lasted longer by smaller ones."""
LOW_ROOM: Final = 16 * MIB
"""A token with less left is replaced before the next chunk: twice what may be on its way at once."""
SETTLING_S: Final = 13.0
"""Two heartbeats and a little, for peers must hear of tokens that were replaced and say so: how long a pool that looks
full is asked again before a writer is told."""
MARGIN_S: Final = 60.0
"""Tokens closer to their end than this are not used for new data."""

MISSED_S: Final = 5.0
"""A peer that a chunk belongs on but that promised nothing may have room by now, or be new: ask again after so long."""

Reserver = Callable[[int, list[int]], Awaitable[list[Token]]]
"""(room_bytes, returned token ids) → one token for each peer with room. Raises NoSpace, OverQuota, CoordinatorAway."""


class Space(Protocol):
    """Whether data may still be accepted."""

    async def promise(self, size: int) -> None:
        """Set room for `size` plain bytes aside for every copy. Raises NoSpace, OverQuota, CoordinatorAway."""
        ...

    async def cover(self, size: int) -> None:
        """Before promised bytes are sent as a chunk of `size`: see to it that every peer with room takes it, also after
        attempts that used up what was reserved. Raises NoSpace, OverQuota, CoordinatorAway."""
        ...

    def adopt(self, size: int) -> None:
        """Bytes that an earlier mount was promised room for count as promised, whether or not there is any now."""
        ...

    def settle(self, size: int, *, is_stored: bool = False) -> None:
        """The promised bytes were stored, in chunks that may count by now, or will never be."""
        ...


class EndlessSpace:
    """For tests and read-only mounts."""

    async def promise(self, size: int) -> None:
        await trio.lowlevel.checkpoint()

    async def cover(self, size: int) -> None:
        await trio.lowlevel.checkpoint()

    def adopt(self, size: int) -> None:
        pass

    def settle(self, size: int, *, is_stored: bool = False) -> None:
        pass


class _Refusal(NamedTuple):
    """Why nothing as large as `size` was promised."""

    error: PoolError
    size: int


class ReservedSpace:
    """Rolling reservations: asks for more before what is there runs out, in growing amounts.

    Invariant: `_promised` ≤ what at least `copies` peers' tokens still cover, or the next `promise` reserves.

    What is stored and not yet committed when tokens are replaced counts nowhere else then: neither among an owner's
    copies nor under the tokens that go. So it draws on the new ones as well (`_drawn`), or an owner would be given its
    share and, on top of it, what was on its way.
    """

    def __init__(
        self, reserve: Reserver, copies: Callable[[], int], now_s: Callable[[], float], *, by_kernel: bool = False
    ) -> None:
        """`by_kernel`: a kernel that keeps pages writes, and goes on with a thousand others when one is refused. So a
        pool that was full after all is full without more asking for as long as was asked."""
        self._by_kernel = by_kernel
        self._reserve, self._copies, self._now_s = reserve, copies, now_s
        self._tokens: dict[PeerNumber, Token] = {}
        self._left: dict[PeerNumber, int] = {}
        self._promised = 0
        self._drawn = 0  # promised when the tokens were granted, and since
        self._room = FIRST_ROOM
        self._missed = False  # a token of a peer that gave none
        self._renewed_s = -math.inf
        self._refusal: _Refusal | None = None
        self._full_until_s = -math.inf  # in trio's time
        self._lock = trio.Lock()

    def _covered(self) -> int:
        """Bytes that every one of `copies` copies still has promised room for."""
        return self._of_every_copy(self._left)

    def _of_every_copy(self, rooms: Mapping[PeerNumber, int]) -> int:
        """The least room of the `copies` peers that have most, by tokens that can be used."""
        now = self._now_s()
        usable = sorted(
            (rooms[peer] for peer, token in self._tokens.items() if token.expires_s - MARGIN_S > now), reverse=True
        )
        wanted = max(self._copies(), 1)
        return usable[wanted - 1] if len(usable) >= wanted else 0

    def _has_room(self, size: int) -> bool:
        """Whether so much more can be promised under the tokens there are."""
        granted = {peer: token.room_bytes for peer, token in self._tokens.items()}
        return self._covered() >= _sealed(self._promised + size) and (
            self._of_every_copy(granted) >= _sealed(self._drawn + size)
        )

    async def promise(self, size: int) -> None:
        if not self._has_room(size):
            known = self._refusal
            async with self._lock:
                if not self._has_room(size):
                    refusal = self._refusal
                    if refusal is not None and refusal is not known and refusal.size <= size:
                        raise bare(refusal.error)  # one asks for all who wait meanwhile
                    await self._ask_for(size)
        self.adopt(size)

    async def _ask_for(self, size: int) -> None:
        try:
            await self._renew(lambda: _sealed(self._promised + size), lambda: self._has_room(size))
        except (NoSpace, OverQuota, Unavailable) as error:
            self._refusal = _Refusal(error, 0 if isinstance(error, Unavailable) else size)
            raise

    async def cover(self, size: int) -> None:
        if not self._is_short(size):
            return
        async with self._lock:
            if not self._is_short(size):
                return
            try:
                await self._renew(lambda: _sealed(size), lambda: self._covered() >= _sealed(size))
            except (NoSpace, OverQuota, Unavailable):
                if self._covered() < _sealed(size):
                    raise

    def _is_short(self, size: int) -> bool:
        """Whether some peer's token is nearly used up or lacking, or `size` is not covered. One peer is enough: when
        others are away, the copies must go to just that one."""
        if self._covered() < _sealed(size) or (self._missed and self._now_s() >= self._renewed_s + MISSED_S):
            return True
        return any(left < min(LOW_ROOM, self._tokens[peer].room_bytes // 4) for peer, left in self._left.items())

    def adopt(self, size: int) -> None:
        self._promised += size
        self._drawn += size

    def settle(self, size: int, *, is_stored: bool = False) -> None:
        self._promised = max(self._promised - size, 0)
        if not is_stored:
            self._drawn = max(self._drawn - size, 0)

    async def _renew(self, need: Callable[[], int], is_enough: Callable[[], bool]) -> None:
        """Have other tokens with room for what `need` says at the time, or, refused, see that those there are enough
        by now: what was on its way may have been stored. Raises as the coordinator; then what there was is good yet."""
        needed = need()
        returned = [token.id for token in self._tokens.values()]
        lasted_s = self._now_s() - self._renewed_s
        is_spent = any(2 * left < self._tokens[peer].room_bytes for peer, left in self._left.items())
        rolled = rolling(self._room, lasted_s, is_spent=is_spent)
        room = max(rolled, 2 * needed)
        # What this mount stored counts twice, as stored and as promised, until the peers' next heartbeats. What it has
        # yet to store leaves less unspent of the tokens there are, which count beside those that are asked for.
        spent = any(left < self._tokens[peer].room_bytes for peer, left in self._left.items())
        began_s = trio.current_time()
        settles = (spent or self._promised > 0) and began_s >= self._full_until_s
        until = began_s + (SETTLING_S if settles else 0.0)
        self._missed, self._renewed_s = False, self._now_s()
        while True:
            try:
                tokens = await self._reserve(room, returned)
                break
            except (NoSpace, OverQuota):
                if room <= needed:
                    if trio.current_time() >= until:
                        if self._by_kernel and until > began_s:
                            self._full_until_s = trio.current_time() + SETTLING_S
                        raise
                    await trio.sleep(1.0)
                    needed = need()
                    if is_enough():
                        return
                    room = needed
                    continue
                # the pool, or its owner's share, has no room for a comfortable reservation: take what this write needs
                room = max(needed, room // 4)
        self._room = rolled
        self._tokens = {PeerNumber(token.peer): token for token in tokens}
        self._left = {PeerNumber(token.peer): token.room_bytes for token in tokens}
        self._drawn = self._promised

    def token(self, peer: PeerNumber, size: int) -> Token | None:
        """A token of that peer with room for `size` bytes, now counted as used; None: treat the peer as full."""
        token = self._tokens.get(peer)
        self._missed = self._missed or token is None
        if token is None or self._left[peer] < size or token.expires_s <= self._now_s():
            return None
        self._left[peer] -= size
        return token

    def unspent(self, peer: PeerNumber, token: Token, size: int) -> None:
        """The peer did not store what the token was taken for."""
        if self._tokens.get(peer) is token:
            self._left[peer] += size

    async def give_back(self) -> None:
        """Return every reservation (at unmount); losing this message costs nothing but time."""
        returned = [token.id for token in self._tokens.values()]
        self._tokens.clear()
        self._left.clear()
        if returned:
            await self._reserve(0, returned)


def rolling(room_bytes: int, lasted_s: float, *, is_spent: bool) -> int:
    """What to ask for after tokens for `room_bytes` a peer lasted so long: enough for half a minute. What is promised
    to one is refused to others, so who writes a little must not sit on much."""
    if is_spent and lasted_s < SOON_S:
        return min(2 * room_bytes, MOST_ROOM)
    return max(room_bytes // 2, FIRST_ROOM) if lasted_s > LATE_S else room_bytes


def _sealed(size: int) -> int:
    """Bytes a peer may need for `size` plain ones: tags, and a header page a chunk."""
    return size + size // 128 + 64 * KIB
