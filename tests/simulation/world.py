"""One run of the simulation as everybody in it sees it: the pool, the journal, what was found wrong, and what is excused
because a fault destroyed it.
"""

import random
import zlib
from collections import deque
from typing import Final

import trio

from p2pfs.types import ChunkId, PeerNumber, SessionId, VolumeId

from .disk import Copy
from .pool import VOLUME, SimMount, SimPeer, SimPool

_LINES: Final = 80


class Violation(Exception):
    """A promise was broken."""


class World:
    """`chance` draws faults and load; each run has one of its own for each, so that shrinking one keeps the other."""

    def __init__(self, seed: int, pool: SimPool, *, verbose: bool = False) -> None:
        self.seed = seed
        self.pool = pool
        self.chance = random.Random(f"faults {seed}")
        self.load_chance = random.Random(f"load {seed}")
        self._verbose = verbose
        self.journal: deque[str] = deque(maxlen=_LINES)
        self.digest = 0
        self.violations: list[str] = []
        self.destroyed: set[tuple[PeerNumber, ChunkId]] = set()
        self.unreliable: set[PeerNumber] = set()  # liars, and peers whose disk died: no copy of theirs counts
        self.step = 0

    def note(self, text: str) -> None:
        """Write down what happens."""
        line = f"{trio.current_time():12.3f}  {text}"
        self.digest = zlib.crc32(line.encode(), self.digest)
        self.journal.append(line)
        if self._verbose:
            print(line)

    def violated(self, promise: str, text: str) -> None:
        """A promise is broken; the run ends after the step."""
        self.violations.append(f"{promise}: {text}")
        self.note(f"VIOLATION {promise}: {text}")

    # ---- copies -----------------------------------------------------------------------------------------------------

    def valid(self, chunk: ChunkId, volume: VolumeId = VOLUME) -> list[SimPeer]:
        """Peers whose durable storage has a whole and undamaged copy, liars and dead disks left out."""
        copy: Copy = (volume, chunk)
        return [peer for peer in self.pool.peers if peer.number not in self.unreliable and peer.disk.holds(copy)]

    def is_excused(self, peer: PeerNumber, chunk: ChunkId) -> bool:
        return peer in self.unreliable or (peer, chunk) in self.destroyed

    # ---- machines ---------------------------------------------------------------------------------------------------

    def using(self) -> list[SimMount]:
        """Mounts that can be used."""
        return [mount for mount in self.pool.mounts if mount.mounted is not None and mount.host.is_up]

    def is_over(self, session: SessionId) -> bool:
        """Whether the coordinator ended this session."""
        rows = self.pool.database.read(
            lambda connection: connection.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone()
        )
        return rows is None
