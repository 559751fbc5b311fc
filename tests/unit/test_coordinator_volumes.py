"""Settings of a volume at the coordinator: for who has the key, and only what can be meant."""

from pathlib import Path

import msgspec
import pytest
from coordination import pool, volume_message

from p2pfs.coordinator import volumes
from p2pfs.errors import Denied, Invalid, NotFound
from p2pfs.format.indexing import SEAL_BYTES
from p2pfs.format.keys import guard_hash
from p2pfs.types import VolumeId
from p2pfs.wire.volumes import VolumeSettings, is_name

pytestmark = pytest.mark.l1

VOLUME = VolumeId(7)
GUARD, SEAL = b"g" * 32, b"s" * SEAL_BYTES


async def test_settings_take_the_key_of_their_volume(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        message = msgspec.structs.replace(volume_message(VOLUME, trash_s=60.0), slot_guard=guard_hash(GUARD))
        made = await p.services.volumes.create(p.identity(), message)
        for guard in (b"", b"x" * 32, GUARD[:-1], guard_hash(GUARD)):
            with pytest.raises(Denied):
                await p.services.volumes.configure(VOLUME, VolumeSettings(trash_removed_s=0.0, guard=guard))
        assert p.services.volumes.visible(p.identity()) == [made]
        changed = await p.services.volumes.configure(VOLUME, VolumeSettings(trash_removed_s=0.0, guard=GUARD))
        assert changed.trash_removed_s == 0.0
        with pytest.raises(NotFound):
            await p.services.volumes.configure(VolumeId(8), VolumeSettings(guard=GUARD))


async def test_of_a_volume_of_an_earlier_version_the_first_with_a_key_is_believed(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await p.services.volumes.create(p.identity(), volume_message(VOLUME))
        with pytest.raises(Denied):
            await p.services.volumes.configure(VOLUME, VolumeSettings(distribution="relay"))  # an earlier version asks
        await p.services.volumes.configure(VOLUME, VolumeSettings(distribution="relay", guard=GUARD))
        with pytest.raises(Denied):
            await p.services.volumes.configure(VOLUME, VolumeSettings(distribution="swarm", guard=b"x" * 32))


@pytest.mark.parametrize(
    "settings",
    [
        VolumeSettings(index_names=True, guard=GUARD),
        VolumeSettings(index_names=True, index_prefixes=True, guard=GUARD),
        VolumeSettings(index_seal=SEAL, guard=GUARD),
        VolumeSettings(index_names=True, index_prefixes=True, index_seal=b"", guard=GUARD),
        VolumeSettings(index_names=True, index_prefixes=True, index_seal=SEAL + b"s", guard=GUARD),
    ],
)
async def test_what_is_indexed_comes_with_its_seal(tmp_path: Path, settings: VolumeSettings) -> None:
    async with pool(tmp_path) as p:
        made = await p.services.volumes.create(p.identity(), volume_message(VOLUME))
        with pytest.raises(Invalid):
            await p.services.volumes.configure(VOLUME, settings)
        assert p.services.volumes.visible(p.identity()) == [made]
        whole = VolumeSettings(index_names=True, index_prefixes=False, index_seal=SEAL, guard=GUARD)
        changed = await p.services.volumes.configure(VOLUME, whole)
        assert (changed.index_names, changed.index_prefixes, changed.index_seal) == (True, False, SEAL)


@pytest.mark.parametrize("name", ["photos", "2026-11_a.b", "Bücher", "x" * 64])
async def test_a_volume_gets_a_name_that_can_be_typed(tmp_path: Path, name: str) -> None:
    async with pool(tmp_path) as p:
        await p.services.volumes.create(p.identity(), msgspec.structs.replace(volume_message(VOLUME), name=name))
        changed = await p.services.volumes.configure(VOLUME, VolumeSettings(name=name[1:], guard=GUARD))
        assert changed.name == name[1:]


@pytest.mark.parametrize("name", ["a b", "a/b", "c++", "-a", "a-", "_a", ".", "", "a'b", "$(a)", "x" * 65])
async def test_no_volume_gets_a_name_that_breaks_the_rule(tmp_path: Path, name: str) -> None:
    async with pool(tmp_path) as p:
        with pytest.raises(Invalid, match="letters, digits, dots, dashes and underscores"):
            await p.services.volumes.create(p.identity(), msgspec.structs.replace(volume_message(VOLUME), name=name))
        await p.services.volumes.create(p.identity(), volume_message(VOLUME))
        with pytest.raises(Invalid):
            await p.services.volumes.configure(VOLUME, VolumeSettings(name=name, guard=GUARD))


async def test_a_volume_that_an_earlier_version_named_goes_on_to_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as p:
        with monkeypatch.context() as earlier:
            earlier.setattr(volumes, "check_name", lambda _name: None)
            await p.services.volumes.create(p.identity(), msgspec.structs.replace(volume_message(VOLUME), name="a b"))
        changed = await p.services.volumes.configure(VOLUME, VolumeSettings(trash_removed_s=0.0, guard=GUARD))
        assert changed.name == "a b"
        assert is_name("a b")
        assert (await p.services.volumes.configure(VOLUME, VolumeSettings(name="a-b", guard=GUARD))).name == "a-b"
