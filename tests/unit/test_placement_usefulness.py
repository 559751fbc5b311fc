"""The coefficient, its decay, and what follows from it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.placement.usefulness import (
    HALF_LIFE_DAYS,
    LITTLE,
    WINDOWS,
    Counts,
    Stock,
    Terms,
    Weights,
    allowance,
    coefficient,
    decayed,
    headroom,
    hints,
    total,
)

pytestmark = pytest.mark.l0

TODAY = 20_000
EVEN = Weights()
TERMS = Terms(replicas=4, min_replicas=2, grant=1000)

amounts = st.integers(0, 1 << 50)
counts = st.builds(Counts, amounts, amounts, amounts, amounts)
windows = st.dictionaries(st.integers(TODAY - 2 * WINDOWS, TODAY), counts, max_size=10)
weights = st.builds(Weights, st.floats(0.01, 100), st.floats(0.01, 100))
stocks = st.builds(Stock, amounts, amounts)


@pytest.mark.parametrize(
    ("one", "value"),
    [
        (Counts(), 1.0),
        (Counts(u_usual=1), math.inf),
        (Counts(d_special=1), math.inf),
        (Counts(d_usual=1), 0.0),
        (Counts(u_special=1), 0.0),
        (Counts(u_usual=3, d_usual=2, d_special=3, u_special=4), 1.0),
        (Counts(u_usual=1, d_usual=2, d_special=3, u_special=6), 0.5),
    ],
)
def test_the_papers_formula(one: Counts, value: float) -> None:
    assert coefficient(one, EVEN) == value


def test_weights_are_of_what_is_stored() -> None:
    assert coefficient(Counts(10, 20, 30, 40), Weights(ds=2.0, us=0.5)) == (10 + 2 * 30) / (20 + 0.5 * 40)


@given(counts, weights, amounts)
def test_giving_never_lowers_and_taking_never_raises_it(one: Counts, weights: Weights, more: int) -> None:
    value = coefficient(one, weights)
    if value != 1.0 or one != Counts():  # of 0/0 any taking is more than was given
        assert coefficient(one + Counts(u_usual=more), weights) >= value
        assert coefficient(one + Counts(d_special=more), weights) >= value
    assert coefficient(one + Counts(d_usual=more), weights) <= value
    assert coefficient(one + Counts(u_special=more), weights) <= value


@given(windows)
def test_a_day_weighs_half_after_a_week_and_nothing_after_thirty(some: dict[int, Counts]) -> None:
    today = decayed(some, TODAY)
    week = decayed(some, TODAY + int(HALF_LIFE_DAYS))
    gone = total(one for day, one in some.items() if TODAY - day < WINDOWS <= TODAY + HALF_LIFE_DAYS - day)
    for name in ("u_usual", "d_usual", "d_special", "u_special"):
        half, left = getattr(today, name) / 2, getattr(week, name)
        assert left <= half * (1 + 1e-9)
        assert left >= half * (1 - 1e-9) - getattr(gone, name)
    assert decayed(some, TODAY + WINDOWS) == Counts()


@given(windows)
def test_time_alone_changes_no_ratio_while_no_day_is_dropped(some: dict[int, Counts]) -> None:
    some = {day: one for day, one in some.items() if TODAY - day < WINDOWS - 5}
    before, after = (coefficient(decayed(some, TODAY + days), EVEN) for days in (0, 5))
    assert after == pytest.approx(before)


def test_days_to_come_weigh_like_today() -> None:
    assert decayed({TODAY + 3: Counts(u_usual=8)}, TODAY) == Counts(u_usual=8)


@given(counts, stocks, weights)
def test_who_places_what_is_left_stays_within_what_it_is_allowed(one: Counts, stock: Stock, weights: Weights) -> None:
    terms = Terms(3, 2, grant=1000, weights=weights)
    given_ = allowance(one, stock, terms)
    left = max(0, given_.bytes - stock.placed)
    after = allowance(one + Counts(u_special=left), Stock(stock.placed + left, stock.held), terms)
    assert after.bytes - (stock.placed + left) <= max(1, 1e-9 * given_.bytes)  # no more is to be had by asking again
    assert given_.bytes >= 1000 + stock.held


@given(counts, stocks)
def test_copies_are_between_the_least_and_the_pools(one: Counts, stock: Stock) -> None:
    given_ = allowance(one, stock, TERMS)
    assert 2 <= given_.copies <= 4
    assert (given_.copies == 4) == (coefficient(one, EVEN) >= 1)


@pytest.mark.parametrize(
    ("taken", "copies", "priority"), [(100, 4, 0), (101, 3, 1), (200, 3, 1), (201, 2, 2), (9999, 2, 2)]
)
def test_copies_and_priority_follow_the_coefficient(taken: int, copies: int, priority: int) -> None:
    given_ = allowance(Counts(u_usual=100, u_special=taken), Stock(), TERMS)
    assert (given_.copies, given_.priority) == (copies, priority)


def test_a_newcomer_has_its_grant_and_no_licence_without_end() -> None:
    assert allowance(Counts(), Stock(), TERMS).bytes == 1000


def test_what_is_held_for_others_may_be_placed_however_long_ago_it_came() -> None:
    assert allowance(Counts(u_special=500), Stock(placed=500, held=300), TERMS).bytes == 1300


def test_what_was_given_lately_may_be_taken() -> None:
    one = Counts(u_usual=700, d_special=5000, u_special=200)
    assert headroom(one, EVEN) == 5500
    assert allowance(one, Stock(placed=200, held=0), TERMS).bytes == 5700


@given(counts, stocks)
def test_the_hints_are_enough(one: Counts, stock: Stock) -> None:
    found = {hint.code: hint.bytes for hint in hints(one, stock, TERMS, has_peer=True)}
    value = coefficient(one, EVEN)
    assert ("store" in found) == ("serve" in found) == (value < 1)
    if value < 1:
        assert coefficient(one + Counts(d_special=found["store"]), EVEN) >= 1
        assert coefficient(one + Counts(u_usual=found["serve"]), EVEN) >= 1
    if "hold" in found:
        little = LITTLE * TERMS.replicas
        assert allowance(one, stock, TERMS).bytes - stock.placed < little
        after = Stock(stock.placed, stock.held + found["hold"])
        assert allowance(one, after, TERMS).bytes >= after.placed + little
        after = Stock(stock.placed - found.get("remove", 0), stock.held)
        assert after.placed == 0 or allowance(one, after, TERMS).bytes >= after.placed + little


def test_whose_share_is_used_up_is_told_how_to_place_more_whatever_its_coefficient() -> None:
    terms = Terms(3, 2, 1 << 30)
    found = {hint.code: hint.bytes for hint in hints(Counts(), Stock(placed=1 << 30), terms, has_peer=False)}
    assert found == {"offer_peer": 0, "hold": 3 * LITTLE, "remove": 3 * LITTLE}
    assert hints(Counts(), Stock(), terms, has_peer=False) == []


def test_what_own_peers_hold_beyond_their_share_is_bound_for_others() -> None:
    assert Stock(placed=0, own=1000).burden(0.6) == 600
    assert Stock(placed=700, own=300).burden(0.6) == 700
    assert Stock(placed=0, own=1000).burden(0.0) == 0


def test_who_has_no_peer_is_told_to_offer_one() -> None:
    assert next(hint.code for hint in hints(Counts(u_special=1), Stock(), TERMS, has_peer=False)) == "offer_peer"
