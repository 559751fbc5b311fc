"""Promises never exceed a peer's room, whatever the order of storing, returning and heartbeats."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pfs.coordinator.ledger import MAX_ROOM_BYTES, Ledger, Promise, check_amount, disk_bytes
from p2pfs.errors import Invalid, Misuse
from p2pfs.types import MIB, NodeId, PeerNumber, SessionId, VolumeId

pytestmark = pytest.mark.l0

ONE, TWO = SessionId("1" * 32), SessionId("2" * 32)
NODE = NodeId("a" * 32)
PEER = PeerNumber(1)
CHUNK = MIB


def promise(token: int, *, session: SessionId = ONE, room: int = 4 * MIB, expires_s: float = 100.0) -> Promise:
    return Promise(token, session, NODE, VolumeId(7), PEER, room, expires_s)


def test_what_is_promised_counts_until_it_is_returned_and_a_heartbeat_came() -> None:
    ledger = Ledger([promise(1), promise(2)])
    assert ledger.promised(PEER) == 2 * disk_bytes(4 * MIB)
    assert [gone.token for gone in ledger.release(ONE, [1])] == [1]
    assert ledger.promised(PEER) == 2 * disk_bytes(4 * MIB)  # something may have been stored under it
    ledger.heard(PEER, -1)
    assert ledger.promised(PEER) == disk_bytes(4 * MIB)


def test_stored_bytes_count_until_a_heartbeat_covers_their_put_seq() -> None:
    ledger = Ledger([promise(1)])
    ledger.stored(ONE, PEER, CHUNK, put_seq=5)
    ledger.stored(ONE, PEER, CHUNK, put_seq=6)
    whole = disk_bytes(4 * MIB)
    assert ledger.promised(PEER) == whole
    ledger.heard(PEER, 5)  # measured between the two
    assert ledger.promised(PEER) == whole - CHUNK - 4096
    ledger.heard(PEER, 6)
    assert ledger.promised(PEER) == whole - 2 * (CHUNK + 4096)


def test_a_used_up_token_holds_nothing_back_when_it_expires() -> None:
    ledger = Ledger([promise(1, room=CHUNK)])
    ledger.stored(ONE, PEER, CHUNK, put_seq=1)
    ledger.heard(PEER, 1)
    assert ledger.promised(PEER) == 0
    assert ledger.release_expired(100.0) == []
    assert [gone.token for gone in ledger.release_expired(100.5)] == [1]
    assert ledger.promised(PEER) == 0
    assert len(ledger) == 0


def test_tokens_of_others_cannot_be_returned() -> None:
    ledger = Ledger([promise(1), promise(2, session=TWO)])
    assert ledger.release(TWO, [1, 99]) == []
    assert ledger.tokens_of(ONE) == [1]
    assert [gone.token for gone in ledger.release_session(TWO)] == [2]


def test_withdrawn_promises_leave_nothing_behind() -> None:
    ledger, granted = Ledger(), [promise(1), promise(2)]
    ledger.add(granted)
    ledger.withdraw(granted)
    assert ledger.promised(PEER) == 0


def test_a_token_is_promised_once() -> None:
    ledger = Ledger([promise(1)])
    with pytest.raises(Misuse):
        ledger.add([promise(1)])


def test_what_is_promised_to_a_node_is_what_it_has_not_stored_yet() -> None:
    ledger = Ledger([promise(1), promise(2, session=TWO)])
    ledger.stored(ONE, PEER, CHUNK, put_seq=1)
    assert ledger.promised_to(NODE, PEER) == 2 * disk_bytes(4 * MIB) - CHUNK - 4096
    assert ledger.promised_to(NodeId("b" * 32), PEER) == 0
    ledger.release_session(ONE)
    ledger.release_session(TWO)
    assert ledger.promised_to(NODE, PEER) == 0


def test_a_chunk_may_use_up_several_tokens() -> None:
    ledger = Ledger([promise(1, room=1000), promise(2, room=2000)])
    ledger.stored(ONE, PEER, disk_bytes(1000) + 500 - 4096, put_seq=1)
    ledger.heard(PEER, 1)
    assert ledger.promised(PEER) == disk_bytes(2000) - 500
    ledger.stored(ONE, PEER, MIB, put_seq=2)  # more than was promised
    ledger.heard(PEER, 2)
    assert ledger.promised(PEER) == 0
    assert ledger.tokens_of(ONE) == [1, 2]


@pytest.mark.parametrize("room", [0, -1, MAX_ROOM_BYTES + 1])
def test_impossible_amounts_are_refused(room: int) -> None:
    with pytest.raises(Invalid):
        check_amount(room)


class OnePeer(RuleBasedStateMachine):
    """A peer of a fixed size, writers that store under their tokens, heartbeats that arrive late."""

    CAPACITY = 40 * (CHUNK + 4096)

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.stored = 0  # bytes really on the peer
        self.put_seq = 0
        self.known_used = 0  # as of the last heartbeat taken in
        self.measured: tuple[int, int] = (0, 0)  # a heartbeat under way: used, put_seq
        self.tokens: dict[int, list[int]] = {}  # token → [promised chunks, stored, committed]
        self.uncommitted: list[tuple[int, int]] = []  # (token, put_seq)
        self.next = 1

    def free(self) -> int:
        return self.CAPACITY - self.known_used - self.ledger.promised(PEER)

    @rule(chunks=st.integers(1, 8))
    def reserve(self, chunks: int) -> None:
        if disk_bytes(chunks * CHUNK) <= self.free():
            self.ledger.add([promise(self.next, room=chunks * CHUNK)])
            self.tokens[self.next] = [chunks, 0]
            self.next += 1

    @precondition(lambda self: any(stored < room for room, stored in self.tokens.values()))
    @rule(data=st.data(), commit=st.booleans())
    def put(self, data: st.DataObject, commit: bool) -> None:
        token = data.draw(st.sampled_from([t for t, (room, stored) in self.tokens.items() if stored < room]))
        self.tokens[token][1] += 1
        self.stored += CHUNK + 4096
        self.put_seq += 1
        self.uncommitted.append((token, self.put_seq))
        if commit:
            self.commit()

    @rule()
    def commit(self) -> None:
        for _, put_seq in self.uncommitted:
            self.ledger.stored(ONE, PEER, CHUNK, put_seq=put_seq)
        self.uncommitted = []

    @rule()
    def measure(self) -> None:
        self.measured = (self.stored, self.put_seq)

    @rule()
    def hear(self) -> None:
        self.known_used, put_seq = self.measured
        self.ledger.heard(PEER, put_seq)

    @precondition(lambda self: self.tokens)
    @rule()
    def give_back_all(self) -> None:
        self.commit()
        self.measure()  # a mount returns tokens after its last PUT; the next heartbeat is measured after that
        self.ledger.release(ONE, list(self.tokens))
        self.tokens = {}

    @invariant()
    def promises_fit(self) -> None:
        """What is on the peer and what may still come under outstanding tokens fits."""
        to_come = sum((room - stored) * (CHUNK + 4096) for room, stored in self.tokens.values())
        assert self.stored + to_come <= self.CAPACITY
        assert self.ledger.promised(PEER) >= 0


TestOnePeer = OnePeer.TestCase
TestOnePeer.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
