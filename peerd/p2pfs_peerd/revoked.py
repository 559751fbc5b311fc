"""The newest list of revocations, kept in the home: a peer that starts again refuses whom it refused before, even if
the coordinator does not answer for days. Blocking. Called by `composition`.
"""

from pathlib import Path

from p2pfs.wire.membership import Revocations
from p2pfs_peerd.kept import Kept


class RevocationFile:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = Kept(path, Revocations)

    def load(self) -> Revocations:
        """What was saved last; an empty list before the first time.

        Raises:
            Corrupt: The file cannot be read, or is not what was saved.
        """
        return self._kept.load() or Revocations(0, [], [])

    def save(self, revocations: Revocations) -> None:
        """Durability: on return it is on stable storage.

        Raises:
            NoSpace, Unavailable: The disk does not let us.
        """
        self._kept.save(revocations)
