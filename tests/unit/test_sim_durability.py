"""Rare losses: the split estimate beside the plain one and beside closed forms, intervals, and the search."""

import math

import pytest

from p2pfs.sim import intervals
from p2pfs.sim.churn import DAY_S, Rates
from p2pfs.sim.durability import BATCH, Pool, Sums, batch, estimate, retrials
from p2pfs.sim.history import TRANSFER_S
from p2pfs.sim.parallel import Workers, workers
from p2pfs.sim.search import Question, search, verdict

pytestmark = pytest.mark.l0

RESTLESS = Pool(8, 10_000, Rates(leaves_per_day=48, returning=0.5, absence_s=900))


def test_splitting_changes_the_cost_of_an_estimate_and_not_its_value() -> None:
    """With 6 000 lives and 1 500 both are 0.0102 an hour, within 2 %; here with fewer."""
    rules = RESTLESS.rules(3, 1800.0)
    plain = estimate([batch(RESTLESS, rules, 800, "plain", splits=[1, 1, 1])])
    split = estimate([batch(RESTLESS, rules, 200, "split", splits=[1, 2, 4])])
    assert min(plain.sums.hit, split.sums.hit) >= 10
    assert plain.per_s[1] < split.per_s[2]
    assert split.per_s[1] < plain.per_s[2]
    assert 0.6 < split.per_s[0] / plain.per_s[0] < 1.6


def test_one_copy_is_lost_as_often_as_its_peer_leaves_for_good() -> None:
    rules = RESTLESS.rules(1, 60.0)
    found = estimate([batch(RESTLESS, rules, 1000, "one")])
    exact = RESTLESS.rates.gone_per_day * RESTLESS.rates.up_share / DAY_S
    assert found.per_s[1] < exact < found.per_s[2]
    assert found.per_s[2] < 1.5 * found.per_s[1]


def test_two_copies_are_lost_when_the_second_goes_before_the_first_is_made_again() -> None:
    pool = Pool(40, 0, Rates(leaves_per_day=48, returning=0.0, absence_s=1.0))
    found = estimate([batch(pool, pool.rules(2, 600.0), 600, "two")])
    per_s = pool.rates.gone_per_day / DAY_S
    exact = 2 * per_s * -math.expm1(-per_s * (pool.down_s + TRANSFER_S))  # the delay does not count: one is left
    assert found.per_s[1] < exact < found.per_s[2]
    assert found.per_s[2] < 2 * found.per_s[1]


def test_a_loss_too_rare_to_be_waited_for_is_seen() -> None:
    """By the reckoning above, for three copies: 1e-5 a year; and a few years are followed."""
    pool = Pool(10_000, 10_000_000, Rates(leaves_per_day=0.5, returning=0.9, absence_s=8 * 3600.0))
    rules = pool.rules(3, 600.0)
    found = estimate([batch(pool, rules, 250, "rare", splits=[1, 100, 1000])])
    assert found.sums.hit > 0
    assert 1e-7 < found.lost_within(365 * DAY_S)[0] < 1e-4
    assert found.sums.lived_s < 3 * 365 * DAY_S


def test_a_seed_gives_the_same_again_however_many_work() -> None:
    question = Question(RESTLESS, 0.5, DAY_S, [2], [60.0], sample=BATCH + 1, seed=7)
    alone, again = (search(question, Workers(), lambda *_: None) for _ in range(2))
    with workers(2) as several:
        together = search(question, several, lambda *_: None)
    assert alone == again == together
    assert alone.choices[0].hit > 0


def test_the_answer_is_the_fewest_copies_and_their_longest_delay() -> None:
    question = Question(RESTLESS, 0.1, 3600.0, [1, 2, 3], [60.0, 600.0], sample=2 * BATCH, seed=1)
    found = search(question, Workers(), lambda *_: None)
    assert [(one.copies, one.repair_delay_s) for one in found.choices] == [(1, 60), (1, 600), (2, 60), (2, 600)]
    assert [one.verdict for one in found.choices[:2]] == ["missed", "missed"]
    assert found.answer is not None
    assert (found.answer.copies, found.answer.repair_delay_s) == (2, 600.0)


