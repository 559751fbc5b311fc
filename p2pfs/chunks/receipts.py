"""What a store signs its receipts with.

A peer's key comes from the coordinator with the heartbeat and only the coordinator checks receipts; stores in memory
and tests sign with a key of their own. The bytes covered are wire.chunks.receipt_message.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import blake3

from p2pfs.types import ChunkId, PeerNumber, PoolId, VolumeId
from p2pfs.wire.chunks import Receipt, receipt_message

MAC_BYTES = 16

Sign = Callable[[VolumeId, ChunkId, int, int], Receipt]
"""(volume, chunk, sealed size, put_seq) → receipt."""


@dataclass(frozen=True, slots=True)
class ReceiptKey:
    """Signs for one peer of one pool."""

    pool: PoolId
    peer: PeerNumber
    key: bytes = field(repr=False)

    def sign(self, volume: VolumeId, chunk: ChunkId, size: int, put_seq: int) -> Receipt:
        message = receipt_message(self.pool, self.peer, volume, chunk, size, put_seq)
        return Receipt(self.peer, put_seq, blake3.blake3(message, key=self.key).digest(MAC_BYTES))


def sign_for(peer: PeerNumber) -> Sign:
    """Receipts of a peer outside any pool: for stores in memory and tests."""
    return ReceiptKey(PoolId("0" * 32), peer, bytes(32)).sign
