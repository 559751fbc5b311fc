"""`p2pfs join`: how an invite is read, what its failures mean, and that they leave nothing behind."""

import contextlib
import io
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from pki import issue, make_ca

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.pool import join
from p2pfs.errors import Denied, Exists, Misuse, PoolError, Unavailable, UserError
from p2pfs.format.invites import Invite, encode_invite
from p2pfs.net import enrolment, lan
from p2pfs.runtime.home import NodeHome
from p2pfs.types import NodeId, PoolId, Role
from p2pfs.wire.membership import JoinAnswer

pytestmark = pytest.mark.l0

INVITE = Invite(PoolId("a" * 32), ("192.0.2.1:9470",), b"\2" + b"k" * 32, NodeId("c" * 32), b"s" * 16, 1_900_000_000)
TEXT = encode_invite(INVITE)


@pytest.fixture
def enrolled(tmp_path: Path) -> enrolment.Enrolled:
    issued = issue(make_ca(tmp_path), roles=(Role.CLIENT, Role.PEER))
    answer = JoinAnswer(
        INVITE.pool, "d" * 32, "anna@laptop", "anna", "home", ["client", "peer"], issued.der, b"", INVITE.coordinator, 7
    )
    return enrolment.Enrolled(answer, b"ca", b"certificate", b"key")


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome(tmp_path / "home")


def _joining(monkeypatch: pytest.MonkeyPatch, outcome: enrolment.Enrolled | PoolError) -> list[Invite]:
    used: list[Invite] = []

    async def enrol(invite: Invite, _elsewhere: object = None) -> enrolment.Enrolled:
        await trio.lowlevel.checkpoint()
        used.append(invite)
        if isinstance(outcome, PoolError):
            raise outcome
        return outcome

    monkeypatch.setattr(enrolment, "join", enrol)
    return used


