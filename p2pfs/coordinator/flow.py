"""How many bytes go in and out of each peer, from what heartbeats say: for people to look at, nothing is decided by it.

A peer counts since it was started; what it counts anew after a restart begins at 0. Sync, in memory. Told by `pulse`,
asked by `status` and `history`.
"""

from collections.abc import Collection
from dataclasses import dataclass

from p2pfs.runtime.clocks import Clock
from p2pfs.types import PeerNumber


@dataclass(slots=True)
class _Heard:
    run: int
    received: int
    sent: int
    at_s: float  # monotonic
    rates: tuple[float, float] = (0.0, 0.0)


class Flow:
    """The account. `received` and `sent` are of all peers, since the coordinator was started. Who is silent for
    `silent_s` moves nothing."""

    def __init__(self, clock: Clock, silent_s: float) -> None:
        self._clock = clock
        self._silent_s = silent_s
        self._peers: dict[PeerNumber, _Heard] = {}
        self.received = 0
        self.sent = 0

    def heard(self, peer: PeerNumber, run: int, *, received: int, sent: int) -> None:
        """A heartbeat said so much of the peer's run."""
        now_s, last = self._clock.monotonic(), self._peers.get(peer)
        if last is None or last.run != run:  # what came before this coordinator heard of it is nobody's traffic now
            self._peers[peer] = _Heard(run, received, sent, now_s)
            return
        more_in, more_out, passed_s = max(0, received - last.received), max(0, sent - last.sent), now_s - last.at_s
        self.received += more_in
        self.sent += more_out
        rates = (more_in / passed_s, more_out / passed_s) if passed_s > 0 else last.rates
        self._peers[peer] = _Heard(run, received, sent, now_s, rates)

    def rates(self, peer: PeerNumber) -> tuple[float, float]:
        """Bytes a second in and out, between its last two heartbeats."""
        last = self._peers.get(peer)
        if last is None or self._clock.monotonic() - last.at_s > self._silent_s:
            return 0.0, 0.0
        return last.rates

    def keep(self, peers: Collection[PeerNumber]) -> None:
        """Who is not among these is no member any more."""
        for peer in self._peers.keys() - peers:
            del self._peers[peer]
