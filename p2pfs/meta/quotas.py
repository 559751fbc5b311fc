"""How much a volume may hold: checked in the transaction that would make it hold more.

Mounts refuse before they take data in (`vfs.quota`), so this is for those that count wrong, or race. A mount to which
the volume is delegated has acknowledged to programs what it sends: refusing that would cost it everything since. So it
is given time to hear of a new limit, and some room beyond it.
"""

from dataclasses import dataclass
from typing import Final

from p2pfs.errors import OverQuota
from p2pfs.types import MIB

HEARD_S: Final = 120.0
"""Within this time after a quota was set a delegated mount need not know of it."""
BEYOND_BYTES: Final = 64 * MIB
BEYOND_FILES: Final = 1000
"""So much further a delegated mount may go, then it is refused as well."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of a volume (0: none), what it holds, and when the limits were set (UTC)."""

    most_bytes: int
    most_files: int
    set_s: float
    bytes: int
    files: int

    def check(self, *, more_bytes: int, more_files: int, is_delegated: bool, now_s: float) -> None:
        """Whether the volume may come to hold so much more. What makes it smaller is always allowed, and what leaves it
        as large. Raises OverQuota."""
        if is_delegated and now_s < self.set_s + HEARD_S:
            return
        beyond_bytes, beyond_files = (BEYOND_BYTES, BEYOND_FILES) if is_delegated else (0, 0)
        if more_bytes > 0 and 0 < self.most_bytes < self.bytes + more_bytes - beyond_bytes:
            raise OverQuota("the volume's quota of bytes is used up")
        if more_files > 0 and 0 < self.most_files < self.files + more_files - beyond_files:
            raise OverQuota("the volume's quota of files is used up")
