"""What a chunk needs when a holder is silent: announced silence is waited for, any other not with one copy left."""

import pytest

from p2pfs.placement.candidates import Candidate
from p2pfs.placement.care import Held, Keeper, Urgency, need
from p2pfs.types import GIB, PeerNumber

pytestmark = pytest.mark.l0


def _keeper(number: int, **more: bool) -> Keeper:
    silent = more.pop("silent", False)
    return Keeper(
        Candidate(PeerNumber(number), f"owner{number}", "", 10 * GIB),
        is_readable=not silent,
        is_expected=more.pop("expected", True),
        is_leaving=False,
        takes=not silent,
        appearances=1,
        is_away=more.pop("away", False),
    )


@pytest.mark.parametrize(
    ("silent", "is_copied"),
    [
        ({"expected": True}, True),  # one copy is left: at once
        ({"expected": True, "away": True}, False),
        ({"expected": False, "away": True}, True),  # it said it would be back by now
    ],
)
def test_with_two_copies_only_announced_silence_is_waited_for(silent: dict[str, bool], is_copied: bool) -> None:
    keepers = {PeerNumber(1): _keeper(1), PeerNumber(2): _keeper(2, silent=True, **silent), PeerNumber(3): _keeper(3)}
    held = [Held(PeerNumber(1), 1), Held(PeerNumber(2), 1)]
    found = need(held, keepers=keepers, placed=list(keepers), wanted=2, room=lambda _peer: True)
    assert (found is not None) == is_copied
    if found is not None:
        assert (found.urgency, found.targets) == (Urgency.REPAIR, (3,))
