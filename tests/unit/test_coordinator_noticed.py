"""The inbox of chunks to whose copies something happened."""

import pytest

from p2pfs.coordinator.upkeep import noticed
from p2pfs.coordinator.upkeep.noticed import LATE_S, Noticed
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import ChunkId, VolumeId

pytestmark = pytest.mark.l0

V = VolumeId(7)


def chunk(number: int) -> ChunkId:
    return ChunkId(number.to_bytes(32, "big"))


def test_what_is_told_is_taken_once() -> None:
    inbox = Noticed(FakeClock())
    waiting = inbox.changed
    inbox.tell([(V, chunk(1)), (V, chunk(1)), (V, chunk(2))])
    assert waiting.is_set()
    assert inbox.take() == ([(V, chunk(1)), (V, chunk(2))], False)
    assert inbox.take() == ([], False)
    assert not inbox.changed.is_set()


def test_copies_on_their_way_are_given_time() -> None:
    clock = FakeClock()
    inbox = Noticed(clock)
    inbox.expect([(V, chunk(1))])
    clock.advance(LATE_S - 1)
    inbox.expect([(V, chunk(2))])
    assert inbox.expects(V, chunk(1))
    assert inbox.take() == ([], False)
    clock.advance(1)
    assert inbox.take() == ([(V, chunk(1))], False)
    assert not inbox.expects(V, chunk(1))
    inbox.expect([(V, chunk(2))])  # another commit: counted anew
    clock.advance(LATE_S - 1)
    assert inbox.take() == ([], False)
    assert inbox.next_s() == clock.monotonic() + 1


def test_what_does_not_fit_becomes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noticed, "MOST", 2)
    inbox = Noticed(FakeClock())
    inbox.tell((V, chunk(number)) for number in range(3))
    assert inbox.take() == ([(V, chunk(0)), (V, chunk(1))], True)
    inbox.expect((V, chunk(number)) for number in range(3))
    assert inbox.changed.is_set()
    assert inbox.take() == ([], True)