def test_a_joined_node_knows_all_it_needs(
    home: NodeHome, enrolled: enrolment.Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joining(monkeypatch, enrolled)
    join.enter(home, INVITE, {"capacity": "200G"})
    record = home.record()
    assert (record.pool, record.coordinator) == (INVITE.pool, INVITE.coordinator)
    assert record.addresses == ["192.0.2.1:9470"]
    assert (record.name, record.zone, record.roles, record.peer) == ("anna@laptop", "home", ["client", "peer"], 7)
    assert home.key_path.read_bytes() == b"key"
    assert home.key_path.stat().st_mode & 0o777 == 0o600
    assert home.settings().capacity == 200 << 30


def test_what_is_said_while_it_takes_long_stands_on_lines_of_its_own(
    home: NodeHome, enrolled: enrolment.Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the sign of life, which clears its line for it."""
    told: list[str] = []

    @contextlib.contextmanager
    def waiting(_what: str) -> Iterator[Callable[[str], None]]:
        yield told.append

    async def enrol(_invite: Invite, elsewhere: Callable[[], Awaitable[list[str]]]) -> enrolment.Enrolled:
        assert await elsewhere() == ["192.0.2.9:9470"]
        return enrolled

    async def look(_pool: PoolId) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["192.0.2.9:9470"]

    monkeypatch.setattr(join, "waiting", waiting)
    monkeypatch.setattr(enrolment, "join", enrol)
    monkeypatch.setattr(lan, "look", look)
    join.enter(home, INVITE, {})
    assert [line.partition(":")[0] for line in told] == [
        "The coordinator is at no address of the invite; looking for it on the local network …", "Found",
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["file", "dash", "pipe"])
def test_an_invite_is_read_from_a_file_or_standard_input(
    way: str, home: NodeHome, enrolled: enrolment.Enrolled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = _joining(monkeypatch, enrolled)
    file = tmp_path / "invite"
    file.write_text(f"  {TEXT[:50]}\n{TEXT[50:]}\n")  # as mail programs break lines
    arguments = {"file": [str(file)], "dash": ["-"], "pipe": []}[way]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert main.run(["join", "--home", str(home.path), *arguments]) == exitcodes.OK
    assert used == [INVITE]


def test_an_invite_is_asked_for_without_showing_it(
    home: NodeHome, enrolled: enrolment.Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = _joining(monkeypatch, enrolled)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _prompt: TEXT)
    assert main.run(["join", "--home", str(home.path)]) == exitcodes.OK
    assert used == [INVITE]


def test_an_invite_among_the_arguments_is_refused(home: NodeHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["join", "--home", str(home.path), TEXT]) == exitcodes.USAGE
    said = capsys.readouterr().err
    assert "secret" in said
    assert TEXT not in said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (enrolment.Refused("this invite was used already: ask for a new one"), exitcodes.BAD_INVITE),
        (enrolment.Refused("this invite has expired: ask for a new one"), exitcodes.BAD_INVITE),
        (Exists("another node got that name"), exitcodes.BAD_INVITE),
        (Denied("coordinator cccccccc at 192.0.2.1:9470: another node answered"), exitcodes.FOREIGN_COORDINATOR),
        (Unavailable("nobody answers"), exitcodes.UNREACHABLE),
        (Misuse("the coordinator certified another key than ours"), exitcodes.FAILED),
    ],
)
def test_a_failure_has_its_exit_code_and_leaves_nothing(
    error: PoolError, code: int, home: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joining(monkeypatch, error)
    file = tmp_path / "invite"
    file.write_text(TEXT)
    assert main.run(["join", "--home", str(home.path), str(file)]) == code
    assert not home.path.exists()


@pytest.mark.parametrize("text", ["", "hello", "p2pfs1-", TEXT[:-3], TEXT.replace("p2pfs1", "p2pfs9")])
def test_a_damaged_invite_says_so_without_dialling(
    text: str, home: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = _joining(monkeypatch, Unavailable("must not be asked"))
    file = tmp_path / "invite"
    file.write_text(text)
    assert main.run(["join", "--home", str(home.path), str(file)]) == exitcodes.BAD_INVITE
    assert used == []


def test_a_bad_setting_does_not_use_up_the_invite(
    home: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enrolled: enrolment.Enrolled
) -> None:
    used = _joining(monkeypatch, enrolled)
    file = tmp_path / "invite"
    file.write_text(TEXT)
    arguments = ["join", "--home", str(home.path), str(file)]
    assert main.run([*arguments, "--set", "capacity=lots"]) == exitcodes.BAD_CONFIGURATION
    assert main.run([*arguments, "--set", "unheard_of=1"]) == exitcodes.BAD_CONFIGURATION
    assert used == []


def test_a_home_that_cannot_be_one_does_not_use_up_the_invite(
    home: NodeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enrolled: enrolment.Enrolled
) -> None:
    """Its node would be a member that nobody has the key of, and its name be taken."""
    used = _joining(monkeypatch, enrolled)
    home.path.mkdir()
    home.path.chmod(0o777)
    with pytest.raises(UserError, match="can be written by every user"):
        join.enter(home, INVITE, {})
    assert used == []


def test_a_disk_that_fills_up_leaves_no_half_home(
    home: NodeHome, enrolled: enrolment.Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joining(monkeypatch, enrolled)

    def full(*_arguments: object, **_options: object) -> None:
        raise UserError("no space left", exitcodes.FAILED)

    monkeypatch.setattr(NodeHome, "save", full)
    with pytest.raises(UserError):
        join.enter(home, INVITE, {})
    assert not home.path.exists()


def test_who_moved_in_meanwhile_stays(
    home: NodeHome, enrolled: enrolment.Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key and its chunks would go with a join that nobody answered."""

    async def nobody_answers(_invite: Invite, _elsewhere: object = None) -> enrolment.Enrolled:
        _joining(monkeypatch, enrolled)
        await trio.to_thread.run_sync(join.enter, home, INVITE, {})
        raise Unavailable("nobody answers")

    monkeypatch.setattr(enrolment, "join", nobody_answers)
    with pytest.raises(Unavailable):
        join.enter(home, INVITE, {})
    assert home.record().name == "anna@laptop"


def test_a_second_node_does_not_move_in(
    home: NodeHome, enrolled: enrolment.Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = _joining(monkeypatch, enrolled)
    join.enter(home, INVITE, {})
    with pytest.raises(UserError) as caught:
        join.enter(home, INVITE, {})
    assert caught.value.exit_code == exitcodes.ALREADY_INITIALISED
    assert len(used) == 1


def test_the_answer_must_be_for_our_key_and_from_our_authority(tmp_path: Path) -> None:
    ca, other = make_ca(tmp_path), make_ca(tmp_path)
    der = ca.certificate.public_bytes(enrolment.serialization.Encoding.DER)
    assert enrolment._checked_ca(der, ca.ca_key).startswith(b"-----BEGIN CERTIFICATE")
    with pytest.raises(Denied, match="another certificate authority"):
        enrolment._checked_ca(der, other.ca_key)
    with pytest.raises(Misuse, match="another key"):
        enrolment._checked_certificate(issue(ca).der, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(Misuse, match="no certificate"):
        enrolment._checked_certificate(b"nonsense", ec.generate_private_key(ec.SECP256R1()))
