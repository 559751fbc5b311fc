"""One chunk under simulated time: the coordinator's judgement, the project's decisions, and books that agree."""

from collections.abc import Iterable, Sequence
from random import Random

import pytest

from p2pfs.coordinator.liveness import Patience, state_after
from p2pfs.coordinator.roster import Peer
from p2pfs.coordinator.upkeep.keepers import keeper
from p2pfs.meta.members import Node
from p2pfs.placement import rendezvous
from p2pfs.placement.candidates import Candidate
from p2pfs.sim.churn import DAY_S, SETS, HourlyChurn, Rates, SteadyChurn
from p2pfs.sim.history import TRANSFER_S, Event, History, Order, Rules
from p2pfs.types import GIB, GroupId, NodeId, PeerNumber, Role

pytestmark = pytest.mark.l0

GROUP = GroupId(4711)
HEAVY = Rates(leaves_per_day=12, returning=0.6, absence_s=3600)


class Script:
    """Churn that says what it was told: (when, slot, silent for how long or None for ever)."""

    def __init__(self, leaves: Iterable[tuple[float, int, float | None]]) -> None:
        self._leaves = sorted(leaves)
        self._absences = [absence_s for _, _, absence_s in self._leaves]

    def begin(self, history: History) -> None:
        for time_s, slot, _ in self._leaves:
            history.at(time_s, Event.LEAVE, slot)
        history.at(1e9, Event.PERIOD, 0)  # so that there is always something next

    def arrived(self, history: History, slot: int) -> None:
        pass

    def absence_s(self) -> float | None:
        return self._absences.pop(0)

    def period(self, history: History) -> None:
        pass

    def again_s(self, event: Event) -> float | None:
        return None


def scripted(leaves: Sequence[tuple[float, int, float | None]], rules: Rules, peers: int = 8) -> History:
    """`leaves` name places in the order of the group, not slots."""
    placed = Order(GROUP, candidates(range(1, peers + 1))).numbers
    slots = [(time_s, placed[place] - 1, absence_s) for time_s, place, absence_s in leaves]
    return History(rules, GROUP, peers, Script(slots), Random(1))


def until(history: History, time_s: float) -> History:
    while history.next_s <= time_s:
        history.step()
    return history


def candidates(numbers: Iterable[int]) -> list[Candidate]:
    return [Candidate(PeerNumber(number), str(number), "", GIB) for number in numbers]


def test_the_order_kept_is_that_of_rendezvous_hashing() -> None:
    random = Random(1)
    present = candidates(range(1, 30))
    order = Order(GROUP, present)
    for number in range(30, 130):
        gone = present.pop(random.randrange(len(present)))
        order.remove(gone)
        present += candidates([number])
        place = order.add(present[-1])
        assert order.numbers[place] == number
        assert tuple(order.numbers) == rendezvous.order(present, GROUP)


@pytest.mark.parametrize("silence_s", [0.0, 30.0, 59.9, 60.1, 600.0, 659.9, 660.1, 90000.0])
def test_a_silent_holder_is_judged_as_the_coordinator_judges_it(silence_s: float) -> None:
    history = scripted([(100.0, 0, None)] if silence_s else [], Rules(3))
    holder = history._order.numbers[0]
    until(history, 100.0 + silence_s)
    patience = Patience()
    node = Node(NodeId("n"), "a@b", "a", "", frozenset({Role.PEER}), capacity_limit=0, joined_s=0.0, revoked_s=None)
    peer = Peer(PeerNumber(1), node, 100.0, state_after(silence_s, patience), ("x:1",), GIB)
    known = keeper(peer, 100.0 + silence_s, 0.0, patience.down_s + 600.0)
    ours = history._keepers.get(holder)
    if silence_s > 660:
        assert ours is None  # as it will never be back, it is forgotten when the coordinator expects it no more
        assert not known.is_expected
        return
    assert ours is not None
    assert (ours.is_readable, ours.is_expected) == (known.is_readable, known.is_expected)


def test_a_copy_is_made_again_after_the_delay() -> None:
    history = scripted([(100.0, 1, None)], Rules(3))
    until(history, 100.0 + 660.0 + TRANSFER_S - 0.1)
    assert (history.living, history.up, history.copied) == (2, 2, 0)
    until(history, 100.0 + 660.0 + TRANSFER_S + 0.1)
    assert (history.living, history.up, history.copied) == (3, 3, 1)


def test_a_peer_that_is_back_in_time_costs_no_copy() -> None:
    history = until(scripted([(100.0, 1, 600.0)], Rules(3)), 10000.0)
    assert (history.living, history.up, history.copied) == (3, 3, 0)


def test_the_last_readable_copy_is_not_left_alone_for_the_delay() -> None:
    history = scripted([(100.0, 0, 40000.0), (100.0, 2, 40000.0)], Rules(3, repair_delay_s=20000.0))
    until(history, 100.0 + 60.0 + TRANSFER_S - 0.1)
    assert (history.up, history.copied) == (1, 0)
    until(history, 100.0 + 60.0 + TRANSFER_S + 0.1)
    assert (history.up, history.copied) == (2, 1)  # with two that can be read, the silent ones count again for a while


def test_surplus_is_taken_away_when_it_was_shown() -> None:
    rules = Rules(3)
    history = until(scripted([(100.0, 2, 2000.0)], rules), 2099.0)
    assert (history.living, history.up) == (4, 3)
    until(history, 2100.0 + rules.audit_s - 1)
    assert history.up == 4
    until(history, 2100.0 + rules.audit_s + 1)
    assert (history.living, history.up) == (3, 3)


def test_a_chunk_is_lost_when_all_that_hold_it_are_gone_for_good() -> None:
    history = scripted([(100.0, 0, None), (110.0, 1, None), (120.0, 2, None)], Rules(3))
    until(history, 119.0)
    assert history.living == 1
    until(history, 120.0)
    assert history.living == 0


def test_a_chunk_nobody_can_read_now_is_not_lost_and_its_dark_time_is_counted() -> None:
    history = until(scripted([(100.0, 0, 50.0), (100.0, 1, None)], Rules(2)), 5000.0)
    assert (history.living, history.up, history.dark_s) == (2, 2, 50.0)


@pytest.mark.parametrize("seed", range(8))
def test_the_books_agree_with_the_peers_at_every_step(seed: int) -> None:
    random = Random(seed)
    churn = HourlyChurn(SETS[seed % 2], random) if seed % 4 < 2 else SteadyChurn(HEAVY, random)
    peers = 100 if seed % 4 < 2 else 12
    history = History(Rules(3, 600, survey_s=120, queue_s=60), GROUP, peers, churn, random)
    for _ in range(1500):
        history.step()
        held, absent, gone = history._held, history._absent_s, history._gone
        assert history.living == len(held.keys() - gone)
        assert history.up == len(held.keys() - absent.keys())
        assert held.keys() <= history._keepers.keys()
        assert set(history.slots) <= history._keepers.keys()
        if not history.living:
            break
    assert history.copied > 0


def test_a_clone_goes_another_way_and_leaves_the_first_alone() -> None:
    random = Random(3)
    first = until(History(Rules(3), GROUP, 12, SteadyChurn(HEAVY, random), random), DAY_S / 4)
    before = (first.next_s, first.living, dict(first._held), list(first.slots))
    clone = first.clone()
    assert (clone.now_s, clone.living, clone._held) == (first.now_s, first.living, first._held)
    assert clone.next_s != first.next_s  # drawn anew: retrials with one future would be one retrial
    until(clone, DAY_S)
    assert before == (first.next_s, first.living, first._held, first.slots)
