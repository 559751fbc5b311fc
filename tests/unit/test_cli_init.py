"""`p2pfs init` asks at a terminal what was not said, and nobody else; then it says what it made and what comes next."""

import socket
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from terminals import Typing

from p2pfs import exitcodes
from p2pfs.cli.main import cli
from p2pfs.cli.pool.init_questions import Wishes, addresses_in, ask, ask_kit_file
from p2pfs.errors import Invalid
from p2pfs.net import interfaces
from p2pfs.net.interfaces import Own
from p2pfs.runtime import process
from p2pfs.runtime.config import parse_setting
from p2pfs.runtime.home import NodeHome

pytestmark = pytest.mark.l0

KNOWN = ["192.0.2.7:9470", "[2001:db8::7]:9470"]


@pytest.fixture(autouse=True)
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test process stays dumpable, and every machine has the same addresses."""
    monkeypatch.setattr(process, "harden", lambda: None)
    monkeypatch.setattr(interfaces, "own_addresses", lambda: [Own("192.0.2.7", "eth0"), Own("2001:db8::7", "wlan0")])


def asked(given: Wishes, home: Path, *answers: str) -> tuple[Wishes, str]:
    found: list[Wishes] = []

    @click.command()
    def command() -> None:
        found.append(ask(given, name="server", node="anna@server", home=home))

    result = CliRunner().invoke(command, input="".join(f"{answer}\n" for answer in answers))
    assert result.exit_code == 0, result.output
    return found[0], result.output


def test_a_person_at_a_terminal_is_asked_and_told(tmp_path: Path) -> None:
    """The real command at a real terminal: a mistake is explained and asked again, Enter takes the default."""
    typing = Typing(["init"], tmp_path / "home")
    typing.answer("pool be called?", "my club")
    typing.answer("OWNER@MACHINE", "Anna")
    typing.answer("OWNER@MACHINE", "anna@server")
    typing.answer("Where does it stand", "home")
    typing.answer("HOST:PORT, the best first", "pool.invalid")
    typing.answer("Take it all the same?", "n")
    typing.answer("HOST:PORT, the best first", "club.invalid 192.0.2.9")
    typing.answer("known here for club.invalid. Take it all the same?", "y")
    typing.answer("A size;", "2G")
    typing.answer("A new file for it", str(tmp_path))
    typing.answer("A new file for it", "")
    assert typing.end() == exitcodes.OK, typing.shown
    record = NodeHome(tmp_path / "home").record()
    assert (record.name, record.zone, record.addresses) == (
        "anna@server",
        "home",
        ["club.invalid:9470", "192.0.2.9:9470"],
    )
    assert NodeHome(tmp_path / "home").settings().capacity == 2 << 30
    assert "no node name: write owner@machine" in typing.shown
    assert "Made the pool my club" in typing.shown
    after = typing.shown.partition("END")[2]
    steps = ["recovery kit", "coordinator start", "peer start", "p2pfs invite", "volume create", "p2pfs doctor"]
    assert [step for step in steps if step not in after] == []
    assert [after.index(step) for step in steps] == sorted(after.index(step) for step in steps)


def test_the_recovery_kit_goes_to_the_file_that_a_person_names(tmp_path: Path) -> None:
    kit = tmp_path / "stick" / "kit"
    kit.parent.mkdir()
    said = ["--name", "club", "--node", "anna@server", "--zone", "home", "--address", "192.0.2.9:1"]
    typing = Typing(["init", *said, "--set", "capacity=2G"], tmp_path / "home")
    typing.answer("A new file for it", str(tmp_path / "missing" / "kit"))
    typing.answer("A new file for it", "~nouser/kit")
    typing.answer("A new file for it", str(kit))
    assert typing.end() == exitcodes.OK, typing.shown
    assert "nothing can be written in" in typing.shown
    assert "home of a user that this machine does not know" in typing.shown
    assert f"the recovery kit is in {kit}" in typing.shown
    assert kit.read_text().strip() not in typing.shown.replace("\r", "")
    assert kit.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("~nouser/kit", "home of a user"),
        ("a\0b", "zero byte"),
        *((text, "write a path, or nothing") for text in ("y", "Yes", "n", "NO", "none")),
    ],
)
def test_a_path_that_cannot_be_is_explained(text: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def prompt(_: str, *, value_proc: Callable[[str], str], **__: object) -> str:
        with pytest.raises(click.UsageError, match=why):
            value_proc(text)
        return value_proc("")

    monkeypatch.setattr(click, "prompt", prompt)
    assert ask_kit_file() is None


def test_nothing_is_asked_where_all_is_said_or_defaults_are_wanted(tmp_path: Path) -> None:
    typing = Typing(["init", "--yes", "--name", "club"], tmp_path / "home")
    assert typing.end() == exitcodes.OK
    assert "?" not in typing.shown.partition("Made the pool")[0]
    assert not NodeHome(tmp_path / "home").config_path.exists()


def test_enter_takes_every_default(tmp_path: Path) -> None:
    found, shown = asked(Wishes(), tmp_path / "new", "", "", "", "2", "")
    assert (found.name, found.node, found.zone) == ("server", "anna@server", "")
    assert found.addresses == ("[2001:db8::7]:9470",)
    assert found.settings.keys() == {"capacity"}
    assert "1  192.0.2.7:9470  (eth0)" in shown


def test_what_is_said_is_not_asked(tmp_path: Path) -> None:
    given = Wishes("club", "bert@nas", "attic", ("192.0.2.9:1",), {"capacity": "5G", "replicas": "2"})
    found, shown = asked(given, tmp_path)
    assert found == given
    assert "?" not in shown


@pytest.mark.parametrize("nothing", ["0", "none"])
def test_who_offers_nothing_is_not_told_to_start_a_peer_and_offers_nothing_by_one(tmp_path: Path, nothing: str) -> None:
    found, _ = asked(Wishes("club", "bert@nas", "attic", ("192.0.2.9:1",)), tmp_path, nothing)
    assert not found.offers_disk
    assert found.settings == {"capacity": "0"}
    assert parse_setting("capacity", found.settings["capacity"]) == 0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1", ("192.0.2.7:9470",)),
        ("2, 1", ("[2001:db8::7]:9470", "192.0.2.7:9470")),
        ("pool.example.org", ("pool.example.org:9470",)),
        ("pool.example.org:1234 1 1", ("pool.example.org:1234", "192.0.2.7:9470")),
        ("[2001:db8::9]:80", ("[2001:db8::9]:80",)),
        ("2001:db8::9", ("[2001:db8::9]:9470",)),
    ],
)
def test_addresses_are_numbers_or_written_out(text: str, meant: tuple[str, ...]) -> None:
    assert addresses_in(text, KNOWN) == meant


@pytest.mark.parametrize("text", ["", "0", "3", "no spaces/here", ":9470", "a:99999"])
def test_what_cannot_be_dialled_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        addresses_in(text, KNOWN)


def test_this_machines_own_addresses_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for own in interfaces.own_addresses():
        family = socket.AF_INET6 if ":" in own.address else socket.AF_INET
        with socket.socket(family) as one:
            one.bind((own.address, 0))  # only an address of this machine can be


def test_an_address_that_is_told_and_known_to_nobody_is_noted(tmp_path: Path) -> None:
    words = ["init", "--home", str(tmp_path / "home"), "--yes", "--kit-file", str(tmp_path / "kit"), "--json"]
    result = CliRunner().invoke(cli, [*words, "--address", "club.invalid:9470", "--address", "192.0.2.9:9470"])
    assert result.exit_code == exitcodes.OK, result.output
    assert [line for line in result.stderr.splitlines() if line.startswith("note:")] == [
        "note: no address is known here for club.invalid; others must know one"
    ]


@pytest.mark.parametrize("address", ["localhost", "::1", "192.0.2.9"])
def test_an_address_without_a_port_has_the_usual_one_and_the_kit_is_shown(address: str, tmp_path: Path) -> None:
    words = ["init", "--home", str(tmp_path / "home"), "--yes", "--address", address]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == exitcodes.OK, result.output
    assert "BEGIN P2PFS RECOVERY KIT" in result.output
    (told,) = NodeHome(tmp_path / "home").record().addresses
    assert told.endswith(":9470")
