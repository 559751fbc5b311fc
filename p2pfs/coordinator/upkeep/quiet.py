"""Whether there is little to do, so that what can wait may be done now: a low load here and on most peers.

The load is the one-minute average per processor: this machine's as the kernel tells it, the peers' from their
heartbeats.
"""

import os

from p2pfs.coordinator.roster import Roster


class Quiet:
    """Judges the load; `share` per processor is little."""

    def __init__(self, roster: Roster, share: float) -> None:
        self._roster = roster
        self._share = share

    def is_now(self) -> bool:
        """Whether this machine and most peers have little to do."""
        loads = [os.getloadavg()[0] / (os.cpu_count() or 1)]
        loads += [peer.resources.cpu_load for peer in self._roster.members() if peer.is_reachable and peer.resources]
        return sum(load < self._share for load in loads) * 2 > len(loads) and loads[0] < self._share
