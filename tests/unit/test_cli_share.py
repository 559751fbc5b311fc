"""`p2pfs share`: what is written where no peer runs, what a running one is asked, and what is shown."""

import contextlib
import json
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from peer_processes import lone_peer

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.pool import peer
from p2pfs.cli.pool.share import command
from p2pfs.runtime import mounts
from p2pfs.types import GIB, Role

pytestmark = pytest.mark.l0

STORAGE = {"kind": "storage", "unit": "bytes", "offered": 2 * GIB, "used": GIB, "rule": "2 GiB"}
UPLOAD = {"kind": "upload", "unit": "bytes/s", "offered": 2_500_000, "used": 125_000, "rule": "20Mbit"}
DOWNLOAD = {"kind": "download", "unit": "bytes/s", "offered": None, "used": 0, "rule": "none"}
STATE = {"offers": [STORAGE, UPLOAD, DOWNLOAD], "wished": 2 * GIB, "granted": 2 * GIB}


@contextlib.contextmanager
def daemon(home: Path, answer: dict[str, Any] | None) -> Iterator[list[Any]]:
    """Answers one question on the socket of this home's peer; None: hangs up. Yields what it was asked."""
    listener = mounts.listen(home / "run" / "peer.sock")
    asked: list[Any] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            asked.append(json.loads(lines.readline()))
            if answer is not None:
                connection.sendall(json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        thread.join(20)
        listener.close()


def share(home: Path, *arguments: str) -> int:
    return main.run(["share", *arguments, "--home", str(home)])


def test_a_running_peer_is_told_and_what_it_says_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = lone_peer(tmp_path)
    with daemon(home, STATE) as asked:
        assert share(home, "storage=2G", "upload=20Mbit") == exitcodes.OK
    assert asked == [{"op": "share", "set": {"storage": "2G", "upload": "20Mbit"}}]
    assert not (home / "config.toml").exists()  # that is the daemon's, which has a user of its own
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][:7] == ["storage", "2", "GiB", "2", "GiB", "1", "GiB"]
    assert lines[2][:6] == ["upload", "20Mbit", "20", "Mbit/s", "1", "Mbit/s"]
    assert lines[3][:4] == ["download", "none", "no", "limit"]
    assert lines[4][:2] == ["compute", "off"]


def test_it_says_what_the_invite_allows_and_what_becomes_of_a_surplus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = lone_peer(tmp_path)
    with daemon(home, STATE | {"wished": 8 * GIB}):
        assert share(home) == exitcodes.OK
    assert "The pool takes at most 2 GiB of it" in capsys.readouterr().out
    with daemon(home, STATE | {"offers": [STORAGE | {"used": 3 * GIB}, UPLOAD, DOWNLOAD]}):
        assert share(home) == exitcodes.OK
    assert "It holds 1 GiB more than it offers. Nothing of that is deleted" in capsys.readouterr().out


def test_it_says_what_does_not_last_and_what_the_disk_has_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = lone_peer(tmp_path)
    with daemon(home, STATE | {"passing": ["storage"]}):
        assert share(home, "storage=2G", "--json") == exitcodes.OK
    assert json.loads(capsys.readouterr().out)["passing"] == ["storage"]
    for words, is_told in ((["storage=2G"], True), (["upload=none"], False), ([], False)):
        with daemon(home, STATE | {"passing": ["storage"]}):
            assert share(home, *words) == exitcodes.OK
        assert ("was started with --set capacity=…" in capsys.readouterr().out) == is_told
    assert share(home, "storage=1000000T") == exitcodes.OK
    assert f"The disk with {home} has" in capsys.readouterr().out


def test_without_a_running_peer_the_rules_are_kept_for_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = lone_peer(tmp_path)
    assert share(home, "storage=200G", "upload=20Mbit@08:00-18:00") == exitcodes.OK
    assert tomllib.loads((home / "config.toml").read_text()) == {"capacity": "200G", "upload": "20Mbit@08:00-18:00"}
    assert "does not run: this counts from its next start" in capsys.readouterr().out
    assert share(home, "--json") == exitcodes.OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["running"] is False
    assert {one["kind"]: one["rule"] for one in shown["offers"]} == {
        "storage": "200 GiB",
        "upload": "20Mbit@08:00-18:00",
        "download": "none",
        "compute": "off",
    }


@pytest.mark.parametrize(
    "arguments",
    [["storage"], ["storage="], ["upload=fast"], ["memory=4G"], ["compute=4"], ["upload=1Mbit", "upload=2Mbit"]],
)
def test_nonsense_changes_nothing(arguments: list[str], tmp_path: Path) -> None:
    home = lone_peer(tmp_path)
    assert share(home, "storage=1G", *arguments) == exitcodes.USAGE
    assert not (home / "config.toml").exists()


@pytest.mark.parametrize("words", ["200", "200B", "63M", "1.5"])
def test_storage_that_nobody_means_is_refused(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = lone_peer(tmp_path)
    assert share(home, f"storage={words}") == exitcodes.USAGE
    assert not (home / "config.toml").exists()
    assert share(home, "storage=0") == share(home, "storage=64M") == share(home, "storage=AUTO") == exitcodes.OK


def test_what_the_daemon_refuses_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = lone_peer(tmp_path)
    with daemon(home, {"error": "the disk is full"}):
        assert share(home, "storage=1G") == exitcodes.FAILED
    assert "the peer refuses: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["share"], ["peer", "trash", "empty", "--yes"]])
def test_a_daemon_that_hangs_up_is_not_taken_for_one_of_another_version(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = lone_peer(tmp_path)
    with daemon(home, None):
        assert main.run([*words, "--home", str(home)]) == exitcodes.UNREACHABLE
    assert "it hung up" in capsys.readouterr().err


def test_who_is_no_peer_has_nothing_to_offer(tmp_path: Path) -> None:
    assert share(lone_peer(tmp_path, Role.CLIENT)) == exitcodes.DENIED


def test_kinds_are_completed() -> None:
    context = click.Context(command)
    (offers,) = (one for one in command.params if one.name == "offers")
    assert [item.value for item in offers.shell_complete(context, "")] == ["storage=", "upload=", "download="]
    assert [item.value for item in offers.shell_complete(context, "up")] == ["upload="]
    (overrides,) = (one for one in peer.start.params if one.name == "overrides")
    assert [item.value for item in overrides.shell_complete(context, "upl")] == ["upload="]
