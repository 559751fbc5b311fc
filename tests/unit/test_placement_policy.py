"""How many copies, and the pool in one word."""

from dataclasses import replace

import pytest

from p2pfs.placement.policy import Facts, capped, copies_wanted, health, reasons
from p2pfs.types import Health
from p2pfs.wire.membership import PeerInfo, PoolMap

pytestmark = pytest.mark.l0

GOOD = Facts(3, 2, up=("a", "b", "c"), capacity_bytes=1000, free_bytes=900, chunks=10)


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


def codes(facts: Facts) -> list[str]:
    return [reason.code for reason in reasons(facts)]


def test_a_pool_without_reasons_is_healthy() -> None:
    assert reasons(GOOD) == ()
    assert health(()) is Health.HEALTHY


@pytest.mark.parametrize(
    ("facts", "expected", "word"),
    [
        (replace(GOOD, lost=1), ["chunks_lost"], Health.ERROR),
        (replace(GOOD, under_replicated=4), ["chunks_under_replicated"], Health.WARNING),
        (replace(GOOD, corrupt=1), ["copies_corrupt"], Health.WARNING),
        (replace(GOOD, up=("a", "b"), down=("c",)), ["peers_down"], Health.WARNING),
        (replace(GOOD, up=("a", "b"), suspect=("c",)), ["peers_suspect"], Health.WARNING),
        (replace(GOOD, up=("a",), down=("b", "c")), ["too_few_peers_up", "peers_down"], Health.ERROR),
        (replace(GOOD, up=("a", "b")), ["too_few_peers"], Health.WARNING),
        (replace(GOOD, up=("a",)), ["too_few_peers"], Health.WARNING),
        (replace(GOOD, up=()), ["no_peers"], Health.ERROR),
        (replace(GOOD, free_bytes=0), ["pool_full"], Health.ERROR),
        (replace(GOOD, free_bytes=99), ["pool_nearly_full"], Health.WARNING),
        (replace(GOOD, free_bytes=100), [], Health.HEALTHY),
        (replace(GOOD, corrupt=1, lost=2), ["chunks_lost", "copies_corrupt"], Health.ERROR),
    ],
)
def test_each_fact_has_its_code_and_the_worst_gives_the_word(facts: Facts, expected: list[str], word: Health) -> None:
    assert codes(facts) == expected
    assert health(reasons(facts)) is word


def test_reasons_name_the_peers() -> None:
    (reason,) = reasons(replace(GOOD, up=("a", "b"), down=("carl@attic",)))
    assert "carl@attic" in reason.message
