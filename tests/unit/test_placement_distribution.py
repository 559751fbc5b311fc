"""Who sends a chunk to whom, and when a mount leaves that to the peers."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.placement.distribution import QUICK_S, SLOW_S, Progress, Step, chosen, next_steps
from p2pfs.types import CHUNK_BYTES, MIB, MOST_SOURCES, Distribution, PeerNumber

pytestmark = pytest.mark.l0

DIRECT, RELAY, SWARM = Distribution.DIRECT, Distribution.RELAY, Distribution.SWARM
HOW = st.sampled_from([DIRECT, RELAY, SWARM])


def peers(*numbers: int) -> list[PeerNumber]:
    return [PeerNumber(number) for number in numbers]


@pytest.mark.parametrize(
    ("uplink", "copies", "wanted"),
    [
        (100 * MIB, 2, DIRECT),
        (MIB, 2, SWARM),
        (12 * MIB, 2, DIRECT),  # 100 Mbit/s
        (12 * MIB, 8, SWARM),
        (100 * MIB, 8, DIRECT),
        (MIB, 1, DIRECT),
        (0, 2, SWARM),
        (None, 8, DIRECT),
    ],
)
def test_a_thin_uplink_leaves_copies_to_the_peers(uplink: float | None, copies: int, wanted: Distribution) -> None:
    assert chosen(DIRECT, uplink, copies) is wanted


@pytest.mark.parametrize("now", [DIRECT, SWARM])
def test_between_the_two_thresholds_and_without_a_figure_it_stays_as_it_is(now: Distribution) -> None:
    between = 2 * CHUNK_BYTES / (SLOW_S + QUICK_S)
    assert chosen(now, between, 2) is now
    assert chosen(now, None, 2) is now


@given(st.floats(1, 1e10), st.integers(2, 20))
def test_it_does_not_swing_to_and_fro_at_one_speed(uplink: float, copies: int) -> None:
    assert chosen(chosen(DIRECT, uplink, copies), uplink, copies) is chosen(DIRECT, uplink, copies)
    once = chosen(SWARM, uplink, copies)
    assert chosen(once, uplink, copies) is once


def test_direct_sends_to_all() -> None:
    assert next_steps(DIRECT, peers(1, 2, 3), Progress([])) == [Step(number) for number in peers(1, 2, 3)]


@pytest.mark.parametrize("how", [RELAY, SWARM])
def test_the_first_copy_is_sent_once(how: Distribution) -> None:
    (first,) = next_steps(how, peers(4, 2, 3), Progress([]))
    assert first == Step(PeerNumber(4))
    assert next_steps(how, peers(2, 3), Progress([], [first])) == []


def test_a_relay_gives_it_to_all_others() -> None:
    steps = next_steps(RELAY, peers(2, 3, 5), Progress(peers(4)))
    assert steps == [Step(number, (PeerNumber(4),)) for number in peers(2, 3, 5)]


def test_in_a_swarm_everyone_who_has_it_gives_it_to_one_at_a_time() -> None:
    targets = peers(2, 3, 5, 6)
    (one,) = next_steps(SWARM, targets, Progress(peers(4)))
    assert one == Step(PeerNumber(2), (PeerNumber(4),))
    assert next_steps(SWARM, peers(3, 5, 6), Progress(peers(4), [one])) == []
    two = next_steps(SWARM, peers(3, 5, 6), Progress(peers(4, 2)))
    assert two == [Step(PeerNumber(3), tuple(peers(4, 2))), Step(PeerNumber(5), tuple(peers(2, 4)))]


def test_who_gave_nothing_is_not_asked_for_that_again_and_last_for_others() -> None:
    progress = Progress(peers(4, 5), unserved={PeerNumber(2): peers(4)}, doubtful=peers(4))
    assert next_steps(SWARM, peers(2, 3), progress) == [
        Step(PeerNumber(2), tuple(peers(5))),
        Step(PeerNumber(3), tuple(peers(4, 5))),
    ]
    assert next_steps(SWARM, peers(4, 5), Progress([], doubtful=peers(4))) == [Step(PeerNumber(5))]


@pytest.mark.parametrize("how", [RELAY, SWARM])
def test_whom_nobody_serves_the_writer_does(how: Distribution) -> None:
    assert next_steps(how, peers(2), Progress(peers(4), unserved={PeerNumber(2): peers(4)})) == [Step(PeerNumber(2))]
    assert next_steps(how, peers(2), Progress(peers(4), stuck=peers(4))) == [Step(PeerNumber(2))]


@pytest.mark.parametrize("how", [RELAY, SWARM])
def test_the_writer_sends_to_one_at_a_time_since_that_one_may_serve_the_others(how: Distribution) -> None:
    assert next_steps(how, peers(2, 3), Progress(peers(4), stuck=peers(4))) == [Step(PeerNumber(2))]
    assert next_steps(how, peers(3), Progress(peers(4), [Step(PeerNumber(2))], stuck=peers(4))) == []


@given(HOW, st.integers(1, 20))
def test_all_get_their_copy_and_one_is_sent(how: Distribution, count: int) -> None:
    left, holders, rounds, sent = peers(*range(count)), [], 0, 0
    while left:
        steps = next_steps(how, left, Progress(holders))
        assert steps
        assert next_steps(how, [one for one in left if one not in {step.target for step in steps}], Progress(
            holders, steps)) == []  # fmt: skip
        giving = Counter(step.sources[0] for step in steps if step.sources)
        if how is SWARM:
            assert max(giving.values(), default=1) == 1
        sent += sum(not step.sources for step in steps)
        holders += [step.target for step in steps]
        left = [one for one in left if one not in holders]
        rounds += 1
    assert sent == (count if how is DIRECT else 1)
    if how is SWARM:
        assert rounds == 1 + (count - 1).bit_length()


@given(
    HOW,
    st.lists(st.integers(1, 6), unique=True),
    st.lists(st.integers(7, 12), unique=True),
    st.sets(st.integers(1, 12)),
    st.sets(st.integers(1, 12)),
    st.dictionaries(st.integers(1, 6), st.sets(st.integers(7, 12))),
)
def test_something_is_begun_when_nothing_is_under_way(
    how: Distribution,
    targets: list[int],
    holders: list[int],
    stuck: set[int],
    doubtful: set[int],
    unserved: dict[int, set[int]],
) -> None:
    failed = {PeerNumber(target): peers(*sources) for target, sources in unserved.items()}
    progress = Progress(peers(*holders), (), peers(*stuck), failed, peers(*doubtful))
    steps = next_steps(how, peers(*targets), progress)
    assert bool(steps) == bool(targets)
    assert len({step.target for step in steps}) == len(steps)
    for step in steps:
        assert step.target in targets
        assert len(step.sources) <= MOST_SOURCES
        assert set(step.sources) <= set(holders) - stuck - set(failed.get(step.target, ()))
