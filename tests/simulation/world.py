"""One run of the simulation as everybody in it sees it: the pool, the journal, what was found wrong, and what is
excused because a fault destroyed it.
"""

import math
import random
import sqlite3
import zlib
from collections import deque
from functools import partial
from pathlib import Path
from typing import Final

import trio

from p2pfs.types import ChunkId, PeerNumber, SessionId, VolumeId

from .disk import Copy
from .pool import TIDY_S, VOLUME, SimMount, SimPeer, SimPool

_LINES: Final = 80
LATE_MAP_S: Final = 3600.0


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
        self.copies: dict[ChunkId, int] = {}  # valid ones of each chunk that is named, after the last step
        self._gone: set[PeerNumber] = set()
        self._shrunk_s = -math.inf
        self.named_s: dict[ChunkId, float] = {}  # when each chunk was last seen to be named
        for peer in pool.peers:
            peer.disk.trashing, peer.disk.purging = partial(self._trashing, peer), partial(self._purging, peer)

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

    def members(self, chunk: ChunkId, volume: VolumeId = VOLUME) -> list[SimPeer]:
        """Peers with a valid copy that have not left."""
        gone = self.pool.database.read(self.gone)
        return [peer for peer in self.valid(chunk, volume) if peer.number not in gone]

    def gone(self, connection: sqlite3.Connection) -> set[PeerNumber]:
        """Peers whose copies are none any more: they left, are lost, or were put out."""
        rows = connection.execute("SELECT number FROM peer WHERE state IN ('left', 'lost', 'revoked')").fetchall()
        return {PeerNumber(number) for (number,) in rows}

    def leaving(self, connection: sqlite3.Connection) -> set[PeerNumber]:
        """Peers whose copies do not count for a commit."""
        return {PeerNumber(number) for (number,) in connection.execute("SELECT number FROM peer WHERE leaving")}

    def has_shrunk_lately(self) -> bool:
        """Whether a peer's copies stopped counting, for new commits at least, within the time in which each mount hears
        of it."""
        gone = self.pool.database.read(self.gone) | self.pool.database.read(self.leaving)
        if not gone <= self._gone:
            self._shrunk_s = trio.current_time()
        self._gone = gone
        return trio.current_time() - self._shrunk_s < LATE_MAP_S

    def wanted(self) -> int:
        """How many copies there should be, as the coordinator counts members."""
        services = self.pool.coordinator.services
        return services.reservations.copies_wanted()[0] if services is not None else self.pool.settings.replicas

    def _trashing(self, peer: SimPeer, path: Path) -> None:
        """P5 and P6, at the very moment a live copy goes to the trash."""
        copy = _copy_at(path)
        chunk = copy[1]
        row = self.pool.database.read(
            lambda connection: connection.execute("SELECT refs FROM chunk WHERE volume = ? AND id = ?", copy).fetchone()
        )
        if row is None:
            named_s = self.named_s.get(chunk)
            if named_s is not None and trio.current_time() - named_s < self.pool.settings.purge_grace:
                self.violated("P6", f"chunk {chunk.hex()[:8]} on {peer.host.name} is deleted within its grace")
            return
        before = self.members(chunk)
        if not row[0] or peer not in before:
            return
        # the order was given while there were enough others: what a fault destroyed unseen is not the deletion's doing
        unseen = sum(self.is_excused(one.number, chunk) for one in self.pool.peers)
        after = [one for one in before if one is not peer]
        if len(after) + unseen < min(len(before), self.wanted()):
            self.violated(
                "P5",
                f"chunk {chunk.hex()[:8]} on {peer.host.name} is deleted, which leaves {len(after)} of {len(before)}",
            )

    def _purging(self, peer: SimPeer, path: Path) -> None:
        """P6, when something leaves the trash. Only a full disk may hurry."""
        age_s = peer.host.clock.time() - int(path.name.split("-", 1)[0])
        if age_s < self.pool.settings.trash_keep and not peer.disk.is_full:
            self.violated("P6", f"{path.name[:30]} leaves the trash of {peer.host.name} after {age_s:.0f} s")

    # ---- machines ---------------------------------------------------------------------------------------------------

    def using(self) -> list[SimMount]:
        """Mounts that can be used."""
        return [mount for mount in self.pool.mounts if mount.mounted is not None and mount.host.is_up]

    def left_in_trash(self) -> list[str]:
        """What should have gone from the trash of machines that run."""
        late_s = self.pool.settings.trash_keep + 2 * TIDY_S
        return [
            f"{peer.host.name}: {name[:30]}"
            for peer in self.pool.peers
            if peer.host.is_up and peer.number not in self.unreliable
            for name in peer.disk.trash()
            if peer.host.clock.time() - int(name.split("-", 1)[0]) > late_s
        ]

    def is_over(self, session: SessionId) -> bool:
        """Whether the coordinator ended this session."""
        rows = self.pool.database.read(
            lambda connection: connection.execute("SELECT 1 FROM session WHERE id = ?", (session,)).fetchone()
        )
        return rows is None


def _copy_at(path: Path) -> Copy:
    """Which copy a live chunk file is."""
    return VolumeId(int(path.parent.parent.name, 16)), ChunkId(bytes.fromhex(path.parent.name + path.name))
