"""Where the dashboard listens when the port it would have is taken, and when it is turned off."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboards import site

from p2pfs.coordinator.dashboard import service
from p2pfs.errors import UserError
from p2pfs.net.addresses import parse_address
from p2pfs.runtime.config import Settings

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


def test_empty_turns_it_off() -> None:
    assert not service.is_wanted(Settings(dashboard_listen=""))
    assert service.is_wanted(Settings())
