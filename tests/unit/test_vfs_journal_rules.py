"""What becomes of what a journal holds: decisions only."""

from itertools import count

import pytest

from p2pfs.meta.engine import check
from p2pfs.vfs.journal.records import Committing, Kept, Queued, Record, State, Stored, Untimed
from p2pfs.vfs.journal.unfinished import AHEAD, BATCH_OPERATIONS, Unfinished, judge
from p2pfs.wire.namespace import Commit, Operation, SetAttributes
from p2pfs.wire.search import IndexName

pytestmark = pytest.mark.l0

BASE, MINE, THEIRS = b"base", b"mine", b"theirs"


def read(*records: Record) -> Unfinished:
    unfinished = Unfinished()
    for record in records:
        unfinished.take(0, record)
    return unfinished


def operations(number: int, first: int = 0) -> list[Operation]:
    return [SetAttributes(5, first + at) for at in range(number)]


def kept(number: int, *, after: int = 0, inode: int = 5, head: bytes = BASE, included: int = 0) -> Kept:
    return Kept(inode, number, after, [(head, included)], 77, [(0, 1)], b"x")


def numbers(freezes: list[Kept]) -> list[int]:
    return [freeze.number for freeze in freezes]


# ---- names


def test_what_was_acknowledged_and_not_committed_is_left_in_order() -> None:
    found = read(State("s", 3), Queued(0, operations(4)), Queued(4, operations(3, 4)), State("s", 3, done=5))
    assert found.operations == operations(2, 5)
    assert found.unreachable == []
    assert found.end == 7


def test_the_batch_under_way_is_sent_as_it_was_and_the_others_with_numbers_never_used() -> None:
    found = read(Queued(0, operations(1500)), State("s", 3, seq=9, acked=4, done=10, sent_seq=7, sent_upto=20))
    batches = list(found.batches())
    assert (batches[0].seq, batches[0].operations) == (7, operations(10, 10))
    assert [batch.seq for batch in batches[1:]] == [4 + AHEAD + 1, 4 + AHEAD + 2, 4 + AHEAD + 3]
    assert [operation for batch in batches for operation in batch.operations] == operations(1490, 10)
    assert all(len(batch.operations) <= BATCH_OPERATIONS and (batch.acked, batch.epoch) == (4, 3) for batch in batches)
    assert list(found.batches()) == batches


def test_a_batch_that_was_answered_is_not_sent_again() -> None:
    found = read(Queued(0, operations(8)), State("s", 3, seq=7, done=8, sent_seq=7, sent_upto=8))
    assert list(found.batches()) == []


def test_batches_have_no_more_tokens_than_the_coordinator_takes() -> None:
    names: list[Operation] = [IndexName(at, at, [bytes(16)] * 224) for at in range(400)]
    batches = list(read(Queued(0, names), State("s", 3)).batches())
    for batch in batches:
        check(batch.operations)
    assert len(batches) == 3
    assert [operation for batch in batches for operation in batch.operations] == names


def test_batches_are_no_larger_than_what_a_mount_sends() -> None:
    large: list[Operation] = [Commit(5, at, 1, b"", 1, inline=bytes(3 << 20)) for at in range(3)]
    assert [len(batch.operations) for batch in read(Queued(0, large)).batches()] == [1, 1, 1]


def test_nothing_behind_a_gap_is_done() -> None:
    found = read(Queued(0, operations(2)), Queued(5, operations(2)))
    assert (found.operations, found.unreachable) == (operations(2), operations(2))
    assert found.end == 7


# ---- bytes


def test_bytes_that_were_stored_are_not_left_and_the_newest_record_of_others_counts() -> None:
    newer = kept(2, head=MINE)
    found = read(kept(1), kept(2), Stored(1), newer)
    assert found.kept == {2: newer}
    assert found.heads == {5: {BASE: 0, MINE: 0}}
    assert found.last_number == 2


def test_a_time_that_was_set_stays() -> None:
    found = read(kept(1), kept(2, inode=6), kept(3), Untimed(5, 1))
    assert [found.kept[number].mtime_ns for number in (1, 2, 3)] == [0, 77, 77]


@pytest.mark.parametrize(
    ("head", "damaged", "expected"),
    [
        (BASE, False, ([1, 2, 3], [], [])),
        (MINE, False, ([2, 3], [], [1])),
        (THEIRS, False, ([], [1, 2, 3], [])),
        (None, False, ([], [], [1, 2, 3])),
        (BASE, True, ([1, 2, 3], [], [])),
        (None, True, ([], [1, 2, 3], [])),
    ],
    ids=["untouched", "partly-committed", "changed-by-others", "removed", "untouched-damaged", "making-damaged"],
)
def test_what_becomes_of_bytes(head: bytes | None, damaged: bool, expected: tuple[list[int], ...]) -> None:
    found = read(kept(3, after=2), kept(1), kept(2, after=1), Committing(5, MINE, 1))
    verdict = judge(list(found.kept.values()), head, found.heads[5], is_damaged=damaged)
    assert tuple(map(numbers, verdict)) == expected


def test_bytes_behind_others_that_are_missing_are_not_stored() -> None:
    verdict = judge([kept(1), kept(3, after=2), kept(4, after=3)], BASE, {BASE: 0}, is_damaged=False)
    assert tuple(map(numbers, verdict)) == ([1], [3, 4], [])


def test_all_of_it_committed_is_finished() -> None:
    steps = count(1)
    freezes = [kept(next(steps), after=0), kept(next(steps), after=1)]
    assert tuple(map(numbers, judge(freezes, MINE, {BASE: 0, MINE: 2}, is_damaged=False))) == ([], [], [1, 2])
