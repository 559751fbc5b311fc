"""How much more than its share an owner may commit: what its mounts can have accepted while it was allowed."""

from collections import Counter

import pytest

from p2pfs.coordinator.growth import IN_FLIGHT, MOST_MOUNTS, REMEMBERED_S, Promised
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import SessionId

pytestmark = pytest.mark.l0


def slack(promised: Promised, *, outstanding: int = 0) -> int:
    return promised.slack("anna", 2, outstanding=outstanding)


def test_who_was_promised_nothing_has_none() -> None:
    promised = Promised(FakeClock(), Counter(bob=3))
    promised.add("bob", SessionId("1"), 1000)
    assert slack(promised) == 0


def test_it_is_the_most_that_was_promised_at_once_and_what_was_on_its_way_at_each_mount() -> None:
    promised = Promised(FakeClock(), Counter())
    for session, size in (("1", 500), ("2", 1000), ("1", 10)):
        promised.add("anna", SessionId(session), size)
    assert slack(promised) == 1000 + 2 * IN_FLIGHT * 2
    assert slack(promised, outstanding=700) == 1400 + 2 * IN_FLIGHT * 2


def test_it_is_remembered_for_an_hour_and_forgotten_then() -> None:
    clock = FakeClock()
    promised = Promised(clock, Counter())
    promised.add("anna", SessionId("1"), 1000)
    clock.advance(REMEMBERED_S - 1)
    promised.forget()
    assert slack(promised) == 1000 + IN_FLIGHT * 2
    clock.advance(REMEMBERED_S / 2)
    promised.forget()
    assert slack(promised) == 0


def test_sessions_that_a_start_found_have_it_too_for_an_hour() -> None:
    clock = FakeClock()
    promised = Promised(clock, Counter(anna=1))
    assert slack(promised) == IN_FLIGHT * 2
    clock.advance(REMEMBERED_S + 1)
    assert slack(promised) == 0


def test_many_mounts_have_no_more_than_some() -> None:
    promised = Promised(FakeClock(), Counter(anna=50))
    for number in range(100):
        promised.add("anna", SessionId(f"{number}"), 1)
    assert slack(promised) == 1 + MOST_MOUNTS * IN_FLIGHT * 2
