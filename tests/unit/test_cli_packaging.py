"""The ground: lock files, scripts, units, make targets."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.l0

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
LOCKS = ["requirements.lock", "requirements-dev.lock"]
UNITS = ["p2pfs-coordinator.service", "p2pfs-peer.service", "p2pfs-mount@.service"]


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


@pytest.mark.parametrize("script", ["system-packages", "make-venv", "compile-locks", "install", "../.ci/run"])
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


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_ready_when_the_service_says_so_and_leave_no_core_dumps(unit: str) -> None:
    directives = dict(_directives(unit))
    assert directives["Type"] == "notify"
    assert directives["LimitCORE"] == "0"
    assert directives["NoNewPrivileges"] == "yes"
    assert directives["ExecStart"].startswith("@PREFIX@/bin/p2pfs ")


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


def test_make_has_what_the_readers_are_told_to_type() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check", "bench", "install", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    shown = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, timeout=60, check=True)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "demo" in shown.stdout
