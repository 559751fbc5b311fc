"""How peers come and go, counted since the pool began to count: what `p2pfs simulate` reckons with.

A peer left when it became down or away, and returned when it is heard again. In memory, and in
the database with their heartbeats (`pulse`), so a crash loses a minute. Sync and without I/O.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from p2pfs.coordinator.report import ChurnReport
from p2pfs.coordinator.roster import Change, Roster
from p2pfs.types import PeerState

KEEP_EVERY_S: Final = 60.0
_SILENT: Final = frozenset({PeerState.DOWN, PeerState.AWAY})
_GONE: Final = frozenset({PeerState.LOST, PeerState.REVOKED})
_LONGEST_TICK_S: Final = 60.0
"""The machine slept, or was too busy to look: nobody knows who was up."""


class Tally(msgspec.Struct):
    """What is kept. `up_s` adds up over all peers."""

    since_s: float  # UTC
    up_s: float = 0.0
    left: int = 0
    returned: int = 0
    absent_s: float = 0.0  # of those that returned, together


class Churn:
    """The account."""

    def __init__(self, roster: Roster, tally: Tally, now_s: float) -> None:
        self._roster = roster
        self._tally = tally
        self._counted_s = self._kept_s = now_s

    def tick(self, now_s: float) -> None:
        """Time went by with the peers that are reachable now."""
        passed_s = min(_LONGEST_TICK_S, now_s - self._counted_s)
        self._tally.up_s += passed_s * sum(peer.is_reachable for peer in self._roster.members())
        self._counted_s = now_s

    def fell_silent(self, changes: Sequence[Change]) -> None:
        """States changed by silence."""
        self._tally.left += sum(
            change.after in _SILENT and change.before not in (*_SILENT, PeerState.LOST) for change in changes
        )

    def heard(self, change: Change, silent_s: float) -> None:
        """A heartbeat changed a state, after so much silence."""
        if change.before in _SILENT or change.before is PeerState.LOST:
            self._tally.returned += 1
            self._tally.absent_s += silent_s

    def taken_if_due(self) -> Tally | None:
        """What the database is to keep, unless it was taken less than a minute ago."""
        if self._counted_s < self._kept_s + KEEP_EVERY_S:
            return None
        self._kept_s = self._counted_s
        return replace(self._tally)

    def report(self) -> ChurnReport:
        """For `status`."""
        tally, peers = self._tally, self._roster.peers.values()
        return ChurnReport(
            since_s=tally.since_s,
            peer_days=tally.up_s / 86400,
            joined=sum(bool(peer.addresses) for peer in peers),
            left=tally.left,
            returned=tally.returned,
            gone=sum(peer.state in _GONE for peer in peers),
            absence_s=tally.absent_s / tally.returned if tally.returned else 0.0,
        )
