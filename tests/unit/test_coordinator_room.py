"""How much fits, checked against brute force."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfs.coordinator.room import free_room, peers_with_room, writable
from p2pfs.errors import NoSpace
from p2pfs.types import PeerNumber

pytestmark = pytest.mark.l0


def by_placing(free: list[int], copies: int) -> int:
    """Place one unit after the other on the peers with most room: optimal, and obviously so."""
    left, placed = list(free), 0
    while True:
        left.sort(reverse=True)
        if copies < 1 or len(left) < copies or left[copies - 1] < 1:
            return placed
        for index in range(copies):
            left[index] -= 1
        placed += 1


@settings(max_examples=300, deadline=None)
@given(free=st.lists(st.integers(0, 40), max_size=6), copies=st.integers(0, 5))
def test_writable_is_what_placing_unit_by_unit_reaches(free: list[int], copies: int) -> None:
    assert writable(free, copies) == by_placing(free, copies)


@pytest.mark.parametrize(
    ("free", "copies", "expected"),
    [
        ([100, 100, 100], 3, 100),
        ([100, 100, 100], 2, 150),
        ([1000, 10, 10], 2, 20),  # the big one cannot hold two copies of anything
        ([1000], 1, 1000),
        ([1000], 2, 0),
        ([0, 5, 5], 2, 5),
        ([], 1, 0),
    ],
)
def test_copies_of_a_byte_lie_on_different_peers(free: list[int], copies: int, expected: int) -> None:
    assert writable(free, copies) == expected


def test_free_room_takes_off_use_trash_and_promises_and_respects_the_disk() -> None:
    assert free_room(1000, 300, trash_kept=100, disk_free=None, promised=200) == 400
    assert free_room(1000, 300, trash_kept=0, disk_free=250, promised=200) == 50
    assert free_room(1000, 1100, trash_kept=0, disk_free=None, promised=0) == 0


def rooms(*free: int) -> dict[PeerNumber, int]:
    return {PeerNumber(number): room for number, room in enumerate(free, 1)}


def test_every_peer_with_room_is_chosen() -> None:
    assert peers_with_room(rooms(10, 9, 0, 50), 10, 2) == [1, 4]


def test_too_few_peers_with_room_are_no_space() -> None:
    with pytest.raises(NoSpace):
        peers_with_room(rooms(10, 9, 9), 10, 2)


def test_a_pool_without_peers_has_no_space_whatever_is_needed() -> None:
    for needed, size in itertools.product((0, 1, 2), (1, 10)):
        with pytest.raises(NoSpace):
            peers_with_room({}, size, needed)
