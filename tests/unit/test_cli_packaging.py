"""The ground: lock files, scripts, units, make targets."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from p2pfs.cli.main import cli
from p2pfs.runtime import config
from p2pfs.runtime.config import KINDS, Settings
from p2pfs.runtime.offers import registry
from p2pfs.runtime.sizes import parse_duration

pytestmark = pytest.mark.l0

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
LOCKS = ["requirements.lock", "requirements-dev.lock"]
USER_UNITS = ["user/p2pfs-coordinator.service", "user/p2pfs-peer.service", "user/p2pfs-mount@.service"]
UNITS = ["p2pfs-coordinator.service", "p2pfs-peer.service", "p2pfs-mount@.service"]


def _script(name: str) -> ModuleType:
    """A module of packaging/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"packaging_{name}", PACKAGING / f"{name}.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


texts = _script("texts")


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_pin_by_hash_and_hold_no_address_or_path(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"(^|\s)/\w", text)
    assert not re.search(r"^-", text, re.MULTILINE)
    pins = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(pins) > 20
    for pin in pins:
        assert re.match(r"[A-Za-z0-9._-]+==\S+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", pin), pin[:80]


def _pinned(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))


def test_locks_cover_what_the_project_asks_for_and_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        asked += extra
    runtime, development = _pinned(LOCKS[0]), _pinned(LOCKS[1])
    assert {re.split(r"[<>=~!\[ ]", line)[0] for line in asked} <= runtime.keys()
    tools = project["dependency-groups"]["dev"]
    assert {re.split(r"[<>=~!\[ ]", line)[0] for line in tools} <= development.keys()
    assert runtime.items() <= development.items()


def test_packaging_is_no_package() -> None:
    """It would hide the library of that name."""
    assert not (PACKAGING / "__init__.py").exists()


@pytest.mark.parametrize(
    "script", ["system-packages", "make-venv", "compile-locks", "install", "stage", "build-deb", "../.ci/run"]
)
def test_scripts_are_executable_and_well_formed(script: str) -> None:
    path = (PACKAGING / script).resolve()
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)
    assert "set -euo pipefail" in path.read_text()


def _directives(unit: str) -> list[tuple[str, str]]:
    lines = (PACKAGING / unit).read_text().splitlines()
    return [
        (key, value) for key, separator, value in (line.partition("=") for line in lines) if separator and key.isalpha()
    ]


@pytest.mark.parametrize("unit", [*UNITS, *USER_UNITS])
def test_units_are_ready_when_the_service_says_so_are_watched_and_leave_no_core_dumps(unit: str) -> None:
    directives = dict(_directives(unit))
    assert directives["Type"] == "notify"
    assert directives["LimitCORE"] == "0"
    assert parse_duration(directives["WatchdogSec"]) >= 60
    assert directives["ExecStart"].startswith("@PREFIX@/bin/p2pfs ")
    # fusermount3, by which a person mounts, is setuid root.
    assert ("NoNewPrivileges" in directives) == (unit != "user/p2pfs-mount@.service")


@pytest.mark.parametrize("unit", [*UNITS, *USER_UNITS])
def test_units_name_commands_settings_and_pages_that_are_there(unit: str) -> None:
    for key, value in _directives(unit):
        if key.startswith("Exec"):
            _, *words = value.lstrip("-").split()
            *_, command = _commands(words)
            given = {word for word in words if word.startswith("-") and word != "--"}
            assert given <= {option for parameter in command.params for option in parameter.opts}, value
        if key == "Documentation":
            page, section = re.fullmatch(r"man:(\S+)\((\d)\)", value).groups()  # type: ignore[union-attr]
            assert f"{page}.{section}" in texts.man_pages()


@pytest.mark.parametrize("part", ["coordinator", "peer"])
@pytest.mark.parametrize("unit", ["p2pfs-{}.service", "user/p2pfs-{}.service"])
def test_what_a_services_file_of_variables_says_reaches_the_daemon(unit: str, part: str) -> None:
    """It reads nothing from its environment but its home; without the file nothing is added."""
    directives = _directives(unit.format(part))
    assert dict(directives)["ExecStart"].endswith(f" {part} start $OPTIONS")
    keys = [pair for pair in directives if pair[0] == "EnvironmentFile" or pair[1].startswith("OPTIONS")]
    file = f"-/etc/default/p2pfs-{part}" if "/" not in unit else f"-%E/p2pfs/{part}"
    assert keys == [("Environment", "OPTIONS="), ("EnvironmentFile", file)]


