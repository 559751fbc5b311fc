"""Rendezvous order: the same for everyone, by capacity, apart by owner and zone, little moved by change."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs.placement.candidates import Candidate, candidates
from p2pfs.placement.groups import GROUPS, group_of
from p2pfs.placement.rendezvous import SPREAD, order, score
from p2pfs.types import ChunkId, GroupId, PeerNumber
from p2pfs.wire.membership import PeerInfo

pytestmark = pytest.mark.l0

GIB = 1 << 30


def peer(number: int, *, owner: str | None = None, zone: str = "", capacity: int = GIB) -> Candidate:
    return Candidate(PeerNumber(number), f"owner-{number}" if owner is None else owner, zone, capacity)


PEERS = st.lists(
    st.builds(
        peer,
        st.integers(1, 2**32 - 1),
        owner=st.sampled_from(["anna", "ben", "carl", "dora"]),
        zone=st.sampled_from(["", "home", "work"]),
        capacity=st.integers(0, 1 << 50),
    ),
    max_size=24,
    unique_by=lambda peer: peer.number,
)
SOME_GROUPS = [GroupId(number) for number in range(0, GROUPS, 64)]


@pytest.mark.parametrize(
    ("chunk", "group"), [(b"\x00\x00" + bytes(30), 0), (b"\x12\x34" + b"\xff" * 30, 0x1234), (b"\xff" * 32, GROUPS - 1)]
)
def test_a_group_is_the_first_sixteen_bits(chunk: bytes, group: int) -> None:
    assert group_of(ChunkId(chunk)) == group


@given(PEERS, st.integers(0, GROUPS - 1), st.randoms(use_true_random=False))
def test_every_peer_has_one_place_whatever_order_the_map_lists_them_in(
    peers: list[Candidate], group: int, shuffle: object
) -> None:
    placed = order(peers, GroupId(group))
    assert sorted(placed) == sorted(peer.number for peer in peers)
    assert order(list(reversed(peers)), GroupId(group)) == placed
    assert order(sorted(peers, key=lambda peer: peer.number), GroupId(group)) == placed


@given(PEERS, st.integers(0, GROUPS - 1))
def test_an_owner_comes_again_only_when_every_other_owner_was_there(peers: list[Candidate], group: int) -> None:
    by_number = {peer.number: peer for peer in peers}
    placed = [by_number[number] for number in order(peers, GroupId(group))]
    left, owners = Counter(peer.owner for peer in peers), Counter[str]()
    zones = Counter[str]()
    for at, chosen in enumerate(placed[:SPREAD]):
        least = min(owners[owner] for owner in left if left[owner])
        assert owners[chosen.owner] == least
        equals = [peer for peer in placed[at:] if owners[peer.owner] == least]
        assert zones[chosen.zone] == min(zones[peer.zone] for peer in equals)
        best = max(score(peer, GroupId(group)) for peer in equals if zones[peer.zone] == zones[chosen.zone])
        assert score(chosen, GroupId(group)) == best
        owners[chosen.owner] += 1
        zones[chosen.zone] += 1
        left[chosen.owner] -= 1


def test_the_share_of_first_places_is_the_share_of_capacity() -> None:
    peers = [peer(1, capacity=GIB), peer(2, capacity=2 * GIB), peer(3, capacity=5 * GIB)]
    firsts = Counter(order(peers, group)[0] for group in SOME_GROUPS)
    total = len(SOME_GROUPS)
    assert abs(firsts[PeerNumber(1)] / total - 1 / 8) < 0.04
    assert abs(firsts[PeerNumber(2)] / total - 2 / 8) < 0.04
    assert abs(firsts[PeerNumber(3)] / total - 5 / 8) < 0.04


def test_a_newcomer_takes_its_share_and_moves_nothing_else() -> None:
    before = [peer(number) for number in range(1, 10)]
    after = [*before, peer(10)]
    moved = 0
    for group in SOME_GROUPS:
        old, new = order(before, group), order(after, group)
        assert tuple(number for number in new if number != 10) == old
        moved += PeerNumber(10) in new[:3]
    assert abs(moved / len(SOME_GROUPS) - 0.3) < 0.05


def test_growing_a_peer_only_draws_groups_towards_it() -> None:
    before = [peer(number) for number in range(1, 6)]
    after = [replace(before[0], capacity=2 * GIB), *before[1:]]
    for group in SOME_GROUPS:
        old, new = order(before, group), order(after, group)
        assert new.index(PeerNumber(1)) <= old.index(PeerNumber(1))
        assert [number for number in new if number != 1] == [number for number in old if number != 1]


def test_copies_are_with_different_owners_and_then_zones() -> None:
    peers = [
        peer(1, owner="anna", zone="home"),
        peer(2, owner="anna", zone="work"),
        peer(3, owner="anna", zone="work"),
        peer(4, owner="ben", zone="home"),
        peer(5, owner="ben", zone="lake"),
    ]
    by_number = {peer.number: peer for peer in peers}
    for group in SOME_GROUPS:
        first, second = (by_number[number] for number in order(peers, group)[:2])
        assert {first.owner, second.owner} == {"anna", "ben"}
        assert first.zone != second.zone


def test_a_peer_without_capacity_comes_last() -> None:
    peers = [peer(1, capacity=0), peer(2), peer(3)]
    assert all(order(peers, group)[-1] == 1 for group in SOME_GROUPS)


def test_no_peers_no_order() -> None:
    assert order([], GroupId(5)) == ()


@settings(max_examples=30)
@given(st.integers(0, GROUPS - 1), st.integers(0, 2**32 - 1), st.integers(1, 1 << 62))
def test_scores_are_positive_and_finite(group: int, number: int, capacity: int) -> None:
    assert 0 < score(peer(number, capacity=capacity), GroupId(group)) < float("inf")


def test_members_are_all_but_the_revoked() -> None:
    infos = [
        PeerInfo(number, "n" * 32, f"p{number}", "anna", "home", [], 5, 3, state)
        for number, state in enumerate(["up", "suspect", "down", "revoked"])
    ]
    assert candidates(infos) == tuple(peer(number, owner="anna", zone="home", capacity=5) for number in range(3))
