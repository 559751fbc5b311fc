"""Where the dashboard listens when its port is taken, and what becomes of the pool when it cannot open."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from coordination import live
from dashboards import site
from plugins.checklogs import Claims

from p2pfs import exitcodes
from p2pfs.coordinator.dashboard import service
from p2pfs.coordinator.dashboard.application import Application
from p2pfs.coordinator.dashboard.certificate import OwnFiles
from p2pfs.errors import Invalid, NoSpace, UserError
from p2pfs.net.addresses import parse_address
from p2pfs.runtime.config import Settings
from p2pfs.types import NodeId
from p2pfs.wire.dashboard import LoginLink

pytestmark = pytest.mark.l1


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which somebody else listens while the test goes on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


async def test_a_second_coordinator_on_a_machine_takes_another_port(
    tmp_path: Path, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEFAULT_LISTEN", taken)
    async with site(tmp_path, dashboard_listen=taken) as opened:
        (address,) = opened.dashboard.addresses
        assert parse_address(address) != parse_address(taken)


async def test_a_port_that_was_asked_for_and_is_taken_is_told(tmp_path: Path, taken: str) -> None:
    with pytest.RaisesGroup(UserError, flatten_subgroups=True, allow_unwrapped=True):
        async with site(tmp_path, dashboard_listen=taken):
            pass


async def test_without_any_port_the_pool_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    async def no_descriptors(listen: str) -> list[trio.SocketListener]:
        raise UserError(f"cannot listen on {listen}: Too many open files", exitcodes.BUSY)

    monkeypatch.setattr(service, "open_listeners", no_descriptors)
    monkeypatch.setattr(service, "DEFAULT_LISTEN", "127.0.0.1:0")
    async with live(tmp_path, dashboard_listen="127.0.0.1:0") as pool, pool.client() as client:
        with pytest.raises(Invalid, match="not open"):
            await client.call(pool.endpoint, "POST", "/dashboard/logins", None, LoginLink)
    claim_logs("there is no dashboard: .*Too many open files")


async def test_files_that_cannot_be_written_are_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_logs: Claims
) -> None:
    def full(*_: object) -> bool:
        raise NoSpace("the disk is full")

    monkeypatch.setattr(OwnFiles, "renew", full)
    async with live(tmp_path, dashboard_listen="127.0.0.1:0") as pool:
        assert pool.running.dashboard is None
    claim_logs("there is no dashboard: the disk is full")


async def test_what_is_no_address_to_listen_at_is_told(tmp_path: Path) -> None:
    with pytest.RaisesGroup(Invalid, flatten_subgroups=True, allow_unwrapped=True):
        async with live(tmp_path, dashboard_listen="nowhere"):
            pass


async def test_a_name_in_other_letters_is_one_to_browsers(tmp_path: Path) -> None:
    async with site(tmp_path, dashboard_names="Bücher.example, nas.lan") as opened:
        assert opened.dashboard.addresses[0].startswith("xn--bcher-kva.example:")
        opened.address = opened.dashboard.addresses[-1]
        browser = opened.browser()
        for host, status in (("xn--bcher-kva.example", 303), ("nas.lan", 303), ("bucher.example", 421)):
            assert (await browser.get("/", host=host)).status_code == status


async def test_links_are_made_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may renew the certificate, and two at once would mix one's key with the other's certificate."""
    at_work, most = 0, 0
    both = threading.Barrier(2)

    def renew(*_: object) -> bool:
        nonlocal at_work, most
        at_work, most = at_work + 1, max(most, at_work + 1)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.05)  # a second thread, if one is let in, comes here too
        at_work -= 1
        return False

    async with site(tmp_path) as opened:
        monkeypatch.setattr(OwnFiles, "renew", renew)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(opened.dashboard.link, NodeId("ab" * 16))
    assert most == 1


async def test_what_makes_pages_is_imported_beside_the_coordinators_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[threading.Thread] = []
    make = Application.asgi

    def asgi(made: Application) -> object:
        where.append(threading.current_thread())
        return make(made)

    monkeypatch.setattr(Application, "asgi", asgi)
    async with site(tmp_path) as opened:
        assert (await opened.browser().get("/login")).status_code == 200
    assert where
    assert threading.main_thread() not in where


def test_empty_turns_it_off() -> None:
    assert not service.is_wanted(Settings(dashboard_listen=""))
    assert service.is_wanted(Settings())
