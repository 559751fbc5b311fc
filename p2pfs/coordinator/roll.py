"""Signs the list of members by which peers know each other while no coordinator answers. Called by `handlers`.

It says no more than `GET /map` does, and less: not how full anybody is. Heartbeats tell when it has other members;
then, and now and then, each peer fetches it (`p2pfs_peerd.roll`).
"""

from collections.abc import Callable
from typing import Final

import msgspec

from p2pfs.coordinator.tokens import TokenSigner
from p2pfs.runtime.clocks import Clock
from p2pfs.wire import codec
from p2pfs.wire.fellows import Roll, SignedRoll, members_digest
from p2pfs.wire.membership import PoolMap

LIFETIME_S: Final = 30 * 86400
"""Longer than a coordinator is away while anybody still hopes for it."""
_SAME_S: Final = 3600.0
"""One list is given out for so long unless members change: signing and encoding are not done for each peer."""


class RollOffice:
    """Gives out the list as it is now."""

    def __init__(
        self,
        signer: TokenSigner,
        pool_map: Callable[[], PoolMap],
        *,
        elect_after_s: float,
        repair_delay_s: float,
        is_fair: bool = False,
        clock: Clock,
    ) -> None:
        self._signer = signer
        self._map = pool_map
        self._elect_after_s = elect_after_s
        self._repair_delay_s = repair_delay_s
        self._is_fair = is_fair
        self._clock = clock
        self._last: tuple[int, float, SignedRoll] | None = None  # (map version, when by the monotonic clock, the roll)
        self._members: tuple[int, bytes] = (-1, b"")  # map version → digest

    def signed(self) -> SignedRoll:
        """The list, valid for `LIFETIME_S`."""
        pool, now_s = self._listed(), self._clock.monotonic()
        if self._last is None or self._last[0] != pool.version or now_s - self._last[1] > _SAME_S:
            issued_s = int(self._clock.time())
            body = codec.encode(
                Roll(
                    issued_s,
                    issued_s + LIFETIME_S,
                    self._elect_after_s,
                    self._repair_delay_s,
                    pool,
                )
            )
            self._last = (pool.version, now_s, self._signer.sign_roll(body))
        return self._last[2]

    def members(self, version: int) -> bytes:
        """Changes when the list has other members; for the map of this version."""
        if self._members[0] != version:
            self._members = (version, members_digest(self._listed(), self._elect_after_s))
        return self._members[1]

    def _listed(self) -> PoolMap:
        pool = self._map()
        # Where owners earn their copies, an inventory does not tell whose chunk it is: what everybody is promised is
        # asked for, and nothing that the coordinator would trim again.
        replicas = pool.min_replicas if self._is_fair else pool.replicas
        peers = [msgspec.structs.replace(peer, free=0) for peer in pool.peers]
        return msgspec.structs.replace(pool, replicas=replicas, peers=peers)
