"""What an earlier mount has left, where one that may not write finds it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from p2pfs.types import VolumeId, volume_name
from p2pfs.vfs.journal.recovery import _locked, warn_of_left
from p2pfs.vfs.journal.segments import SUFFIX

pytestmark = pytest.mark.l0

VOLUME = VolumeId(7)


def test_a_mount_that_may_not_write_says_what_it_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, claim_logs: Callable[..., None]
) -> None:
    claim_logs("without ro", count=1)
    caplog.set_level("INFO")
    warn_of_left(tmp_path, VOLUME)
    directory = tmp_path / "journal" / volume_name(VOLUME)
    assert not directory.exists()
    directory.mkdir(parents=True)
    warn_of_left(tmp_path, VOLUME)
    (directory / f"1{SUFFIX}").touch()
    with _locked(directory):  # by a mount that is at work
        warn_of_left(tmp_path, VOLUME)
    assert caplog.messages == []
    warn_of_left(tmp_path, VOLUME)
    assert ["without ro" in message for message in caplog.messages] == [True]
