"""What this process has seen of each peer: how fast it answers, whether it has gone silent or lied. No I/O.

Readers and writers order peers by it. Nothing here is evidence for anybody else: the coordinator's view is the pool
map, and placement does not depend on either.

    answering ──(an attempt exceeds its patience, or fails)──▶ silent ──(an answer, a probe)──▶ answering
        └─────────────(wrong bytes, or none)──▶ distrusted ──(60 s)──▶ answering
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from p2pfs.net.watch import Watch
from p2pfs.types import PeerNumber, PeerState

HEDGE_FLOOR_S: Final = 0.03
HEDGE_CAP_S: Final = 0.5
PATIENCE_S: Final = 1.0
"""Without progress for so long, an attempt counts as silent."""
PROBE_EVERY_S: Final = 15.0
DISTRUST_S: Final = 60.0
_NO_TIME_S: Final = 0.001
_SAMPLES: Final = 64
_LOOK_EVERY_S: Final = 0.01
"""How often an attempt is looked at, which costs two system calls: most are over before."""
_FEWEST_SAMPLES: Final = 8
_SMOOTHING: Final = 0.2
_HEDGE_SHARE: Final = 0.1
_HEDGE_BURST: Final = 8.0

_STATE_RANK: Final[dict[str | None, int]] = {
    PeerState.UP: 0,
    PeerState.DRAINING: 0,
    PeerState.SUSPECT: 1,
    PeerState.AWAY: 2,
    PeerState.DOWN: 2,
}


def _rank(state: str | None) -> int:
    """Better states first; peers that are no members any more, or that the map does not know, last."""
    return _STATE_RANK.get(state, 3)


@dataclass(slots=True)
class Attempt:
    """One request under way, and what was seen of it when somebody last looked."""

    peer: PeerNumber
    started_s: float
    size: int  # bytes it is to move
    watch: Watch
    moved: int = 0
    moved_s: float = field(init=False)
    looked_s: float = field(init=False)
    fair: float = math.inf  # bytes that must have moved by now, or half of all: more is asked of nobody

    def __post_init__(self) -> None:
        self.moved_s = self.looked_s = self.started_s

    def quiet_s(self, now: float) -> float:
        """How long nothing has moved, as far as those who looked can know."""
        if now - self.looked_s >= _LOOK_EVERY_S:
            self.looked_s = now
            moved = self.watch.moved()
            if moved != self.moved:
                self.moved, self.moved_s = moved, now
        return now - self.moved_s

    def is_late(self, now: float) -> bool:
        """Whether it is too slow to be waited for alone, though it moves: after a second less than half has come,
        and less than its share."""
        return now - self.started_s >= PATIENCE_S and self.moved < min(self.size / 2, self.fair)


@dataclass(slots=True)
class Standing:
    """One peer."""

    latency_s: float | None = None  # smoothed
    latencies: deque[float] = field(default_factory=deque)  # of the last reads
    ranked: list[float] = field(default_factory=list)  # the same, sorted
    write_latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    attempts: list[Attempt] = field(default_factory=list)  # oldest first
    silent_since_s: float | None = None
    probed_s: float = -math.inf
    distrusted_until_s: float = -math.inf
    unhelpful_until_s: float = -math.inf


class Standings:
    """All peers, by number. Times come from `now`, which only ever rises."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._peers: dict[PeerNumber, Standing] = {}
        self._hedges = _HEDGE_BURST

    def of(self, peer: PeerNumber) -> Standing:
        """What is known of a peer; nothing speaks against a new one."""
        found = self._peers.get(peer)
        if found is None:
            found = self._peers[peer] = Standing()
        return found

    # ---- what happens -----------------------------------------------------------------------------------------------

    def begin(self, peer: PeerNumber, size: int = 0, watch: Watch | None = None) -> Attempt:
        """A request that moves about `size` bytes."""
        attempt = Attempt(peer, self._now(), size, watch or Watch())
        self.of(peer).attempts.append(attempt)
        return attempt

    def read(self, attempt: Attempt) -> None:
        """The peer answered a read."""
        standing, took_s = self._answered(attempt)
        self._hedges = min(_HEDGE_BURST, self._hedges + _HEDGE_SHARE)
        standing.latencies.append(took_s)
        insort(standing.ranked, took_s)
        if len(standing.latencies) > _SAMPLES:
            del standing.ranked[bisect_left(standing.ranked, standing.latencies.popleft())]
        self._smooth(standing, took_s)

    def declined(self, attempt: Attempt) -> None:
        """The peer, a holder as far as known, did not give what it should have. Taking long over that tells against it
        as a slow answer does; being quick about it does not make it a peer to ask first."""
        standing = self._end(attempt)
        took_s = self._now() - attempt.started_s
        if took_s > (standing.latency_s or 0.0):
            self._smooth(standing, took_s)

    @staticmethod
    def _smooth(standing: Standing, took_s: float) -> None:
        before_s = took_s if standing.latency_s is None else standing.latency_s
        standing.latency_s = before_s + _SMOOTHING * (took_s - before_s)

    def wrote(self, attempt: Attempt) -> None:
        """The peer stored something."""
        standing, took_s = self._answered(attempt)
        standing.write_latencies.append(took_s)

    def probed(self, attempt: Attempt) -> None:
        """The peer answered a question asked only to see whether it does."""
        self._answered(attempt)

    def refused(self, attempt: Attempt) -> None:
        """The attempt ended without the peer, or by its refusal, which may have been decided on this side."""
        self._end(attempt)

    def _answered(self, attempt: Attempt) -> tuple[Standing, float]:
        standing = self._end(attempt)
        standing.silent_since_s = None
        return standing, self._now() - attempt.started_s

    def failed(self, attempt: Attempt) -> None:
        """The peer could not be reached, broke off, or outlasted every patience."""
        standing = self._end(attempt)
        if standing.silent_since_s is None:
            standing.silent_since_s = standing.probed_s = self._now()

    def dropped(self, attempt: Attempt) -> None:
        """We gave the attempt up; that says something only if it was overdue by then. A trickle, too, is to be the last
        to be asked, when it answers questions again."""
        now = self._now()
        if attempt.quiet_s(now) >= PATIENCE_S:
            self.failed(attempt)
        elif attempt.is_late(now):
            self._smooth(self.of(attempt.peer), now - attempt.started_s)
            self.failed(attempt)
        else:
            self._end(attempt)

    def distrust(self, peer: PeerNumber) -> None:
        """It gave bytes that do not open, or had not got what it is said to hold, while another peer had it."""
        self.of(peer).distrusted_until_s = self._now() + DISTRUST_S

    def gave_nothing(self, peer: PeerNumber) -> None:
        """Another peer, told to take a chunk from this one, got nothing, it says. That may be the other's fault, or a
        lie: it decides only whom to count on first."""
        self.of(peer).unhelpful_until_s = self._now() + DISTRUST_S

    def _end(self, attempt: Attempt) -> Standing:
        standing = self.of(attempt.peer)
        if attempt in standing.attempts:
            standing.attempts.remove(attempt)
        return standing

    # ---- what follows -----------------------------------------------------------------------------------------------

    def is_silent(self, peer: PeerNumber) -> bool:
        """Whether nothing should wait for this peer first."""
        standing = self.of(peer)
        if standing.silent_since_s is not None:
            return True
        return bool(standing.attempts) and standing.attempts[0].quiet_s(self._now()) >= PATIENCE_S

    def unhelpful(self, peers: Iterable[PeerNumber]) -> set[PeerNumber]:
        """Those that lately gave others nothing."""
        now = self._now()
        return {peer for peer in peers if self.of(peer).unhelpful_until_s > now}

    def look_again_s(self, attempt: Attempt, patience_s: float) -> float | None:
        """An attempt took longer than usual: how long to go on waiting for it alone, because it moves; None if it has
        not for `patience_s`, or is late."""
        now = self._now()
        left_s = patience_s - attempt.quiet_s(now)
        if left_s < _NO_TIME_S or attempt.is_late(now):
            return None
        verdict_s = attempt.started_s + PATIENCE_S - now  # then it is known whether it is late
        return min(left_s, verdict_s) if verdict_s > _NO_TIME_S else left_s

    def take_probe(self, peers: Iterable[PeerNumber]) -> PeerNumber | None:
        """A silent peer that nobody has tried for 15 s and that the caller now tries in the background."""
        now = self._now()
        for peer in peers:
            standing = self.of(peer)
            if standing.silent_since_s is not None and now - standing.probed_s >= PROBE_EVERY_S:
                standing.probed_s = now
                return peer
        return None

    def read_order(self, holders: Iterable[PeerNumber], states: Mapping[PeerNumber, str]) -> list[PeerNumber]:
        """Whom to ask first: not silent, not overdue, not known as a liar, up; then the one that will answer soonest,
        counting what it already has to do for us."""

        def key(peer: PeerNumber) -> tuple[bool, int, bool, float]:
            standing = self.of(peer)
            oldest_s = self._now() - standing.attempts[0].started_s if standing.attempts else 0.0
            doubtful = standing.distrusted_until_s > self._now() or oldest_s > self._usual_s(standing)
            expected_s = (standing.latency_s or 0.0) * (1 + len(standing.attempts))
            return self.is_silent(peer), _rank(states.get(peer)), doubtful, expected_s

        return sorted(dict.fromkeys(holders), key=key)

    def write_order(self, placed: Iterable[PeerNumber], states: Mapping[PeerNumber, str]) -> list[PeerNumber]:
        """Placement order, but suspect peers later, silent ones after them and those that are down last."""

        def key(peer: PeerNumber) -> tuple[bool, bool, int]:
            rank = _rank(states.get(peer))
            return rank >= _STATE_RANK[PeerState.DOWN], self.is_silent(peer), rank

        return sorted(placed, key=key)

    def hedge_after_s(self, peer: PeerNumber) -> float:
        """How long to wait for this peer before a second one is asked too: its p95, next to nothing if it is silent."""
        return HEDGE_FLOOR_S if self.is_silent(peer) else self._usual_s(self.of(peer))

    def take_hedge(self) -> bool:
        """Whether a second request may be sent before the cap. They are at most a tenth of all reads over time, so that
        a pool that is slow as a whole is not asked for everything twice."""
        if self._hedges < 1:
            return False
        self._hedges -= 1
        return True

    def write_patience_s(self, peer: PeerNumber) -> float:
        """How long a PUT may take before another peer is tried as well: a second, more where the way there is slow."""
        return max(PATIENCE_S, 3 * max(self.of(peer).write_latencies, default=0.0))

    @staticmethod
    def _usual_s(standing: Standing) -> float:
        ranked = standing.ranked
        if len(ranked) < _FEWEST_SAMPLES:
            return HEDGE_CAP_S / 2
        return min(max(ranked[int(0.95 * (len(ranked) - 1))], HEDGE_FLOOR_S), HEDGE_CAP_S)
