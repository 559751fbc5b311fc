"""Who is elected, and which copies it asks for: each rule, and random pools that must come to enough copies."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.placement import rendezvous
from p2pfs.placement.candidates import Candidate
from p2pfs.placement.care import Keeper
from p2pfs.placement.election import MOST_SHORT, Found, Room, View, Voice, Wish, is_open, leader, shortest, wishes
from p2pfs.types import GIB, MIB, ChunkId, GroupId, PeerNumber, VolumeId

pytestmark = pytest.mark.l0


def voice(number: int, *, orphaned: bool = True, follows: int = 0) -> Voice:
    return Voice(PeerNumber(number), orphaned, PeerNumber(follows) if follows else None)


def test_the_smallest_number_that_misses_the_coordinator_leads() -> None:
    assert leader(voice(3), [voice(2), voice(4)]) == 2
    assert leader(voice(3), [voice(2, orphaned=False), voice(4)]) == 3
    assert leader(voice(1), []) == 1
    assert leader(voice(3), [voice(2), voice(4)], passed=[PeerNumber(2)]) == 3


def test_who_comes_back_follows_whom_most_follow() -> None:
    settled = [voice(number, follows=3) for number in (3, 4, 5)]
    assert leader(voice(1), settled) == 3
    assert leader(voice(4, follows=3), [voice(1), *settled[::2]]) == 3
    assert leader(voice(4, follows=3), [voice(1, follows=1), *settled[::2]]) == 3


def test_one_that_claims_to_lead_is_not_believed_alone() -> None:
    assert leader(voice(1), [voice(2), voice(3), voice(9, follows=9)]) == 1
    assert leader(voice(2), [voice(3), voice(9, follows=9)]) == 2
    assert leader(voice(2), [voice(3, follows=9), voice(9, orphaned=False, follows=9)]) == 2  # not one of us


def test_nothing_begins_while_most_are_answered_by_the_coordinator() -> None:
    assert is_open([voice(1), voice(2)])
    assert is_open([voice(1), voice(2, orphaned=False)])  # one liar cannot prevent it
    assert not is_open([voice(1), voice(2, orphaned=False), voice(3, orphaned=False)])


def keeper(number: int, *, shown: bool = True, expected: bool = False) -> Keeper:
    return Keeper(
        Candidate(PeerNumber(number), f"owner{number}", "", GIB),
        is_readable=shown, is_expected=expected, is_leaving=False, takes=shown, appearances=0,
    )  # fmt: skip


def view(*keepers: Keeper, wanted: int = 2) -> View:
    numbers = [one.number for one in keepers]
    return View({one.number: one for one in keepers}, lambda _group: numbers, wanted)


def found(seed: int, size: int = 1000) -> Found:
    return Found(VolumeId(1), ChunkId(random.Random(seed).randbytes(32)), size)


def asked(
    holders: dict[Found, list[int]], pool: View, *, room: int = GIB, coming: dict[Found, list[int]] | None = None
) -> list[tuple[Found, int]]:
    result = wanted_of(holders, pool, Room({number: room for number in pool.keepers}, 1), coming)
    return [(wish.found, wish.target) for wish in result]


def wanted_of(
    holders: dict[Found, list[int]], pool: View, room: Room, coming: dict[Found, list[int]] | None = None
) -> list[Wish]:
    short = shortest({one: [PeerNumber(number) for number in numbers] for one, numbers in holders.items()}, pool)
    arriving = {one: [PeerNumber(number) for number in numbers] for one, numbers in (coming or {}).items()}
    return wishes(short, pool, room=room, coming=arriving)


def test_what_is_short_is_asked_for_and_nothing_else() -> None:
    pool = view(keeper(1), keeper(2), keeper(3, shown=False))
    a, b, c = found(1), found(2), found(3)
    assert asked({a: [1, 2], b: [1], c: [1, 2, 3]}, pool) == [(b, 2)]


def test_a_peer_that_is_silent_for_a_short_while_is_waited_for_unless_one_copy_is_left() -> None:
    pool = view(keeper(1), keeper(2), keeper(3, shown=False, expected=True), keeper(4), wanted=3)
    a = found(1)
    assert asked({a: [1, 2]}, pool) == []  # 3 is where it belongs
    assert [target for _, target in asked({a: [1]}, pool)] == [2, 4]
    assert asked({a: [1, 2]}, replace(pool, keepers=pool.keepers | {PeerNumber(3): keeper(3, shown=False)})) == [(a, 4)]


def test_nothing_is_asked_for_twice_or_of_the_full() -> None:
    pool = view(keeper(1), keeper(2), keeper(3))
    a = found(1)
    assert asked({a: [1]}, pool, coming={a: [2]}) == []
    assert asked({a: [1]}, pool, room=999) == []
    assert len(asked({found(seed): [1] for seed in range(5)}, view(keeper(1), keeper(2)), room=3000)) == 3


def test_one_that_makes_up_chunks_hides_nobody_elses() -> None:
    pool = view(keeper(1), keeper(2), keeper(3), wanted=2)
    holders = {found(seed): [1] for seed in range(1000)}
    true = [found(seed) for seed in range(1000, 1005)]
    holders |= {one: [2] for one in true}
    assert {one for one, _ in asked(holders, pool)[:12]} > set(true)


def test_one_that_makes_up_chunks_does_not_use_up_the_room_for_others() -> None:
    """Neither in the bucket in which it does so, nor in the others of the same look."""
    pool = view(*map(keeper, range(1, 7)), wanted=3)
    room = Room({number: 20 * GIB for number in pool.keepers}, len(pool.keepers))
    for bucket in range(40):
        wanted_of({found(1000 * bucket + seed, MIB): [6] for seed in range(1000)}, pool, room)
    assert not room.takes(PeerNumber(1), MIB, PeerNumber(6))
    true = {found(100_000 + seed, MIB): [1] for seed in range(50)}
    wanted = wanted_of(true, pool, room)
    assert len(wanted) == 100
    assert {wish.target for wish in wanted} == {2, 3}


def test_room_for_what_was_not_taken_is_there_for_others() -> None:
    pool = view(keeper(1), keeper(2))
    room = Room({PeerNumber(2): 3000}, 1)
    first = wanted_of({found(seed): [1] for seed in range(5)}, pool, room)
    assert len(first) == 3
    assert wanted_of({found(7): [1]}, pool, room) == []
    room.charge(first[0], back=True)
    assert len(wanted_of({found(seed): [1] for seed in range(7, 9)}, pool, room)) == 1
    room.charge(first[1], back=True)
    room.close(PeerNumber(2))
    assert wanted_of({found(9): [1]}, pool, room) == []


def test_a_bucket_of_made_up_chunks_is_not_judged_to_its_end() -> None:
    pool = view(keeper(1), keeper(2), wanted=2)
    made_up = {found(seed): [1] for seed in range(3 * MOST_SHORT)}
    assert len(shortest(made_up | {found(-1): [2]}, pool)) == MOST_SHORT + 1  # type: ignore[arg-type]


@given(st.integers(0, 1 << 32), st.integers(2, 8), st.integers(1, 4))
def test_random_pools_come_to_enough_copies_in_one_look_and_never_to_more(seed: int, peers: int, copies: int) -> None:
    chance = random.Random(seed)
    keepers = [keeper(number, shown=chance.random() < 0.7) for number in range(1, peers + 1)]
    shown = [one.number for one in keepers if one.is_readable]
    candidates = [one.candidate for one in keepers]
    wanted = min(copies, peers)

    def placed(group: GroupId) -> Iterable[PeerNumber]:
        return rendezvous.order(candidates, group)

    pool = View({one.number: one for one in keepers}, placed, wanted)  # type: ignore[arg-type]
    holders = {found(number): chance.sample(shown, chance.randint(1, len(shown))) for number in range(20) if shown}
    after = {one: set(numbers) for one, numbers in holders.items()}
    for one, target in asked(holders, pool):  # type: ignore[arg-type]
        assert target not in after[one]
        after[one].add(PeerNumber(target))
    for one, numbers in after.items():
        assert len(numbers) == max(len(holders[one]), min(wanted, len(shown)))
