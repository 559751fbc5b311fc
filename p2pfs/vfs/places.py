"""Where copies of chunks are, as last told: hints for the chunk stores, bounded, asked for again when they fail."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from p2pfs.meta.protocol import Namespace
from p2pfs.types import ChunkId, PeerNumber, VolumeId
from p2pfs.wire.namespace import ChunkPlace

REMEMBERED: Final = 100_000


class Places:
    """Holders by chunk; least recently used ones are forgotten."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._holders: OrderedDict[ChunkId, tuple[PeerNumber, ...]] = OrderedDict()

    def remember(self, places: Iterable[ChunkPlace]) -> None:
        for place in places:
            self.put(ChunkId(place.chunk), (PeerNumber(holder) for holder in place.holders))

    def put(self, chunk: ChunkId, holders: Iterable[PeerNumber]) -> None:
        self._holders[chunk] = tuple(holders)
        self._holders.move_to_end(chunk)
        if len(self._holders) > REMEMBERED:
            self._holders.popitem(last=False)

    async def locate(self, volume: VolumeId, chunk: ChunkId) -> Sequence[PeerNumber]:
        """The holders as known, or as the coordinator says when none are."""
        return self._holders.get(chunk) or await self.refresh(volume, chunk)

    async def refresh(self, volume: VolumeId, chunk: ChunkId) -> Sequence[PeerNumber]:
        """The holders as the coordinator says now. Raises CoordinatorAway."""
        self.remember(await self._namespace.locate([chunk]))
        return self._holders.get(chunk, ())
