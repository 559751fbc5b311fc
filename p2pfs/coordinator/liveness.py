"""Which peers are up: pure decisions about silence.

    (start or heartbeat) → UP ──silent suspect_s──▶ SUSPECT ──silent down_s──▶ DOWN
                           │ ◀─────────heartbeat────────────────────────────────┤
                           ├──silent suspect_s, as announced──▶ AWAY ──not back─┘
                           └◀─drain, undrain─▶ DRAINING ──nothing depends on it any more──▶ LEFT ──undrain──▶ UP
    any member ──forget──▶ LOST ──heartbeat──▶ UP
    any state ──revoked──▶ REVOKED (for ever)

A draining peer that falls silent is SUSPECT and DOWN like others, and still leaving.

Silence is counted on the coordinator's monotonic clock from the later of the last heartbeat and the coordinator's own
start: its downtime is nobody's silence. Called by `roster`.
"""

from dataclasses import dataclass

from p2pfs.types import PeerState

REACHABLE = frozenset({PeerState.UP, PeerState.DRAINING, PeerState.SUSPECT})
"""States in which a peer's copies count as readable and room on it is promised."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How much silence makes a peer what."""

    heartbeat_s: float = 5.0
    suspect_s: float = 15.0
    down_s: float = 60.0


def state_after(
    silence_s: float, patience: Patience, *, is_leaving: bool = False, is_announced: bool = False
) -> PeerState:
    """The state of a member that said nothing for so long. `is_announced`: it said that it would be silent now."""
    if silence_s < patience.suspect_s:
        return PeerState.DRAINING if is_leaving else PeerState.UP
    if is_announced:
        return PeerState.AWAY
    return PeerState.SUSPECT if silence_s < patience.down_s else PeerState.DOWN


def next_check_s(silence_s: float, patience: Patience) -> float:
    """In how many seconds the state can next change by itself; infinite once down."""
    for limit in (patience.suspect_s, patience.down_s):
        if silence_s < limit:
            return limit - silence_s
    return float("inf")
