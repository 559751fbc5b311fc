"""How much of the disk a peer's owner offers to the pool: the storage of `p2pfs.runtime.offers`, at its store."""

from collections.abc import Callable
from pathlib import Path

from p2pfs.chunks.directory import DirectoryStore
from p2pfs.runtime.config import Settings
from p2pfs_peerd.resources import resources


class Offer:
    """How much the owner offers, which may change at any time."""

    def __init__(self, store: DirectoryStore, root: Path, settings: Settings, backups: Callable[[], int]) -> None:
        self._store = store
        self._root = root
        self._capacity = settings.capacity
        self._reserve = settings.reserve
        self._backups = backups
        self._measured = 0  # of the disk, lately
        self.granted: int | None = None
        """What the pool lets this peer offer; None: it has not said yet."""

    def bytes(self) -> int:
        """For chunks: as told, less what backups take; otherwise what is used and what is free beyond the reserve.
        Blocking."""
        if self._capacity is not None:
            return max(0, self._capacity - self._backups())
        usage = self._store.usage()
        self._measured = max(0, usage.used + usage.trash + resources(self._root).disk_free - self._reserve)
        return self._measured

    def limit(self, amount: int | None) -> None:
        """Offer so much; None: what is free beyond the reserve. Less counts at once, more when the pool has agreed.
        Nothing that is stored is deleted."""
        self._capacity = amount
        if amount is not None:
            self._store.limit(min(self._store.usage().capacity, max(0, amount - self._backups())))

    def wished(self) -> int:
        """What the owner offers, whatever the pool says to it; as last measured."""
        return max(0, self._capacity - self._backups()) if self._capacity is not None else self._measured

    def offered(self) -> int:
        """What counts."""
        return self.wished() if self.granted is None else min(self.wished(), self.granted)

    def used(self) -> int:
        """Live chunk files."""
        return self._store.usage().used
