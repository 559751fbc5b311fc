"""Signs receipts, from when on the coordinator has sent the key. Called by the store, told by heartbeats."""

from p2pfs.chunks.receipts import ReceiptKey
from p2pfs.errors import Misuse, Unavailable
from p2pfs.runtime.home import NodeRecord
from p2pfs.types import ChunkId, VolumeId
from p2pfs.wire.chunks import Receipt


class Signer:
    """The peer's own key for receipts."""

    def __init__(self, record: NodeRecord) -> None:
        self._record = record
        self._key: ReceiptKey | None = None

    def trust(self, key: bytes) -> None:
        """Take over the key. Raises Misuse: later nobody could say whose fault it is."""
        if len(key) != 32:
            raise Misuse("the coordinator's receipt key is none")
        self._key = ReceiptKey(self._record.pool, self._record.peer, key)

    def sign(self, volume: VolumeId, chunk: ChunkId, size: int, put_seq: int) -> Receipt:
        """Raises Unavailable while there is no key."""
        if self._key is None:
            raise Unavailable("this peer has not heard from its coordinator yet")
        return self._key.sign(volume, chunk, size, put_seq)
