"""The list of members that the coordinator signed last, kept in the home: whom this peer knows while the coordinator is
away, also when it is started meanwhile. With it are kept the keys a heartbeat told, for the same reason. Called by
`absence`.
"""

import logging
import math
from pathlib import Path
from typing import Final

import msgspec
import trio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pfs.errors import Corrupt, Denied, Misuse, NoSpace, PoolError, Unavailable
from p2pfs.net.client import Client, Endpoint
from p2pfs.runtime.clocks import Clock
from p2pfs.types import NodeId, PoolId
from p2pfs.wire import codec
from p2pfs.wire.fellows import Roll, SignedRoll, members_digest, roll_message
from p2pfs.wire.membership import HeartbeatAnswer
from p2pfs_peerd.kept import Kept

log = logging.getLogger(__name__)

_RENEW_S: Final = 86400.0
_ADDRESSES_S: Final = 900.0
"""The list is fetched again for who merely came, went or moved no more often than this: greetings tell that, too."""
_LEAST_AGE_S: Final = 60.0
"""In a pool whose members change all the time, each of its peers asks for the whole list no more often than this."""
_ASK_S: Final = 10.0


class KeptRoll(msgspec.Struct, frozen=True):
    """What the file holds."""

    signed: SignedRoll
    token_key: bytes  # whose signature it is
    receipt_key: bytes  # with which this peer proves what it takes in


class RollBook:
    """Knows the newest list. `roll` is None while there is none that is valid."""

    def __init__(self, path: Path, pool: PoolId, clock: Clock) -> None:
        self._kept = Kept(path, KeptRoll)
        self._pool = pool
        self._clock = clock
        self._roll: Roll | None = None
        self._nodes: frozenset[str] = frozenset()  # of the members
        self._members: tuple[bytes, ...] = ()  # digests of them, worked out and as the coordinator told
        self._fetched_s = -math.inf  # monotonic
        self._wanted: HeartbeatAnswer | None = None
        self._keys = (b"", b"")  # token key, receipt key, as kept
        self._awake = trio.Event()
        self._fetched = trio.Event()  # set, and replaced, when there is another list

    async def changed(self, seconds: float) -> None:
        """Wait until there is another list, or for so long."""
        with trio.move_on_after(seconds):
            await self._fetched.wait()

    @property
    def roll(self) -> Roll | None:
        """None: no list was heard, or the last one has expired."""
        roll = self._roll
        return roll if roll is not None and self._clock.time() < roll.expires_s else None

    def lists(self, node: NodeId) -> bool:
        """Whether it is on the list that is valid."""
        return self.roll is not None and node in self._nodes

    def recall(self) -> bytes:
        """Take over what was kept; the receipt key with it, empty if there is nothing. Blocking."""
        try:
            kept = self._kept.load()
            if kept is None:
                return b""
            self._take(verified(kept.signed, self._pool, kept.token_key))
        except (Corrupt, Denied, Misuse) as error:
            log.warning("the list of members cannot be used until the coordinator answers: %s", error)
            return b""
        self._keys = (kept.token_key, kept.receipt_key)
        return kept.receipt_key

    def hear(self, answer: HeartbeatAnswer) -> None:
        """The coordinator answered: fetch its list if that has other members by now, or is old."""
        age_s = self._clock.monotonic() - self._fetched_s
        if (answer.token_key, answer.receipt_key) != self._keys or age_s > self._lasts_s(answer):
            self._wanted = answer
            self._awake.set()

    def _lasts_s(self, answer: HeartbeatAnswer) -> float:
        """How old the list may become."""
        roll = self._roll
        if roll is None:
            return _LEAST_AGE_S
        if answer.members and answer.members not in self._members:
            return min(_LEAST_AGE_S, roll.elect_after_s / 2)
        if roll.map.version == answer.map_version or not roll.elect_after_s:
            return _RENEW_S
        return _ADDRESSES_S

    async def run(self, client: Client, coordinator: Endpoint) -> None:
        """Fetch and keep the list whenever it is wanted."""
        while True:
            await self._awake.wait()
            self._awake = trio.Event()
            try:
                await self._fetch(client, coordinator)
            except PoolError as error:  # the next heartbeat wants it again
                log.info("cannot get or keep the list of members: %s", error)

    async def _fetch(self, client: Client, coordinator: Endpoint) -> None:
        answer = self._wanted
        assert answer is not None
        signed = await client.call(coordinator, "GET", "/roll", None, SignedRoll, timeout_s=_ASK_S)
        self._take(verified(signed, self._pool, answer.token_key), answer.members)
        self._keys = (answer.token_key, answer.receipt_key)
        self._fetched_s = self._clock.monotonic()
        self._fetched.set()
        self._fetched = trio.Event()
        kept = KeptRoll(signed, answer.token_key, answer.receipt_key)
        try:
            await trio.to_thread.run_sync(self._kept.save, kept)
        except (NoSpace, Unavailable) as error:  # the list in memory works
            log.info("cannot keep the list of members: %s", error)

    def _take(self, roll: Roll, told: bytes = b"") -> None:
        self._roll = roll
        self._nodes = frozenset(peer.node for peer in roll.map.peers)
        self._members = (members_digest(roll.map, roll.elect_after_s), told)


def verified(signed: SignedRoll, pool: PoolId, key: bytes) -> Roll:
    """The list. Raises Denied unless it is signed with `key` for this pool, Misuse when it is none."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed.signature, roll_message(pool, signed.body))
    except (InvalidSignature, ValueError):
        raise Denied("the list of members is not signed by the coordinator") from None
    roll = codec.decode(signed.body, Roll)
    if roll.map.pool != pool or not (roll.elect_after_s >= 0 and roll.repair_delay_s >= 0):
        raise Misuse("this is no list of members of this pool")
    return roll
