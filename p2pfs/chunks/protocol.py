"""Stores of sealed chunks. One conformance suite: tests/contract/test_chunk_store.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pfs.net.watch import Watch
from p2pfs.types import Buffer, ChunkId, PeerNumber, VolumeId
from p2pfs.wire.chunks import Receipt


@dataclass(frozen=True, slots=True)
class Blocks:
    """A run of blocks of a chunk."""

    first: int
    count: int


Check = Callable[[memoryview], object]
Released = Callable[[], None]


class ChunkStore(Protocol):
    """Keeps immutable sealed chunks under (volume, id).

    Implementations: directory and memory (hold them), remote (one peer over net), and wrappers: replicated, cached,
    limited, faulty. Callers verify what they get by its authentication tags; a store that holds chunks verifies them
    too and never returns bytes it knows to be wrong.
    """

    async def put(
        self, volume: VolumeId, chunk: ChunkId, parts: Sequence[Buffer], *, released: Released | None = None
    ) -> list[Receipt]:
        """Store a chunk whose sealed bytes are the concatenation of `parts`. Idempotent: again is fine and gives a
        newer `put_seq`.

        Nobody may change `parts` until `released` is called: exactly once, by then or after the return (a slow copy
        may still be on its way), whatever the outcome. Without it the parts are the store's for good.

        Durability: on return each receipt's peer has it on stable storage.

        Raises:
            Misuse: The bytes are not those of `chunk`.
            NoSpace: There is no room, or the reservation does not cover it.
            Unavailable: Too few stores answered within the deadline; what was stored stays.
        """
        ...

    async def get(
        self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, check: Check | None = None
    ) -> memoryview:
        """Sealed bytes of some blocks; `size` is the whole chunk's sealed size as the caller knows it.

        The view is the caller's: nobody changes its bytes later. `check` raises Corrupt on bytes that do not open: a
        store with several sources then counts that source as lying and goes on to the next.

        Raises:
            NotFound: No store that answered has it.
            Corrupt: The copy here is damaged (and now quarantined).
            Unavailable: Nobody answered within the deadline.
        """
        ...

    async def has(self, volume: VolumeId, chunk: ChunkId) -> bool:
        """Whether a copy is there, without reading it."""
        ...

    async def delete(self, volume: VolumeId, chunk: ChunkId, put_seq: int) -> None:
        """Move the copy to the trash unless it was put again since `put_seq`. Absent is fine."""
        ...


class Asking(Protocol):
    """A `get` that was sent to a peer; one task after another may wait for it."""

    async def sealed(self) -> memoryview:
        """The bytes. Raises as `get`, and Unavailable also for a connection that had ended before it was used.

        Cancellation: they are still on their way; call this again, or `aclose`.
        """
        ...

    async def aclose(self) -> None:
        """Nobody wants them any more. Again is fine; takes no checkpoint."""
        ...


class PeerStore(ChunkStore, Protocol):
    """One peer's chunks, for who asks several: he sees how far each has come. `watch` is only ever looked at; a store
    that cannot tell leaves it alone, and counts as silent until it answers."""

    async def put(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        parts: Sequence[Buffer],
        *,
        released: Released | None = None,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        """As any store's."""
        ...

    async def get(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        size: int,
        blocks: Blocks,
        *,
        check: Check | None = None,
        watch: Watch | None = None,
    ) -> memoryview:
        """As any store's."""
        ...

    async def fetch(
        self,
        volume: VolumeId,
        chunk: ChunkId,
        size: int,
        sources: Sequence[PeerNumber],
        *,
        watch: Watch | None = None,
    ) -> list[Receipt]:
        """As a `put` of the chunk, which this peer takes from the first of `sources` that gives it. Raises NotFound
        when none did, or when this peer cannot do that."""
        ...

    def ask(self, volume: VolumeId, chunk: ChunkId, size: int, blocks: Blocks, *, watch: Watch) -> Asking | None:
        """A `get`, under way when this returns; None when it would have to wait before that, or always."""
        ...
