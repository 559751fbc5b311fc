"""Who may store how much on a peer: reservation tokens, checked and counted."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from chunk_pool import TokenMaker
from msgspec.structs import replace
from sealed import OTHER_VOLUME, VOLUME

from p2pfs.errors import Denied, Misuse, NoSpace, PoolError, Unavailable
from p2pfs.runtime.clocks import FakeClock
from p2pfs.types import NodeId, PeerNumber, PoolId, VolumeId
from p2pfs.wire import codec
from p2pfs.wire.chunks import Token, token_message
from p2pfs_peerd.tokens import TokenBook

pytestmark = pytest.mark.l0

POOL, SENDER, OTHER, PEER = PoolId("ab" * 16), NodeId("cd" * 16), NodeId("ef" * 16), PeerNumber(3)
NOW_S = 1_800_000_000


class Desk:
    """A book and somebody who signs for it."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW_S)
        self.maker = TokenMaker(POOL, SENDER, (VOLUME,))
        self.book = TokenBook(POOL, PEER, self.clock)
        self.book.trust(self.maker.public)

    def token(self, room: int = 1000, *, number: int = 1, expires_s: int = NOW_S + 60) -> Token:
        return self.maker.sign(Token(number, SENDER, VOLUME, PEER, room, expires_s))

    @contextmanager
    def spend(
        self, token: Token | None, size: int, *, sender: NodeId = SENDER, volume: VolumeId = VOLUME
    ) -> Iterator[None]:
        header = None if token is None else codec.encode(token).hex()
        with self.book.spend(header, sender=sender, volume=volume, size=size):
            yield

    def use(self, token: Token | None, size: int, *, sender: NodeId = SENDER, volume: VolumeId = VOLUME) -> None:
        with self.spend(token, size, sender=sender, volume=volume):
            pass


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_token_covers_its_room_and_no_byte_more(desk: Desk) -> None:
    token = desk.token(1000)
    desk.use(token, 600)
    desk.use(token, 400)
    with pytest.raises(NoSpace):
        desk.use(token, 1)
    desk.use(desk.token(1000, number=2), 1000)


def test_what_is_under_way_counts_and_what_fails_is_given_back(desk: Desk) -> None:
    token = desk.token(1000)

    def fail() -> None:
        with desk.spend(token, 600):
            with pytest.raises(NoSpace):
                desk.use(token, 600)
            raise Unavailable("the sender went away")

    with pytest.raises(Unavailable):
        fail()
    desk.use(token, 1000)


def test_a_token_ends_at_its_time(desk: Desk) -> None:
    token = desk.token()
    desk.clock.advance(59)
    desk.use(token, 1)
    desk.clock.advance(1)
    with pytest.raises(NoSpace):
        desk.use(token, 1)


def test_only_its_sender_may_use_it_and_only_for_its_volume(desk: Desk) -> None:
    with pytest.raises(Denied):
        desk.use(desk.token(), 1, sender=OTHER)
    with pytest.raises(Denied):
        desk.use(desk.token(), 1, volume=OTHER_VOLUME)


@pytest.mark.parametrize(
    "forged",
    [
        {"id": 9},
        {"sender": OTHER},
        {"volume": OTHER_VOLUME},
        {"peer": 4},
        {"room_bytes": 1 << 40},
        {"expires_s": NOW_S + 10_000},
        {"signature": b""},
        {"signature": bytes(64)},
        {"id": -1},
        {"room_bytes": -1},
        {"sender": "not hexadecimal"},
        {"sender": SENDER.upper()},
        {"sender": " " + SENDER},
        {"sender": SENDER[:2] + "\t" + SENDER[2:]},
    ],
    ids=str,
)
def test_a_changed_token_is_refused(desk: Desk, forged: dict[str, object]) -> None:
    token = desk.token()
    desk.use(token, 1)  # even if the true one is known already
    with pytest.raises(Denied):
        desk.use(replace(token, **forged), 1)


def test_a_token_for_another_peer_is_refused(desk: Desk) -> None:
    with pytest.raises(Denied):
        desk.use(desk.maker.sign(Token(1, SENDER, VOLUME, PeerNumber(4), 1000, NOW_S + 60)), 1)


def test_a_token_of_another_pool_is_refused(desk: Desk) -> None:
    stranger = TokenMaker(PoolId("00" * 16), SENDER, (VOLUME,), desk.maker.key)
    with pytest.raises(Denied):
        desk.use(stranger.sign(Token(1, SENDER, VOLUME, PEER, 1000, NOW_S + 60)), 1)


@pytest.mark.parametrize("header", ["", "zz", "00", "c0", "ff" * 600, "9" * 63])
def test_nonsense_is_misuse(desk: Desk, header: str) -> None:
    with pytest.raises(Misuse), desk.book.spend(header, sender=SENDER, volume=VOLUME, size=1):
        pass


