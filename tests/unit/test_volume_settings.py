"""What is indexed only by the word of who has the volume's key: a mount against its coordinator."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from plugins.checklogs import Claims

from p2pfs.format import keys
from p2pfs.format.indexing import Indexing, seal_indexing
from p2pfs.format.keys import VolumeKeys
from p2pfs.net.client import Endpoint
from p2pfs.types import NodeId, Role, VolumeId
from p2pfs.vfs.pool import Pool
from p2pfs.vfs.volume_settings import configure, vouched
from p2pfs.wire.volumes import VolumeInfo, VolumeSettings

pytestmark = pytest.mark.l0

VOLUME = VolumeId(0x42)
KEYS = VolumeKeys.derive(b"k" * keys.MASTER_BYTES)
OFF, ON = Indexing(counter=3), Indexing(True, True, 4)
REFUSED = "does not vouch"


def told(indexing: Indexing, seal: bytes | None = None) -> VolumeInfo:
    """What the coordinator says, with the seal that belongs to it or another."""
    return VolumeInfo(
        VOLUME, "photos", "anna", b"", 0, True, 0,
        index_seal=seal_indexing(KEYS, VOLUME, indexing) if seal is None else seal,
        index_names=indexing.names, index_prefixes=indexing.prefixes,
    )  # fmt: skip


class Coordinator:
    """A client of a coordinator that keeps one volume's settings."""

    def __init__(self, volume: VolumeInfo) -> None:
        self.volume = volume
        self.given: list[VolumeSettings] = []

    async def call(self, _to: Endpoint, method: str, _path: str, message: Any, *_: object, **__: object) -> Any:  # noqa: ANN401
        await trio.lowlevel.checkpoint()
        if method == "GET":
            return [self.volume]
        self.given.append(message)
        fields = {name: value for name, value in msgspec.structs.asdict(message).items() if value is not None}
        del fields["guard"]
        self.volume = msgspec.structs.replace(self.volume, **fields)
        return self.volume


async def change(home: Path, coordinator: Coordinator, settings: VolumeSettings) -> None:
    pool = Pool(coordinator, Endpoint(NodeId("a" * 32), Role.COORDINATOR, ()), 1.0)  # type: ignore[arg-type]
    await configure(home, pool, KEYS, VOLUME, settings)


def test_what_the_key_vouches_for_is_indexed(tmp_path: Path) -> None:
    assert vouched(tmp_path, KEYS, told(OFF)) == OFF
    assert vouched(tmp_path, KEYS, told(ON)) == ON
    assert vouched(tmp_path, KEYS, told(ON)) == ON


@pytest.mark.parametrize(
    "seal",
    [
        b"",
        b"x" * 40,
        seal_indexing(KEYS, VOLUME, Indexing(False, False, 4)),
        seal_indexing(KEYS, VOLUME, Indexing(True, False, 4)),
        seal_indexing(KEYS, VolumeId(0x43), ON),
        seal_indexing(VolumeKeys.derive(b"o" * keys.MASTER_BYTES), VOLUME, ON),
        (5).to_bytes(8, "big") + seal_indexing(KEYS, VOLUME, ON)[8:],
        seal_indexing(KEYS, VOLUME, ON) + b"\0",
    ],
    ids=["none", "made up", "of off", "of half", "another volume's", "another key's", "counted up", "longer"],
)
def test_nobody_without_the_key_turns_it_on(tmp_path: Path, seal: bytes, claim_logs: Claims) -> None:
    claim_logs(REFUSED, count=1)
    assert vouched(tmp_path, KEYS, told(ON, seal)) == Indexing()
    assert vouched(tmp_path, KEYS, told(OFF)) == OFF  # and nothing of that was remembered


def test_what_was_turned_off_is_not_brought_back(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs(REFUSED, count=2)
    off = Indexing(counter=5)
    assert vouched(tmp_path, KEYS, told(ON)) == ON
    assert vouched(tmp_path, KEYS, told(off)) == off
    assert vouched(tmp_path, KEYS, told(ON)) == Indexing(counter=5)
    rival = Indexing(True, False, 5)  # sealed by a machine that did not know of the other
    assert vouched(tmp_path, KEYS, told(rival)) == Indexing(counter=5)


def test_a_volume_of_an_earlier_version_indexes_nothing_and_complains_of_nothing(tmp_path: Path) -> None:
    assert vouched(tmp_path, KEYS, told(Indexing(), b"")) == Indexing()


async def test_who_has_the_key_seals_anew_and_counts_on(tmp_path: Path) -> None:
    coordinator = Coordinator(told(OFF))
    await change(tmp_path, coordinator, VolumeSettings(index_prefixes=True))
    assert vouched(tmp_path, KEYS, coordinator.volume) == Indexing(False, True, 4)
    await change(tmp_path, coordinator, VolumeSettings(index_names=True, trash_removed_s=1.0))
    assert vouched(tmp_path, KEYS, coordinator.volume) == Indexing(True, True, 5)
    assert {settings.guard for settings in coordinator.given} == {KEYS.guard}
    assert KEYS.guard.hex() not in repr(coordinator.given)
    assert repr(KEYS.guard) not in repr(coordinator.given)


async def test_who_turns_it_off_believes_no_older_on_from_then(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs(REFUSED, count=1)
    coordinator = Coordinator(told(ON))
    await change(tmp_path, coordinator, VolumeSettings(index_names=False, index_prefixes=False))
    assert vouched(tmp_path, KEYS, told(ON)) == Indexing(counter=5)  # never mounted in between


async def test_changing_one_setting_vouches_for_no_other(tmp_path: Path, claim_logs: Claims) -> None:
    claim_logs(REFUSED, count=1)
    coordinator = Coordinator(told(ON, b""))  # it says so; nobody with the key did
    await change(tmp_path, coordinator, VolumeSettings(index_prefixes=True))
    assert vouched(tmp_path, KEYS, coordinator.volume) == Indexing(False, True, 1)


async def test_other_settings_leave_the_seal_as_it_is(tmp_path: Path) -> None:
    coordinator = Coordinator(told(ON))
    await change(tmp_path, coordinator, VolumeSettings(trash_removed_s=0.0))
    assert coordinator.given == [VolumeSettings(trash_removed_s=0.0, guard=KEYS.guard)]
    assert vouched(tmp_path, KEYS, coordinator.volume) == ON
