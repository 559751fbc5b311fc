"""Recovery kits at the command line: shown once, kept nowhere, read from files and standard input only."""

import base64
import io
import os
import sys
from pathlib import Path

import pytest
from root_hands import as_root

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.pool.kits import read_kit
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.errors import UserError
from p2pfs.format.kits import Kit, decode_kit, encode_kit
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome

pytestmark = pytest.mark.l0


@pytest.fixture(autouse=True)
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test process stays dumpable."""
    monkeypatch.setattr(process, "harden", lambda: None)


def made(home: Path, *options: str) -> int:
    return main.run(["init", "--home", str(home), "--set", "listen=127.0.0.1:0", *options])


def spellings(kit: Kit) -> list[bytes]:
    return [kit.secret, kit.secret.hex().encode(), base64.b64encode(kit.secret)[:40]]


def test_init_shows_the_kit_and_keeps_nothing_of_its_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(tmp_path / "home") == exitcodes.OK
    kit = decode_kit(capsys.readouterr().out)
    record = NodeHome(tmp_path / "home").record()
    assert (kit.pool, kit.coordinator) == (record.pool, record.node)
    for path in (tmp_path / "home").rglob("*"):
        if path.is_file():
            assert not [one for one in spellings(kit) if one in path.read_bytes()], path
    recovery = CoordinatorFiles(NodeHome(tmp_path / "home")).load_recovery()
    assert recovery is not None
    assert recovery.key.public_bytes_raw() == kit.box_key.public_key().public_bytes_raw()


def test_root_makes_a_new_kit_for_a_coordinator_with_a_user_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of it belongs to that user, who could not start otherwise; the kit stays root's."""
    home = tmp_path / "home"
    assert made(home) == exitcodes.OK
    given = as_root(monkeypatch, owner=54321)
    words = ["coordinator", "kit", "--yes", "--home", str(home), "--kit-file", str(tmp_path / "kit")]
    assert main.run(words) == exitcodes.OK
    (lock, *_), (recovery, *owner) = given
    assert lock == ".coordinator.lock"
    assert recovery.startswith(".recovery.json.")
    assert owner == [os.getuid(), os.getgid()]


def test_init_writes_the_kit_to_a_new_private_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kit"
    assert made(tmp_path / "home", "--kit-file", str(file), "--json") == exitcodes.OK
    assert "RECOVERY KIT" not in capsys.readouterr().out
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    assert made(tmp_path / "second", "--kit-file", str(file)) == exitcodes.EXISTS  # another pool's only kit
    assert file.read_text() == before
    assert not (tmp_path / "second").exists()
    assert made(tmp_path / "third", "--json") == exitcodes.USAGE
    assert made(tmp_path / "fourth", "--kit-file", str(tmp_path / "none" / "kit")) != exitcodes.OK
    assert not NodeHome(tmp_path / "fourth").exists()


def test_a_new_kit_takes_the_old_ones_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "home")
    old = decode_kit(capsys.readouterr().out)
    assert main.run(["coordinator", "kit", "--yes", "--home", str(tmp_path / "home")]) == exitcodes.OK
    new = decode_kit(capsys.readouterr().out)
    assert (new.pool, new.verify_key, new.ca_key) == (old.pool, old.verify_key, old.ca_key)
    assert new.secret != old.secret
    with NodeHome(tmp_path / "home").lock("coordinator"):
        assert main.run(["coordinator", "kit", "--yes", "--home", str(tmp_path / "home")]) == exitcodes.BUSY


def test_a_kit_is_read_from_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "home")
    text = capsys.readouterr().out
    (tmp_path / "kit").write_text(text)
    assert encode_kit(read_kit(str(tmp_path / "kit"))) in text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert encode_kit(read_kit("-")) in text
    for wrong in (str(tmp_path / "none"), str(tmp_path / "home" / "node.json")):
        with pytest.raises(UserError) as caught:
            read_kit(wrong)
        assert caught.value.exit_code == exitcodes.USAGE


def test_a_restore_that_finds_nobody_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "home", "--kit-file", str(tmp_path / "kit"))
    arguments = ["coordinator", "restore", "--home", str(tmp_path / "new"), "--kit", str(tmp_path / "kit")]
    assert main.run([*arguments, "--peer", "127.0.0.1:1"]) == exitcodes.UNREACHABLE
    assert "no peer" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    arguments[3] = str(tmp_path / "home")
    assert main.run([*arguments, "--peer", "127.0.0.1:1"]) == exitcodes.ALREADY_INITIALISED