def test_without_a_token_or_a_key_nothing_is_stored(desk: Desk) -> None:
    with pytest.raises(Denied):
        desk.use(None, 1)
    deaf = TokenBook(POOL, PEER, desk.clock)
    with pytest.raises(Unavailable), deaf.spend(codec.encode(desk.token()).hex(), sender=SENDER, volume=VOLUME, size=1):
        pass
    with pytest.raises(Misuse):
        deaf.trust(b"short")


def test_a_new_key_voids_old_tokens(desk: Desk) -> None:
    token = desk.token()
    desk.use(token, 1)
    desk.book.trust(TokenMaker(POOL, SENDER, ()).public)
    with pytest.raises(PoolError):
        desk.use(token, 1)


def test_expired_tokens_are_forgotten(desk: Desk) -> None:
    for number in range(50):
        desk.use(desk.token(number=number), 1)
    desk.clock.advance(100)
    desk.use(desk.token(number=99, expires_s=NOW_S + 1000), 1)
    assert len(desk.book._accounts) == 1


@pytest.mark.parametrize("sender", [SENDER.upper(), " " + SENDER, SENDER + "\n", SENDER[:2] + " " + SENDER[2:]])
def test_a_sender_written_in_another_way_does_not_start_its_token_anew(desk: Desk, sender: str) -> None:
    """All of these are the same bytes for `bytes.fromhex`, so that the signature alone would be right for them."""
    token = desk.token(1000)
    desk.use(token, 1000)
    with pytest.raises(Denied):
        desk.use(replace(token, sender=sender), 1)
    with pytest.raises(NoSpace):
        desk.use(token, 1)
    with pytest.raises(Misuse):
        token_message(POOL, replace(token, sender=sender))


def test_a_number_given_twice_does_not_start_anew(desk: Desk) -> None:
    desk.use(desk.token(1000), 1000)
    for again in (desk.token(2000), desk.token(1000, expires_s=NOW_S + 99)):
        with pytest.raises(Denied):
            desk.use(again, 1)
    with pytest.raises(NoSpace):
        desk.use(desk.token(1000), 1)


def test_many_tokens_do_not_make_a_live_one_forgotten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs_peerd.tokens._MOST_PER_SENDER", 5)
    desk.use(desk.token(1000, number=0), 1000)
    for number in range(1, 5):
        desk.use(desk.token(number=number, expires_s=NOW_S + 10), 1)
    with pytest.raises(Unavailable):
        desk.use(desk.token(number=5), 1)
    with pytest.raises(NoSpace):
        desk.use(desk.token(1000, number=0), 1)
    desk.clock.advance(10)
    desk.use(desk.token(number=5), 1)
    with pytest.raises(NoSpace):
        desk.use(desk.token(1000, number=0), 1)


def test_all_senders_together_have_so_many_accounts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfs_peerd.tokens._MOST", 3)
    for number in range(3):
        desk.use(desk.token(number=number), 1)
    other = desk.maker.sign(Token(9, OTHER, VOLUME, PEER, 1000, NOW_S + 60))
    with pytest.raises(Unavailable):
        desk.use(other, 1, sender=OTHER)
    desk.clock.advance(60)
    desk.use(desk.maker.sign(replace(other, expires_s=NOW_S + 99)), 1, sender=OTHER)
    assert len(desk.book._accounts) == len(desk.book._ends) == desk.book._senders.total() == 1


def test_a_withdrawn_token_is_refused_and_what_was_begun_under_it_is_told_until_it_ends(desk: Desk) -> None:
    token = desk.token(1000)
    assert desk.book.withdrawn() == (0, [])
    with desk.spend(token, 1):
        desk.book.withdraw(7, [(token.id, token.expires_s), (99, NOW_S + 60)])
        assert desk.book.withdrawn() == (7, [token.id])
        with pytest.raises(NoSpace, match="given back"):
            desk.use(token, 1)
    assert desk.book.withdrawn() == (7, [])
    for number in (token.id, 99):  # also one that comes for the first time
        with pytest.raises(NoSpace, match="given back"):
            desk.use(desk.token(number=number), 1)
    desk.use(desk.token(number=2), 1)
    assert desk.book._busy == {}


def test_withdrawals_are_forgotten_with_their_tokens_and_never_too_many(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfs_peerd.tokens._MOST", 3)
    desk.book.withdraw(3, [(number, NOW_S + 60) for number in range(3)])
    desk.book.withdraw(5, [(number, NOW_S + 90) for number in range(3, 5)])
    assert desk.book.withdrawn() == (3, [])  # the coordinator tells those again
    desk.clock.advance(60)
    desk.book.withdraw(5, [(number, NOW_S + 90) for number in range(3, 5)])
    assert desk.book.withdrawn() == (5, [])
    assert set(desk.book._withdrawn) == {3, 4}


def test_another_key_means_other_tokens(desk: Desk) -> None:
    desk.book.withdraw(7, [(1, NOW_S + 60)])
    desk.book.trust(TokenMaker(POOL, SENDER, (VOLUME,)).public)
    assert desk.book.withdrawn() == (0, [])
