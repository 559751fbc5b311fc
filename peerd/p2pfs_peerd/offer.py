"""How much of the disk a peer's owner offers to the pool."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.runtime.config import Settings
from p2pfs_peerd.resources import resources


@dataclass(frozen=True, slots=True)
class Offer:
    """How much the owner offers."""

    store: DirectoryStore
    root: Path
    settings: Settings
    backups: Callable[[], int]

    def bytes(self) -> int:
        """For chunks: as configured, less what backups take; otherwise what is used and what is free beyond the
        reserve."""
        if self.settings.capacity is not None:
            return max(0, self.settings.capacity - self.backups())
        usage = self.store.usage()
        return max(0, usage.used + usage.trash + resources(self.root).disk_free - self.settings.reserve)
