"""What is known of the pool's backups: which there are, who has them up to when, which are kept apart.

`backup` makes and sends them and tells this; `status` reports it, purging asks `covered_s`, and an admin confirms here
what a restore or a shrunken backup left open. Sync but for what the database must keep.
"""

import logging
import math
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from p2pfs.coordinator.ledger import CHUNK_OVERHEAD_BYTES
from p2pfs.coordinator.report import BackupReport
from p2pfs.errors import Invalid
from p2pfs.meta import settings
from p2pfs.meta.database import Database
from p2pfs.runtime.clocks import Clock
from p2pfs.types import PeerNumber
from p2pfs.wire.backups import Held, begun_s

HOLDERS: Final = 3
"""Peers that keep each backup, where there are so many."""
SHRUNK: Final = 0.5
"""An image less than this share of the one before is suspicious."""
_STALE_INTERVALS: Final = 10
_STALE_S: Final = 60.0
_DAY_S: Final = 86400.0

_log = logging.getLogger(__name__)


class Generation(msgspec.Struct, frozen=True):
    """A generation that was begun. `image_parts` 0: its image was never finished."""

    number: int
    image_parts: int = 0
    image_bytes: int = 0
    is_pinned: bool = False  # kept apart until an admin confirms that what followed may be so small


class Restored(msgspec.Struct, frozen=True):
    """Where this database comes from, if it was restored."""

    state_s: float  # UTC: what was committed after is lost
    restored_s: float
    generation: int
    number: int


@dataclass(slots=True)
class Holder:
    """What one peer has. `state_s`: it can restore what was committed until then; 0: nothing yet."""

    peer: PeerNumber
    generation: int = 0
    number: int = -1
    state_s: float = 0.0


@dataclass(slots=True)
class Backups:
    """All of it. `wanted` is how many peers should have the newest backup."""

    database: Database
    clock: Clock
    interval_s: float
    generations: list[Generation]  # oldest first
    restored: Restored | None
    wanted: int = HOLDERS
    holders: dict[PeerNumber, Holder] = field(default_factory=dict)
    bytes: int = 0  # of the newest generation
    has_kit: bool | None = None  # None: nobody makes backups in this process

    @classmethod
    def load(cls, database: Database, clock: Clock, interval_s: float) -> "Backups":
        """As an earlier run left it."""

        def look(connection: sqlite3.Connection) -> tuple[list[Generation], Restored | None]:
            generations = settings.read(connection, settings.BACKUPS, list[Generation]) or []
            return generations, settings.read(connection, settings.RESTORED, Restored)

        return cls(database, clock, interval_s, *database.read(look))

    # ---- asked by others --------------------------------------------------------------------------------------------

    @property
    def stale_s(self) -> float:
        """The age from which on a backup is too old."""
        return max(_STALE_INTERVALS * self.interval_s, _STALE_S)

    def covered_s(self) -> float:
        """UTC: whatever is lost now, what was committed until then is in the newest backup of every holder that
        answers, at least two where there are two peers. 0: there is none; infinity: none can be made, so none names
        what is gone."""
        if not self.has_kit or not self.wanted:
            return math.inf
        states = self._current()
        return min(states) if len(states) >= max(1, min(2, self.wanted)) else 0.0

    def report(self) -> BackupReport | None:
        """For `status`."""
        if self.has_kit is None:
            return None
        states, newest = self._current(), max((one.generation for one in self.holders.values()), default=0)
        best = max((one.state_s for one in self.holders.values()), default=0.0)  # what a restore would take
        return BackupReport(
            age_s=round(max(0.0, self.clock.time() - best), 3) if best else None,
            generation=f"{newest:016x}" if newest else "",
            number=max((one.number for one in self.holders.values() if one.generation == newest), default=-1),
            holders=len(states),
            wanted=self.wanted,
            bytes=self.bytes,
            shrank=any(one.is_pinned for one in self.generations),
            has_kit=self.has_kit,
            stale_s=self.stale_s,
        )

    def _current(self) -> list[float]:
        """The states of the holders that are not left behind."""
        fresh_s = self.clock.time() - self.stale_s
        return [one.state_s for one in self.holders.values() if one.state_s >= fresh_s]

    async def confirm(self, what: str) -> None:
        """An admin has looked at it.

        Raises:
            Invalid: There is nothing of the kind.
        """
        if what == "backup":
            self.generations = [msgspec.structs.replace(one, is_pinned=False) for one in self.generations]
            await self._keep()
        elif what == "orphans":
            await self.database.write(lambda connection: settings.remove(connection, settings.ORPHANS_STAY))
        else:
            raise Invalid(f"“{what}” cannot be confirmed: there are backup, clock and orphans")
        _log.info("confirmed: %s", what)

    # ---- told by `backup` -------------------------------------------------------------------------------------------

    async def begin(self, number: int) -> None:
        """A new generation is made."""
        self.generations = [*self.generations, Generation(number)]
        await self._keep()

    async def finish(self, number: int, *, image_parts: int, image_bytes: int) -> None:
        """Its image is complete. When it is much smaller than the one before, that one is kept apart."""
        before = next((one for one in reversed(self.generations) if one.image_parts and one.number < number), None)
        shrank = before is not None and image_bytes < SHRUNK * before.image_bytes
        made = Generation(number, image_parts, image_bytes)
        pinned = None if before is None else msgspec.structs.replace(before, is_pinned=before.is_pinned or shrank)
        replaced = {made.number: made} | ({pinned.number: pinned} if pinned else {})
        self.generations = [replaced.get(one.number, one) for one in self.generations]
        if shrank and before is not None:
            _log.warning(
                "the backup suddenly shrank from %d to %d bytes: the one before is kept until"
                " `p2pfs coordinator confirm backup`",
                before.image_bytes,
                image_bytes,
            )
        await self._keep()

    async def forget(self, keep_s: float, but: Collection[int]) -> None:
        """Drop what no peer is to keep any more."""
        before_s = self.clock.time() - keep_s
        kept = [
            one for one in self.generations if one.is_pinned or one.number in but or begun_s(one.number) >= before_s
        ]
        if len(kept) < len(self.generations):
            self.generations = kept
            await self._keep()

    async def _keep(self) -> None:
        generations = self.generations
        await self.database.write(lambda connection: settings.write(connection, settings.BACKUPS, value=generations))