def _commands(words: list[str]) -> list[click.Command]:
    found: list[click.Command] = [cli]
    for word in words:
        if not isinstance(found[-1], click.Group):
            break
        command = found[-1].get_command(click.Context(found[-1]), word)
        assert command is not None, words
        found.append(command)
    return found


@pytest.mark.parametrize("unit", UNITS[:2])
def test_daemons_run_confined_as_a_user_of_their_own(unit: str) -> None:
    directives = dict(_directives(unit))
    assert directives["User"] == "p2pfs"
    assert directives["ProtectSystem"] == "strict"
    assert directives["CapabilityBoundingSet"] == ""
    assert directives["StateDirectory"] == "p2pfs"


_NAMESPACE = re.compile(
    r"Private(Tmp|Devices|Mounts|Users|Network)|Protect(System|Home|KernelTunables|KernelModules|KernelLogs|ControlGroups"
    r"|Proc|Clock|Hostname)|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|TemporaryFileSystem|BindPaths"
    r"|BindReadOnlyPaths|RootDirectory|MountAPIVFS|DynamicUser|StateDirectory|User"
)


def test_the_mount_unit_stays_in_the_machines_mount_namespace() -> None:
    """In one of its own the mount would be invisible to everybody else."""
    for key, value in _directives("p2pfs-mount@.service"):
        assert not _NAMESPACE.fullmatch(key), f"{key}={value}"


def test_at_shutdown_mounts_end_before_the_daemons_they_store_with() -> None:
    """systemd stops what it started later first; mounts of the network come after remote-fs-pre.target."""
    for unit in UNITS[:2]:
        assert ("Before", "remote-fs-pre.target") in _directives(unit)
        assert any(key == "Wants" and "remote-fs-pre.target" in value for key, value in _directives(unit))


def test_the_sample_configuration_is_every_setting_that_is_read_at_its_default(tmp_path: Path) -> None:
    sample = texts.sample_configuration()
    unread = {name for name, _default, reader, _meaning in texts.table("settings") if reader == "nobody yet"}
    known = KINDS.keys() - unread | {name for name, kind in registry.by_key().items() if kind.is_on}
    assert unread == {"read_ahead"}
    names = re.findall(r"^#(\w+) = ", sample, re.MULTILINE)
    assert sorted(names) == sorted(known)
    (tmp_path / "config.toml").write_text(sample)
    assert config.load(tmp_path) == Settings()
    (tmp_path / "config.toml").write_text(re.sub(r"^#(\w+ = )", r"\1", sample, flags=re.MULTILINE))
    assert tomllib.loads((tmp_path / "config.toml").read_text()).keys() == known
    offers = {name: kind.default for name, kind in registry.by_key().items() if name in known - KINDS.keys()}
    assert config.load(tmp_path) == Settings(offers=offers)


def test_the_sample_configuration_explains_every_setting() -> None:
    for block in texts.sample_configuration().split("\n\n")[1:]:
        explanation, read_by, _ = block.strip().split("\n")
        assert re.fullmatch(r"# \S.{8,}\.", explanation), block
        assert re.fullmatch(r"# Read by: \S.*\. Written as .+\.", read_by), block


def test_every_command_has_a_man_page_with_its_options() -> None:
    pages = texts.man_pages()
    commands = dict(_all_commands(cli, "p2pfs"))
    special = {"mount.p2pfs.8", "umount.p2pfs.8", "p2pfs-config.5"}
    assert pages.keys() - special == {f"{name.replace(' ', '-')}.1" for name in commands}
    assert special <= pages.keys()
    for name, command in commands.items():
        page = pages[f"{name.replace(' ', '-')}.1"].replace("\\-", "-")
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[-1] in page, (name, parameter.opts)
        assert ".SH EXAMPLES" in page, name


