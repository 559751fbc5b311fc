"""What is announced on the local network says little, and what is heard there is worth little."""

import errno
import sys
from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from p2pfs.errors import Unavailable
from p2pfs.net import interfaces, lan
from p2pfs.net.interfaces import Own
from p2pfs.types import PoolId

pytestmark = pytest.mark.l0

POOL = PoolId("ab" * 16)
MARK = lan.pool_mark(POOL)


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[Own]:
    found = [Own("192.0.2.7", "eth0"), Own("2001:db8::7", "eth0")]
    monkeypatch.setattr(lan, "own_addresses", lambda: list(found))
    return found


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated clock does not wait for threads."""

    async def run(work: Callable[..., object], *arguments: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run)


class Service:
    def __init__(self, port: int | None, addresses: Sequence[str]) -> None:
        self.port = port
        self._addresses = list(addresses)

    def parsed_addresses(self) -> list[str]:
        return self._addresses


class Network:
    """Answers for each name that was announced."""

    def __init__(self, services: dict[str, Service | None]) -> None:
        self.services = services
        self.asked: list[str] = []

    def get_service_info(self, _type: str, name: str, timeout: int) -> Service | None:
        assert timeout <= 1000
        self.asked.append(name)
        return self.services.get(name)


def heard(services: dict[str, Service | None]) -> tuple[list[str], Network]:
    network, listener = Network(services), lan._Heard(MARK)
    for name in services:
        listener.add_service(network, lan.SERVICE, name)  # type: ignore[arg-type]
        listener.update_service(network, lan.SERVICE, name)  # type: ignore[arg-type]
    return listener.addresses(), network


def test_a_pool_is_announced_by_a_hash_of_its_id() -> None:
    assert MARK == "f552758fcf90b07d"  # documented in docs/protocol.md: other versions look for it
    assert POOL not in MARK
    assert lan.pool_mark(PoolId("ac" * 16)) != MARK


@pytest.mark.parametrize(
    ("bound", "announced"),
    [
        (["0.0.0.0:9470"], [("192.0.2.7", 9470)]),
        (["0.0.0.0:9470", "[::]:9470"], [("192.0.2.7", 9470), ("2001:db8::7", 9470)]),
        (["192.0.2.7:1"], [("192.0.2.7", 1)]),
        (["127.0.0.1:9470", "[::1]:9470"], []),
        (["127.0.0.1:9470", "192.0.2.7:1", "192.0.2.7:2"], [("192.0.2.7", 1)]),
    ],
)
def test_only_what_others_can_dial_is_announced(bound: list[str], announced: list[tuple[str, int]]) -> None:
    assert lan._announced(bound) == announced


def test_other_pools_are_not_even_asked() -> None:
    name = f"{lan.pool_mark(PoolId('ac' * 16))}-1.{lan.SERVICE}"
    found, network = heard({name: Service(9470, ["192.0.2.9"])})
    assert (found, network.asked) == ([], [])


def test_what_cannot_be_dialled_is_dropped() -> None:
    strange = ["127.0.0.1", "::1", "fe80::1", "224.0.0.251", "0.0.0.0", "no address", "192.0.2.9", "2001:db8::9"]
    found, _ = heard(
        {f"{MARK}-1": Service(9470, strange), f"{MARK}-2": Service(None, ["192.0.2.8"]), f"{MARK}-3": None}
    )
    assert found == ["192.0.2.9:9470", "[2001:db8::9]:9470"]


def test_a_flood_of_announcements_costs_little() -> None:
    flood = {f"{MARK}-{n}": Service(1 + n, [f"192.0.2.{m}" for m in range(1, 200)]) for n in range(500)}
    found, network = heard(flood)
    assert len(network.asked) == 16
    assert len(found) == 16 * 8


async def test_a_missing_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(Unavailable, match=r"install p2pfs with the extra \[lan\]"):
        await lan.look(POOL)


async def test_a_machine_that_moves_is_announced_anew(
    addresses: list[Own], monkeypatch: pytest.MonkeyPatch, no_threads: None, autojump_clock: MockClock
) -> None:
    told: list[str] = []

    class Responder:
        def close(self) -> None:
            told.append("gone")

    def tell(_pool: PoolId, now: list[tuple[str, int]]) -> Responder:
        told.append(now[0][0])
        return Responder()

    monkeypatch.setattr(lan, "_announce", tell)
    with trio.move_on_after(300):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lan.announce, POOL, ["0.0.0.0:9470"])
            await trio.sleep(150)
            addresses[0] = Own("192.0.2.8", "wlan0")
            await trio.sleep_forever()
    assert told == ["192.0.2.7", "gone", "192.0.2.8", "gone"]


async def test_where_nothing_can_be_announced_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
    no_threads: None,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    def fail(*_: object) -> None:
        tries.append(1)
        raise Unavailable("multicast DNS: no such device")

    monkeypatch.setattr(lan, "_announce", fail)
    caplog.set_level("INFO")
    with trio.move_on_after(1000):
        await lan.announce(POOL, ["0.0.0.0:9470"])
    assert len(tries) > 10
    assert caplog.text.count("no such device") == 1


async def test_a_machine_whose_kernel_names_no_addresses_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    no_threads: None,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_descriptors(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(lan, "own_addresses", interfaces.own_addresses)
    monkeypatch.setattr(interfaces.socket, "socket", no_descriptors)
    caplog.set_level("INFO")
    with trio.move_on_after(1000) as within:
        await lan.announce(POOL, ["0.0.0.0:9470"])
    assert within.cancelled_caught
    assert caplog.text.count("not announced on the local network") == 1
    assert interfaces.own_addresses() == []


async def test_an_announcement_that_cannot_be_taken_back_is_left(
    monkeypatch: pytest.MonkeyPatch, no_threads: None, autojump_clock: MockClock
) -> None:
    class Responder:
        def close(self) -> None:
            raise OSError(errno.ENETDOWN, "Network is down")

    monkeypatch.setattr(lan, "_announce", lambda *_: Responder())
    with trio.move_on_after(10) as within:
        await lan.announce(POOL, ["0.0.0.0:9470"])
    assert within.cancelled_caught
