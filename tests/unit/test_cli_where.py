"""`p2pfs where`: from a path to the nodes that hold it, and settings kept in a home."""

import json
import os
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pfs import exitcodes
from p2pfs.cli import asking, connect, main
from p2pfs.cli.health import fsck
from p2pfs.errors import Invalid
from p2pfs.runtime import mounts
from p2pfs.runtime.config_file import write_settings
from p2pfs.runtime.home import NodeHome
from p2pfs.types import MIB
from p2pfs.wire.membership import PeerInfo, PoolMap
from p2pfs.wire.namespace import Attributes, ChunkPlace, ExtentPage, ExtentRow, ReadExtents
from p2pfs.wire.volumes import VolumeInfo

pytestmark = pytest.mark.l0

A, B = b"a" * 32, b"b" * 32


def _peer(number: int, name: str, state: str) -> PeerInfo:
    return PeerInfo(number, f"{number}" * 32, name, "anna", "", [], 1, 1, state)


class FakeCoordinator:
    """Knows one volume and one file of 300 MiB, or an inline one."""

    def __init__(self, *, inline: bytes | None = None) -> None:
        self.inline = inline
        self.asked: list[ReadExtents] = []

    async def call(self, _method: str, path: str, _message: object, _kind: object) -> Any:  # noqa: ANN401
        await trio.lowlevel.checkpoint()
        if path == "/volumes":
            return [VolumeInfo(0x42, "photos", "anna", b"", 0, True, 0)]
        peers = [_peer(1, "anna@nas", "up"), _peer(2, "bob@nas", "down")]
        return PoolMap("a" * 32, 1, 1, 2, 2, peers)

    async def ask(self, volume: int, question: ReadExtents, _kind: object) -> ExtentPage:
        await trio.lowlevel.checkpoint()
        assert volume == 0x42
        self.asked.append(question)
        attributes = Attributes(
            question.inode, 1, 0o644, 0, 0, 0, 1, 300 * MIB, 1, 1, 0, 0, 0, b"", self.inline
        )  # fmt: skip
        if self.inline is not None or question.range:
            return ExtentPage(attributes, [], [])
        rows = [ExtentRow(1, 5, B, b""), ExtentRow(0, 1, A, b""), ExtentRow(0, 2, A, b""), ExtentRow(2, 3, None, b"")]
        return ExtentPage(attributes, rows, [ChunkPlace(A, 1000, [1, 2]), ChunkPlace(B, 2000, [2, 9])])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 300 MiB in what is registered as a mount."""
    root = Path(os.path.realpath(tmp_path)) / "mnt"
    root.mkdir()
    record = mounts.MountRecord(os.getpid(), str(tmp_path / "home"), "", str(root), "photos")
    monkeypatch.setattr(mounts, "find", lambda path: record if path == root else None)
    path = root / "file"
    path.touch()
    os.truncate(path, 300 * MIB)
    return path


def _answering(monkeypatch: pytest.MonkeyPatch, coordinator: FakeCoordinator) -> None:
    def converse(home: NodeHome, talk: Callable[[FakeCoordinator], Awaitable[Any]]) -> Any:  # noqa: ANN401
        assert home.path.name == "home"  # that of the mount, whatever P2PFS_HOME says
        return trio.run(talk, coordinator)

    monkeypatch.setattr(connect, "converse", converse)


def test_each_chunk_is_shown_with_its_holders(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator = FakeCoordinator()
    _answering(monkeypatch, coordinator)
    assert main.run(["where", "--json", str(file)]) == exitcodes.OK
    found = json.loads(capsys.readouterr().out)
    assert found["inode"] == file.stat().st_ino
    assert found["nodes"] == ["?", "anna@nas", "bob@nas"]
    assert [(chunk["index"], chunk["chunk"], chunk["size"]) for chunk in found["chunks"]] == [
        (0, A.hex(), 1000),
        (1, B.hex(), 2000),
    ]
    assert [peer["name"] for peer in found["chunks"][0]["peers"]] == ["anna@nas", "bob@nas"]
    assert [question.range for question in coordinator.asked] == [0, 1]  # 300 MiB are two ranges


def test_a_person_sees_who_is_down(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _answering(monkeypatch, FakeCoordinator())
    assert main.run(["where", str(file)]) == exitcodes.OK
    assert "anna@nas, bob@nas (down)" in capsys.readouterr().out


def test_a_small_file_is_in_the_metadata(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _answering(monkeypatch, FakeCoordinator(inline=b"sealed"))
    assert main.run(["where", str(file)]) == exitcodes.OK
    assert "metadata" in capsys.readouterr().out


def test_what_is_not_in_a_mount_or_no_file_is_told(file: Path, tmp_path: Path) -> None:
    assert main.run(["where", str(file.parent / "missing")]) == exitcodes.NOT_FOUND
    assert main.run(["where", str(tmp_path)]) == exitcodes.NOT_MOUNTED
    assert main.run(["where", str(file.parent)]) == exitcodes.USAGE


def test_settings_are_kept_and_replaced_in_the_home(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    write_settings(home, {})
    assert not home.config_path.exists()
    home.config_path.write_text('# mine\ncapacity = "1G"\nio_timeout = 5\n')
    write_settings(home, {"capacity": "2G", "advertise": 'a "quoted" ⚡ name'})
    assert "# mine" in home.config_path.read_text()
    assert tomllib.loads(home.config_path.read_text()) == {
        "io_timeout": 5,
        "capacity": "2G",
        "advertise": 'a "quoted" ⚡ name',
    }
    assert home.settings().capacity == 2 << 30


@pytest.mark.parametrize("settings", [{"unheard_of": "1"}, {"capacity": "lots"}])
def test_a_setting_that_cannot_be_meant_is_not_kept(tmp_path: Path, settings: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        write_settings(NodeHome(tmp_path), settings)
    assert list(tmp_path.iterdir()) == []


def test_the_volume_is_asked_for_by_its_number_whatever_it_was_called_when_it_was_mounted(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was renamed since, and the name given to another; or it is shared, and an own one has that name."""
    before = mounts.find(file.parent)
    assert before is not None
    record = msgspec.structs.replace(before, volume="films", volume_id=f"{0x42:016x}")
    monkeypatch.setattr(mounts, "find", lambda path: record if path == file.parent else None)
    _answering(monkeypatch, FakeCoordinator())
    assert main.run(["where", "--json", str(file)]) == exitcodes.OK
    assert json.loads(capsys.readouterr().out)["volume"] == "photos"


def test_fsck_takes_the_volume_that_is_mounted_not_one_of_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mounts.find(file.parent)
    assert before is not None
    assert fsck._meant(str(file), NodeHome(Path(before.home)))[1] == "photos"  # of an earlier version
    record = msgspec.structs.replace(before, volume_id=f"{0x42:016x}")
    monkeypatch.setattr(mounts, "find", lambda path: record if path == file.parent else None)
    assert fsck._meant(str(file), NodeHome(Path(record.home)))[:3] == ("photos", f"{0x42:016x}", b"file")


def test_settings_go_through_the_mount_of_the_volume_whatever_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    meant = VolumeInfo(0x42, "words", "anna", b"", 0, True, 0)
    other = mounts.MountRecord(os.getpid(), "/home", "", "/other", "words", "", f"{0x41:016x}")
    renamed = mounts.MountRecord(os.getpid(), "/home", "", "/mnt", "notes", "", f"{0x42:016x}")
    monkeypatch.setattr(mounts, "known", lambda: [other, renamed])
    found = asking.holding(Path("/home"), meant)
    assert found is not None
    assert found.record == renamed
