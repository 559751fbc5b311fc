"""The command line as a whole: help, errors and exit codes, and what is imported when."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from peer_processes import lone_peer
from root_hands import owned_by

from p2pfs import errors, exitcodes
from p2pfs.cli import failures, main, mount_helper
from p2pfs.types import Role

pytestmark = pytest.mark.l0

_SLOW_LIBRARIES = ("trio", "httpx", "cryptography", "pyfuse3", "sqlite3", "p2pfs.net", "p2pfs.coordinator")


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _commands(found, f"{name} {child}")


ALL = [
    *_commands(main.cli, "p2pfs"),
    ("mount.p2pfs", mount_helper.mount_command),
    ("umount.p2pfs", mount_helper.umount_command),
]
_COMMANDS = {f"p2pfs.cli.{group.package}.{name}" for group, commands in main._GROUPS.items() for name in commands}


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_help_text_has_an_example(name: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=name))
    _, found, examples = text.partition("Example")
    assert found
    assert ("mount" if "mount." in name else name) in examples


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_no_option_takes_a_secret(name: str, command: click.Command) -> None:
    """Arguments and the environment are visible to others: passphrases and invites come from elsewhere."""
    for parameter in command.params:
        assert parameter.name not in ("passphrase", "password", "invite", "recovery_phrase"), name
        assert not parameter.envvar, name


def test_all_commands_of_the_design_are_there() -> None:
    names = {name.removeprefix("p2pfs ") for name, _ in ALL}
    assert names >= {
        *("init", "invite", "join", "revoke", "coordinator start", "peer start", "mount", "umount", "status", "where"),
        *("volume create", "volume list", "volume show", "volume ls", "version"),
        *("demo start", "demo stop", "demo status", "demo env"),
    }


def test_help_imports_nothing_slow() -> None:
    """What makes `p2pfs --help` answer within 150 ms, in a form that a busy machine does not disturb."""
    script = (
        "import sys; from p2pfs.cli import main; code = main.run(['--help']); "
        f"print(code, [name for name in {_SLOW_LIBRARIES!r} if name in sys.modules], file=sys.stderr)"
    )
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert outcome.stderr.strip() == "0 []"
    assert "How it is:" in outcome.stdout


def test_a_command_imports_none_of_the_others() -> None:
    script = (
        "import sys; from p2pfs.cli import main; code = main.run(['version']); "
        f"print(code, *sorted({_COMMANDS!r} & sys.modules.keys()), file=sys.stderr)"
    )
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert outcome.stderr.split() == ["0", "p2pfs.cli.trying.version"]


def test_a_group_is_a_package_that_imports_nothing() -> None:
    """Else asking for one of its commands would cost what the others need."""
    for package in {name.split(".")[2] for name in _COMMANDS}:
        tree = ast.parse((Path(main.__file__).parent / package / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree)
        assert len(tree.body) == 1, package


def _raising(error: BaseException) -> click.Command:
    @click.command("raise")
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UserError("do this", exitcodes.BAD_MOUNT_POINT), exitcodes.BAD_MOUNT_POINT),
        (errors.NotFound("no such volume"), exitcodes.NOT_FOUND),
        (errors.Exists("there already"), exitcodes.EXISTS),
        (errors.Denied("not you"), exitcodes.DENIED),
        (errors.NoSpace("full"), exitcodes.POOL_FULL),
        (errors.OverQuota("full for you"), exitcodes.POOL_FULL),
        (errors.Invalid("no size"), exitcodes.USAGE),
        (errors.CoordinatorAway("away"), exitcodes.UNREACHABLE),
        (errors.Unavailable("nobody answers"), exitcodes.UNREACHABLE),
        (errors.Corrupt("wrong bytes"), exitcodes.FAILED),
        (errors.Fenced("too late"), exitcodes.FAILED),
        (ExceptionGroup("nursery", [errors.Denied("not you")]), exitcodes.DENIED),
        (
            ExceptionGroup("n", [errors.Unavailable("away"), errors.UserError("do this", exitcodes.BUSY)]),
            exitcodes.BUSY,
        ),
    ],
)
def test_expected_errors_are_one_sentence_and_an_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([], _raising(error)) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("p2pfs: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("oops"), ExceptionGroup("n", [errors.Denied("not you"), KeyError("bug")])]
)
def test_a_bug_shows_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([], _raising(error)) == exitcodes.FAILED
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "bug in p2pfs" in said


def test_a_full_local_disk_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([], _raising(OSError(28, "No space left on device"))) == exitcodes.POOL_FULL
    assert "this machine's disk" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupted_command_says_so(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([], _raising(error)) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nonsense"], ["status", "--nonsense"], ["mount"], ["status", "--set", "x"]])
def test_wrong_arguments_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == exitcodes.USAGE
    assert "Usage:" in capsys.readouterr().err


def test_output_cut_off_by_its_reader_makes_no_noise() -> None:
    script = "import sys; from p2pfs.cli import main; sys.exit(main.run(['--help']))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(60)


def test_every_error_class_has_an_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PoolError)]
    assert len(kinds) > 20
    for kind in kinds:
        if kind is not errors.UserError:
            assert 0 < failures.exit_code_of(kind("x")) < 20


@pytest.mark.parametrize(
    "words",
    [
        ("invite", "anna@nas", "--lifetime", "5"),
        ("invite", "anna@nas", "--capacity", "200"),
        ("volume", "quota", "demo", "80"),
        ("volume", "set", "demo", "trash_removed=7"),
        ("mount", "demo", "mnt", "-o", "io_timeout=5"),
        ("mount", "demo", "mnt", "--set", "io_timeout=5"),
        ("peer", "start", "--set", "capacity=200"),
        ("peer", "away", "8"),
        ("top", "--interval", "5"),
        ("stats", "mnt", "--interval", "5"),
        ("warmup", "mnt", "--most", "5"),
        ("bench", "mnt", "--size", "5000000000"),
        ("undelete", "mnt", "--at", "5"),
    ],
)
def test_a_number_whose_unit_was_forgotten_is_refused(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnt").mkdir()
    home = lone_peer(tmp_path, Role.CLIENT, Role.PEER)
    monkeypatch.setenv("P2PFS_HOME", str(home))
    assert main.run(words) in (exitcodes.USAGE, exitcodes.BAD_CONFIGURATION)
    assert "no unit" in capsys.readouterr().err


def test_root_starts_no_daemon_in_the_home_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service could not read its chunks afterwards."""
    home, stat = lone_peer(tmp_path, Role.CLIENT, Role.PEER), Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **given: owned_by(54321, stat(path, **given)))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    # With a setting that is refused where this is not.
    assert main.run(["peer", "start", "--home", str(home), "--set", "listen=foo"]) == exitcodes.DENIED
    told = capsys.readouterr().err
    assert "belongs to user 54321" in told
    assert "systemctl start p2pfs-peer" in told


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("coordinator", "start", "--set", "listen=foo"), "listen"),
        (("coordinator", "start", "--set", "dashboard_listen=foo"), "dashboard_listen"),
        (("peer", "start", "--set", "advertise=nas:x"), "advertise"),
        (("peer", "start", "--set", "metrics_listen=127.0.0.1:1,foo"), "metrics_listen"),
        (("mount", "demo", "mnt", "-o", "metrics_listen=foo"), "metrics_listen"),
    ],
)
def test_an_address_that_is_none_names_its_setting(
    words: tuple[str, ...],
    setting: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = lone_peer(tmp_path, Role.CLIENT, Role.PEER, Role.COORDINATOR)
    monkeypatch.setenv("P2PFS_HOME", str(home))
    assert main.run(words) == exitcodes.BAD_CONFIGURATION
    assert f"setting {setting}: “" in capsys.readouterr().err


def test_a_question_that_nobody_can_answer_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def asking() -> None:
        click.confirm("Really?")

    with (tmp_path / "nothing").open("w+") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert main.run([], asking) == exitcodes.USAGE
    assert "no terminal to ask: give --yes" in capsys.readouterr().err


def test_a_kit_that_cannot_be_written_is_told_before_anything_is_asked_or_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init", "--home", str(tmp_path / "home"), "--kit-file", str(tmp_path / "none" / "kit"), "--yes"]
    assert main.run(words) == exitcodes.USAGE
    assert "nothing can be written in" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("statsu",), "Did you mean stats?"),
        (("volume", "qouta"), "No such command"),
        (("mount", "demo", "mnt", "-o", "io_timeut=5s"), "did you mean io_timeout=?"),
        (("mount", "demo", "mnt", "-o", "idmap=foo"), "is neither a map, such as u:1000:0"),
        (("peer", "start", "--set", "capacty=1G"), "did you mean capacity?"),
    ],
)
def test_what_is_nearly_right_is_named(
    words: tuple[str, ...],
    near: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("P2PFS_HOME", str(lone_peer(tmp_path, Role.CLIENT, Role.PEER)))
    assert main.run(words) in (exitcodes.USAGE, exitcodes.BAD_CONFIGURATION)
    assert near in capsys.readouterr().err


def test_nothing_is_suggested_that_is_far_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(lone_peer(tmp_path))
    assert main.run(["peer", "start", "--home", home, "--set", "bogus=1"]) == exitcodes.BAD_CONFIGURATION
    assert main.run(["xyzzy"]) == exitcodes.USAGE
    assert "did you mean" not in capsys.readouterr().err.lower()


def test_who_may_not_revoke_is_told_before_being_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["revoke", "bob", "--home", str(lone_peer(tmp_path))]) == exitcodes.DENIED
    assert "role admin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("50G",), "Usage: p2pfs reserve 50G --for TIME [OPTIONS]"),
        (("50G", "--volume", "photos"), "Usage: p2pfs reserve 50G --for TIME [OPTIONS]"),
        (("--for", "2h"), "say how much, such as p2pfs reserve 50G --for 2h"),
        (("--volume=photos",), "say how much, such as p2pfs reserve 50G --for 2h"),
    ],
)
def test_a_reservation_that_lacks_something_is_told_how_one_is_written(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["reserve", *words]) == exitcodes.USAGE
    assert told in capsys.readouterr().err
