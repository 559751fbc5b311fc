"""Which extents of an inode truncations have hidden, from its cut rows: pure. Used by commits and by reads."""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable

from p2pfs.types import VolumeId


class Cuts:
    """The cuts of one inode. An extent is hidden by a cut at or before its MiB with a higher seq; however many cuts
    there are, only the highest seq so far counts at each MiB."""

    def __init__(self, rows: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._seqs: list[int] = []  # rising
        for from_mib, seq in sorted(rows):
            if not self._seqs or seq > self._seqs[-1]:
                self._starts.append(from_mib)
                self._seqs.append(seq)

    def hide(self, mib: int, seq: int) -> bool:
        """Whether the extent cannot be seen."""
        at = bisect_right(self._starts, mib)
        return at > 0 and seq < self._seqs[at - 1]


def of_inode(connection: sqlite3.Connection, volume: VolumeId, inode: int) -> Cuts:
    """The cuts of an inode as they are."""
    return Cuts(
        connection.execute("SELECT from_mib, seq FROM cut WHERE volume = ? AND inode = ?", (volume, inode)).fetchall()
    )