def _all_commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            inner = command.get_command(context, word)
            assert inner is not None
            yield from _all_commands(inner, f"{name} {word}")


def test_roff_takes_no_order_from_a_text() -> None:
    known = {"TH", "SH", "PP", "TP", "nf", "fi"}
    for name, page in texts.man_pages().items():
        assert {line.split()[0][1:] for line in page.splitlines() if line.startswith(".")} <= known, name
        assert not any(line.startswith("'") for line in page.splitlines()), name
        assert "\b" not in page


def test_each_shell_gets_a_completion_that_asks_p2pfs() -> None:
    made = texts.completions()
    assert made.keys() == {"p2pfs.bash", "_p2pfs", "p2pfs.fish"}
    for file, script in made.items():
        assert "_P2PFS_COMPLETE" in script, file
    subprocess.run(["bash", "-n"], input=made["p2pfs.bash"], text=True, check=True, timeout=60)
    environment = {**os.environ, "_P2PFS_COMPLETE": "bash_complete", "COMP_WORDS": "p2pfs vol", "COMP_CWORD": "1"}
    program = [sys.executable, "-c", "from p2pfs.cli.main import main; main()"]
    told = subprocess.run(program, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "plain,volume\n"


def completed(line: str, directory: Path) -> list[str]:
    """What bash with the installed script offers for the last word of a line."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "p2pfs"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -m p2pfs.cli.main\n")
    program.chmod(0o755)
    script = texts.completions()["p2pfs.bash"].replace("compopt", "echo compopt")
    words = line.split(" ")
    script += f"COMP_WORDS=({' '.join(word or chr(39) * 2 for word in words)}); COMP_CWORD={len(words) - 1}\n"
    script += "_p2pfs_completion p2pfs; printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p p2pfs\n"
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split("\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("p2pfs umount ", "compopt -o dirnames"),
        ("p2pfs mount demo ", "compopt -o dirnames"),
        ("p2pfs join ", "compopt -o default"),
        ("p2pfs coordinator restore --kit ", "compopt -o default"),
        ("p2pfs mount demo -o ro,allow", "ro,allow_other"),
        ("p2pfs mount demo -o io_t", "io_timeout="),
        ("p2pfs invite --roles client,a", "client,admin"),
        ("p2pfs share up", "upload="),
        ("p2pfs share up", "compopt -o nospace"),
        ("p2pfs volume show ", "complete -o default -o nosort -F _p2pfs_completion p2pfs"),
    ],
)
def test_bash_offers_what_may_come_next(line: str, offered: str, tmp_path: Path) -> None:
    assert offered in completed(line, tmp_path)


def test_the_packages_scripts_are_well_formed_and_keep_what_they_must() -> None:
    debian = PACKAGING / "debian"
    for script in ("p2pfs.config", "p2pfs.postinst", "p2pfs.prerm", "p2pfs.postrm"):
        text = (debian / script).read_text()
        assert text.startswith("#!/bin/sh\n")
        assert "\nset -e\n" in text
        subprocess.run(["sh", "-n", str(debian / script)], check=True, timeout=60)
        assert ("rm -rf" in text) == (script == "p2pfs.postrm")
    assert "Default: false" in (debian / "p2pfs.templates").read_text()


def test_the_package_has_nothing_below_links_of_the_system() -> None:
    """Where /sbin is a link to usr/sbin, dpkg does not know that a file in one is the same as in the other."""
    stage = (PACKAGING / "stage").read_text()
    assert not re.search(r"\$root/(s?bin|lib)\b", stage)
    assert '"$root/usr/sbin/mount.p2pfs"' in stage


def test_the_package_needs_no_user_to_be_made_by_hand() -> None:
    made = re.findall(r"^u (\S+)", (PACKAGING / "debian" / "p2pfs.sysusers").read_text(), re.MULTILINE)
    assert made == [dict(_directives(unit))["User"] for unit in UNITS[:1]]


def test_make_has_what_the_readers_are_told_to_type() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check", "bench", "deb", "test-package", "install", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    shown = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, timeout=60, check=True)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "demo" in shown.stdout
