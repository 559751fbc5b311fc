"""How many copies are wanted."""

import pytest

from p2pfs.placement.policy import capped, copies_wanted
from p2pfs.wire.membership import PeerInfo, PoolMap

pytestmark = pytest.mark.l0


def pool(states: list[str], replicas: int = 3, min_replicas: int = 2) -> PoolMap:
    peers = [PeerInfo(at, "n" * 32, "p", "anna", "", [], 1, 1, state) for at, state in enumerate(states)]
    return PoolMap("p" * 32, 1, 1, replicas, min_replicas, peers)


@pytest.mark.parametrize(
    ("states", "wanted"),
    [
        (["up"] * 5, (3, 2)),
        (["up"] * 3, (3, 2)),
        (["up", "up"], (2, 2)),
        (["up"], (1, 1)),
        ([], (1, 1)),
        (["down"] * 3, (3, 2)),  # away is not gone: writes wait instead of keeping fewer copies
        (["up", "suspect", "down"], (3, 2)),
        (["up", "revoked", "revoked", "revoked"], (1, 1)),
    ],
)
def test_copies_are_capped_by_members_only(states: list[str], wanted: tuple[int, int]) -> None:
    assert copies_wanted(pool(states)) == wanted


def test_never_more_needed_than_wanted_and_never_none() -> None:
    for replicas in range(5):
        for least in range(5):
            for members in range(6):
                most, fewest = capped(replicas, least, members)
                assert 1 <= fewest <= most
                assert most <= max(1, members)