def test_a_pool_that_keeps_nothing_gets_no_answer() -> None:
    question = Question(RESTLESS, 1e-9, DAY_S, [1], [60.0], sample=100, seed=1)
    assert search(question, Workers(), lambda *_: None).answer is None


@pytest.mark.parametrize(
    ("lost", "load", "expected"),
    [
        ((0.1, 0.05, 0.2), 0.1, "missed"),
        ((0.01, 0.005, 0.02), 0.1, "unsure"),
        ((0.02, 0.005, 0.2), 0.1, "unsure"),  # one loss by chance is no verdict
        ((0.001, 0.0005, 0.002), 0.1, "reached"),
        ((0.0, 0.0, 0.002), 0.6, "busy"),
    ],
)
def test_verdicts(lost: tuple[float, float, float], load: float, expected: str) -> None:
    assert verdict(lost, load, 0.01) == expected


def test_a_few_light_losses_do_not_make_sure() -> None:
    light = Sums(1, 1, 10.0, 0.001, 1e-6, 0.01, 100.0)
    none = Sums(1, 0, 10.0, 0.0, 0.0, 0.0, 100.0)
    few, many = estimate([light] * 9 + [none] * 991), estimate([light] * 10 + [none] * 990)
    assert few.per_s[2] == pytest.approx(17.085 / 10_000, rel=1e-3)  # as if nine whole ones were seen
    assert many.per_s[2] < 0.002 * few.per_s[2]


def test_the_size_of_the_pool_says_how_long_copies_wait() -> None:
    rates = Rates(0.5, 0.9, 8 * 3600.0)
    small, large = Pool(30, 10_000_000, rates), Pool(10_000, 10_000_000, rates)
    assert small.rules(3, 600).survey_s == large.rules(3, 600).survey_s == pytest.approx(600)
    assert small.rules(3, 600).queue_s == pytest.approx(1_000_000 / 64 / 29)
    assert large.rules(3, 600).queue_s < 0.01
    assert large.load(64 / 3600) == pytest.approx(1000 / 3600)
    assert large.neighbours(3) < 20
    assert Pool(5, 1, rates).neighbours(3) == 5


def test_levels_are_entered_about_as_often_as_each_other() -> None:
    pool = Pool(100, 0, Rates(leaves_per_day=1, returning=0.9, absence_s=3600))
    first, second, third = retrials(pool, pool.rules(4, 3540.0))[1:]
    assert first == 5  # four copies, a tenth of a leave for good a day: 0.4 entries a day
    assert second == round(1 / (3 * 0.1 * 3601 / DAY_S))
    assert third == round(1 / (2 * 0.1 * 3601 / DAY_S))


def test_intervals_are_those_of_the_tables() -> None:
    assert intervals.of_share(0, 100) == pytest.approx((0, 0.0362), abs=1e-4)
    assert intervals.of_share(50, 100) == pytest.approx((0.3983, 0.6017), abs=1e-4)
    assert intervals.of_share(100, 100) == pytest.approx((0.9638, 1), abs=1e-4)
    assert intervals.of_count(10) == pytest.approx((4.795, 18.390), abs=1e-3)
    assert intervals.of_count(1) == pytest.approx((0.0253, 5.572), abs=1e-3)
    assert intervals.of_count(400)[1] == pytest.approx(441.2, abs=0.2)


def test_none_seen_is_at_most_three() -> None:
    found = estimate([Sums(lives=10, lived_s=1000.0)])
    assert found.per_s == pytest.approx((0, 0, 2.9957 / 1000), abs=1e-6)


def test_lives_that_end_in_many_losses_at_once_are_worth_less_than_as_many_lives() -> None:
    one = Sums(1, 1, 10.0, 1.0, 1.0, 10.0, 100.0)
    tenth = Sums(1, 1, 10.0, 0.1, 0.01, 1.0, 100.0)
    none = Sums(1, 0, 10.0, 0.0, 0.0, 0.0, 100.0)
    wide = estimate([one] * 2 + [none] * 198)
    narrow = estimate([tenth] * 20 + [none] * 180)
    assert wide.per_s[0] == pytest.approx(narrow.per_s[0])
    assert wide.per_s[2] - wide.per_s[1] > 2 * (narrow.per_s[2] - narrow.per_s[1])