def superseded(
    held: Sequence[Held], known: Sequence[Generation], *, making: Collection[int], now_s: float, keep_s: float
) -> list[tuple[int, int]]:
    """Of what a peer holds, what it need not: generation → parts to keep.

    Whole stay the newest two that can be restored, what is being made, and what is kept apart. Of the others that began
    less than `keep_s` ago, the newest of each day (UTC) keeps its image; the rest goes.
    """
    by_number = {one.number: one for one in known}
    restorable = sorted((one.generation for one in held if one.last_state >= 0), reverse=True)
    stay = {*restorable[:2], *making, *(one.number for one in known if one.is_pinned)}
    kept_days: set[int] = set()
    cut = []
    for one in sorted(held, key=lambda one: one.generation, reverse=True):
        if one.generation in stay:
            continue
        begun, day = begun_s(one.generation), int(begun_s(one.generation) // _DAY_S)
        parts = 0
        if one.last_state >= 0 and begun >= now_s - keep_s and day not in kept_days:
            kept_days.add(day)
            generation = by_number.get(one.generation)
            # Of an unknown one, made after the state that was restored, nobody can say where its image ends.
            parts = generation.image_parts if generation and generation.image_parts else one.parts
        if parts < one.parts:
            cut.append((one.generation, parts))
    return cut


def indexed(connection: sqlite3.Connection) -> dict[PeerNumber, tuple[int, int]]:
    """(copies, bytes on its disk) that the index says each peer has, with those it has yet to delete (the size of a
    chunk that was purged is not known, and counts for nothing); what a peer has beyond came after what was restored."""
    rows = connection.execute(
        "SELECT peer, count(*), sum(taken) FROM"
        " (SELECT r.peer, c.size + ?1 AS taken FROM replica r JOIN chunk c ON c.number = r.chunk UNION ALL"
        " SELECT v.peer, coalesce(c.size + ?1, 0) FROM void_copy v LEFT JOIN chunk c ON c.volume = v.volume"
        " AND c.id = v.id WHERE v.pending AND NOT EXISTS"
        " (SELECT 1 FROM replica r WHERE r.chunk = c.number AND r.peer = v.peer))"
        " GROUP BY peer",
        (CHUNK_OVERHEAD_BYTES,),
    )
    return {PeerNumber(peer): (copies, size) for peer, copies, size in rows}
