"""What either end of a read counts."""

from collections.abc import Iterator

import pytest

from p2pfs.chunks.traffic import DAY_S, MOST_OTHERS, MOST_TOLD, Seen, Traffic
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import ChunkId, VolumeId

pytestmark = pytest.mark.l0

VOLUME = VolumeId(7)


def chunk(number: int) -> ChunkId:
    return ChunkId(number.to_bytes(32, "big"))


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    return FakeClock()


def test_a_chunk_counts_once_for_each_other_and_day(clock: FakeClock) -> None:
    traffic = Traffic[str](clock.time)
    day = int(clock.time() // DAY_S)
    for _ in range(100):  # a loop of reads
        traffic.count("anna", VOLUME, chunk(1), 1000)
    traffic.count("anna", VOLUME, chunk(2), 10)
    traffic.count("bob", VOLUME, chunk(1), 1000)
    assert traffic.untold() == [(day, "anna", 1010), (day, "bob", 1000)]
    clock.advance(DAY_S)
    traffic.count("anna", VOLUME, chunk(1), 1000)
    assert (day + 1, "anna", 1000) in traffic.untold()


def test_for_a_mount_a_chunk_counts_once_whichever_holders_are_asked(clock: FakeClock) -> None:
    traffic = Traffic[int](clock.time, for_all=True)
    day = int(clock.time() // DAY_S)
    for peer in (3, 1, 2, 3):
        traffic.count(peer, VOLUME, chunk(1), 1000)
    traffic.count(1, VOLUME, chunk(2), 10)
    assert traffic.untold() == [(day, 3, 1000), (day, 1, 10)]


def test_what_grew_since_it_was_told_is_told_again_as_a_whole(clock: FakeClock) -> None:
    traffic = Traffic[str](clock.time)
    traffic.count("anna", VOLUME, chunk(1), 5)
    told = traffic.untold()
    traffic.count("anna", VOLUME, chunk(2), 6)  # while it is being told
    traffic.told(told)
    (row,) = traffic.untold()
    assert row[1:] == ("anna", 11)
    traffic.told([row])
    assert traffic.untold() == []


def test_yesterday_is_kept_until_it_was_told_and_no_day_before(clock: FakeClock) -> None:
    traffic = Traffic[str](clock.time)
    day = int(clock.time() // DAY_S)
    traffic.count("anna", VOLUME, chunk(1), 5)
    clock.advance(DAY_S)
    traffic.count("bob", VOLUME, chunk(1), 6)
    assert traffic.untold() == [(day, "anna", 5), (day + 1, "bob", 6)]
    clock.advance(2 * DAY_S)
    traffic.count("carl", VOLUME, chunk(1), 7)
    assert traffic.untold() == [(day + 3, "carl", 7)]


def test_it_is_bounded(clock: FakeClock) -> None:
    traffic = Traffic[int](clock.time)
    for other in range(MOST_OTHERS + 10):
        traffic.count(other, VOLUME, chunk(1), 1)
    told = 0
    while rows := traffic.untold():
        assert len(rows) <= MOST_TOLD
        told += len(rows)
        traffic.told(rows)
    assert told == MOST_OTHERS


def test_the_filter_forgets_nothing_and_mistakes_few() -> None:
    seen = Seen()
    new = sum(seen.add(("anna", VOLUME, chunk(number))) for number in range(20_000))
    assert 19_900 <= new <= 20_000
    assert not any(seen.add(("anna", VOLUME, chunk(number))) for number in range(20_000))
