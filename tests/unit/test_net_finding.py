"""Looking for a coordinator among addresses that strangers may have named ends soon, and with the right one."""

import pytest
import trio
from trio.testing import MockClock

from p2pfs.errors import Denied, Unavailable
from p2pfs.format.invites import Invite
from p2pfs.net import enrolment
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.finding import WITHIN_S, first_that_answers
from p2pfs.types import NodeId, PoolId

pytestmark = pytest.mark.l0

DIAL_S = 5.0
SPOOFED = [f"192.0.2.{number}:9470" for number in range(127)]
REAL = "198.51.100.1:9470"


async def _try(address: str) -> None:
    if address != REAL:
        await trio.sleep(DIAL_S)  # it accepts, and says nothing
        raise Unavailable(address)


async def test_silent_addresses_hold_nobody_up(autojump_clock: MockClock) -> None:
    began_s = trio.current_time()
    assert await first_that_answers([*SPOOFED, REAL], _try) == REAL
    assert trio.current_time() - began_s < WITHIN_S


async def test_the_wait_has_an_end(autojump_clock: MockClock) -> None:
    async def never(_address: str) -> None:
        await trio.sleep_forever()

    began_s = trio.current_time()
    assert await first_that_answers(SPOOFED, never) is None
    assert trio.current_time() - began_s == WITHIN_S
    assert await first_that_answers([], never) is None


async def test_where_another_answers_the_next_is_tried() -> None:
    tried = []

    async def answer(address: str) -> None:
        tried.append(address)
        await trio.lowlevel.checkpoint()
        if address != "b":
            raise Denied("another node answered")

    assert await first_that_answers(["a", "b"], answer) == "b"
    assert await first_that_answers(["a", "a"], answer) is None
    assert sorted(tried) == ["a", "a", "b"]


async def test_a_bug_is_no_address_that_does_not_answer() -> None:
    async def fail(_address: str) -> None:
        raise ArithmeticError

    with pytest.RaisesGroup(ArithmeticError):
        await first_that_answers(["a"], fail)


async def test_joining_waits_a_bounded_time_for_what_is_spoofed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for those of the invite, nor for what the local network says."""

    async def request(_self: Client, endpoint: Endpoint, *_words: object, timeout_s: float, **_more: object) -> None:
        await trio.sleep(min(timeout_s, DIAL_S * len(endpoint.addresses)))
        raise Unavailable("no answer")

    async def elsewhere() -> list[str]:
        return SPOOFED

    monkeypatch.setattr(Client, "request", request)
    key = bytes.fromhex("036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296")  # P-256's base point
    invite = Invite(PoolId("a" * 32), (REAL,), key, NodeId("c" * 32), b"s" * 16, 1_900_000_000)
    began_s = trio.current_time()
    with pytest.raises(Unavailable):
        await enrolment.join(invite, elsewhere)
    assert trio.current_time() - began_s <= WITHIN_S + 2 * DIAL_S
