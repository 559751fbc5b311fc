"""The uplink measured from PUTs that are made anyway."""

import math
from dataclasses import dataclass, field

import pytest

from p2pfs.chunks.standing import Attempt
from p2pfs.chunks.uplink import SEVERAL, WINDOW_S, Uplink
from p2pfs.net.watch import Watch
from p2pfs.types import MIB, PeerNumber

pytestmark = pytest.mark.l0


@dataclass
class Link:
    """A clock, and PUTs of a MiB that move as told."""

    now: float = 100.0
    moved: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uplink = Uplink(lambda: self.now)

    def put(self, size: int = MIB) -> Attempt:
        number = len(self.moved)
        self.moved[number] = 0
        watch = Watch()
        watch.follow(lambda: self.moved[number])
        attempt = Attempt(PeerNumber(number), self.now, size, watch)
        self.uplink.begin(attempt)
        return attempt

    def move(self, attempt: Attempt, size: int) -> None:
        self.moved[attempt.peer] += size


def test_what_several_puts_moved_together_is_the_rate() -> None:
    link = Link()
    first, second = link.put(), link.put()
    link.move(first, 300_000)
    link.move(second, 200_000)
    link.now += 1
    link.put()
    assert link.uplink.rate == 500_000


def test_what_moved_before_several_were_under_way_does_not_count() -> None:
    link = Link()
    first = link.put()
    link.move(first, 300_000)
    link.now += 10
    second = link.put()
    link.move(second, 100_000)
    link.now += 1
    link.uplink.end(first)
    assert link.uplink.rate == 100_000


def test_one_alone_says_nothing() -> None:
    link = Link()
    first = link.put()
    link.move(first, 300_000)
    link.now += 10
    link.uplink.end(first)
    assert link.uplink.rate is None
    assert SEVERAL > 1


def test_a_short_moment_says_nothing() -> None:
    link = Link()
    first, _ = link.put(), link.put()
    link.move(first, 300_000)
    link.now += WINDOW_S / 2
    link.uplink.end(first)
    assert link.uplink.rate is None


def test_puts_that_wait_for_disks_only_do_not_make_an_uplink_slow() -> None:
    link = Link()
    first, second = link.put(), link.put()
    link.move(first, MIB)
    link.move(second, MIB)
    link.now += 3
    link.put()
    assert link.uplink.rate is None


def test_puts_to_peers_that_hang_do_not_make_an_uplink_slow() -> None:
    link = Link()
    for _ in range(2):
        link.put()
    quick = link.put()
    link.move(quick, MIB)
    link.now += 1
    link.uplink.end(quick)
    link.now += 1
    link.put()
    assert link.uplink.rate is None


def test_a_rate_follows_and_a_wait_for_disks_can_only_raise_it() -> None:
    link = Link()
    first, second = link.put(8 * MIB), link.put(8 * MIB)
    for _ in range(10):
        link.move(first, 100_000)
        link.now += 1
        link.put()
    slow = link.uplink.rate
    assert slow == 100_000
    for _ in range(10):
        link.move(second, 200_000)
        link.now += 1
        link.put()
    assert link.uplink.rate == pytest.approx(200_000, rel=0.01)


def test_less_is_asked_of_a_put_where_the_uplink_is_slow_and_full() -> None:
    link = Link()
    assert link.uplink.fair(link.put()) == math.inf
    attempts = [link.put() for _ in range(7)]
    for attempt in attempts:
        link.move(attempt, MIB // 7)
    link.now += 1
    assert link.uplink.fair(attempts[0]) == 0
    link.now += 2
    assert link.uplink.fair(attempts[0]) == pytest.approx(0, abs=1)  # a second to connect, and a quarter of its 8 s
    link.now += 1
    link.move(attempts[0], MIB)
    assert link.uplink.fair(attempts[0]) == pytest.approx(MIB / 8 / 4, rel=0.01)
    for attempt in attempts[1:]:
        link.uplink.end(attempt)
    link.now += 10
    assert link.uplink.fair(attempts[0]) == math.inf  # nearly alone for so long: there is no excuse
