"""Checks the peers' receipts, so that nobody can invent where a chunk is.

Each peer has its own key, derived from one master, and gets it with every heartbeat answer; mounts carry receipts but
cannot make them. Pure; called by the metadata engine, in its writer thread, for every new chunk of a commit, and by
`roster` for the keys.
"""

import hmac
from collections.abc import Mapping
from typing import Final

from blake3 import blake3

from p2pfs.errors import Gone, Misuse
from p2pfs.types import SEALED_CHUNK_BYTES, TAG_BYTES, ChunkId, NodeId, PeerNumber, PoolId, VolumeId
from p2pfs.wire.chunks import Receipt, receipt_message
from p2pfs.wire.namespace import NewChunk

MAC_BYTES: Final = 16
CHUNK_ID_BYTES: Final = 32
MAX_PUT_SEQ: Final = (1 << 63) - 1
_KEY_CONTEXT: Final = b"p2pfs receipt key 1\0"


def receipt_key(master: bytes, peer: PeerNumber, node: NodeId) -> bytes:
    """The key of one peer. The node is in it, so that a number is never of use to another machine."""
    return blake3(_KEY_CONTEXT + peer.to_bytes(4, "big") + bytes.fromhex(node), key=master).digest()


def sign(key: bytes, message: bytes) -> bytes:
    """The MAC a peer puts under `wire.chunks.receipt_message`."""
    return blake3(message, key=key).digest(MAC_BYTES)


class ReceiptChecker:
    """Says whether receipts are genuine. `keys` holds the receipt key of every peer that may hold chunks and is
    looked at anew each time: a revoked peer is no longer in it."""

    def __init__(self, pool: PoolId, keys: Mapping[int, bytes]) -> None:
        self._pool = pool
        self._keys = keys

    def verify(self, volume: VolumeId, chunk: NewChunk) -> None:
        """Accept a chunk whose receipts are all true; how many are needed is the engine's to count.

        Raises:
            Gone: A receipt names a peer that was put out meanwhile, or a stranger.
            Misuse: A receipt is not that peer's, or id or size are impossible.
        """
        if len(chunk.chunk) != CHUNK_ID_BYTES or not TAG_BYTES < chunk.size <= SEALED_CHUNK_BYTES:
            raise Misuse("a commit names a chunk of impossible id or size")
        for receipt in chunk.receipts:
            self._check(volume, chunk, receipt)

    def _check(self, volume: VolumeId, chunk: NewChunk, receipt: Receipt) -> None:
        key = self._keys.get(receipt.peer)
        if key is None:
            raise Gone(f"a receipt names peer {receipt.peer}, which is no peer of this pool (any more): store it again")
        if not 0 <= receipt.put_seq <= MAX_PUT_SEQ:
            raise Misuse("a receipt has an impossible put_seq")
        message = receipt_message(
            self._pool, PeerNumber(receipt.peer), volume, ChunkId(chunk.chunk), chunk.size, receipt.put_seq
        )
        if not hmac.compare_digest(sign(key, message), receipt.mac):
            raise Misuse(f"a receipt of peer {receipt.peer} does not verify")
