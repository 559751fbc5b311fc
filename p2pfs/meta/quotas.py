"""How much a volume may hold: checked in the transaction that would make it hold more.

Mounts refuse before they take data in (`vfs.quota`), so this is for those that count wrong, race, or know of no quotas.
A mount to which the volume is delegated has acknowledged to programs what it sends: refusing that would cost it
everything since. So what it sends is taken, and who gets beyond the limit by more than some room is delegated the
volume no longer (`coordinator.delegations`): then each of its changes is refused by itself.
"""

import sqlite3
from dataclasses import dataclass
from typing import Final

from p2pfs.errors import OverQuota
from p2pfs.types import MIB, VolumeId

BEYOND_BYTES: Final = 64 * MIB
BEYOND_FILES: Final = 1000
"""So much further a delegated mount may go, for what it took in before it heard of a new limit."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of a volume (0: none), and what it holds."""

    most_bytes: int
    most_files: int
    bytes: int
    files: int

    def check(self, *, more_bytes: int, more_files: int) -> None:
        """Whether the volume may come to hold so much more. What makes it smaller is always allowed, and what leaves it
        as large. Raises OverQuota."""
        if more_bytes > 0 and 0 < self.most_bytes < self.bytes + more_bytes:
            raise OverQuota("the volume's quota of bytes is used up")
        if more_files > 0 and 0 < self.most_files < self.files + more_files:
            raise OverQuota("the volume's quota of files is used up")

    @property
    def is_exceeded(self) -> bool:
        """Whether it holds more than it may: it is delegated to nobody until it does not."""
        return 0 < self.most_bytes < self.bytes or 0 < self.most_files < self.files

    def is_far_exceeded(self, *, more_bytes: int, more_files: int) -> bool:
        """Whether with so much more a delegated mount would be beyond its room too."""
        return (
            0 < self.most_bytes < self.bytes + more_bytes - BEYOND_BYTES
            or 0 < self.most_files < self.files + more_files - BEYOND_FILES
        )


def find(connection: sqlite3.Connection, volume: VolumeId) -> Quota:
    """That of a volume; no limits if there is none."""
    row = connection.execute(
        "SELECT quota_bytes, quota_files, bytes, inodes FROM volume WHERE id = ?", (volume,)
    ).fetchone()
    return Quota(0, 0, 0, 0) if row is None else Quota(*row)
