"""Members as `placement.care` judges them, and when that will change by itself: silence seen with patience. Pure."""

from typing import Final

from p2pfs.coordinator.roster import Peer
from p2pfs.placement.candidates import Candidate
from p2pfs.placement.care import Keeper
from p2pfs.types import PeerState

LONGEST_ALONE_S: Final = 86400.0
"""So long may a peer that announced its absence hold the second copy of a chunk of which only one can be read. Longer,
and the copy is made again: anybody could announce anything."""


def keeper(peer: Peer, now_s: float, time_s: float, patience_s: float) -> Keeper:
    """A member as `placement.care` judges it."""
    return Keeper(
        Candidate(peer.number, peer.node.owner, peer.node.zone, peer.capacity),
        is_readable=peer.is_reachable,
        is_expected=_expected_for_s(peer, now_s, time_s, patience_s) > 0,
        is_leaving=peer.is_leaving,
        takes=peer.state is PeerState.UP and not peer.is_deaf,
        # Nothing is proved yet while the database does not know; nor while nobody knows how the peer has fared since
        # the coordinator was last there, which may have been long ago.
        appearances=peer.appearances + (peer.has_appeared or not peer.is_heard),
        is_over=peer.is_over,
        is_away=peer.state is PeerState.AWAY and now_s - peer.heard_s < LONGEST_ALONE_S,
    )


def changes_in_s(peer: Peer, now_s: float, time_s: float, patience_s: float) -> float:
    """In how many seconds a silent peer that is expected will be judged otherwise."""
    expected_s = _expected_for_s(peer, now_s, time_s, patience_s)
    alone_s = peer.heard_s + LONGEST_ALONE_S - now_s
    return min(expected_s, alone_s) if peer.state is PeerState.AWAY and alone_s > 0 else expected_s


def _expected_for_s(peer: Peer, now_s: float, time_s: float, patience_s: float) -> float:
    """For how long the copies of a silent peer still count: `patience_s` of silence, or until it said it would be back
    and as long again as the patience."""
    heard = patience_s - (now_s - peer.heard_s)
    return max(heard, peer.away_until_s - time_s + patience_s) if peer.away_until_s else heard
