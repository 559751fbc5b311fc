"""What was accepted under a name is what is mounted under it, whatever the coordinator calls things."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pfs.errors import Corrupt
from p2pfs.format import sharing
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.sharing import Identity
from p2pfs.runtime.home import NodeHome
from p2pfs.types import VolumeId, volume_name
from p2pfs.vfs import shared_keys
from p2pfs.vfs.pool import pin
from p2pfs.wire.volumes import VolumeInfo, VolumeSlots

pytestmark = pytest.mark.l0

ANNA = Identity(b"\1" * 32)
PHOTOS, LETTERS = VolumeId(1), VolumeId(2)


def _master(volume: int) -> bytes:
    return bytes([volume]) * 32


def _info(volume: VolumeId, name: str) -> VolumeInfo:
    check = VolumeKeys.derive(_master(volume)).check
    return VolumeInfo(volume, name, "anna", check, 0, True, 0, access="rw")


class Coordinator:
    """As `attach.Pool` and its client: gives the slot of each volume."""

    coordinator = None
    io_timeout_s = 1.0

    def __init__(self, home: NodeHome) -> None:
        self.client = self
        self._bob = shared_keys.load_or_make_identity(home).public

    async def call(self, _endpoint: object, _method: str, path: str, *_words: object, **_more: object) -> VolumeSlots:
        await trio.lowlevel.checkpoint()
        volume = next(one for one in (PHOTOS, LETTERS) if volume_name(one) in path)
        return VolumeSlots([sharing.wrap_for(self._bob, _master(volume), volume, ANNA, read_only=False)])


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path)
    for info in (_info(PHOTOS, "photos"), _info(LETTERS, "letters")):
        _accept(made, info)
    return made


def _accept(home: NodeHome, info: VolumeInfo) -> None:
    volume = VolumeId(info.volume)
    shared_keys.pin_signer(home.path, volume, ANNA.public.fingerprint)
    pin(home.path, volume, info.check)
    shared_keys.pin_name(home.path, info)


@pytest.fixture
def opened(home: NodeHome) -> Callable[[VolumeInfo], Any]:
    pool: Any = Coordinator(home)
    return lambda info: shared_keys.shared_keys(home, pool, info, read_only=False)


async def test_two_volumes_of_one_signer_are_not_swapped(opened: Callable[[VolumeInfo], Any]) -> None:
    assert (await opened(_info(PHOTOS, "photos"))).check == _info(PHOTOS, "photos").check
    for swapped in (_info(PHOTOS, "letters"), _info(LETTERS, "photos")):
        with pytest.raises(Corrupt, match="accept it again"):
            await opened(swapped)


async def test_one_that_its_owner_renamed_is_still_it(opened: Callable[[VolumeInfo], Any], home: NodeHome) -> None:
    assert await opened(_info(PHOTOS, "pictures"))
    letters = _info(LETTERS, "photos")  # the name is free again
    with pytest.raises(Corrupt):
        await opened(letters)
    _accept(home, letters)
    assert await opened(letters)
    with pytest.raises(Corrupt):
        await opened(_info(PHOTOS, "photos"))
    assert await opened(_info(PHOTOS, "pictures"))


async def test_what_an_earlier_version_accepted_needs_no_name(
    opened: Callable[[VolumeInfo], Any], home: NodeHome
) -> None:
    for path in (home.path / "volumes").glob("*.name"):
        path.unlink()
    assert await opened(_info(PHOTOS, "photos"))
    assert await opened(msgspec.structs.replace(_info(LETTERS, "letters"), owner="bob"))
