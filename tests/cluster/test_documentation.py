"""The pages followed from start to end, as their readers would: on three machines that are networks of this kernel.

What a block shows is compared with what is printed (docs_runner.py). Needs root, as mounts in tests do.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from docs_blocks import ROOT, Event
from docs_runner import Reader
from machines import Network, network, program

pytestmark = pytest.mark.l5

ADDRESSES = {
    "attic": "192.0.2.10",
    "desk": "192.0.2.11",
    "nas": "192.0.2.12",
    "laptop": "192.0.2.13",
    "shed": "192.0.2.14",
}
ANSWERS = {"passphrase": "correct horse battery staple", "another": "rather more than eight letters", "yes": "y"}


def reader(machines: Network, names: Sequence[str]) -> Reader:
    """Somebody in front of all of these."""
    for name in names:
        machines.add(name, ADDRESSES[name])

    def enter(name: str, words: Sequence[str]) -> list[str]:
        return machines[name].entering(*words)

    def happens(event: Event) -> None:
        machine = machines[event.machine]
        {"power off": machine.power_off, "power on": machine.power_on, "new disk": machine.new_disk}[event.what]()

    return Reader(enter, happens, ANSWERS)


def test_the_tutorial_works_on_three_machines(tmp_path: Path) -> None:
    with network(tmp_path) as machines:
        reader(machines, ("attic", "desk", "nas")).follow(ROOT / "docs" / "tutorial.md")


BRISK = {"heartbeat": "500ms", "suspect": "4s", "down": "6s", "repair_delay": "1s", "backup_interval": "500ms"}
"""Settings with which a pool notices within seconds what it otherwise takes minutes to believe."""


INIT = """
p2pfs init --name club --node anna@attic --zone anna-home --address 192.0.2.10:9470 --kit-file /media/recovery-kit
systemctl enable --now p2pfs-coordinator p2pfs-peer
"""
FILL = """
(umask 077; cat > ~/secret)
p2pfs volume create photos --passphrase-file ~/secret
mkdir ~/photos; p2pfs mount photos ~/photos -d --passphrase-file ~/secret
rm ~/secret
head -c 5M /dev/urandom > ~/photos/harbour.raw; sha256sum ~/photos/harbour.raw > ~/sums
"""


def make_the_pool(machines: Network) -> None:
    """That of the tutorial, in fewer words, with a laptop."""

    def said(machine: str, script: str, given: str = "") -> str:
        words = machines[machine].entering("bash", "-euc", script)
        done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{machine}: {script}: {done.stdout}{done.stderr}"
        return done.stdout

    settings = " ".join(f"--set {key}={value}" for key, value in BRISK.items())
    said("attic", INIT.replace("recovery-kit\n", f"recovery-kit {settings}\n"))
    for owner, machine, roles in (
        ("anna", "desk", "client,peer"),
        ("bob", "nas", "peer"),
        ("anna", "laptop", "client"),
    ):
        invite = said("attic", f"p2pfs invite {owner}@{machine} --roles {roles} --zone {owner}-home")
        said(machine, "p2pfs join", invite)
        if "peer" in roles:
            said(machine, "systemctl enable --now p2pfs-peer")
    said("desk", FILL, ANSWERS["passphrase"])


def test_operations_work_on_a_pool_of_machines(tmp_path: Path) -> None:
    with network(tmp_path) as machines:
        follower = reader(machines, ("attic", "desk", "nas", "laptop", "shed"))
        make_the_pool(machines)
        follower.follow(ROOT / "docs" / "operations.md")
        checked = machines["desk"].entering("sh", "-c", "sha256sum -c ~/sums")
        assert subprocess.run(checked, check=False, timeout=60).returncode == 0


def checkout(directory: Path) -> Path:
    """This checkout as somebody has it after `make demo` has installed what it needs, with nothing started in it."""
    directory.mkdir()
    shutil.copytree(ROOT / "docs", directory / "docs")
    for name in ("Makefile", "README.md", "p2pfs", "packaging", "pyproject.toml", "requirements.lock"):
        (directory / name).symlink_to(ROOT / name)
    programs, stamps = directory / ".venv" / "bin", directory / ".venv" / ".stamps"
    for folder in (programs, stamps):
        folder.mkdir(parents=True)
    program("p2pfs", programs, [sys.executable, "-m", "p2pfs.cli.main"])
    program("npm", programs, ["false"])  # of what others wrote, what is not there yet is done without
    (stamps / "run").touch()
    return directory


def test_the_readme_and_everyday_use_work_on_the_demo_pool(tmp_path: Path) -> None:
    with network(tmp_path / "machines") as machines:
        here = checkout(tmp_path / "p2pfs")
        machine = machines.add("here", "192.0.2.20")

        def enter(_name: str, words: Sequence[str]) -> list[str]:
            home = f"P2PFS_HOME={here}/.demo/mount"
            return machine.entering(
                "env", f"--chdir={here}", home, f"PATH={here}/.venv/bin:{os.environ['PATH']}", *words
            )

        follower = Reader(enter, lambda _event: None, {})
        follower.follow(ROOT / "README.md")
        follower.follow(ROOT / "docs" / "using.md")
        subprocess.run(enter("", ["make", "demo-stop"]), check=True, timeout=60)
