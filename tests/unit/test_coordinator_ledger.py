"""Promises never exceed a peer's room, whatever the order of storing, returning and heartbeats."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pfs.coordinator.ledger import (
    MAX_ROOM_BYTES,
    MOST_WITHDRAWN,
    REST_S,
    TOLD,
    Ledger,
    Promise,
    check_amount,
    disk_bytes,
)
from p2pfs.errors import Invalid, Misuse
from p2pfs.types import MIB, NodeId, PeerNumber, SessionId, VolumeId

pytestmark = pytest.mark.l0

ONE, TWO = SessionId("1" * 32), SessionId("2" * 32)
NODE = NodeId("a" * 32)
PEER = PeerNumber(1)
CHUNK = MIB


def promise(token: int, *, session: SessionId = ONE, room: int = 4 * MIB, expires_s: float = 100.0) -> Promise:
    return Promise(token, session, NODE, VolumeId(7), PEER, room, expires_s)


def told(ledger: Ledger, known: int = 0) -> int:
    """What the peer hears in the end."""
    return ledger.notices(PEER, known, now_s=1e9)[0]


def test_what_is_given_back_counts_until_its_peer_takes_it_no_more() -> None:
    ledger, whole = Ledger([promise(1), promise(2)]), disk_bytes(4 * MIB)
    assert [gone.token for gone in ledger.withdraw([1, 99], now_s=50.0)] == [1]
    assert ledger.tokens_of(ONE) == [2]
    assert ledger.notices(PEER, 0, now_s=50.0)[1] == []  # what is on its way may arrive
    last, notices = ledger.notices(PEER, 0, now_s=50.0 + REST_S)
    assert notices == [(1, 100)]
    for withdrawn, draining in ((-1, []), (last - 1, []), (last, [1]), (last + 1, [])):
        ledger.heard(PEER, -1, withdrawn=withdrawn, draining=draining)
        assert ledger.promised(PEER) == 2 * whole
    ledger.heard(PEER, -1, withdrawn=last, draining=[2])
    assert ledger.promised(PEER) == whole
    assert ledger.take_acknowledged() == [1]
    assert ledger.take_acknowledged() == []
    assert ledger.notices(PEER, last, now_s=1e9) == (last, [])
    assert ledger.notices(PEER, 0, now_s=1e9) == (last, notices)  # for a peer that was started anew
    assert ledger.notices(PEER, 1 << 60, now_s=1e9) == (last, notices)  # or one that heard of a later database
    ledger.expire(100.5)
    assert ledger.notices(PEER, 0, now_s=1e9) == (0, [])


def test_a_peer_that_never_answers_takes_a_token_until_its_time_is_over() -> None:
    ledger = Ledger([promise(1)])
    ledger.withdraw_session(ONE)
    ledger.heard(PEER, 5)
    ledger.expire(99.0)
    assert ledger.promised(PEER) == ledger.promised_in(VolumeId(7))[PEER] == disk_bytes(4 * MIB)
    assert ledger.outstanding([NODE], copies=1) == disk_bytes(4 * MIB)
    ledger.expire(101.0)
    assert ledger.outstanding([NODE], copies=1) == 0
    assert ledger.promised(PEER) == disk_bytes(4 * MIB)  # something may have been stored just before
    ledger.heard(PEER, 5)
    assert ledger.promised(PEER) == 0


def test_what_was_on_its_way_when_a_token_was_replaced_is_not_taken_from_the_next() -> None:
    ledger, whole = Ledger([promise(1)]), disk_bytes(4 * MIB)
    ledger.add([promise(2)])
    ledger.withdraw([1])
    ledger.stored(ONE, PEER, CHUNK, put_seq=1)
    assert ledger.promised(PEER) == 2 * whole
    ledger.heard(PEER, 3, withdrawn=told(ledger))
    assert ledger.promised(PEER) == whole
    for put_seq in (2, 3):  # under the first
        ledger.stored(ONE, PEER, CHUNK, put_seq=put_seq)
    assert ledger.promised(PEER) == whole
    ledger.heard(PEER, 1000)
    assert ledger.promised(PEER) == whole
    ledger.stored(ONE, PEER, CHUNK, put_seq=1000)  # under the second
    ledger.heard(PEER, 1000)
    assert ledger.promised(PEER) == whole - CHUNK - 4096


def test_who_renews_for_hours_does_not_eat_up_a_peer_that_sleeps() -> None:
    ledger = Ledger()
    for turn in range(50):
        ledger.add([promise(turn, expires_s=600.0 * (turn + 1))])
        ledger.withdraw([turn - 1])
        ledger.expire(600.0 * turn + 540)
    assert ledger.promised(PEER) <= 3 * disk_bytes(4 * MIB)
    assert len(ledger) <= 3


def test_a_node_has_so_many_withdrawn_tokens_on_a_peer() -> None:
    ledger = Ledger(promise(number, room=1) for number in range(MOST_WITHDRAWN))
    ledger.withdraw_session(ONE)
    assert ledger.is_full(NODE, PEER)
    assert not ledger.is_full(NODE, PeerNumber(2))
    assert len(ledger.notices(PEER, 0, now_s=1e9)[1]) <= TOLD
    ledger.expire(101.0)
    assert not ledger.is_full(NODE, PEER)


def test_what_may_be_stored_counts_as_often_as_it_has_copies() -> None:
    two = Promise(9, ONE, NODE, VolumeId(7), PeerNumber(2), 4 * MIB, 100.0)
    ledger = Ledger([promise(1), two, promise(3, session=TWO)])
    assert ledger.outstanding([NODE], copies=2) == disk_bytes(4 * MIB)
    assert ledger.outstanding([NODE], copies=1) == 2 * disk_bytes(4 * MIB)
    ledger.withdraw_session(ONE)
    assert ledger.outstanding([NODE], copies=2) == disk_bytes(4 * MIB)
    assert ledger.outstanding([], copies=1) == 0


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
    assert ledger.expire(100.0) == 0
    assert ledger.expire(100.5) == 1
    assert ledger.promised(PEER) == 0
    ledger.heard(PEER, 1)
    assert len(ledger) == 0


def test_promises_nobody_heard_of_leave_nothing_behind() -> None:
    ledger, granted = Ledger(), [promise(1), promise(2)]
    ledger.add(granted)
    ledger.forget(granted)
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
    for session in (ONE, TWO):
        ledger.withdraw_session(session)
    ledger.heard(PEER, 1, withdrawn=told(ledger))
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


@dataclass
class Token:
    """One as the peer counts it."""

    rest: int  # chunks
    is_refused: bool = False


class OnePeer(RuleBasedStateMachine):
    """A peer of a fixed size, a writer that stores under its tokens, also those it gave back, commits that come late,
    and heartbeats and their answers that do."""

    CAPACITY = 40 * (CHUNK + 4096)

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.stored = 0  # bytes really on the peer
        self.put_seq = 0
        self.known_used = 0  # as of the last heartbeat taken in
        self.heeded = 0
        self.measured: tuple[int, int, int] = (0, 0, 0)  # a heartbeat under way: used, put_seq, heeded
        self.tokens: dict[int, Token] = {}
        self.uncommitted: list[int] = []  # put_seqs
        self.next = 1

    def free(self) -> int:
        return self.CAPACITY - self.known_used - self.ledger.promised(PEER)

    @rule(chunks=st.integers(1, 8))
    def reserve(self, chunks: int) -> None:
        if disk_bytes(chunks * CHUNK) <= self.free():
            replaced = self.ledger.tokens_of(ONE)
            self.ledger.add([promise(self.next, room=chunks * CHUNK)])
            self.ledger.withdraw(replaced)
            self.tokens[self.next] = Token(chunks)
            self.next += 1

    @rule()
    def give_back(self) -> None:
        self.ledger.withdraw_session(ONE)

    @precondition(lambda self: any(token.rest and not token.is_refused for token in self.tokens.values()))
    @rule(data=st.data())
    def put(self, data: st.DataObject) -> None:
        usable = [one for one, token in self.tokens.items() if token.rest and not token.is_refused]
        self.tokens[data.draw(st.sampled_from(usable))].rest -= 1
        self.stored += CHUNK + 4096
        self.put_seq += 1
        self.uncommitted.append(self.put_seq)

    @precondition(lambda self: self.uncommitted)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        put_seq = data.draw(st.sampled_from(self.uncommitted))
        self.uncommitted.remove(put_seq)
        self.ledger.stored(ONE, PEER, CHUNK, put_seq=put_seq)

    @rule()
    def measure(self) -> None:
        self.measured = (self.stored, self.put_seq, self.heeded)

    @rule()
    def hear(self) -> None:
        self.known_used, put_seq, heeded = self.measured
        self.ledger.heard(PEER, put_seq, withdrawn=heeded)

    @rule()
    def answer(self) -> None:
        self.heeded, notices = self.ledger.notices(PEER, self.heeded, now_s=1e9)
        for number, _ in notices:
            self.tokens[number].is_refused = True

    @rule()
    def beat(self) -> None:
        self.answer()
        self.measure()
        self.hear()

    @invariant()
    def promises_fit(self) -> None:
        """What is on the peer and what may still come under tokens that it takes fits."""
        to_come = sum(token.rest * (CHUNK + 4096) for token in self.tokens.values() if not token.is_refused)
        assert self.stored + to_come <= self.CAPACITY
        assert self.free() <= self.CAPACITY - self.stored - to_come
        assert self.ledger.promised(PEER) >= 0


TestOnePeer = OnePeer.TestCase
TestOnePeer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
