"""What is to be done about a chunk: each rule, and a pool that lives through anything without losing by it."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pfs.placement import rendezvous
from p2pfs.placement.candidates import Candidate
from p2pfs.placement.care import Held, Keeper, Need, Urgency, need
from p2pfs.placement.policy import capped
from p2pfs.types import GIB, GroupId, PeerNumber

pytestmark = pytest.mark.l0

GROUP = GroupId(4711)


def keeper(number: int, state: str = "up", *, owner: str = "", zone: str = "", appearances: int = 0) -> Keeper:
    """`state`: up, over (up, and holding more than it offers), suspect, silent (for a short while), down or leaving."""
    return Keeper(
        Candidate(PeerNumber(number), owner or f"owner{number}", zone, GIB),
        is_readable=state in ("up", "over", "suspect", "leaving"),
        is_expected=state != "down",
        is_leaving=state == "leaving",
        takes=state in ("up", "over"),
        appearances=appearances,
        is_over=state == "over",
    )


def ask(
    held: Iterable[int | tuple[int, int]],
    keepers: Sequence[Keeper],
    *,
    wanted: int = 3,
    placed: Sequence[int] | None = None,
    full: Iterable[int] = (),
    coming: Iterable[int] = (),
) -> Need | None:
    """`held`: peers, or (peer, proved)."""
    copies = [Held(PeerNumber(one), 0) if isinstance(one, int) else Held(PeerNumber(one[0]), one[1]) for one in held]
    staying = [one.number for one in keepers if not one.is_leaving]
    return need(
        copies,
        keepers={one.number: one for one in keepers},
        placed=[PeerNumber(number) for number in placed] if placed is not None else staying,
        wanted=wanted,
        room=lambda peer: peer not in set(full),
        coming=[PeerNumber(number) for number in coming],
    )


def up(*numbers: int) -> list[Keeper]:
    return [keeper(number) for number in numbers]


@pytest.mark.parametrize(
    ("held", "keepers", "more", "wanted"),
    [
        ([1, 2, 3], up(1, 2, 3, 4), {}, None),
        ([1, 2], up(1, 2, 3, 4), {}, Need(Urgency.REPAIR, 2, (1, 2), (3,))),
        ([1], up(1, 2, 3, 4), {}, Need(Urgency.REPAIR, 1, (1,), (2, 3))),
        ([1], up(1, 2, 3, 4), {"coming": [3]}, Need(Urgency.REPAIR, 1, (1,), (2,))),
        ([1], up(1, 2, 3, 4), {"coming": [2, 3]}, None),
        ([1, 2], up(1, 2, 3, 4), {"full": [3]}, Need(Urgency.REPAIR, 2, (1, 2), (4,))),
        # Silent for a while: its copy counts, but not when only one can be read.
        ([1, 2, 3], [*up(1, 2, 4), keeper(3, "silent")], {}, None),
        ([1, 2, 3], [*up(1, 2, 4), keeper(3, "down")], {}, Need(Urgency.REPAIR, 2, (1, 2), (4,))),
        (
            [1, 2, 3],
            [*up(1, 4, 5), keeper(2, "silent"), keeper(3, "silent")],
            {},
            Need(Urgency.REPAIR, 1, (1,), (4, 5)),
        ),
        ([1], [*up(1, 2)], {"wanted": 1}, None),
        ([1], [keeper(1, "silent"), *up(2)], {"wanted": 1}, None),  # one copy wanted: silence is not loss
        # One holds more than it offers: a peer with room takes over, and its copy is the one that goes.
        ([1, 2, 3], [keeper(1, "over"), *up(2, 3, 4)], {}, Need(Urgency.REBALANCE, 3, (1, 2, 3), (4,))),
        ([1, 2, 3, 4], [keeper(1, "over"), *up(2, 3, 4)], {}, Need(Urgency.REBALANCE, 4, drop=PeerNumber(1))),
        ([1, 2, 3], [keeper(1, "over"), *up(2, 3, 4)], {"full": [4]}, None),
        ([1, 2, 3], [keeper(1, "over"), *up(2, 3), keeper(4, "over")], {}, None),
        ([1, 2, 3], [keeper(1, "over"), *up(2, 3)], {}, None),
        # Not where two copies would be with one owner then.
        ([1, 2, 3], [keeper(1, "over"), *up(2, 3), keeper(4, owner="owner2")], {}, None),
        # A peer that leaves: its copy is a source, and does not count.
        ([1, 2, 3], [*up(1, 2, 4), keeper(3, "leaving")], {}, Need(Urgency.DRAIN, 3, (1, 2, 3), (4,))),
        ([1, 3], [*up(1, 2, 4), keeper(3, "leaving")], {}, Need(Urgency.REPAIR, 2, (1, 3), (2, 4))),
        ([1, 2, 3, 4], [*up(1, 2, 4), keeper(3, "leaving")], {}, None),
        # … and does not go before the others have shown theirs.
        ([1, (2, -1), 3, 4], [*up(1, 2, 4), keeper(3, "leaving")], {}, Need(Urgency.DRAIN, 4, audit=(2,))),
        ([1, (2, -1), 3, 4, 5], [*up(1, 2, 4, 5), keeper(3, "leaving")], {}, Need(Urgency.REBALANCE, 4, audit=(2,))),
        # Nothing can be done.
        ([1], [keeper(1, "down"), *up(2)], {}, Need(Urgency.REPAIR, 0, stuck="no peer that holds a copy answers")),
        ([], up(1, 2), {}, Need(Urgency.REPAIR, 0, stuck="no peer that holds a copy answers")),
        ([1, 2], up(1, 2, 3), {"full": [3]}, Need(Urgency.REPAIR, 2, (1, 2), stuck="no other peer has room")),
        (
            [1, 2],
            [*up(1, 2), keeper(3, "suspect")],
            {},
            Need(Urgency.REPAIR, 2, (1, 2), stuck="there is no other peer that could hold a copy"),
        ),
        # A copy on somebody who is no member is none.
        ([1, 2, 9], up(1, 2, 3), {}, Need(Urgency.REPAIR, 2, (1, 2), (3,))),
        # Too many: the worst-placed goes, after the others were proved.
        ([1, 2, 3, 4], up(1, 2, 3, 4), {}, Need(Urgency.REBALANCE, 4, drop=4)),
        ([1, 2, 3, 4], up(1, 2, 3, 4), {"placed": [4, 2, 3, 1]}, Need(Urgency.REBALANCE, 4, drop=1)),
        ([1, (2, -1), 3, 4], up(1, 2, 3, 4), {}, Need(Urgency.REBALANCE, 4, audit=(2,))),
        ([1, 2, 3, (4, -1)], up(1, 2, 3, 4), {}, Need(Urgency.REBALANCE, 4, drop=4)),
        ([1, 2, 3, 4], [*up(1), keeper(2, appearances=1), *up(3, 4)], {}, Need(Urgency.REBALANCE, 4, audit=(2,))),
        ([1, 2, 3, 4], [*up(1, 2, 3), keeper(4, "silent")], {}, None),  # a copy nobody can read is not too many
        # All there, but elsewhere than they belong.
        ([1, 2, 4], up(1, 2, 3, 4), {}, Need(Urgency.REBALANCE, 3, (1, 2, 4), (3,))),
        ([1, 4, 5], up(1, 2, 3, 4, 5), {}, Need(Urgency.REBALANCE, 3, (1, 4, 5), (2,))),  # one at a time
        ([1, 2, 4], up(1, 2, 3, 4), {"full": [3]}, None),
        ([1, 2, 4], up(1, 2, 3, 4), {"coming": [3]}, None),
        ([1, 2, 4], [*up(1, 2, 3), keeper(4, "silent")], {}, None),
    ],
)
def test_a_chunk_gets_what_it_needs(
    held: list[int], keepers: list[Keeper], more: dict[str, object], wanted: Need | None
) -> None:
    assert ask(held, keepers, **more) == wanted  # type: ignore[arg-type]  # `more` is ask's own keywords


def test_copies_go_to_different_owners_also_when_one_is_still_coming() -> None:
    pool = [keeper(1, owner="anna"), keeper(2, owner="bert"), keeper(3, owner="bert"), keeper(4, owner="carl")]
    both, second = ask([1], pool), ask([1], pool, coming=[2])
    assert both is not None
    assert second is not None
    assert both.targets == (2, 4)
    assert second.targets == (4,)


def test_zones_come_after_owners() -> None:
    pool = [keeper(1, zone="home"), keeper(2, zone="home"), keeper(3, zone="work"), keeper(4, owner="owner1")]
    found = ask([1], pool, wanted=2)
    assert found is not None
    assert found.targets == (3,)


def test_two_copies_at_one_owner_are_the_first_to_be_thinned_out() -> None:
    pool = [keeper(1, owner="anna"), keeper(2, owner="anna"), keeper(3, owner="bert"), keeper(4, owner="carl")]
    found = ask([1, 2, 3, 4], pool)
    assert found is not None
    assert found.drop == 2


def test_nothing_is_moved_to_a_peer_that_holds_more_than_it_offers_even_to_keep_owners_apart() -> None:
    owners = {1: "anna", 2: "anna", 3: "bert"}
    for state, targets in (("up", (3,)), ("over", None)):
        pool = [keeper(number, owner=owner) for number, owner in owners.items() if number < 3]
        found = ask([1, 2], [*pool, keeper(3, state, owner="bert")], wanted=2, placed=[1, 3, 2])
        assert (found.targets if found else None) == targets


# ---- a pool that lives ----------------------------------------------------------------------------------------------


@dataclass
class Machine:
    """A peer as it really is, and as it is known."""

    number: int
    owner: str
    zone: str
    capacity: int
    state: str = "up"
    appearances: int = 0
    is_full: bool = False

    @property
    def keeper(self) -> Keeper:
        known = keeper(self.number, self.state, owner=self.owner, zone=self.zone, appearances=self.appearances)
        return replace(known, candidate=replace(known.candidate, capacity=self.capacity))


@dataclass
class World:
    """One chunk in a pool. `index` is what the coordinator counts, `disks` what is true."""

    replicas: int
    machines: dict[int, Machine]
    group: GroupId
    index: dict[int, int] = field(default_factory=dict)  # peer → proved
    disks: set[int] = field(default_factory=set)

    @property
    def wanted(self) -> int:
        staying = sum(one.state != "leaving" for one in self.machines.values())
        return capped(self.replicas, 1, staying)[0]

    def valid(self) -> set[int]:
        """Copies that are counted and true."""
        return self.disks & set(self.index) & set(self.machines)

    def proved(self) -> set[int]:
        """Copies that were shown since their peers last appeared."""
        return {
            peer
            for peer, proved in self.index.items()
            if peer in self.machines and proved == self.machines[peer].appearances
        }

    def decide(self) -> Need | None:
        keepers = {PeerNumber(number): one.keeper for number, one in self.machines.items()}
        staying = [one.candidate for one in keepers.values() if not one.is_leaving]
        return need(
            [Held(PeerNumber(peer), proved) for peer, proved in sorted(self.index.items())],
            keepers=keepers,
            placed=rendezvous.order(staying, self.group),
            wanted=self.wanted,
            room=lambda peer: not self.machines[peer].is_full,
        )

    def obey(self, found: Need) -> None:
        """Do what was decided, as the coordinator does it."""
        before, wanted = self.valid(), self.wanted
        true_sources = [peer for peer in found.sources if peer in self.disks]
        for target in found.targets:
            assert target not in self.index
            assert self.machines[target].state == "up"
            if true_sources:
                self.disks.add(target)
                self.index[target] = self.machines[target].appearances
        if found.targets and not true_sources:  # they have not got it: audits take them off
            for peer in found.sources:
                self.audit(peer)
        for peer in found.audit:
            self.audit(peer)
        if found.drop is not None:
            others = {peer for peer in self.valid() - {found.drop} if self.machines[peer].state in ("up", "suspect")}
            assert len(others) >= wanted, "a copy was taken away that was needed"
            assert self.machines[found.drop].state != "leaving"
            del self.index[found.drop]
            self.disks.discard(found.drop)
        assert len(self.valid()) >= min(len(before), wanted)

    def audit(self, peer: int) -> None:
        if peer in self.disks:
            self.index[peer] = self.machines[peer].appearances
        else:
            self.index.pop(peer, None)

    def settle(self) -> int:
        """Decide and obey until nothing is left to do; how many decisions it took."""
        for steps in range(60):
            found = self.decide()
            if found is None or found.stuck:
                return steps
            self.obey(found)
        raise AssertionError(f"no end: {found}, held by {sorted(self.index)}")


EVENTS = ("down", "silent", "suspect", "back", "empty", "leave", "stay", "left", "forget", "join", "full", "roomy")


def happen(world: World, event: str, chance: random.Random) -> None:
    """Something befalls a machine; never what a decision is to blame for."""
    if event == "join":
        number = max(world.machines) + 1
        world.machines[number] = machine(number, chance)
        return
    one = world.machines[chance.choice(sorted(world.machines))]
    if event in ("back", "empty"):
        if one.state in ("down", "silent"):
            one.appearances += 1
        if event == "empty" and one.state in ("down", "silent"):
            world.disks.discard(one.number)  # its disk was replaced meanwhile
        one.state = "up" if one.state != "leaving" else one.state
    elif event == "leave" and sum(other.state != "leaving" for other in world.machines.values()) > 1:
        one.state = "leaving"
    elif event == "stay" and one.state == "leaving":
        one.state = "up"
    elif event == "left" and one.state == "leaving":
        others = [peer for peer in world.proved() - {one.number} if world.machines[peer].state in ("up", "suspect")]
        if len(others) >= world.wanted:  # as Leaving checks it
            _remove(world, one.number)
            assert len(world.valid()) >= world.wanted
    elif event == "forget" and one.state == "down":
        _remove(world, one.number)
    elif event in ("full", "roomy"):
        one.is_full = event == "full"
    elif event in ("down", "silent", "suspect") and one.state != "leaving":
        one.state = event


def _remove(world: World, number: int) -> None:
    del world.machines[number]
    world.index.pop(number, None)
    world.disks.discard(number)
    if not world.machines:
        world.machines[99] = Machine(99, "last", "", GIB)


def machine(number: int, chance: random.Random) -> Machine:
    owner = chance.choice(("anna", "bert", "carl", "dora", f"owner{number}"))
    return Machine(number, owner, chance.choice(("", "home", "work")), chance.choice((GIB, 2 * GIB, 100 * GIB)))


def new_world(seed: int, replicas: int, size: int) -> World:
    chance = random.Random(seed)
    world = World(replicas, {n: machine(n, chance) for n in range(1, size + 1)}, GroupId(chance.randrange(1 << 16)))
    for peer in chance.sample(sorted(world.machines), world.wanted):
        world.index[peer] = 0
        world.disks.add(peer)
    return world


@given(
    seed=st.integers(0, 1 << 32),
    replicas=st.integers(1, 4),
    size=st.integers(1, 9),
    events=st.lists(st.sampled_from(EVENTS), max_size=40),
)
@example(seed=1, replicas=3, size=5, events=["down", "empty", "down", "back"])
def test_no_decision_ever_costs_a_copy_and_all_come_to_an_end(
    seed: int, replicas: int, size: int, events: list[str]
) -> None:
    world, chance = new_world(seed, replicas, size), random.Random(seed + 1)
    world.settle()
    for event in events:
        happen(world, event, chance)
        if chance.random() < 0.5:  # sometimes more happens before anybody acts, or while one acts
            found = world.decide()
            if found is not None:
                world.obey(found)
        else:
            world.settle()
    world.settle()


@given(seed=st.integers(0, 1 << 32), replicas=st.integers(1, 4), size=st.integers(1, 9))
def test_while_all_are_up_each_chunk_comes_to_lie_where_it_belongs(seed: int, replicas: int, size: int) -> None:
    world = new_world(seed, replicas, size)
    assert world.settle() <= 2 * replicas
    belongs = rendezvous.order([one.keeper.candidate for one in world.machines.values()], world.group)[: world.wanted]
    assert sorted(world.index) == sorted(belongs)
    owners = {one.owner for one in world.machines.values()}
    assert len({world.machines[peer].owner for peer in world.index}) == min(len(owners), world.wanted)


@given(seed=st.integers(0, 1 << 32), replicas=st.integers(1, 4), size=st.integers(2, 9))
def test_when_a_peer_joins_only_what_it_gets_moves(seed: int, replicas: int, size: int) -> None:
    world, chance = new_world(seed, replicas, size), random.Random(seed + 1)
    world.settle()
    before = set(world.index)
    new = size + 1
    world.machines[new] = replace(machine(new, chance), owner="somebody else", zone="")
    belongs = rendezvous.order([one.keeper.candidate for one in world.machines.values()], world.group)[: world.wanted]
    moves = set(belongs) - before
    steps = world.settle()
    assert set(world.index) == set(belongs)
    assert steps <= 2 * len(moves)
    if not moves:
        assert set(world.index) == before


def test_a_pool_that_is_full_but_for_one_owner_still_keeps_owners_apart_when_it_repairs() -> None:
    pool = [keeper(1, owner="anna"), keeper(2, owner="anna"), keeper(3, owner="bert"), keeper(4, owner="bert")]
    found = ask([1], pool, wanted=2, full=[3])
    assert found is not None
    assert found.targets == (4,)


def test_nothing_is_moved_to_where_it_would_be_taken_away_again() -> None:
    pool = [
        keeper(1, owner="anna", zone="b"),
        keeper(2, owner="bert", zone="a"),
        keeper(3, owner="carl", zone="a"),
        keeper(4, owner="dora", zone="a"),
        keeper(5, owner="carl", zone="b"),
    ]
    placed = [2, 1, 3, 4, 5]
    thinned = ask([2, 3, 4, 5], pool, placed=placed)  # once 3 had a copy, its own would be the surplus one
    assert thinned is not None
    assert thinned.drop == 3
    assert ask([2, 4, 5], pool, placed=placed, full=[1]) is None
