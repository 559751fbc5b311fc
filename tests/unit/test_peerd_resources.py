"""What a peer says of its machine."""

from pathlib import Path

import pytest

from p2pfs_peerd.resources import resources

pytestmark = pytest.mark.l0


def test_a_directory_that_was_just_deleted_is_on_the_disk_it_was_on(tmp_path: Path) -> None:
    """A heartbeat that comes while somebody deletes the store must not end the daemon."""
    assert resources(tmp_path / "chunks" / "gone").disk_total == resources(tmp_path).disk_total > 0
