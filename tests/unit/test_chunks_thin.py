"""Writing through a thin uplink, in simulated time: slow, but no error, and nothing is sent in vain."""

from collections.abc import Callable

import pytest
import trio
from far_pool import CHUNKS, Far, Link, far_pool, write_all
from sealed import VOLUME

from p2pfs.chunks.turns import LEAST_BYTES, Turns
from p2pfs.errors import Unavailable
from p2pfs.net.bodies import SLOWEST_BYTES_PER_S
from p2pfs.types import KIB, MIB, SEALED_CHUNK_BYTES, Distribution

pytestmark = pytest.mark.l0

DIRECT, AUTO = Distribution.DIRECT, Distribution.AUTO
EARLIER = 64 * KIB
"""The slowest rate at which peers of earlier versions take a body."""
EIGHT = CHUNKS[:8]


def sent(peers: dict[int, Far]) -> int:
    return sum(peer.sent for peer in peers.values())


@pytest.mark.parametrize(
    ("bytes_per_s", "slowest"),
    [(17 * KIB, SLOWEST_BYTES_PER_S), (100_000, SLOWEST_BYTES_PER_S), (128 * KIB, EARLIER), (640 * KIB, EARLIER)],
)
@pytest.mark.parametrize("replicas", [2, 3])
async def test_everything_is_acknowledged_and_nothing_is_sent_twice(
    bytes_per_s: int, slowest: int, replicas: int, autojump_clock: trio.testing.MockClock
) -> None:
    link = Link(bytes_per_s, slowest=slowest)
    async with far_pool(DIRECT, link, replicas=replicas, peers=3) as (store, peers):
        took_s = await write_all(store, EIGHT)
        assert sent(peers) == replicas * len(EIGHT)
        assert all(len(peer.chunks) for peer in peers.values())
        assert took_s <= 1.01 * replicas * len(EIGHT) * SEALED_CHUNK_BYTES / bytes_per_s + 1


async def test_a_chunk_is_stored_before_the_next_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever waits hears of progress, also when it takes minutes until all is there."""
    ended_s: list[float] = []
    async with far_pool(DIRECT, Link(100_000), replicas=2, peers=3) as (store, _), trio.open_nursery() as nursery:

        async def put(chunk: int) -> None:
            await store.put(VOLUME, EIGHT[chunk].id, [EIGHT[chunk].data])
            ended_s.append(trio.current_time())

        began_s = trio.current_time()
        for chunk in range(8):
            nursery.start_soon(put, chunk)
        await trio.sleep(25)
        assert ended_s
    both_s = 2 * SEALED_CHUNK_BYTES / 100_000
    assert [end_s - began_s for end_s in ended_s] == pytest.approx([both_s * n for n in range(1, 9)], rel=0.05)


async def test_an_uplink_that_turns_thin_is_no_error_either(autojump_clock: trio.testing.MockClock) -> None:
    link = Link(100 * MIB, slowest=EARLIER)
    async with far_pool(DIRECT, link, peers=4) as (store, _):
        await write_all(store, EIGHT)
        assert link.most > 6
        link.rate = 256 * KIB
        await write_all(store, CHUNKS[8:16])
        link.most = 0
        await write_all(store, CHUNKS[16:])
        assert link.most <= 3


async def test_a_thin_uplink_that_widens_is_used(autojump_clock: trio.testing.MockClock) -> None:
    link = Link(128 * KIB)
    async with far_pool(DIRECT, link) as (store, _):
        await write_all(store, CHUNKS[:4])
        assert link.most == 2
        link.rate = 100 * MIB
        await write_all(store, CHUNKS[4:12])
        assert await write_all(store, CHUNKS[12:]) < 2
        assert link.most > 6


async def test_what_waits_for_its_turn_is_passed_on_by_peers_once_the_uplink_is_known(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with far_pool(AUTO, Link(128 * KIB)) as (store, peers):
        await write_all(store, EIGHT)
        assert sent(peers) <= len(EIGHT) + 2


async def test_peers_that_hang_keep_their_turn_for_a_moment_only(autojump_clock: trio.testing.MockClock) -> None:
    link = Link(1 * MIB, dict.fromkeys((1, 2, 3), 0.0))
    async with far_pool(DIRECT, link, replicas=2) as (store, _):
        took_s = await write_all(store, EIGHT)
        assert took_s < 2 * len(EIGHT) + 8


async def test_where_nothing_moves_that_is_an_error_in_time(autojump_clock: trio.testing.MockClock) -> None:
    link = Link(1 * MIB, dict.fromkeys(range(1, 5), 0.0))
    async with far_pool(DIRECT, link, peers=4) as (store, _):
        began_s = trio.current_time()
        with pytest.raises(Unavailable):
            await store.put(VOLUME, EIGHT[0].id, [EIGHT[0].data])
        assert trio.current_time() - began_s == pytest.approx(30, abs=2.5)


async def test_peers_that_refuse_after_everything_has_moved_are_an_error_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    link = Link(1 * MIB, slowest=1000 * MIB)  # the grace is over after 10 s
    async with far_pool(DIRECT, link, peers=3) as (store, peers):

        async def pass_on(peer: int, size: int, moved: Callable[[float], None]) -> None:
            moved(size)
            await trio.sleep(5)
            raise Unavailable("the disk is broken")

        link.pass_on = pass_on  # type: ignore[method-assign]
        began_s = trio.current_time()
        with pytest.raises(Unavailable):
            await store.put(VOLUME, EIGHT[0].id, [EIGHT[0].data])
        assert trio.current_time() - began_s < 60
        assert sent(peers) < 30


class Waiting:
    """Who asks for turns."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.woken = turns, 0

    def wake(self) -> None:
        self.woken += 1

    def take(self, size: int = MIB) -> bool:
        return self.turns.take(size, self.wake)


def test_turns_come_in_order_and_whoever_was_refused_is_woken() -> None:
    turns = Turns(lambda: 0.0)
    first, second, third = Waiting(turns), Waiting(turns), Waiting(turns)
    assert [first.take(), first.take(), first.take()] == [True, True, False]
    assert not second.take()
    assert not third.take()
    turns.give(MIB)
    assert (first.woken, second.woken) == (1, 0)
    assert not second.take()
    assert first.take()
    turns.leave(first.wake)  # it wants no more
    assert second.woken == 1
    turns.leave(second.wake)  # it has gone
    assert third.woken == 1
    turns.leave(second.wake)
    assert third.woken == 1
    turns.give(2 * MIB)
    assert third.take()
    turns.leave(third.wake)
    assert repr(turns) == "Turns(1048576 bytes on their way, 0 waiting)"


def test_turns_are_bytes_and_follow_the_uplink() -> None:
    room = 0.0
    turns = Turns(lambda: room)
    small = Waiting(turns)
    assert sum(small.take(KIB) for _ in range(10_000)) == LEAST_BYTES // KIB
    room = 4.0 * MIB
    assert sum(small.take() for _ in range(8)) == 3
