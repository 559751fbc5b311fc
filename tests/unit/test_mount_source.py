"""What a coordinator calls a volume, where a mount hands it to the kernel."""

from typing import Any

import pytest
import trio

from p2pfs.errors import Corrupt
from p2pfs.net.client import Endpoint
from p2pfs.types import NodeId, Role
from p2pfs.vfs.pool import Pool
from p2pfs.wire.volumes import VolumeInfo, is_name
from p2pfs_mount.options import source

pytestmark = pytest.mark.l0

HOSTILE = ["photos,dev,suid", "photos\\,dev", "a\nb", "../x", "", "x=y", "x" * 65, "photos\0"]


def volume(name: str) -> VolumeInfo:
    return VolumeInfo(0x42, name, "anna", b"", 0, True, 0)


@pytest.mark.parametrize("name", ["photos", "My photos 2.0", "c++17", "a_b-c"])
def test_a_plain_name_is_what_the_mount_table_shows(name: str) -> None:
    assert is_name(name)
    assert source(volume(name)) == name


@pytest.mark.parametrize("name", ["Bücher", "写真", *HOSTILE])
def test_what_mount_options_cannot_hold_is_shown_by_its_number(name: str) -> None:
    assert source(volume(name)) == "0000000000000042"


class Coordinator:
    """A client of a coordinator that has one volume."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def call(self, *_: object, **__: object) -> Any:  # noqa: ANN401
        await trio.lowlevel.checkpoint()
        return [volume(self.name)]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_name_that_no_volume_can_have_is_refused(name: str) -> None:
    pool = Pool(Coordinator(name), Endpoint(NodeId("a" * 32), Role.COORDINATOR, ()), 1.0)  # type: ignore[arg-type]
    for asked in (name, "0000000000000042"):
        with pytest.raises(Corrupt):
            await pool.volume(asked)


async def test_a_name_in_any_letters_can_be_mounted() -> None:
    pool = Pool(Coordinator("Bücher"), Endpoint(NodeId("a" * 32), Role.COORDINATOR, ()), 1.0)  # type: ignore[arg-type]
    assert (await pool.volume("Bücher")).volume == 0x42
