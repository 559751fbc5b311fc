"""What a directory store uses and may use: decisions about room, no file is touched here.

Live chunk files, trash and writes under way count against `capacity`; the disk must keep `reserve` bytes free for its
owner. Trash makes room oldest first, but no faster than `early_purge` of the capacity a day: a coordinator gone bad can
order deletes and PUTs, and must not thereby destroy everything at once.
"""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

_DAY_S: Final = 86400


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes and counts of one store."""

    capacity: int
    used: int  # live chunk files
    trash: int
    chunks: int
    purge_bound: bool = False  # the early-purge limit refused a PUT today


@dataclass(frozen=True, slots=True)
class Trashed:
    """A file in the trash."""

    deleted_s: int
    name: str
    size: int


class Ledger:
    """Thread-safe counters; each method is one short critical section."""

    def __init__(self, capacity: int, reserve: int, early_purge: float) -> None:
        self._lock = threading.Lock()
        self.capacity = capacity
        self.reserve = reserve
        self.early_purge = early_purge
        self._used = self._chunks = self._pending = self._trash_bytes = 0
        self._trash: deque[Trashed] = deque()
        self._purge_day = self._purged_today = 0
        self._bound_day = -1

    def usage(self, now_s: float) -> Usage:
        with self._lock:
            bound = self._bound_day == int(now_s) // _DAY_S
            # Below 0 only before it was counted anew after a crash.
            return Usage(self.capacity, max(0, self._used), self._trash_bytes, max(0, self._chunks), bound)

    def claim(self, size: int, disk_free: int, now_s: float) -> tuple[bool, list[Trashed]]:
        """Room for `size` bytes: whether there will be, and what the caller must remove from the trash first.

        On True the bytes are pending until `stored` or `abandoned`.
        """
        with self._lock:
            over = self._used + self._pending + self._trash_bytes + size - self.capacity
            missing = max(over, self._pending + size + self.reserve - disk_free)
            victims = self._early_victims(missing, now_s)
            if victims is None:
                return False, []
            self._pending += size
            return True, victims

    def _early_victims(self, missing: int, now_s: float) -> list[Trashed] | None:
        """Oldest trash worth `missing` bytes, taken off the books; None if that is not there or not allowed today."""
        day = int(now_s) // _DAY_S
        if day != self._purge_day:
            self._purge_day, self._purged_today = day, 0
        allowed = int(self.early_purge * self.capacity) - self._purged_today
        count = found = 0
        for entry in self._trash if missing > 0 else ():
            if found >= missing or found + entry.size > allowed:
                break
            found += entry.size
            count += 1
        if found < missing:
            if self._trash_bytes >= missing:
                self._bound_day = day
            return None
        self._purged_today += found
        return self._take(count)

    def _take(self, count: int) -> list[Trashed]:
        taken = [self._trash.popleft() for _ in range(count)]
        self._trash_bytes -= sum(entry.size for entry in taken)
        return taken

    def stored(self, size: int, replaced: int | None) -> None:
        """A pending write became a live file, over a file of `replaced` bytes if there was one."""
        with self._lock:
            self._pending -= size
            self._used += size - (replaced or 0)
            self._chunks += replaced is None

    def abandoned(self, size: int) -> None:
        """A pending write came to nothing."""
        with self._lock:
            self._pending -= size

    def found(self, size: int, chunks: int = 1) -> None:
        """Live files seen at start, or more (less) than was thought."""
        with self._lock:
            self._used += size
            self._chunks += chunks

    def lost(self, size: int) -> None:
        """A live file left without going to the trash (quarantine)."""
        with self._lock:
            self._used -= size
            self._chunks -= 1

    def trashed(self, entry: Trashed, *, was_live: bool = True) -> None:
        """A live file moved to the trash, or one was found there at start (in order of age)."""
        with self._lock:
            self._trash.append(entry)
            self._trash_bytes += entry.size
            if was_live:
                self._used -= entry.size
                self._chunks -= 1

    def expired(self, before_s: float, most: int) -> list[Trashed]:
        """Trash older than that, at most `most` entries, taken off the books; the caller removes the files."""
        with self._lock:
            taken: list[Trashed] = []
            kept: deque[Trashed] = deque()
            while self._trash and len(taken) < most:  # not only the first: a clock may have been set back
                entry = self._trash.popleft()
                (taken if entry.deleted_s < before_s else kept).append(entry)
            kept.extend(self._trash)
            self._trash = kept
            self._trash_bytes -= sum(entry.size for entry in taken)
            return taken
