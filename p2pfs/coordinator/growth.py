"""Whether a commit may add what it brings, under policy `fair`.

Mounts are refused before they take data from a program, when they ask for room; what was accepted then must not be
refused later, whatever became of the owner's share meanwhile. So a commit is refused only beyond the share and all that
the owner's mounts can still have accepted. An honest one never is; one that stores without asking, on peers that do not
ask for its token, is. Called by `usefulness` and, in its transaction, by `sessions`.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from p2pfs.errors import OverQuota
from p2pfs.meta import usefulness as rows
from p2pfs.placement.usefulness import Stock
from p2pfs.runtime.clocks import Clock
from p2pfs.types import MIB, SessionId

REMEMBERED_S: Final = 3600
"""For so long, or a sixth longer, a promise of room is remembered."""
_SPANS: Final = 6
IN_FLIGHT: Final = 64 * MIB
"""What a mount may have stored and not committed when it asks for room anew: its `write_buffer`, and a little more."""
MOST_MOUNTS: Final = 8
"""Of an owner that are granted that at once."""
RAISE: Final = "offer a peer or store more for others; `p2pfs usefulness --explain` shows how much"


@dataclass(slots=True)
class Growth:
    """Judges what one batch adds. Used in its transaction, so it holds all that is asked of the pool's state."""

    owner: str
    allowed: Callable[[Stock], int]
    others_share: float
    slack: int
    before: Stock | None = None

    def begin(self, connection: sqlite3.Connection) -> None:
        """Nothing is added yet; again is fine."""
        if self.before is None:
            self.before = rows.stock(connection, self.owner)

    def check(self, connection: sqlite3.Connection) -> None:
        """Raises OverQuota: more was added than the owner is allowed, and than its mounts can have been promised."""
        if self.before is None:
            return
        after = rows.stock(connection, self.owner).burden(self.others_share)
        if after > self.before.burden(self.others_share) and after > self.allowed(self.before) + self.slack:
            raise OverQuota(f"{self.owner} has no share left, and was promised no room for this: {RAISE}")


@dataclass(slots=True)
class _Span:
    """What an owner's mounts were promised in ten minutes."""

    most: int = 0  # bytes of all copies, at once
    sessions: set[SessionId] = field(default_factory=set)  # MOST_MOUNTS of them at most


class Promised:
    """What owners' mounts were promised lately. In memory; `found` is how many sessions of each owner a start found:
    what these were promised before is partly forgotten."""

    def __init__(self, clock: Clock, found: Counter[str]) -> None:
        self._clock = clock
        self._found = found
        self._began_s = clock.monotonic()
        self._spans: dict[tuple[str, int], _Span] = {}

    def add(self, owner: str, session: SessionId, size: int) -> None:
        """With this session's, so many bytes of all copies are promised to the owner's mounts now."""
        span = self._spans.setdefault((owner, self._now()), _Span())
        span.most = max(span.most, size)
        if len(span.sessions) < MOST_MOUNTS:
            span.sessions.add(session)

    def slack(self, owner: str, copies: int, *, outstanding: int) -> int:
        """Bytes that the owner's mounts can have accepted and not committed: the most that was promised at once, and
        what each may have had on its way then. `outstanding`: what is promised now, of one copy."""
        lately = [span for (of, at), span in self._spans.items() if of == owner and at >= self._now() - _SPANS]
        most = max([span.most for span in lately] + [outstanding * copies])
        mounts = len(set[SessionId]().union(*(span.sessions for span in lately)))
        if self._clock.monotonic() < self._began_s + REMEMBERED_S:
            mounts += self._found[owner]
        return most + min(mounts, MOST_MOUNTS) * IN_FLIGHT * copies

    def forget(self) -> None:
        """What was promised too long ago."""
        self._spans = {key: span for key, span in self._spans.items() if key[1] >= self._now() - _SPANS}

    def _now(self) -> int:
        return int(self._clock.monotonic() // (REMEMBERED_S // _SPANS))
