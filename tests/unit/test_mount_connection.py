"""The kernel's end of a mount: when a notification counts as stuck, and whose mount is taken away at the end."""

import math
import subprocess
from pathlib import Path

import pytest
from plugins.checklogs import Claims

from p2pfs.runtime import mounts
from p2pfs_mount import life
from p2pfs_mount.connection import Connection
from p2pfs_mount.main import stuck_after_s
from p2pfs_mount.pending import Pending

pytestmark = pytest.mark.l0

POINT = Path("/somewhere")


class Kernel:
    """What is mounted, by device number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device: int | None = 7
        self.detached: list[Path] = []
        self.error: Exception | None = None
        monkeypatch.setattr(mounts, "device", lambda path: self.device)
        monkeypatch.setattr(life, "detach", self.detach)

    def detach(self, path: Path) -> None:
        if self.error:
            raise self.error
        self.detached.append(path)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_a_notification_may_take_longer_than_any_handler() -> None:
    assert stuck_after_s(Pending(300.0)) > 300.0
    assert stuck_after_s(Pending(math.inf)) == math.inf


def test_our_mount_is_taken_away_if_it_is_still_there(kernel: Kernel) -> None:
    Connection(POINT).detach()
    assert kernel.detached == [POINT]


@pytest.mark.parametrize("there", [None, 8])
def test_no_other_mount_is_taken_away(there: int | None, kernel: Kernel) -> None:
    connection = Connection(POINT)
    kernel.device = there
    connection.detach()
    assert kernel.detached == []


def test_a_later_mount_that_got_our_number_is_left_alone(kernel: Kernel) -> None:
    connection = Connection(POINT)
    kernel.device = None
    connection.detach()
    kernel.device = 7
    connection.detach()
    assert kernel.detached == []


def test_what_was_never_mounted_is_not_taken_away(kernel: Kernel) -> None:
    kernel.device = None
    Connection(POINT).detach()
    assert kernel.detached == []


def test_a_mount_that_cannot_be_taken_away_does_not_keep_us_from_storing(kernel: Kernel, claim_logs: Claims) -> None:
    kernel.error = subprocess.TimeoutExpired("fusermount3", 20)
    claim_logs("stays mounted", count=1)
    Connection(POINT).detach()
